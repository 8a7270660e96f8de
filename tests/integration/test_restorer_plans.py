"""Restoration that is directed: plans for single faces, sweeps of w, crops, and batches of many requests."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from atelier.common.v1 import image_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime import metrics
from tests.integration.restorer_server import Client, photo, pixels, png, serve

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


async def test_what_was_detected_is_sent_back_with_an_order_each(seeing: Path) -> None:
    source = photo(1200, 640)
    async with serve(seeing) as client:
        found = await detect(client, source)
        assert len(found) >= 3
        assert all(face.HasField("sharpness") and face.HasField("roll_degrees") for face in found)
        edits = [
            pb.FaceEdit(face=found[0], fidelity=0.0),
            pb.FaceEdit(face=found[1], skip=True),
            pb.FaceEdit(face=found[2]),
        ]
        answer = await client.restore(png(source), faces=edits, fidelity=1.0, return_mask=True)
        assert "detect" not in [stage.stage for stage in answer.stages]
        assert [face.restored for face in answer.faces] == [True, False, True]
        assert [face.reason for face in answer.faces][1] == SKIPPED
        assert [face.fidelity for face in answer.faces if face.restored] == [0.0, 1.0]
        for result, face in zip(answer.faces, found, strict=False):
            assert result.face.box == face.box
            assert result.face.landmarks == face.landmarks
            assert result.face.confidence == face.confidence
        alone = await client.restore(png(source), faces=[pb.FaceEdit(face=found[0], fidelity=0.0)])
        rows, columns = inside(found[0], source.shape)
        mixed = np.abs(pixels(alone.image)[rows, columns].astype(int) - pixels(answer.image)[rows, columns])
        assert np.median(mixed) <= 1, "a face's own fidelity holds whatever its neighbour's is"


async def test_a_face_whose_landmarks_lie_beyond_the_picture_is_taken_back(seeing: Path) -> None:
    source = photo(1, 300)
    async with serve(seeing) as client:
        face = (await detect(client, source))[0]
        assert all(not 0 <= point.x_px < 1 for point in face.landmarks) and face.box.x1_px < 0
        by_rule = await client.restore(png(source), max_faces=1)
        by_plan = await client.restore(png(source), faces=[pb.FaceEdit(face=face)])
    assert by_plan.image == by_rule.image and by_plan.face_restoration_applied


async def test_orders_beyond_the_limit_are_reported(seeing: Path) -> None:
    source = photo(1200, 640)
    async with serve(seeing) as client:
        edits = [pb.FaceEdit(face=face) for face in await detect(client, source)]
        edits[0].skip = True
        answer = await client.restore(png(source), faces=edits, max_faces=1)
        assert [face.reason for face in answer.faces[:3]] == [
            SKIPPED,
            skip_reason_pb2.SKIP_REASON_UNSPECIFIED,
            OVER_LIMIT,
        ]


async def test_visibility_of_one_face(seeing: Path) -> None:
    source = photo(1200, 640)
    async with serve(seeing) as client:
        face = (await detect(client, source))[0]
        masks = []
        for visibility in (None, 0.5):
            edit = pb.FaceEdit(face=face, visibility=visibility)
            masks.append(pixels((await client.restore(png(source), faces=[edit], return_mask=True)).mask))
        assert masks[0].max() == 255 and masks[1].max() in (127, 128)
        np.testing.assert_allclose(masks[1].astype(int) * 2, masks[0], atol=2)


async def test_faces_sharper_than_the_limit_are_left_alone(seeing: Path) -> None:
    source = photo()
    source[:, ::2] = 255 - source[:, ::2]
    async with serve(seeing) as client:
        sharp = await client.restore(png(source), max_sharpness=1.0)
        assert not sharp.face_restoration_applied and sharp.reason == SKIPPED
        assert SKIPPED in {face.reason for face in sharp.faces}
        np.testing.assert_array_equal(pixels(sharp.image), source)
        limit = max(face.face.sharpness for face in sharp.faces) + 1
        assert (await client.restore(png(source), max_sharpness=limit)).face_restoration_applied


async def test_crops_before_and_after_are_what_was_cut_and_pasted(seeing: Path) -> None:
    source = photo()
    async with serve(seeing) as client:
        answer = await client.restore(png(source), return_crops=True, max_faces=2)
        restored = [face for face in answer.faces if face.restored]
        assert len(restored) == 2
        for face in restored:
            before, after = pixels(face.crop_before), pixels(face.crop_after)
            assert before.shape == after.shape == (512, 512, 3)
            assert (before != after).any()
            again = await client.restore(face.crop_before.data, aligned=True)
            assert np.abs(pixels(again.image).astype(int) - after).max() <= 1
        assert not any(face.HasField("crop_after") for face in answer.faces if not face.restored)
        plain = await client.restore(png(source))
        assert not any(face.HasField("crop_before") for face in plain.faces)


async def test_a_sweep_equals_single_calls_and_encodes_once(seeing: Path) -> None:
    source, fidelities = photo(), [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0]
    encoded, decoded = [], []
    async with serve(seeing) as client:
        hooks = [
            client.codeformer.encoder.register_forward_hook(
                lambda network, inputs, output: encoded.append(len(inputs[0]))
            ),
            client.codeformer.generator.blocks[0].register_forward_hook(
                lambda network, inputs, output: decoded.append(len(inputs[0]))
            ),
        ]
        request = pb.CompareFidelitiesRequest(
            restore=pb.RestoreFacesRequest(
                image=image_pb2.Image(data=png(source)), max_faces=2, return_mask=True
            ),
            fidelities=fidelities,
        )
        responses = [r async for r in client.stub.CompareFidelities(request, timeout=60)]
        assert (sum(encoded), sum(decoded)) == (2, 2 * len(fidelities)), "of two faces"
        for hook in hooks:
            hook.remove()
        assert [response.fidelity for response in responses] == fidelities
        results = [response.result for response in responses]
        for fidelity, result in [*zip(fidelities, results, strict=True)][::3]:
            single = await client.restore(png(source), max_faces=2, fidelity=fidelity, return_mask=True)
            assert np.abs(pixels(single.image).astype(int) - pixels(result.image)).max() <= 1
            np.testing.assert_array_equal(pixels(single.mask), pixels(result.mask))
            assert {face.fidelity for face in result.faces if face.restored} == {fidelity}
            assert [stage.stage for stage in result.stages] == [stage.stage for stage in single.stages]
        assert len(results) == 8 and (pixels(results[0].image) != pixels(results[7].image)).any()


async def test_sixteen_bits_stay_sixteen_bits_outside_of_the_mask(seeing: Path) -> None:
    import cv2

    deep = photo().astype(np.uint16) * 257 + 100
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    async with serve(seeing) as client:
        answer = await client.restore(data, return_mask=True, max_faces=2)
        result = cv2.imdecode(np.frombuffer(answer.image.data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
        mask = pixels(answer.mask)
        assert result.dtype == np.uint16
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
        assert restored / batches >= 2, "waiting faces went together"
        for answer, expected in zip(together, alone, strict=True):
            assert np.abs(pixels(answer.image).astype(int) - expected).max() <= 1


def _pause() -> None:
    import time

    time.sleep(0.3)


@pytest.mark.slow
async def test_a_thousand_mixed_requests_get_their_own_faces_and_the_memory_stays_flat(seeing: Path) -> None:
    """Each picture has its own color; a crop that went astray would carry another's."""

    def colored(number: int) -> np.ndarray:
        color = np.array([number * 37 % 256, number * 91 % 256, number * 53 % 256])
        return np.clip(photo(256, 256) // 8 + color * 7 // 8, 0, 255).astype(np.uint8)

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

        async def ask(number: int, kind: int) -> np.ndarray:
            answer = await client.restore(png(colored(number)), timeout=600, **kinds[kind])
            assert answer.face_restoration_applied
            return np.array(Image.open(io.BytesIO(answer.image.data)))

        expected = {key: await ask(*key) for key in different}
        turns = asyncio.Semaphore(16)
        astray: list[tuple[int, int]] = []

        async def check(number: int, kind: int) -> None:
            async with turns:
                found = await ask(number, kind)
            if np.abs(found.astype(int) - expected[number, kind]).max() > 1:
                astray.append((number, kind))

        process = psutil.Process()
        sizes = []
        for _ in range(10):
            await asyncio.gather(*(check(*key) for key in different))
            sizes.append(process.memory_info().rss)
        # Which buffers are free at such a moment changes by 200 MiB; the most that it ever is does not.
        growth = max(sizes[6:]) - max(sizes[2:6])
        assert astray == []
        assert growth < 100 * 2**20, f"MiB after each hundred: {[size >> 20 for size in sizes]}"
