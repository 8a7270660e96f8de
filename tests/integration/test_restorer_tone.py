"""Matched tones over gRPC and on the command line: requested, refused, or left to the set; the demo set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pytest_asyncio

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import parse
from atelier_restorer.align import crop_to_picture, face_to_crop
from atelier_restorer.paste import paste_face
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample
from bench import seam
from drawing import draw
from tests.integration.restorer_command import RunHere, pixels_of, run_at_service
from tests.integration.restorer_server import Client, failure, photo, pixels, png, serve, shown, stage_names
from tests.tiny_restorer import (
    FACES_OF_512_PX,
    NarrowParseNet,
    build_set,
    codeformer_state,
    detector_state,
    parser_state,
)
from tests.unit.restorer.pasting import ring

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
    """A set whose manifest turns tone matching on."""
    return tiny_set(tmp_path_factory.mktemp("matching"), True)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set, whose manifest does not mention it."""
    return tiny_set(tmp_path_factory.mktemp("silent"), None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matching_restorer(matching: Path) -> AsyncIterator[Client]:
    async with serve(matching) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def silent_restorer(silent: Path) -> AsyncIterator[Client]:
    async with serve(silent) as client:
        yield client


async def restore_with_each_option(client: Client) -> list[pb.RestoreFacesResponse]:
    """Return the responses with `match_tone` unset, true and false."""
    return [
        await client.restore(FILE, max_faces=2, **option)
        for option in ({}, {"match_tone": True}, {"match_tone": False})
    ]


async def test_the_set_decides_unless_the_request_does(
    matching_restorer: Client, silent_restorer: Client
) -> None:
    by_default, on, off = await restore_with_each_option(matching_restorer)
    silent_by_default, silent_on, silent_off = await restore_with_each_option(silent_restorer)
    assert shown(by_default.image) == shown(on.image) == shown(silent_on.image) != shown(off.image)
    assert shown(silent_by_default.image) == shown(silent_off.image) == shown(off.image)
    for response, matched in ((by_default, True), (on, True), (off, False), (silent_by_default, False)):
        assert response.tone_matched is matched and response.face_restoration_applied
        assert ("tone" in stage_names(response)) is matched


async def test_a_codeformer_from_a_file_does_not_follow_the_sets_default(matching: Path) -> None:
    async with serve(matching, codeformer=str(matching / "codeformer.safetensors")) as client:
        response = await client.restore(FILE, max_faces=1)
    assert response.face_restoration_applied and not response.tone_matched


async def test_nothing_is_matched_where_nothing_was_restored(matching_restorer: Client) -> None:
    upscaled = await matching_restorer.restore(png(photo(64, 64)), max_faces=0, match_tone=True)
    small = await matching_restorer.restore(FILE, min_face_px=5000, match_tone=True)
    assert not upscaled.tone_matched and not small.tone_matched


async def test_an_aligned_crop_is_not_pasted_so_there_is_nothing_to_match(matching_restorer: Client) -> None:
    crop = png(photo(512, 512))
    by_default = await matching_restorer.restore(crop, aligned=True)
    off = await matching_restorer.restore(crop, aligned=True, match_tone=False)
    _, _, fields, _ = await failure(matching_restorer.restore(crop, aligned=True, match_tone=True))
    assert shown(by_default.image) == shown(off.image) and by_default.face_restoration_applied
    assert not by_default.tone_matched and fields == ["match_tone"]


async def test_the_crop_after_is_what_was_pasted(matching_restorer: Client) -> None:
    source = photo()
    response = await matching_restorer.restore(FILE, max_faces=1, return_crops=True, return_mask=True)
    [face] = [face for face in response.faces if face.restored]
    matrix = face_to_crop([(point.x_px, point.y_px) for point in face.face.landmarks])
    mask = np.zeros(source.shape[:2], np.uint8)
    paste_face(source, mask, pixels(face.crop_after), crop_to_picture(matrix, 1), 1)
    np.testing.assert_array_equal(source, pixels(response.image))
    np.testing.assert_array_equal(mask, pixels(response.mask))


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
    for response in (whole, parsed):
        result, mask = pixels(response.image), pixels(response.mask)
        assert response.tone_matched and result.dtype == np.uint16 and result.ndim == 2
        assert (result != pixels(plain.image)).any()
        if scale == 1:
            np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
    np.testing.assert_array_equal(pixels(whole.mask), pixels(plain.mask))
    assert (pixels(parsed.mask) <= pixels(whole.mask)).all()


async def test_on_the_command_line_in_process_and_at_a_service(
    silent: Path, silent_restorer: Client, tmp_path: Path, run_here: RunHere
) -> None:
    (tmp_path / "in.png").write_bytes(FILE)

    def arguments(name: str, *flags: str) -> list[object]:
        return ["restore", tmp_path / "in.png", tmp_path / name, "--max-faces", 1, *flags]

    own = await asyncio.to_thread(run_here, *arguments("own.png", "--match-tone"), "--model-set", silent)
    plain = await asyncio.to_thread(
        run_here, *arguments("plain.png", "--no-match-tone"), "--model-set", silent
    )
    remote = await run_at_service(silent_restorer, *arguments("remote.png", "--match-tone"))
    assert [result.reports[0]["tone_matched"] for result in (own, plain, remote)] == [True, False, True]
    ours, theirs, without = (pixels_of(tmp_path / f"{name}.png") for name in ("own", "remote", "plain"))
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != without).any()
    compared = await asyncio.to_thread(
        run_here, "compare", tmp_path / "in.png", tmp_path, "--fidelities", 0.6, "--match-tone",
        *("--max-faces", 1, "--model-set", silent),
    )  # fmt: skip
    assert json.loads(compared.out)["tone_matched"] is True
    np.testing.assert_array_equal(pixels_of(tmp_path / "in_w0.6.png"), ours)


