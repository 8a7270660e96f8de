"""Face edits, comparisons of fidelities, crops, and batches of many requests."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import io
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from atelier.common.v1 import image_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime import metrics
from tests.integration.restorer_server import Client, photo, pixels, png, serve, shown, stage_names

SKIPPED = skip_reason_pb2.SKIP_REASON_SKIPPED
OVER_LIMIT = skip_reason_pb2.SKIP_REASON_OVER_LIMIT


async def detect(client: Client, source: np.ndarray, confidence: float = 0.8) -> list[pb.Face]:
    request = pb.DetectFacesRequest(image={"data": png(source)}, min_confidence=confidence)
    return list((await client.stub.DetectFaces(request, timeout=60)).faces)


def inside(face: pb.Face, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the middle half of a face's box."""
    box = face.box
    width, height = (box.x2_px - box.x1_px) / 4, (box.y2_px - box.y1_px) / 4
    rows = slice(max(0, int(box.y1_px + height)), max(0, int(box.y2_px - height)))
    columns = slice(max(0, int(box.x1_px + width)), max(0, int(box.x2_px - width)))
    return rows, columns


async def test_detected_faces_are_sent_back_with_an_edit_each(restorer: Client) -> None:
    source = photo(1200, 640)
    found = await detect(restorer, source)
    assert len(found) >= 3
    assert all(face.HasField("sharpness") and face.HasField("roll_degrees") for face in found)
    edits = [
        pb.FaceEdit(face=found[0], fidelity=0.0),
        pb.FaceEdit(face=found[1], skip=True),
        pb.FaceEdit(face=found[2]),
    ]
    response = await restorer.restore(png(source), faces=edits, fidelity=1.0, return_mask=True)
    assert "detect" not in stage_names(response)
    assert [face.restored for face in response.faces] == [True, False, True]
    assert [face.reason for face in response.faces][1] == SKIPPED
    assert [face.fidelity for face in response.faces if face.restored] == [0.0, 1.0]
    for result, face in zip(response.faces, found, strict=False):
        assert result.face.box == face.box
        assert result.face.landmarks == face.landmarks
        assert result.face.confidence == face.confidence
    alone = await restorer.restore(png(source), faces=[pb.FaceEdit(face=found[0], fidelity=0.0)])
    rows, columns = inside(found[0], source.shape)
    mixed = np.abs(pixels(alone.image)[rows, columns].astype(int) - pixels(response.image)[rows, columns])
    assert np.median(mixed) <= 1, "a face's fidelity does not affect the others"


async def test_a_face_whose_landmarks_are_outside_the_image_is_accepted_back(restorer: Client) -> None:
    source = photo(1, 300)
    face = (await detect(restorer, source))[0]
    assert all(not 0 <= point.x_px < 1 for point in face.landmarks) and face.box.x1_px < 0
    by_rule = await restorer.restore(png(source), max_faces=1)
    by_edit = await restorer.restore(png(source), faces=[pb.FaceEdit(face=face)])
    assert shown(by_edit.image) == shown(by_rule.image) and by_edit.face_restoration_applied


async def test_face_edits_over_the_limit_are_reported(restorer: Client) -> None:
    source = photo(1200, 640)
    edits = [pb.FaceEdit(face=face) for face in await detect(restorer, source)]
    edits[0].skip = True
    response = await restorer.restore(png(source), faces=edits, max_faces=1)
    assert [face.reason for face in response.faces[:3]] == [
        SKIPPED,
        skip_reason_pb2.SKIP_REASON_UNSPECIFIED,
        OVER_LIMIT,
    ]


async def test_visibility_of_one_face(restorer: Client) -> None:
    source = photo(1200, 640)
    face = (await detect(restorer, source))[0]
    masks = []
    for visibility in (None, 0.5):
        edit = pb.FaceEdit(face=face, visibility=visibility)
        masks.append(pixels((await restorer.restore(png(source), faces=[edit], return_mask=True)).mask))
    assert masks[0].max() == 255 and masks[1].max() in (127, 128)
    np.testing.assert_allclose(masks[1].astype(int) * 2, masks[0], atol=2)


async def test_faces_sharper_than_the_limit_are_left_alone(restorer: Client) -> None:
    source = photo()
    source[:, ::2] = 255 - source[:, ::2]
    sharp = await restorer.restore(png(source), max_sharpness=1.0)
    assert not sharp.face_restoration_applied and sharp.reason == SKIPPED
    assert SKIPPED in {face.reason for face in sharp.faces}
    np.testing.assert_array_equal(pixels(sharp.image), source)
    limit = max(face.face.sharpness for face in sharp.faces) + 1
    assert (await restorer.restore(png(source), max_sharpness=limit)).face_restoration_applied


async def test_crops_before_and_after_are_those_that_were_cut_and_pasted(restorer: Client) -> None:
    source = photo()
    response = await restorer.restore(png(source), return_crops=True, max_faces=2)
    restored = [face for face in response.faces if face.restored]
    assert len(restored) == 2
    for face in restored:
        before, after = pixels(face.crop_before), pixels(face.crop_after)
        assert before.shape == after.shape == (512, 512, 3)
        assert (before != after).any()
        again = await restorer.restore(face.crop_before.data, aligned=True)
        assert np.abs(pixels(again.image).astype(int) - after).max() <= 1
    assert not any(face.HasField("crop_after") for face in response.faces if not face.restored)
    plain = await restorer.restore(png(source))
    assert not any(face.HasField("crop_before") for face in plain.faces)


