"""Tones matched over every wire: asked for, forbidden, or left to the set; and with the demo networks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import parse
from atelier_restorer.align import crop_to_picture, face_to_crop
from atelier_restorer.paste import paste_face
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample
from bench import seam
from drawing import draw
from tests.integration.restorer_server import failure, photo, pixels, png, serve
from tests.integration.test_gateway_restore import desk, file_of
from tests.integration.test_restorer_command import Here, here, pixels_of, there
from tests.tiny_restorer import (
    FACES_OF_512_PX,
    NarrowParseNet,
    build_set,
    codeformer_state,
    detector_state,
    parser_state,
)
from tests.unit.restorer.pasting import ring

__all__ = ["here"]

FILE = png(photo())


def tiny_set(folder: Path, match_tone: bool | None) -> Path:
    return build_set(
        folder,
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        match_tone=match_tone,
    )


@pytest.fixture(scope="module")
def matching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose manifest asks for matched tones."""
    return tiny_set(tmp_path_factory.mktemp("matching"), True)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set, whose manifest says nothing of tones."""
    return tiny_set(tmp_path_factory.mktemp("silent"), None)


async def answers(model_set: Path, **fields: Any) -> list[pb.RestoreFacesResponse]:
    """Return the answers to: nothing said, asked for, forbidden."""
    async with serve(model_set) as client:
        return [
            await client.restore(FILE, max_faces=2, **fields, **said)
            for said in ({}, {"match_tone": True}, {"match_tone": False})
        ]


async def test_the_set_decides_unless_the_request_does(matching: Path, silent: Path) -> None:
    by_set, asked, forbidden = await answers(matching)
    by_silent_set, asked_of_silent, forbidden_there = await answers(silent)
    plain = forbidden.image
    assert by_set.image == asked.image == asked_of_silent.image != plain
    assert by_silent_set.image == forbidden_there.image == plain
    for answer, matched in ((by_set, True), (asked, True), (forbidden, False), (by_silent_set, False)):
        assert answer.tone_matched is matched and answer.face_restoration_applied
        assert ("tone" in [stage.stage for stage in answer.stages]) is matched


async def test_a_codeformer_from_a_file_is_not_bound_by_the_sets_word(matching: Path) -> None:
    async with serve(matching, codeformer=str(matching / "codeformer.safetensors")) as client:
        answer = await client.restore(FILE, max_faces=1)
    assert answer.face_restoration_applied and not answer.tone_matched


async def test_nothing_is_called_matched_where_nothing_was_restored(matching: Path) -> None:
    async with serve(matching) as client:
        upscaled = await client.restore(png(photo(64, 64)), max_faces=0, match_tone=True)
        small = await client.restore(FILE, min_face_px=5000, match_tone=True)
    assert not upscaled.tone_matched and not small.tone_matched


async def test_an_aligned_crop_is_not_pasted_so_there_is_nothing_to_match(matching: Path) -> None:
    crop = png(photo(512, 512))
    async with serve(matching) as client:
        by_set = await client.restore(crop, aligned=True)
        forbidden = await client.restore(crop, aligned=True, match_tone=False)
        _, _, fields, _ = await failure(client.restore(crop, aligned=True, match_tone=True))
    assert by_set.image == forbidden.image and by_set.face_restoration_applied
    assert not by_set.tone_matched and fields == ["match_tone"]


async def test_the_crop_after_is_what_was_pasted(matching: Path) -> None:
    source = photo()
    async with serve(matching) as client:
        answer = await client.restore(FILE, max_faces=1, return_crops=True, return_mask=True)
    [face] = [face for face in answer.faces if face.restored]
    matrix = face_to_crop([(point.x_px, point.y_px) for point in face.face.landmarks])
    mask = np.zeros(source.shape[:2], np.uint8)
    paste_face(source, mask, pixels(face.crop_after), crop_to_picture(matrix, 1), 1)
    np.testing.assert_array_equal(source, pixels(answer.image))
    np.testing.assert_array_equal(mask, pixels(answer.mask))


@pytest.fixture(scope="module")
def parsing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(
        tmp_path_factory.mktemp("parsing"),
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        parser=parser_state(),
        match_tone=True,
    )


@pytest.mark.parametrize("scale", [1, 2, 4])
async def test_gray_16_bits_and_parsed_faces(
    parsing: Path, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parse, "ParseNet", NarrowParseNet)
    deep = photo(300, 300)[..., 0].astype(np.uint16) * 257 + 3
    fields = {"upscale": scale, "max_faces": 1, "return_mask": True, "use_upscaler": False}
    async with serve(parsing) as client:
        plain = await client.restore(png(deep), match_tone=False, **fields)
        whole = await client.restore(png(deep), **fields)
        parsed = await client.restore(png(deep), mask=pb.MASK_KIND_PARSE, **fields)
    for answer in (whole, parsed):
        result, mask = pixels(answer.image), pixels(answer.mask)
        assert answer.tone_matched and result.dtype == np.uint16 and result.ndim == 2
        assert (result != pixels(plain.image)).any()
        if scale == 1:
            np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
    np.testing.assert_array_equal(pixels(whole.mask), pixels(plain.mask))
    assert (pixels(parsed.mask) <= pixels(whole.mask)).all()


async def test_over_json_as_over_grpc(silent: Path) -> None:
    async with desk(silent) as at:
        direct = await at.restorer.restore(FILE, max_faces=1, match_tone=True)
        told = await at.answer("/restore", FILE, max_faces=1, match_tone=True)
        plain = await at.answer("/restore", FILE, max_faces=1)
        compared = await at.answer("/compare", FILE, max_faces=1, match_tone=True, fidelities=[0.6, 1])
    assert file_of(told["image"]) == direct.image.data != file_of(plain["image"])
    assert (told["tone_matched"], plain["tone_matched"]) == (True, False)
    assert [result["tone_matched"] for result in compared["results"]] == [True, True]
    assert file_of(compared["results"][1]["image"]) != file_of(compared["results"][0]["image"])


async def test_on_the_command_line_here_and_at_a_service(silent: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "in.png").write_bytes(FILE)

    def arguments(name: str, *flags: str) -> list[object]:
        return ["restore", tmp_path / "in.png", tmp_path / name, "--max-faces", 1, *flags]

    own = await asyncio.to_thread(here, *arguments("own.png", "--match-tone"), "--model-set", silent)
    plain = await asyncio.to_thread(here, *arguments("plain.png", "--no-match-tone"), "--model-set", silent)
    async with serve(silent) as client:
        asked = await there(client, *arguments("asked.png", "--match-tone"))
    assert [ran.answers[0]["tone_matched"] for ran in (own, plain, asked)] == [True, False, True]
    ours, theirs, without = (pixels_of(tmp_path / f"{name}.png") for name in ("own", "asked", "plain"))
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != without).any()
    swept = await asyncio.to_thread(
        here, "compare", tmp_path / "in.png", tmp_path, "--fidelities", 0.6, "--match-tone", "--max-faces", 1,
        *("--model-set", silent),
    )  # fmt: skip
    assert json.loads(swept.out)["tone_matched"] is True
    np.testing.assert_array_equal(pixels_of(tmp_path / "in_w0.6.png"), ours)


def drawn_portrait() -> tuple[np.ndarray, pb.FaceEdit]:
    """Return a drawing (512, 512, 3) that has lost its sharpness, and its face."""
    drawing = draw(np.random.default_rng(900_001), 512, "portrait")
    small = cv2.resize(drawing.image, (128, 128), interpolation=cv2.INTER_AREA)
    points = [pb.Point(x_px=x, y_px=y) for x, y in drawing.faces[0].landmarks.tolist()]
    x1, y1, x2, y2 = drawing.faces[0].box
    face = pb.Face(landmarks=points, box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2), confidence=1)
    return cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC), pb.FaceEdit(face=face)


def on_flat_color(picture: np.ndarray, edit: pb.FaceEdit) -> np.ndarray:
    """Return a picture of nothing but the face's middle on one color."""
    matrix = face_to_crop([(point.x_px, point.y_px) for point in edit.face.landmarks])
    keep: Any = np.zeros((512, 512), np.float32)
    cv2.ellipse(keep, (256, 270), (165, 200), 0, 0, 360, 1.0, cv2.FILLED)
    keep = cv2.warpAffine(keep, crop_to_picture(matrix, 1), (512, 512))[..., None]
    return np.rint(picture * keep + np.array((90, 120, 60)) * (1 - keep)).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 2])
