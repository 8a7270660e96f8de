"""Between the messages of `atelier.generator.v1` and the domain's dataclasses."""

from __future__ import annotations

from atelier.common.v1 import (
    error_reason_pb2,
    image_pb2,
    service_status_pb2,
    stage_report_pb2,
)
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_generator.pipeline import Generation, Progress
from atelier_generator.request import RAW, GenerateRequest
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.health import ServiceStatus
from atelier_runtime.metrics import StageReport

_FORMATS = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
    image_pb2.IMAGE_FORMAT_RAW_RGB8: RAW,
}
_FORMAT_NUMBERS = {name: number for number, name in _FORMATS.items()}

_REASONS: dict[SkipReason, error_reason_pb2.SkipReason] = {
    reason: getattr(error_reason_pb2, f"SKIP_REASON_{reason.name}") for reason in SkipReason
}

_OPTIONS = (
    "negative_prompt",
    "width_px",
    "height_px",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "use_refiner",
    "hires_fix",
    "use_upscaler",
    "hires_fix_simple",
    "hires_scale",
)
"""The options that have one name in the message and in the dataclass."""


def request_from_proto(message: pb.GenerateImageRequest) -> GenerateRequest:
    """Read a request; unset options get their defaults. Nothing is checked yet."""
    options = {name: getattr(message, name) for name in _OPTIONS if message.HasField(name)}
    if message.output.format != image_pb2.IMAGE_FORMAT_UNSPECIFIED:
        number = message.output.format
        options["output_format"] = _FORMATS.get(number, str(number))
    if message.output.HasField("quality"):
        options["quality"] = message.output.quality
    return GenerateRequest(prompt=message.prompt, **options)


def request_to_proto(request: GenerateRequest) -> pb.GenerateImageRequest:
    """Write a request with every option filled in; an undecided seed or negative prompt stays unset."""
    message = pb.GenerateImageRequest(
        prompt=request.prompt,
        output=image_pb2.OutputOptions(
            format=_FORMAT_NUMBERS[request.output_format], quality=request.quality
        ),
    )
    for name in _OPTIONS:
        value = getattr(request, name)
        if value is not None:
            setattr(message, name, value)
    return message


def progress_to_proto(progress: Progress) -> pb.GenerateImageResponse:
    """Write a progress event."""
    return pb.GenerateImageResponse(
        progress=pb.GenerateImageProgress(
            stage=progress.stage, step=progress.step, total_steps=progress.total_steps
        )
    )


def result_to_proto(
    request: GenerateRequest, drawing: Generation, data: bytes, stages: list[StageReport], model_set: str
) -> pb.GenerateImageResponse:
    """Write the last event. `request`: as it was drawn; `data`: the picture in the asked format."""
    height, width = drawing.picture.shape[:2]
    return pb.GenerateImageResponse(
        result=pb.GenerateImageResult(
            image=image_pb2.Image(
                data=data,
                format=_FORMAT_NUMBERS[request.output_format],
                width_px=width,
                height_px=height,
            ),
            effective_request=request_to_proto(request),
            refiner_applied=drawing.refiner_applied,
            refiner_reason=_REASONS[drawing.refiner_reason] if drawing.refiner_reason else None,
            hires_fix_applied=drawing.hires_fix_applied,
            upscaler=drawing.upscaler,
            warnings=drawing.warnings,
            stages=[_stage_to_proto(stage) for stage in stages],
            model_set=model_set,
        )
    )


def state_to_proto(state: ServiceStatus) -> pb.GetStatusResponse:
    """Write the state of the stage."""
    return pb.GetStatusResponse(
        status=service_status_pb2.ServiceStatus(
            version=state.version,
            ready=state.ready,
            model_set=state.model_set,
            networks=[
                service_status_pb2.LoadedNetwork(role=network.role, name=network.name)
                for network in state.networks
            ],
            device=state.device,
            device_name=state.device_name,
            dtype=state.dtype,
            vram_free_bytes=state.vram_free_bytes,
            vram_total_bytes=state.vram_total_bytes,
            process_memory_bytes=state.process_memory_bytes,
            queue_depth=state.queue_depth,
            queue_capacity=state.queue_capacity,
            running=state.running,
        )
    )


def _stage_to_proto(report: StageReport) -> stage_report_pb2.StageReport:
    message = stage_report_pb2.StageReport(stage=report.stage, peak_vram_bytes=report.peak_vram_bytes)
    message.duration.FromNanoseconds(round(report.seconds * 1e9))
    return message