async def test_a_comparison_equals_single_calls_and_encodes_once(restorer: Client) -> None:
    source, fidelities = photo(), [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0]
    encoded: list[int] = []
    decoded: list[int] = []
    network = restorer.codeformer
    hooks = [
        network.get_submodule("encoder").register_forward_hook(
            lambda network, inputs, output: encoded.append(len(inputs[0]))
        ),
        network.get_submodule("generator.blocks.0").register_forward_hook(
            lambda network, inputs, output: decoded.append(len(inputs[0]))
        ),
    ]
    request = pb.CompareFidelitiesRequest(
        restore=pb.RestoreFacesRequest(
            image=image_pb2.Image(data=png(source)), max_faces=2, return_mask=True
        ),
        fidelities=fidelities,
    )
    responses = [r async for r in restorer.stub.CompareFidelities(request, timeout=60)]
    assert (sum(encoded), sum(decoded)) == (2, 2 * len(fidelities)), "of two faces"
    for hook in hooks:
        hook.remove()
    assert [response.fidelity for response in responses] == fidelities
    results = [response.result for response in responses]
    for fidelity, result in [*zip(fidelities, results, strict=True)][::3]:
        single = await restorer.restore(png(source), max_faces=2, fidelity=fidelity, return_mask=True)
        assert np.abs(pixels(single.image).astype(int) - pixels(result.image)).max() <= 1
        np.testing.assert_array_equal(pixels(single.mask), pixels(result.mask))
        assert {face.fidelity for face in result.faces if face.restored} == {fidelity}
        assert stage_names(result) == stage_names(single)
    assert len(results) == 8 and (pixels(results[0].image) != pixels(results[7].image)).any()


async def test_16_bits_are_kept_outside_the_mask(restorer: Client) -> None:
    deep = photo().astype(np.uint16) * 257 + 100
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    response = await restorer.restore(data, return_mask=True, max_faces=2)
    bgr = cv2.imdecode(np.frombuffer(response.image.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgr is not None and bgr.dtype == np.uint16
    result, mask = bgr[..., ::-1], pixels(response.mask)
    np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
    assert (result[mask == 255] != deep[mask == 255]).any()


def batch_sizes() -> tuple[float, float]:
    samples = {s.name.rsplit("_", 1)[1]: s.value for m in metrics.BATCH_SIZE.collect() for s in m.samples}
    return samples["count"], samples["sum"]


async def test_faces_of_waiting_requests_share_batches(seeing: Path) -> None:
    async with serve(seeing, max_batch=8, queue_capacity=64) as client:
        sources = [photo(640 + 8 * n, 640) for n in range(12)]
        alone = [pixels((await client.restore(png(source), max_faces=1)).image) for source in sources]
        count, faces = batch_sizes()
        slow = client.codeformer.register_forward_pre_hook(lambda network, inputs: _pause())
        together = await asyncio.gather(*(client.restore(png(s), max_faces=1) for s in sources))
        slow.remove()
        batches, restored = batch_sizes()[0] - count, batch_sizes()[1] - faces
        assert restored == len(sources)
        assert restored / batches >= 2, "waiting faces share batches"
        for response, expected in zip(together, alone, strict=True):
            assert np.abs(pixels(response.image).astype(int) - expected).max() <= 1


def _pause() -> None:
    time.sleep(0.3)


@pytest.mark.slow
async def test_1000_mixed_requests_get_their_own_faces_and_the_memory_stays_flat(seeing: Path) -> None:
    """Each image has its own color, so that a crop from another one would be noticed."""

    def colored(number: int) -> np.ndarray:
        color = np.array([number * 37 % 256, number * 91 % 256, number * 53 % 256])
        image: np.ndarray = np.clip(photo(256, 256) // 8 + color * 7 // 8, 0, 255).astype(np.uint8)
        return image

    different = [(number, kind) for number in range(25) for kind in range(4)]
    async with serve(seeing, max_batch=8, queue_capacity=1000) as client:
        edits = [pb.FaceEdit(face=face) for face in await detect(client, colored(0))][:2]
        # One kind in four is detected again, which takes longer than all the rest; one takes two faces.
        kinds: list[dict[str, Any]] = [
            {"max_faces": 1, "rule": pb.FACE_RULE_LARGEST},
            {"faces": edits, "fidelity": 0.0},
            {"faces": edits[:1], "fidelity": 1.0, "upscale": 2, "use_upscaler": False},
            {"faces": edits[:1], "visibility": 0.5},
        ]

        async def restore(number: int, kind: int) -> np.ndarray:
            response = await client.restore(png(colored(number)), timeout=600, **kinds[kind])
            assert response.face_restoration_applied
            return np.array(Image.open(io.BytesIO(response.image.data)))

        expected = {key: await restore(*key) for key in different}
        slots = asyncio.Semaphore(16)
        mixed_up: list[tuple[int, int]] = []

        async def check(number: int, kind: int) -> None:
            async with slots:
                found = await restore(number, kind)
            if np.abs(found.astype(int) - expected[number, kind]).max() > 1:
                mixed_up.append((number, kind))

        process = psutil.Process()
        sizes = []
        for _ in range(10):
            await asyncio.gather(*(check(*key) for key in different))
            gc.collect()
            ctypes.CDLL(None).malloc_trim(
                0
            )  # or freed memory that the allocator keeps, up to 200 MiB, would count
            sizes.append(process.memory_info().rss)
        growth = max(sizes[6:]) - max(sizes[2:6])
        assert mixed_up == []
        assert growth < 50 * 2**20, f"MiB after each hundred: {[size >> 20 for size in sizes]}"