def drawn_portrait() -> tuple[np.ndarray, pb.FaceEdit]:
    """Return a drawing (512, 512, 3) that has lost its sharpness, and its face."""
    drawing = draw(np.random.default_rng(900_001), 512, "portrait")
    small = cv2.resize(drawing.image, (128, 128), interpolation=cv2.INTER_AREA)
    points = [pb.Point(x_px=x, y_px=y) for x, y in drawing.faces[0].landmarks.tolist()]
    x1, y1, x2, y2 = drawing.faces[0].box
    face = pb.Face(landmarks=points, box=pb.Box(x1_px=x1, y1_px=y1, x2_px=x2, y2_px=y2), confidence=1)
    return cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC), pb.FaceEdit(face=face)


def on_flat_color(image: np.ndarray, edit: pb.FaceEdit) -> np.ndarray:
    """Return an image of the center of the face alone, on a single color."""
    matrix = face_to_crop([(point.x_px, point.y_px) for point in edit.face.landmarks])
    keep: Any = np.zeros((512, 512), np.float32)
    cv2.ellipse(keep, (256, 270), (165, 200), 0, 0, 360, 1.0, cv2.FILLED)
    keep = cv2.warpAffine(keep, crop_to_picture(matrix, 1), (512, 512))[..., None]
    flat: np.ndarray = np.rint(image * keep + np.array((90, 120, 60)) * (1 - keep)).astype(np.uint8)
    return flat


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_restorer() -> AsyncIterator[Client]:
    async with serve(Path("demo")) as client:
        yield client


@pytest.mark.parametrize("scale", [1, 2])
async def test_the_demo_networks_leave_no_box_around_a_drawn_face(demo_restorer: Client, scale: int) -> None:
    drawing, edit = drawn_portrait()
    for image in (drawing, on_flat_color(drawing, edit)):
        size = Size(image.shape[1] * scale, image.shape[0] * scale)
        before = resample(image, size).astype(np.float64)
        fields: dict[str, Any] = {"faces": [edit], "return_mask": True, "upscale": scale}
        fields["use_upscaler"] = False
        plain = await demo_restorer.restore(png(image), match_tone=False, **fields)
        matched = await demo_restorer.restore(png(image), **fields)
        assert matched.tone_matched and not plain.tone_matched, "the demo set turns it on"
        mask = pixels(matched.mask)
        np.testing.assert_array_equal(mask, pixels(plain.mask))
        around = ring(mask, scale)
        shifts = [np.abs((pixels(r.image) - before)[around].mean(axis=0)).max() for r in (matched, plain)]
        assert shifts[0] < 1 and shifts[0] <= shifts[1]
        points = np.array([(p.x_px, p.y_px) for p in matched.faces[0].face.landmarks]).astype(int)
        for x, y in points:  # eyes, nose and mouth are the network's
            assert (pixels(matched.image)[y, x] == pixels(plain.image)[y, x]).all()


def test_the_seam_bench_measures_smaller_shifts_with_matched_tones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    monkeypatch.setenv("ATELIER_RESTORER_DEVICE", "cpu")
    seam.main([str(Path(__file__).parents[2] / "docs" / "ruined.png")])
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["tone_matched"]["ring"]["max"] < 1
    assert summary["tone_matched"]["ring"]["mean"] < summary["as_restored"]["ring"]["mean"]
