"""The face stage over a real socket, with real networks of tiny width."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from atelier.common.v1 import error_reason_pb2, image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from atelier_restorer.nets.codeformer import CodeFormerOutput
from atelier_restorer.servicer import RestorerStage
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import metrics
from atelier_runtime.server import StageServer
from tests.tiny_restorer import (
    FACES_OF_256_PX,
    FACES_OF_512_PX,
    build_set,
    codeformer_state,
    detector_state,
)

SERVICE = "atelier.restorer.v1.RestorerService"


class Client:
    """A stub and the server that it talks to."""

    def __init__(self, server: StageServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)

    @property
    def codeformer(self) -> torch.nn.Module:
        """The network that the server runs, for what weights alone cannot bring about."""
        stage = self.server.stage
        assert isinstance(stage, RestorerStage) and stage.models.codeformer is not None
        return stage.models.codeformer.network

    async def restore(self, image: bytes, timeout: float = 60, **fields: Any) -> pb.RestoreFacesResponse:
        request = pb.RestoreFacesRequest(image=image_pb2.Image(data=image), **fields)
        return await self.stub.RestoreFaces(request, timeout=timeout)

    async def running(self) -> int:
        return (await self.stub.GetStatus(pb.GetStatusRequest())).status.running


@asynccontextmanager
async def serve(model_set: Path, **settings: Any) -> AsyncIterator[Client]:
    chosen = RestorerSettings(
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        model_set=str(model_set),
        device="cpu",
        cpu_threads=1,
        drain_seconds=5,
        max_pixels=2_000_000,
        **settings,
    )
    server = StageServer("restorer", chosen, lambda worker, state: RestorerStage(chosen, worker, state))
    limit = [("grpc.max_receive_message_length", 64 * 2**20)]
    try:
        await server.start()
        await server.wait_ready()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=limit) as channel:
            yield Client(server, channel)
    finally:
        await server.drain()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that sees a few large faces in every picture, and more smaller ones, less surely."""
    sees = {FACES_OF_512_PX: 0.99, FACES_OF_256_PX: 0.7}
    folder = tmp_path_factory.mktemp("seeing")
    return build_set(folder, detector=detector_state(sees), codeformer=codeformer_state())


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that never sees a face."""
    folder = tmp_path_factory.mktemp("blind")
    return build_set(folder, detector=detector_state(), codeformer=codeformer_state(), upscaler=False)


def photo(width: int = 640, height: int = 640) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 200], axis=2).astype(np.uint8)


def png(rgb: np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image: image_pb2.Image) -> np.ndarray:
    with Image.open(io.BytesIO(image.data)) as opened:
        return np.array(opened)


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, list[str], Any]:
    """Return code, reason, fields and RetryInfo of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason, fields, retry = "", [], None
    status = rpc_status.from_call(caught.value)
    for detail in status.details if status else ():
        info, bad, wait = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(wait):
            retry = wait
    return caught.value.code(), reason, fields, retry


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_faces_are_restored_and_nothing_else_is_touched(seeing: Path) -> None:
    async with serve(seeing) as client:
        source = photo()
        answer = await client.restore(png(source), return_mask=True, max_faces=3)
        reasons = [face.reason for face in answer.faces]
        restored = [face for face in answer.faces if face.restored]
        assert answer.face_restoration_applied
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_UNSPECIFIED
        assert len(restored) == 3
        assert [face.fidelity for face in restored] == [0.6] * 3
        assert error_reason_pb2.NOT_DONE_REASON_OVER_LIMIT in reasons
        assert error_reason_pb2.NOT_DONE_REASON_LOW_CONFIDENCE in reasons
        assert all(face.HasField("fidelity") == face.restored for face in answer.faces)
        confidences = [face.face.confidence for face in answer.faces]
        assert confidences == sorted(confidences, reverse=True)

        mask, result = pixels(answer.mask), pixels(answer.image)
        assert mask.shape == source.shape[:2]
        assert (mask > 0).any() and (mask == 0).any()
        np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
        assert (result[mask > 0] != source[mask > 0]).any()
        assert [stage.stage for stage in answer.stages] == [
            "decode",
            "detect",
            "align",
            "restore",
            "paste",
            "encode",
        ]
        assert answer.model_set == "tiny"
        assert list(answer.warnings) == []


