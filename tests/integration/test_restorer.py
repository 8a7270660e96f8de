"""The restorer over a real socket, with real networks of tiny width."""

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
from atelier_runtime import defaults, metrics
from tests.integration.restorer_server import (
    Client,
    idle,
    photo,
    pixels,
    png,
    serve,
    stage_names,
    warning_codes,
)
from tests.tiny_restorer import FACES_OF_256_PX, build_set, detector_state

SERVICE = "atelier.restorer.v1.RestorerService"
SMALL = png(photo(64, 64))


async def test_faces_are_restored_and_nothing_else_changes(restorer: Client) -> None:
    source = photo()
    response = await restorer.restore(png(source), return_mask=True, max_faces=3)
    reasons = [face.reason for face in response.faces]
    restored = [face for face in response.faces if face.restored]
    assert response.face_restoration_applied
    assert response.reason == skip_reason_pb2.SKIP_REASON_UNSPECIFIED
    assert len(restored) == 3
    assert [face.fidelity for face in restored] == [0.6] * 3
    assert skip_reason_pb2.SKIP_REASON_OVER_LIMIT in reasons
    assert skip_reason_pb2.SKIP_REASON_LOW_CONFIDENCE in reasons
    assert all(face.HasField("fidelity") == face.restored for face in response.faces)
    confidences = [face.face.confidence for face in response.faces]
    assert confidences == sorted(confidences, reverse=True)

    mask, result = pixels(response.mask), pixels(response.image)
    assert mask.shape == source.shape[:2]
    assert (mask > 0).any() and (mask == 0).any()
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    assert (result[mask > 0] != source[mask > 0]).any()
    assert stage_names(response) == [
        "decode",
        "detect",
        "align",
        "restore",
        "paste",
        "encode",
    ]
    assert response.model_set == "tiny"
    assert list(response.warnings) == []