async def test_the_demo_networks_leave_no_box_around_a_drawn_face(scale: int) -> None:
    drawing, edit = drawn_portrait()
    async with serve(Path("demo")) as client:
        for picture in (drawing, on_flat_color(drawing, edit)):
            size = Size(picture.shape[1] * scale, picture.shape[0] * scale)
            before = resample(picture, size).astype(np.float64)
            fields: dict[str, Any] = {"faces": [edit], "return_mask": True, "upscale": scale}
            fields["use_upscaler"] = False
            plain = await client.restore(png(picture), match_tone=False, **fields)
            answer = await client.restore(png(picture), **fields)
            assert answer.tone_matched and not plain.tone_matched, "the demo set asks for it"
            mask = pixels(answer.mask)
            np.testing.assert_array_equal(mask, pixels(plain.mask))
            around = ring(mask, scale)
            shifts = [np.abs((pixels(a.image) - before)[around].mean(axis=0)).max() for a in (answer, plain)]
            assert shifts[0] < 1 and shifts[0] <= shifts[1]
            points = np.array([(p.x_px, p.y_px) for p in answer.faces[0].face.landmarks]).astype(int)
            for x, y in points:  # eyes, nose and mouth are the network's
                assert (pixels(answer.image)[y, x] == pixels(plain.image)[y, x]).all()


def test_the_bench_of_seams_holds_what_is_promised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    monkeypatch.setenv("ATELIER_RESTORER_DEVICE", "cpu")
    seam.main([str(Path(__file__).parents[2] / "docs" / "ruined.png")])
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["tone_matched"]["ring"]["max"] < 1
    assert summary["tone_matched"]["ring"]["mean"] < summary["as_restored"]["ring"]["mean"]