async def test_a_picture_without_a_face_is_a_success(blind: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(blind) as client:
        caplog.set_level("INFO")
        source = photo(300, 200)
        answer = await client.restore(png(source))
        assert not answer.face_restoration_applied
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_NO_FACE
        assert len(answer.faces) == 0
        np.testing.assert_array_equal(pixels(answer.image), source)
        assert "No faces detected" in caplog.messages


async def test_the_picture_is_enlarged_and_boxes_with_it(seeing: Path, blind: Path) -> None:
    source = photo(320, 320)
    async with serve(seeing) as client:
        plain = await client.restore(png(source), max_faces=1)
        twice = await client.restore(png(source), max_faces=1, upscale=2, return_mask=True)
        assert pixels(twice.image).shape == (640, 640, 3)
        assert pixels(twice.mask).shape == (640, 640)
        assert (twice.image.width_px, twice.image.height_px) == (640, 640)
        assert (twice.upscaler, twice.upscale_applied) == ("tiny-compact-x2", 2)
        assert twice.faces[0].face.box.x2_px == pytest.approx(2 * plain.faces[0].face.box.x2_px)
        by_lanczos = await client.restore(png(source), upscale=4, use_realesrgan=False)
        assert pixels(by_lanczos.image).shape == (1280, 1280, 3)
        assert by_lanczos.upscaler == "lanczos"
        assert not by_lanczos.warnings
    async with serve(blind) as client:
        answer = await client.restore(png(source), upscale=2)
        assert answer.upscaler == "lanczos"
        assert "no upscaler" in answer.warnings[0]
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_NO_FACE


async def test_an_aligned_crop_is_restored_without_detection(blind: Path) -> None:
    async with serve(blind) as client:
        source = photo(512, 512)
        answer = await client.restore(png(source), aligned=True, return_mask=True)
        assert answer.face_restoration_applied
        assert [face.restored for face in answer.faces] == [True]
        assert "detect" not in [stage.stage for stage in answer.stages]
        assert (pixels(answer.mask) == 255).all()
        half = await client.restore(png(source), aligned=True, visibility=0.5)
        between = (source.astype(float) + pixels(answer.image)) / 2
        assert np.abs(pixels(half.image) - between).max() <= 1


async def test_detection(seeing: Path) -> None:
    async with serve(seeing) as client:
        request = pb.DetectFacesRequest(image=image_pb2.Image(data=png(photo(640, 480))), min_confidence=0.5)
        answer = await client.stub.DetectFaces(request)
        assert (answer.width_px, answer.height_px) == (640, 480)
        assert len(answer.faces) > 6
        surest = answer.faces[0]
        assert surest.confidence == pytest.approx(0.99, abs=1e-3)
        assert surest.index == 0
        assert len(surest.landmarks) == 5
        assert surest.size_px == pytest.approx(384, abs=0.5)  # 512 px of what it sees: the picture at 4/3
        assert surest.sharpness > 0
        assert abs(surest.roll_degrees) < 1


def giant_png() -> bytes:
    """Return a PNG whose header says 60000x60000 and which holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


SMALL = png(photo(64, 64))
BAD_REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no picture": ({}, ["image"]),
    "no picture file": ({"image": {"data": b"hello"}}, ["image"]),
    "truncated": ({"image": {"data": png(photo())[:5000]}}, ["image"]),
    "giant header": ({"image": {"data": giant_png()}}, ["image"]),
    "16 bits": ({"image": {"data": png(photo()[..., 0].astype(np.uint16) * 257)}}, ["image"]),
    "wrong format": ({"image": {"data": SMALL, "format": image_pb2.IMAGE_FORMAT_JPEG}}, ["image.format"]),
    "unknown format": ({"image": {"data": SMALL, "format": 77}}, ["image.format"]),
    "raw without size": ({"image": {"data": b"abc", "format": 4}}, ["image"]),
    "raw of other size": (
        {"image": {"data": b"abc", "format": 4, "width_px": 9, "height_px": 9}},
        ["image"],
    ),
    "NaN fidelity": ({"fidelity": float("nan")}, ["fidelity"]),
    "negative fidelity": ({"fidelity": -0.1}, ["fidelity"]),
    "many at once": (
        {"fidelity": 2.0, "visibility": -1, "min_confidence": 1.5, "max_faces": 999, "upscale": 3},
        ["fidelity", "max_faces", "min_confidence", "visibility", "upscale"],
    ),
    "endless size": (
        {"min_face_px": float("inf"), "max_face_px": float("nan")},
        ["min_face_px", "max_face_px"],
    ),
    "unknown rule": ({"rule": 42}, ["rule"]),
    "unknown output format": ({"output": {"format": 42}}, ["output.format"]),
    "quality": ({"output": {"quality": 101}}, ["output.quality"]),
    "aligned of wrong size": ({"aligned": True}, ["aligned"]),
    "aligned with a rule": (
        {"aligned": True, "rule": pb.FACE_RULE_CENTER, "min_face_px": 10},
        ["rule", "min_face_px"],
    ),
    "too large enlarged": (
        {"image": {"data": png(photo(1000, 800))}, "upscale": 4},
        ["upscale"],
    ),
    "longer than webp can hold": (
        {
            "image": {"data": png(photo(4096, 16))},
            "upscale": 4,
            "output": {"format": image_pb2.IMAGE_FORMAT_WEBP},
        },
        ["output.format"],
    ),
    "not built yet": (
        {
            "faces": [{"skip": True}],
            "max_sharpness": 5.0,
            "mask": pb.MASK_KIND_PARSE,
            "return_crops": True,
        },
        ["faces", "max_sharpness", "mask", "return_crops"],
    ),
    "unknown mask": ({"mask": 9}, ["mask"]),
}


async def test_bad_requests_are_refused_by_field_and_harm_nothing(blind: Path) -> None:
    async with serve(blind) as client:
        for name, (fields, expected) in BAD_REQUESTS.items():
            fields = (
                fields if "image" in fields or name == "no picture" else {"image": {"data": SMALL}, **fields}
            )
            request = pb.RestoreFacesRequest(**fields)
            code, reason, named, _ = await failure(client.stub.RestoreFaces(request))
            assert (code, reason, named) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_REQUEST",
                expected,
            ), name
        for detect_fields, expected in (
            ({"min_confidence": float("nan"), "detect_size_px": 9}, ["min_confidence", "detect_size_px"]),
            ({"image": {"data": b"x"}}, ["image"]),
        ):
            call = client.stub.DetectFaces(pb.DetectFacesRequest(**detect_fields))
            assert (await failure(call))[2] == expected
        assert (await client.restore(SMALL)).reason == error_reason_pb2.NOT_DONE_REASON_NO_FACE


def bright(crops: torch.Tensor) -> torch.Tensor:
    return crops.amax(dim=(1, 2, 3)) > 0.9


def spoil(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    output.image[bright(inputs[0])] = float("nan")


def break_down(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise RuntimeError("a bright face")


def run_out(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: CodeFormerOutput) -> None:
    if bright(inputs[0]).any():
        raise torch.OutOfMemoryError("a bright face")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (spoil, error_reason_pb2.NOT_DONE_REASON_NOT_FINITE),
        (break_down, error_reason_pb2.NOT_DONE_REASON_FAILED),
        (run_out, error_reason_pb2.NOT_DONE_REASON_OUT_OF_MEMORY),
    ],
)
async def test_one_face_of_several_fails_and_the_others_are_restored(
    seeing: Path, fault: Callable[..., None], reason: int
) -> None:
    source = np.full((640, 1000, 3), 90, np.uint8)
    source[:, :300] = 250
    async with serve(seeing) as client:
        client.codeformer.register_forward_hook(fault)
        answer = await client.restore(png(source), return_mask=True)
        failed = [face for face in answer.faces if face.reason == reason]
        restored = [face for face in answer.faces if face.restored]
        assert failed and restored
        assert answer.face_restoration_applied
        assert max(face.face.box.x1_px for face in failed) < 300
        mask, result = pixels(answer.mask), pixels(answer.image)
        np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
        assert (mask[:, :300] == 0).mean() > 0.5, "where a face failed, nothing was changed"


async def test_all_faces_failing_is_reported_and_the_next_call_is_unharmed(seeing: Path) -> None:
    async with serve(seeing) as client:
        source = np.full((300, 300, 3), 250, np.uint8)
        hook = client.codeformer.register_forward_hook(break_down)
        answer = await client.restore(png(source))
        assert not answer.face_restoration_applied
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_FAILED
        np.testing.assert_array_equal(pixels(answer.image), source)
        hook.remove()
        assert (await client.restore(png(source))).face_restoration_applied


async def test_no_faces_wanted_enlarges_only(seeing: Path) -> None:
    async with serve(seeing) as client:
        answer = await client.restore(png(photo(64, 64)), max_faces=0, upscale=2)
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_SKIPPED
        assert pixels(answer.image).shape == (128, 128, 3)
        assert [stage.stage for stage in answer.stages] == ["decode", "upscale", "paste", "encode"]


async def test_a_set_without_codeformer_says_so_and_still_enlarges(tmp_path: Path) -> None:
    model_set = build_set(tmp_path, detector=detector_state({FACES_OF_256_PX: 0.9}))
    async with serve(model_set) as client:
        answer = await client.restore(SMALL, upscale=2)
        assert answer.reason == error_reason_pb2.NOT_DONE_REASON_NOT_LOADED
        assert not answer.face_restoration_applied
        assert pixels(answer.image).shape == (128, 128, 3)
        assert "no CodeFormer" in answer.warnings[0]


async def test_gray_alpha_and_metadata_stay(seeing: Path) -> None:
    async with serve(seeing) as client:
        gray = photo()[..., 0]
        answer = await client.restore(png(gray), max_faces=1)
        assert answer.face_restoration_applied
        assert pixels(answer.image).ndim == 2
        same_channels = await client.restore(
            png(np.repeat(gray[..., None], 3, axis=2)), upscale=2, max_faces=1
        )
        result = pixels(same_channels.image)
        np.testing.assert_array_equal(result[..., 0], result[..., 1])
        np.testing.assert_array_equal(result[..., 0], result[..., 2])

        alpha = photo()[..., 1:2]
        answer = await client.restore(
            png(np.concatenate([photo(), alpha], axis=2), dpi=(300, 300)), max_faces=1
        )
        with Image.open(io.BytesIO(answer.image.data)) as opened:
            assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            np.testing.assert_array_equal(np.array(opened)[..., 3], alpha[..., 0])
        as_jpeg = await client.restore(
            png(np.concatenate([photo(), alpha], axis=2)),
            max_faces=1,
            output={"format": image_pb2.IMAGE_FORMAT_JPEG},
        )
        assert as_jpeg.image.data.startswith(b"\xff\xd8")
        assert [warning.split()[0] for warning in as_jpeg.warnings] == ["jpeg", "The"]


async def test_raw_pixels_in_and_out(blind: Path) -> None:
    async with serve(blind) as client:
        source = photo(40, 30)
        raw = image_pb2.Image(
            data=source.tobytes(), format=image_pb2.IMAGE_FORMAT_RAW_RGB8, width_px=40, height_px=30
        )
        answer = await client.stub.RestoreFaces(pb.RestoreFacesRequest(image=raw))
        assert answer.image == raw
        request = pb.RestoreFacesRequest(image=raw, output={"format": image_pb2.IMAGE_FORMAT_PNG})
        np.testing.assert_array_equal(pixels((await client.stub.RestoreFaces(request)).image), source)


def batches() -> float:
    return sum(s.value for m in metrics.BATCH_SIZE.collect() for s in m.samples if s.name.endswith("_count"))


async def long_request(client: Client, **options: Any) -> grpc.aio.UnaryUnaryCall:
    """Start a request that restores many faces one by one, and wait until the device works on it."""
    request = pb.RestoreFacesRequest(image={"data": png(photo(1600, 640))})
    call = client.stub.RestoreFaces(request, **options)

    async def runs() -> bool:
        return call.done() or await client.running() == 1

    await until(runs)
    return call


async def idle(client: Client) -> None:
    async def is_idle() -> bool:
        return await client.running() == 0

    await until(is_idle)


async def test_a_cancelled_call_stops_between_batches_and_the_next_is_unharmed(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client)

        async def one_batch_done() -> bool:
            return batches() > before

        await until(one_batch_done)
        call.cancel()
        await idle(client)
        done = batches() - before
        answer = await client.restore(png(photo(1600, 640)))
        assert answer.face_restoration_applied
        assert done < sum(face.restored for face in answer.faces)


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(seeing: Path) -> None:
    async with serve(seeing, max_batch=1, queue_capacity=0) as client:
        call = await long_request(client)
        code, reason, _, retry = await failure(client.restore(SMALL))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert retry.retry_delay.ToSeconds() >= 1
        assert (await call).face_restoration_applied


async def test_a_passed_deadline_stops_the_work(seeing: Path) -> None:
    async with serve(seeing, max_batch=1) as client:
        before = batches()
        call = await long_request(client, timeout=0.5)
        assert (await failure(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        await idle(client)
        done = batches() - before
        answer = await client.restore(png(photo(1600, 640)))
        assert done < sum(face.restored for face in answer.faces)


async def test_status_health_and_reflection(seeing: Path) -> None:
    async with serve(seeing) as client:
        status = (await client.stub.GetStatus(pb.GetStatusRequest())).status
        assert status.ready
        assert status.model_set == "tiny"
        assert [(n.role, n.name) for n in status.networks] == [
            ("detector", "retinaface_mobile0.25"),
            ("codeformer", "tiny-codeformer"),
            ("upscaler", "tiny-compact-x2"),
        ]
        assert (status.device, status.dtype) == ("cpu", "float32")
        assert not status.HasField("vram_total_bytes")
        assert status.process_memory_bytes > 0
        assert (status.queue_depth, status.queue_capacity, status.running) == (0, 8, 0)

        health = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflecting = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        stream = reflecting.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = [service.name async for r in stream for service in r.list_services_response.service]
        assert SERVICE in names


async def test_what_is_not_built_is_unimplemented(blind: Path) -> None:
    async with serve(blind) as client:
        call = client.stub.CompareFidelities(pb.CompareFidelitiesRequest())
        assert (await failure(call))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_faces_and_stages_are_counted(seeing: Path) -> None:
    def count(outcome: str) -> float:
        return metrics.FACES.labels(outcome)._value.get()

    async with serve(seeing) as client:
        before = {outcome: count(outcome) for outcome in ("restored", "over_limit")}
        answer = await client.restore(png(photo()), max_faces=2)
        over = sum(f.reason == error_reason_pb2.NOT_DONE_REASON_OVER_LIMIT for f in answer.faces)
        assert count("restored") - before["restored"] == 2
        assert count("over_limit") - before["over_limit"] == over > 0