async def test_an_image_without_a_face_is_a_success(
    blind_restorer: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = photo(300, 200)
    response = await blind_restorer.restore(png(source))
    assert not response.face_restoration_applied
    assert response.reason == skip_reason_pb2.SKIP_REASON_NO_FACE
    assert len(response.faces) == 0
    np.testing.assert_array_equal(pixels(response.image), source)
    assert "No faces detected" in caplog.messages


async def test_the_image_is_upscaled_and_boxes_with_it(restorer: Client, blind_restorer: Client) -> None:
    source = photo(320, 320)
    plain = await restorer.restore(png(source), max_faces=1)
    twice = await restorer.restore(png(source), max_faces=1, upscale=2, return_mask=True)
    assert pixels(twice.image).shape == (640, 640, 3)
    assert pixels(twice.mask).shape == (640, 640)
    assert (twice.image.width_px, twice.image.height_px) == (640, 640)
    assert (twice.upscaler, twice.upscale_applied) == ("tiny-compact-x2", 2)
    assert twice.faces[0].face.box.x2_px == pytest.approx(2 * plain.faces[0].face.box.x2_px)
    by_lanczos = await restorer.restore(png(source), upscale=4, use_upscaler=False)
    assert pixels(by_lanczos.image).shape == (1280, 1280, 3)
    assert by_lanczos.upscaler == "lanczos"
    assert not by_lanczos.warnings
    response = await blind_restorer.restore(png(source), upscale=2)
    assert response.upscaler == "lanczos"
    assert warning_codes(response) == [warning_pb2.WARNING_CODE_UPSCALER_FALLBACK]
    assert response.reason == skip_reason_pb2.SKIP_REASON_NO_FACE


async def test_an_aligned_crop_is_restored_without_detection(blind_restorer: Client) -> None:
    source = photo(512, 512)
    response = await blind_restorer.restore(png(source), aligned=True, return_mask=True)
    assert response.face_restoration_applied
    assert [face.restored for face in response.faces] == [True]
    assert "detect" not in stage_names(response)
    assert (pixels(response.mask) == 255).all()
    half = await blind_restorer.restore(png(source), aligned=True, visibility=0.5)
    between = (source.astype(float) + pixels(response.image)) / 2
    assert np.abs(pixels(half.image) - between).max() <= 1


async def test_detection(restorer: Client) -> None:
    request = pb.DetectFacesRequest(image=image_pb2.Image(data=png(photo(640, 480))), min_confidence=0.5)
    response = await restorer.stub.DetectFaces(request)
    assert (response.width_px, response.height_px) == (640, 480)
    assert len(response.faces) > 6
    first = response.faces[0]
    assert first.confidence == pytest.approx(0.99, abs=1e-3)
    assert first.index == 0
    assert len(first.landmarks) == 5
    assert first.size_px == pytest.approx(
        384, abs=0.5
    )  # 512 px of the detector's input, which is the image at 4/3
    assert first.sharpness > 0
    assert abs(first.roll_degrees) < 1


async def test_more_faces_than_a_response_may_hold(blind_restorer: Client) -> None:
    data = png(photo(640, 640))
    request = pb.DetectFacesRequest(image=image_pb2.Image(data=data), min_confidence=0)
    detected = await blind_restorer.stub.DetectFaces(request)
    assert len(detected.faces) == defaults.MAX_DETECTED_FACES
    [warning] = detected.warnings
    assert warning.code == warning_pb2.WARNING_CODE_FACES_OMITTED
    found = int(warning.message.split()[0])
    assert found > defaults.MAX_DETECTED_FACES
    confidences = [face.confidence for face in detected.faces]
    assert confidences == sorted(confidences, reverse=True)
    restored = await blind_restorer.restore(data, min_confidence=0, max_faces=1)
    assert len(restored.faces) == defaults.MAX_DETECTED_FACES
    assert warning_codes(restored) == [warning_pb2.WARNING_CODE_FACES_OMITTED]
    edits = [pb.FaceEdit(face=face, skip=True) for face in detected.faces]
    back = await blind_restorer.restore(data, faces=edits)
    assert len(back.faces) == len(edits), "as many as are returned can be sent back"


async def test_max_faces_0_only_upscales(restorer: Client) -> None:
    response = await restorer.restore(png(photo(64, 64)), max_faces=0, upscale=2)
    assert response.reason == skip_reason_pb2.SKIP_REASON_SKIPPED
    assert pixels(response.image).shape == (128, 128, 3)
    assert stage_names(response) == ["decode", "upscale", "paste", "encode"]


async def test_a_set_without_codeformer_is_warned_of_and_still_upscales(tmp_path: Path) -> None:
    model_set = build_set(tmp_path, detector=detector_state({FACES_OF_256_PX: 0.9}))
    async with serve(model_set) as client:
        response = await client.restore(SMALL, upscale=2)
        assert response.reason == skip_reason_pb2.SKIP_REASON_NOT_LOADED
        assert not response.face_restoration_applied
        assert pixels(response.image).shape == (128, 128, 3)
        assert warning_codes(response) == [warning_pb2.WARNING_CODE_NOT_LOADED]


async def test_gray_alpha_and_metadata_are_kept(restorer: Client) -> None:
    gray = photo()[..., 0]
    response = await restorer.restore(png(gray), max_faces=1)
    assert response.face_restoration_applied
    assert pixels(response.image).ndim == 2
    same_channels = await restorer.restore(png(np.repeat(gray[..., None], 3, axis=2)), upscale=2, max_faces=1)
    result = pixels(same_channels.image)
    np.testing.assert_array_equal(result[..., 0], result[..., 1])
    np.testing.assert_array_equal(result[..., 0], result[..., 2])

    alpha = photo()[..., 1:2]
    response = await restorer.restore(
        png(np.concatenate([photo(), alpha], axis=2), dpi=(300, 300)), max_faces=1
    )
    with Image.open(io.BytesIO(response.image.data)) as opened:
        assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        np.testing.assert_array_equal(np.array(opened)[..., 3], alpha[..., 0])
    as_jpeg = await restorer.restore(
        png(np.concatenate([photo(), alpha], axis=2)),
        max_faces=1,
        output={"format": image_pb2.IMAGE_FORMAT_JPEG},
    )
    assert as_jpeg.image.data.startswith(b"\xff\xd8")
    assert warning_codes(as_jpeg) == [
        warning_pb2.WARNING_CODE_LOSSY_OUTPUT,
        warning_pb2.WARNING_CODE_ALPHA_DROPPED,
    ]


async def test_raw_pixels_in_and_out(blind_restorer: Client) -> None:
    source = photo(40, 30)
    raw = image_pb2.Image(
        data=source.tobytes(), format=image_pb2.IMAGE_FORMAT_RAW_RGB8, width_px=40, height_px=30
    )
    response = await blind_restorer.stub.RestoreFaces(pb.RestoreFacesRequest(image=raw))
    assert response.image == raw
    request = pb.RestoreFacesRequest(image=raw, output={"format": image_pb2.IMAGE_FORMAT_PNG})
    np.testing.assert_array_equal(pixels((await blind_restorer.stub.RestoreFaces(request)).image), source)


async def test_status_health_and_reflection(restorer: Client) -> None:
    await idle(restorer)
    status = (await restorer.stub.GetStatus(pb.GetStatusRequest())).status
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

    health = health_pb2_grpc.HealthStub(restorer.channel)
    for service in ("", SERVICE):
        response = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    reflection_stub = reflection_pb2_grpc.ServerReflectionStub(restorer.channel)
    stream = reflection_stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = [service.name async for r in stream for service in r.list_services_response.service]
    assert SERVICE in names


async def test_faces_and_stages_are_counted(restorer: Client) -> None:
    def count(outcome: str) -> float:
        return float(metrics.FACES.labels(outcome)._value.get())

    before = {outcome: count(outcome) for outcome in ("restored", "over_limit")}
    response = await restorer.restore(png(photo()), max_faces=2)
    over = sum(f.reason == skip_reason_pb2.SKIP_REASON_OVER_LIMIT for f in response.faces)
    assert count("restored") - before["restored"] == 2
    assert count("over_limit") - before["over_limit"] == over > 0
