"""Turned photos and small faces over gRPC, with the published RetinaFace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from facexlib.detection.retinaface import RetinaFace
from skimage import data

from atelier.common.v1 import skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.integration.restorer_server import Client, failure, pixels, png, serve
from tests.published_retinaface import published_state
from tests.tiny_restorer import build_set, codeformer_state


@pytest.fixture(scope="module")
def model_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with the published detector."""
    folder = tmp_path_factory.mktemp("published")
    return build_set(folder, detector=published_state(), codeformer=codeformer_state())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def published(model_set: Path) -> AsyncIterator[Client]:
    """A server with the published detector."""
    async with serve(model_set, max_pixels=8_000_000) as client:
        yield client


async def test_a_turned_photo_is_restored_the_right_way_up(published: Client) -> None:
    photo = data.astronaut()
    upright = await published.restore(png(photo), return_crops=True)
    turned = {
        turns: await published.restore(png(np.rot90(photo, turns)), return_crops=True) for turns in (1, 2, 3)
    }
    expected = pixels(upright.faces[0].crop_before).astype(int)
    for turns, response in turned.items():
        [face] = response.faces
        assert face.restored and not face.face.orientation_unclear
        crop = pixels(face.crop_before).astype(int)
        assert np.abs(crop - expected).mean() < 12, turns
        assert np.abs(crop - np.rot90(expected, 2)).mean() > 30, "on its head it would differ by far more"
        roll = {1: -90, 2: 180, 3: 90}[turns] + upright.faces[0].face.roll_degrees
        assert abs((face.face.roll_degrees - roll + 180) % 360 - 180) < 8


async def test_one_look_is_as_before(published: Client) -> None:
    on_its_head = png(np.rot90(data.astronaut(), 2))
    once = await published.restore(on_its_head, look=pb.LOOK_ONCE)
    found = await published.stub.DetectFaces(
        pb.DetectFacesRequest(image={"data": on_its_head}, look=pb.LOOK_ONCE)
    )
    assert [face.face.box for face in once.faces] == [face.box for face in found.faces]
    default = await published.restore(on_its_head)
    assert [face.face.box for face in default.faces] != [face.box for face in found.faces]


async def test_restore_looks_as_detect_does(published: Client) -> None:
    """Faces of 20 px, which a look at 128 px cannot find."""
    scene = np.full((400, 600, 3), 100, np.uint8)
    head = data.astronaut()[10:250:4, 102:342:4]
    for number in range(6):
        scene[40 + 50 * number : 100 + 50 * number, 20 + 90 * number : 80 + 90 * number] = head
    for size, look in ((128, pb.LOOK_ONCE), (128, pb.LOOK_AUTO), (640, pb.LOOK_ONCE), (0, pb.LOOK_THOROUGH)):
        options: dict[str, Any] = {"detect_size_px": size, "look": look}
        found = await published.stub.DetectFaces(pb.DetectFacesRequest(image={"data": png(scene)}, **options))
        restored = await published.restore(png(scene), **options)
        assert [face.box for face in found.faces] == [face.face.box for face in restored.faces]
        assert (len(found.faces) == 6) == ((size, look) != (128, pb.LOOK_ONCE)), (size, look)


async def test_a_face_that_is_unclear_is_not_restored_from_a_plan_either(published: Client) -> None:
    photo = png(data.astronaut())
    [face] = (await published.stub.DetectFaces(pb.DetectFacesRequest(image={"data": photo}))).faces
    face.orientation_unclear = True
    left = await published.restore(photo, faces=[pb.FaceEdit(face=face)])
    assert left.faces[0].reason == left.reason == skip_reason_pb2.SKIP_REASON_ORIENTATION_UNCLEAR
    assert left.faces[0].face.orientation_unclear and not left.faces[0].restored
    face.orientation_unclear = False
    assert (await published.restore(photo, faces=[pb.FaceEdit(face=face)])).faces[0].restored


async def test_a_size_that_cannot_be_had_is_told(published: Client) -> None:
    strip = np.full((100, 3000, 3), 90, np.uint8)
    request = pb.DetectFacesRequest(image={"data": png(strip)})
    [warning] = (await published.stub.DetectFaces(request)).warnings
    assert warning.code == warning_pb2.WARNING_CODE_DETECT_SIZE_LIMITED
    assert "3000x100" in warning.message and "640" in warning.message
    request.detect_size_px = 0
    assert not (await published.stub.DetectFaces(request)).warnings


async def test_options_of_detection_are_refused_where_nothing_is_detected(published: Client) -> None:
    photo = data.astronaut()
    [face] = (await published.stub.DetectFaces(pb.DetectFacesRequest(image={"data": png(photo)}))).faces
    for options in ({"faces": [pb.FaceEdit(face=face)]}, {"aligned": True}):
        for name, value in (("look", pb.LOOK_ONCE), ("detect_size_px", 320)):
            call = published.restore(png(photo), **options, **{name: value})
            assert (await failure(call))[2] == [name]
    for name, unknown in (("look", 9), ("detect_size_px", 2049)):
        wrong: dict[str, Any] = {name: unknown}
        assert (await failure(published.restore(png(photo), **wrong)))[2] == [name]
        call = published.stub.DetectFaces(pb.DetectFacesRequest(image={"data": png(photo)}, **wrong))
        assert (await failure(call))[2] == [name]


async def test_small_faces_are_found_in_tiles_where_memory_is_short(
    model_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = np.full((900, 1350, 3), 100, np.uint8)
    head = data.astronaut()[10:250:4, 102:342:4]
    for number in range(20):
        top, left = 80 + 200 * (number // 5), 60 + 260 * (number % 5)
        scene[top : top + 60, left : left + 60] = head
    request = pb.DetectFacesRequest(image={"data": png(scene)}, detect_size_px=300)
    async with serve(model_set, max_pixels=8_000_000) as published:  # its own: it remembers what fits
        whole = await published.stub.DetectFaces(request)
        assert len(whole.faces) == 20 and not whole.warnings
        forward = RetinaFace.forward

        def on_a_small_device(self: RetinaFace, batch: torch.Tensor) -> object:
            if batch.shape[2] * batch.shape[3] > 600_000:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(self, batch)

        monkeypatch.setattr(RetinaFace, "forward", on_a_small_device)
        tiled = await published.stub.DetectFaces(request)
        assert [warning.code for warning in tiled.warnings] == [warning_pb2.WARNING_CODE_MEMORY_FALLBACK]
        assert len(tiled.faces) == 20
        centers = [
            np.array(
                [
                    [(face.box.x1_px + face.box.x2_px) / 2, (face.box.y1_px + face.box.y2_px) / 2]
                    for face in found.faces
                ]
            )
            for found in (whole, tiled)
        ]
        distances = np.linalg.norm(centers[0][:, None] - centers[1][None], axis=2)
        assert distances.min(axis=1).max() < 2 and len(set(distances.argmin(axis=1))) == 20
        restored = await published.restore(png(scene), detect_size_px=300)
        assert warning_pb2.WARNING_CODE_MEMORY_FALLBACK in [warning.code for warning in restored.warnings]
        assert len(restored.faces) == 20
        request.detect_size_px = 0
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"1350x900 px.*detect_size of 0.*than 900 px"
        ) as caught:
            await published.stub.DetectFaces(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        monkeypatch.undo()
        assert len((await published.stub.DetectFaces(request)).faces) == 20, "the next request is unharmed"
