"""Shards of drawings, aligned faces, prompts and what is read off pictures of them."""

import json
from pathlib import Path

import numpy as np
import pytest

import drawing
from drawing import palette
from training.bundle import pack, unpack
from training.data import FACES, LARGES, PICTURES, TEMPLATE, PictureStore, align, draw_all, face_weights
from training.options import Options, parse_options
from training.probes import background_name, hair_name
from training.prompts import portrait_prompts, read_expectation, read_prompts, scene_prompts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Options:
    options = parse_options("test", ["--out", str(tmp_path_factory.mktemp("runs") / "data"), "--smoke"])
    draw_all(options)
    return options


def test_shards_are_drawn_once_and_the_same_from_the_same_seed(data: Options, tmp_path: Path) -> None:
    first = data.out / "pictures_0001.npy"
    written = first.stat().st_mtime_ns
    draw_all(data)
    assert first.stat().st_mtime_ns == written
    other = parse_options("test", ["--out", str(tmp_path / "data"), "--smoke"])
    draw_all(other)
    assert np.array_equal(np.load(first), np.load(other.out / "pictures_0001.npy"))
    assert not list(data.out.glob("*.part"))


def test_a_store_keeps_shard_0_unseen_and_shrinks_faces_with_pictures(data: Options) -> None:
    options = parse_options("test", ["--out", str(data.runs / "detector"), "--smoke"])
    store, small = PictureStore(options, LARGES, least=3), PictureStore(options, LARGES, least=3, side=256)
    notes = json.loads((data.out / "large_0001.json").read_text())
    assert store.captions == [note["caption"] for note in notes]
    assert len(store) == len(notes) and len(store.unseen(99)) == LARGES.smoke_pictures
    (pictures, boxes, landmarks), (shrunk, smaller, nearer) = store.shards[0], small.shards[0]
    assert pictures.shape[1] == 1024 and shrunk.shape[1] == 256
    assert np.allclose(boxes / 4, smaller, equal_nan=True) and np.allclose(
        landmarks / 4, nearer, equal_nan=True
    )


def test_eyes_and_mouth_weigh_most(data: Options) -> None:
    options = parse_options("test", ["--out", str(data.runs / "autoencoder"), "--smoke"])
    _, boxes, landmarks = PictureStore(options, PICTURES, least=8).shards[0]
    row = int((~boxes[:, 0, 0].isnan()).nonzero()[0])
    size = options.profile.native
    weights = face_weights(boxes[row : row + 1], landmarks[row : row + 1], size)[0, 0]
    x, y = landmarks[row, 0, 0].long().tolist()
    assert float(weights[y, x]) == 7 and float(weights[0, 0]) == 1
    assert {float(v) for v in weights.unique()} <= {1.0, 2.5, 5.5, 7.0}


def test_aligned_faces_have_their_landmarks_on_the_template() -> None:
    drawn = drawing.draw(np.random.default_rng(3), 768, "portrait")
    marked = drawn.image.copy()
    for x, y in drawn.faces[0].landmarks.astype(int):
        marked[y - 4 : y + 5, x - 4 : x + 5] = (255, 0, 255)
    face = align(marked, drawn.faces[0].landmarks)
    assert face.shape == (512, 512, 3)
    spots = np.argwhere((np.abs(face.astype(int) - (255, 0, 255)) < 60).all(2))[:, ::-1]
    for point in TEMPLATE:
        # Faces are not the template: the nearest mark may be some pixels away, not more.
        assert np.linalg.norm(spots - point, axis=1).min() < 40


def test_faces_of_a_shard_are_crops_of_512(data: Options) -> None:
    faces = np.load(data.out / "faces_0000.npy")
    assert faces.shape == (FACES.smoke_pictures, 512, 512, 3) and faces.dtype == np.uint8


def test_a_bundle_brings_back_what_is_missing_and_overwrites_nothing(tmp_path: Path) -> None:
    runs, parts, other = tmp_path / "runs", tmp_path / "parts", tmp_path / "other"
    for stage in ("autoencoder", "codes"):
        (runs / stage).mkdir(parents=True)
        (runs / stage / "export.safetensors").write_bytes(np.random.default_rng(0).bytes(9_000_000))
    assert len(pack(runs, parts)) == 2
    (other / "codes").mkdir(parents=True)
    (other / "codes" / "export.safetensors").write_bytes(b"mine")
    assert unpack(parts, other) == ["autoencoder/export.safetensors"]
    assert (other / "codes" / "export.safetensors").read_bytes() == b"mine"
    restored = (other / "autoencoder" / "export.safetensors").read_bytes()
    assert restored == (runs / "autoencoder" / "export.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"bundle\.part0"):
        unpack(runs, other)


def test_probes_read_the_truth_off_drawings() -> None:
    rng = np.random.default_rng(11)
    hair, walls = [], []
    for _ in range(200):
        drawn = drawing.draw(rng, 128, "portrait")
        left, _, right, _ = drawn.faces[0].box
        if not 0.35 < (left + right) / 2 / 128 < 0.65:
            continue  # cut at the edge: the probes look where a head is expected, in the middle
        wall, person = drawn.attributes["background"], drawn.attributes["people"][0]
        if wall not in palette.BACKGROUNDS:
            continue
        walls.append(background_name(drawn.image) == wall)
        if person["hair_style"] != "bald" and not person["hat"]:
            hair.append(hair_name(drawn.image) == person["hair_color"])
    assert len(hair) > 75 and np.mean(hair) > 0.95 and np.mean(walls) > 0.95


def test_probes_see_no_hair_on_an_empty_wall() -> None:
    assert hair_name(np.full((128, 128, 3), 90, np.uint8)) is None


@pytest.mark.parametrize(
    ("prompt", "person", "hair", "background"),
    [
        ("a smiling woman with long red hair, blue background", True, "red", "blue"),
        ("A man with blonde curls against a grey wall", True, "blond", "gray"),
        ("professional headshot", True, None, None),
        ("businessman in suit, green backdrop", True, None, "green"),
        ("a man with black hair, wearing a red hat, pink background", True, None, "pink"),
        ("a man with red hair and a woman with black hair, white background", True, "red", "white"),
        ("two people with brown hair", True, None, None),
        ("sunset over mountains", False, None, None),
        ("red apple", False, None, None),
        ("empty, no people, teal background", False, None, "teal"),
    ],
)
def test_prompts_tell_what_to_look_for(
    prompt: str, person: bool, hair: str | None, background: str | None
) -> None:
    found = read_expectation(prompt)
    assert (found.person, found.hair, found.background) == (person, hair, background)


def test_prompts_of_a_seed_are_the_same_each_time_and_can_all_be_scored() -> None:
    portraits, scenes = portrait_prompts(5, 40), scene_prompts(5, 40)
    assert portraits == portrait_prompts(5, 40) != portrait_prompts(6, 40)
    assert all(p.person and p.background for p in portraits[2:])
    assert all(p.expected["hat"] and (p.hair or p.expected["hat"] != ("none",)) for p in portraits[2:])
    assert not any(p.person for p in scenes) and len(scenes) == 40
    known = set(drawing.vocabulary())
    assert all(set(drawing.split_words(p.prompt)) <= known for p in portraits + scenes)


def test_prompts_are_read_from_a_file_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n\na red apple\na man with black hair\n", encoding="utf-8")
    assert [p.prompt for p in read_prompts(path)] == ["a red apple", "a man with black hair"]
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="does not contain prompts"):
        read_prompts(path)
