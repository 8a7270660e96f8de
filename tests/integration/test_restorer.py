"""The face stage over a real socket, with real networks of tiny width."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from atelier.common.v1 import image_pb2, service_status_pb2, skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime import metrics
from tests.integration.restorer_server import photo, pixels, png, serve
from tests.tiny_restorer import FACES_OF_256_PX, build_set, detector_state

SERVICE = "atelier.restorer.v1.RestorerService"
SMALL = png(photo(64, 64))


async def test_faces_are_restored_and_nothing_else_is_touched(seeing: Path) -> None:
    async with serve(seeing) as client:
        source = photo()
        answer = await client.restore(png(source), return_mask=True, max_faces=3)
        reasons = [face.reason for face in answer.faces]
        restored = [face for face in answer.faces if face.restored]
        assert answer.face_restoration_applied
        assert answer.reason == skip_reason_pb2.SKIP_REASON_UNSPECIFIED
        assert len(restored) == 3
        assert [face.fidelity for face in restored] == [0.6] * 3
        assert skip_reason_pb2.SKIP_REASON_OVER_LIMIT in reasons
        assert skip_reason_pb2.SKIP_REASON_LOW_CONFIDENCE in reasons
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
        assert answer.reason == skip_reason_pb2.SKIP_REASON_NO_FACE
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
        by_lanczos = await client.restore(png(source), upscale=4, use_upscaler=False)
        assert pixels(by_lanczos.image).shape == (1280, 1280, 3)
        assert by_lanczos.upscaler == "lanczos"
        assert not by_lanczos.warnings
    async with serve(blind) as client:
        answer = await client.restore(png(source), upscale=2)
        assert answer.upscaler == "lanczos"
        assert [warning.code for warning in answer.warnings] == [warning_pb2.WARNING_CODE_UPSCALER_FALLBACK]
        assert answer.reason == skip_reason_pb2.SKIP_REASON_NO_FACE


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


async def test_no_faces_wanted_enlarges_only(seeing: Path) -> None:
    async with serve(seeing) as client:
        answer = await client.restore(png(photo(64, 64)), max_faces=0, upscale=2)
        assert answer.reason == skip_reason_pb2.SKIP_REASON_SKIPPED
        assert pixels(answer.image).shape == (128, 128, 3)
        assert [stage.stage for stage in answer.stages] == ["decode", "upscale", "paste", "encode"]


async def test_a_set_without_codeformer_says_so_and_still_enlarges(tmp_path: Path) -> None:
    model_set = build_set(tmp_path, detector=detector_state({FACES_OF_256_PX: 0.9}))
    async with serve(model_set) as client:
        answer = await client.restore(SMALL, upscale=2)
        assert answer.reason == skip_reason_pb2.SKIP_REASON_NOT_LOADED
        assert not answer.face_restoration_applied
        assert pixels(answer.image).shape == (128, 128, 3)
        assert [warning.code for warning in answer.warnings] == [warning_pb2.WARNING_CODE_NOT_LOADED]


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
        assert [warning.code for warning in as_jpeg.warnings] == [
            warning_pb2.WARNING_CODE_LOSSY_OUTPUT,
            warning_pb2.WARNING_CODE_ALPHA_DROPPED,
        ]


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


async def test_status_health_and_reflection(seeing: Path) -> None:
    async with serve(seeing) as client:
        status = (await client.stub.GetStatus(pb.GetStatusRequest())).status
        assert status.ready
        assert status.model_set == "tiny"
        assert [(n.role, n.name) for n in status.networks] == [
            (service_status_pb2.NETWORK_ROLE_FACE_DETECTOR, "retinaface_mobile0.25"),
            (service_status_pb2.NETWORK_ROLE_FACE_RESTORER, "tiny-codeformer"),
            (service_status_pb2.NETWORK_ROLE_UPSCALER, "tiny-compact-x2"),
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


async def test_faces_and_stages_are_counted(seeing: Path) -> None:
    def count(outcome: str) -> float:
        return metrics.FACES.labels(outcome)._value.get()

    async with serve(seeing) as client:
        before = {outcome: count(outcome) for outcome in ("restored", "over_limit")}
        answer = await client.restore(png(photo()), max_faces=2)
        over = sum(f.reason == skip_reason_pb2.SKIP_REASON_OVER_LIMIT for f in answer.faces)
        assert count("restored") - before["restored"] == 2
        assert count("over_limit") - before["over_limit"] == over > 0
