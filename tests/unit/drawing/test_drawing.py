"""The drawing program: same seed, same image; true annotations; honest captions."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from drawing import KINDS, PEOPLE_KINDS, Drawing, draw, palette, split_words, vocabulary
from drawing.scene import SCENES
from drawing.things import THINGS

DEMO_FOLDER = Path(__file__).parents[3] / "demo"


def drawn(seed: int, size: int = 256, kind: str | None = None) -> Drawing:
    return draw(np.random.default_rng(seed), size, kind)


@pytest.fixture(scope="module")
def empty_rooms() -> list[Drawing]:
    return [drawn(seed, 64, "empty") for seed in range(60)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_picture(kind: str) -> None:
    first, second, other = drawn(3, 128, kind), drawn(3, 128, kind), drawn(4, 128, kind)
    assert np.array_equal(first.image, second.image)
    assert first.caption == second.caption
    assert [face.box for face in first.faces] == [face.box for face in second.faces]
    assert first.attributes == second.attributes
    assert (
        first.attributes["people"] != other.attributes["people"]
        or not np.array_equal(first.image, other.image)
        or kind == "empty"
    )


@pytest.mark.parametrize("size", [16, 100, 256, 768])
def test_images_are_square_rgb_of_the_requested_size(size: int) -> None:
    drawing = drawn(1, size)
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8


@pytest.mark.parametrize("size", [0, 15, 4097])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size must be from 16 to 4096"):
        drawn(1, size)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .*'dragon'"):
        drawn(1, 64, "dragon")


@pytest.mark.parametrize(("small", "large"), [(256, 512), (256, 1024)])
@pytest.mark.parametrize("kind", ["portrait", "pair", "house", "sunset"])
def test_every_size_is_the_same_picture(small: int, large: int, kind: str) -> None:
    one, other = drawn(8, small, kind), drawn(8, large, kind)
    factor = large / small
    assert one.caption == other.caption
    for face, larger in zip(one.faces, other.faces, strict=True):
        np.testing.assert_allclose(np.array(larger.box), np.array(face.box) * factor, rtol=1e-5)
        np.testing.assert_allclose(larger.landmarks, face.landmarks * factor, rtol=1e-5)
    shrunk = cv2.resize(other.image, (small, small), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - one.image).mean() < 1.5


@pytest.mark.parametrize("kind", [*SCENES, *THINGS])
def test_pictures_without_people_have_no_faces(kind: str) -> None:
    drawing = drawn(2, 64, kind)
    assert drawing.kind == kind
    assert drawing.faces == ()
    assert drawing.attributes["people"] == ()


def test_each_person_has_one_face_listed_from_left_to_right(people: list[Drawing]) -> None:
    counts = set()
    for drawing in people:
        assert len(drawing.faces) == len(drawing.attributes["people"])
        assert len(drawing.faces) in PEOPLE_KINDS[drawing.kind]
        counts.add(len(drawing.faces))
        noses = [face.landmarks[2, 0] for face in drawing.faces]
        assert noses == sorted(noses)
    assert counts == {1, 2, 3, 4, 5}


def test_landmarks_lie_in_their_box_and_boxes_in_the_picture(people: list[Drawing]) -> None:
    for drawing in people:
        for face in drawing.faces:
            left, top, right, bottom = face.box
            assert 0 <= left < right <= 256
            assert 0 <= top < bottom <= 256
            assert face.landmarks.shape == (5, 2)
            seen = face.landmarks[list(face.visible)]  # those of a face cut at the edge may lie outside
            assert (seen > (left, top)).all()
            assert (seen < (right, bottom)).all()


def test_landmarks_have_the_retinaface_order(people: list[Drawing]) -> None:
    for drawing in people:
        for face in drawing.faces:
            left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
            assert left_eye[0] < nose[0] < right_eye[0]
            assert left_mouth[0] < right_mouth[0]
            eyes_y, mouth_y = (left_eye + right_eye)[1] / 2, (left_mouth + right_mouth)[1] / 2
            assert eyes_y < nose[1] < mouth_y


def test_eye_landmarks_are_on_dark_pupils_in_lighter_eyes(large_portraits: list[Drawing]) -> None:
    checked = 0
    for seed, drawing in enumerate(large_portraits):
        gray = cv2.cvtColor(drawing.image, cv2.COLOR_RGB2GRAY)
        face = drawing.faces[0]
        if not all(face.visible):
            continue
        checked += 1
        reach = round((face.box[3] - face.box[1]) * 0.07)
        for x, y in np.round(face.landmarks[:2]).astype(int):
            pupil = gray[y - 1 : y + 2, x - 1 : x + 2]
            eye = gray[y - reach : y + reach + 1, x - reach : x + reach + 1]
            assert pupil.mean() < 60, f"seed {seed}: no pupil at the eye landmark"
            assert np.percentile(eye, 90) > 160, f"seed {seed}: no white around the pupil"
    assert checked > 15


def test_mouth_corners_are_where_the_dark_line_of_the_lips_ends(large_portraits: list[Drawing]) -> None:
    checked = 0
    for seed, drawing in enumerate(large_portraits):
        person = drawing.attributes["people"][0]
        if person["beard"] or person["age"] == "old" or not all(drawing.faces[0].visible):
            continue  # hair and wrinkles have dark lines of their own
        if abs(person["turn"]) > 0.4:
            continue  # the shadow of the cheek is next to the farther corner
        gray = cv2.cvtColor(drawing.image, cv2.COLOR_RGB2GRAY).astype(int)
        left, right = drawing.faces[0].landmarks[3:]
        outward = (right - left) * 0.2
        for corner, step in ((left, -outward), (right, outward)):
            assert darkest_near(gray, corner) < darkest_near(gray, corner + step) - 12, f"seed {seed}"
            checked += 1
    assert checked > 20


def darkest_near(gray: np.ndarray, point: np.ndarray) -> int:
    x, y = np.round(point).astype(int)
    return int(gray[y - 3 : y + 4, x - 3 : x + 4].min())


@pytest.mark.parametrize("name", palette.BACKGROUNDS)
def test_plain_backgrounds_show_the_color_they_are_named_after(name: str, empty_rooms: list[Drawing]) -> None:
    found = 0
    for drawing in empty_rooms:
        if drawing.attributes["background"] == name:
            found += 1
            for x, y in ((3, 3), (60, 3), (3, 20)):
                assert nearest_background(drawing.image[y, x]) == name
    assert found


def nearest_background(pixel: np.ndarray) -> str:
    red, green, blue = (int(value) for value in pixel)
    return palette.nearest_name((red, green, blue), {n: palette.COLORS[n] for n in palette.BACKGROUNDS})


def test_portraits_have_the_background_and_hair_that_their_facts_name(people: list[Drawing]) -> None:
    probed = 0
    for drawing in people:
        background = drawing.attributes["background"]
        if background in palette.BACKGROUNDS:
            assert nearest_background(drawing.image[4, 4]) == background
        for person in drawing.attributes["people"]:
            if person["hair_probe"] is None:
                assert person["hair_style"] == "bald" or person["hat"] or len(drawing.faces) > 1
                continue
            x, y = person["hair_probe"]
            red, green, blue = (int(value) for value in drawing.image[round(y), round(x)])
            assert palette.nearest_name((red, green, blue), palette.HAIR) == person["hair_color"]
            probed += 1
    assert probed > 40


def test_the_vocabulary_is_small_sorted_and_holds_the_well_known_prompts() -> None:
    words = vocabulary()
    assert words == sorted(set(words))
    assert len(words) < 520
    prompts = """professional headshot, sharp eyes, natural skin; businessman in suit; photo of a man, 4k;
    corporate headshot of a woman; sunset over mountains; a red apple on a table; a red sports car;
    portrait of a woman, high quality, detailed, studio light, beautiful;
    blurry, low quality, deformed face, bad eyes, watermark"""
    assert set(split_words(prompts)) <= set(words)


def test_captions_of_two_and_three_people_tell_how_many_who_and_where() -> None:
    rng = np.random.default_rng(6)
    seen: set[str] = set()
    for number in range(600):
        drawing = draw(rng, 16, ("pair", "group")[number % 2])
        people, words = drawing.attributes["people"], drawing.caption.split(" ")
        bare = [word.strip(",") for word in words]
        seen |= set(bare)
        assert not any(person["cover"] for person in people)
        assert ("two" not in bare or len(people) == 2) and ("three" not in bare or len(people) == 3)
        if "both" in bare or "all" in bare:
            shared = bare[bare.index("both" if "both" in bare else "all") + 1 :]
            assert shared[0] != "smiling" or all(p["expression"] != "serious" for p in people)
            assert "glasses" not in shared or all(p["glasses"] for p in people)
            assert "beards" not in shared or all(p["beard"] == "beard" for p in people)
            assert "hats" not in shared or all(p["hat"] for p in people)
        if bare[:3] == ["a", "bald", "man"] and "on the left and" in drawing.caption:
            assert people[0]["hair_style"] == "bald"
    assert {"two", "three", "couple", "side", "both", "all", "left", "middle", "right", "women"} <= seen


@pytest.mark.parametrize("kind", ["pair", "group"])
def test_faces_of_two_and_three_people_are_large_enough_for_the_base(kind: str) -> None:
    heights = [f.box[3] - f.box[1] for seed in range(40) for f in drawn(seed, 128, kind).faces]
    assert np.mean(np.array(heights) >= 24) > 0.97
    assert min(heights) > 21


def test_landscapes_are_also_called_what_people_type_who_want_any() -> None:
    rng = np.random.default_rng(4)
    seen = [draw(rng, 16, kind).caption for _ in range(150) for kind in ("hills", "sea", "night", "sunset")]
    assert {"landscape photo", "scenery"} <= set(seen)
    assert any("no people" in text for text in seen)


def test_the_command_writes_a_contact_sheet_and_prints_captions(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    command = [
        sys.executable,
        "-m",
        "drawing",
        "--seed",
        "1",
        "--count",
        "5",
        "--size",
        "64",
        "--out",
        str(sheet),
    ]
    result = subprocess.run(command, cwd=DEMO_FOLDER, capture_output=True, text=True, check=True)
    assert np.asarray(cv2.imread(str(sheet))).shape == (128, 256, 3)
    assert drawn(1, 64).caption in result.stdout
