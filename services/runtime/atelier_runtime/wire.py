"""Converts between the messages of `atelier.common.v1` and the runtime's own types, for every process.

`x_from_proto` reads, `x_to_proto` writes. An enum value that this version does not know comes from a newer
process: in a response it becomes the nearest known value, in a request it is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from atelier.common.v1 import (
    image_pb2,
    service_status_pb2,
    skip_reason_pb2,
    stage_report_pb2,
    warning_pb2,
)
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InternalError, InvalidRequest
from atelier_runtime.images import EncodedImage, InputImage, OutputFormat
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import Metadata, ResponseWarning, SkipReason, WarningCode
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus

_FORMATS: Mapping[image_pb2.ImageFormat, OutputFormat] = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
    image_pb2.IMAGE_FORMAT_RAW_RGB8: "raw",
}
_FORMAT_NUMBERS = {name: number for number, name in _FORMATS.items()}
_METADATA: Mapping[image_pb2.Metadata, Metadata] = {
    image_pb2.METADATA_UNSPECIFIED: defaults.METADATA,
    image_pb2.METADATA_RECIPE: "recipe",
    image_pb2.METADATA_NONE: "none",
}
_METADATA_NUMBERS: Mapping[Metadata, image_pb2.Metadata] = {
    "recipe": image_pb2.METADATA_RECIPE,
    "none": image_pb2.METADATA_NONE,
}

# These tables are complete: a missing name would make importing this module fail.
_SKIP_REASON_NUMBERS: Mapping[SkipReason, skip_reason_pb2.SkipReason] = {
    reason: getattr(skip_reason_pb2, f"SKIP_REASON_{reason.name}") for reason in SkipReason
}
_WARNING_CODE_NUMBERS: Mapping[WarningCode, warning_pb2.WarningCode] = {
    code: getattr(warning_pb2, f"WARNING_CODE_{code.name}") for code in WarningCode
}
_ROLE_NUMBERS: Mapping[NetworkRole, service_status_pb2.NetworkRole] = {
    role: getattr(service_status_pb2, f"NETWORK_ROLE_{role.name}") for role in NetworkRole
}
_SKIP_REASONS = {number: reason for reason, number in _SKIP_REASON_NUMBERS.items()}
_WARNING_CODES = {number: code for code, number in _WARNING_CODE_NUMBERS.items()}
_ROLES = {number: role for role, number in _ROLE_NUMBERS.items()}


def optional(message: Any, name: str) -> Any:
    """Return an optional field's value, None if it is unset."""
    return getattr(message, name) if message.HasField(name) else None


def check_fidelities(received: Iterable[float], requested: Iterable[float]) -> None:
    """Raise `InternalError` unless a comparison's images are those requested, in their order.

    Both as the messages hold them, in 32 bits.
    """
    if (got := list(received)) != (wanted := list(requested)):
        raise InternalError(f"The restorer returned images for the fidelities {got} instead of {wanted}.")


def check_guarded(message: Any) -> None:
    """Raise `InternalError` unless a restoration says which likeness its guard has kept.

    A restorer of a version without guards restores all faces as if none had been requested.
    """
    if not message.HasField("min_similarity"):
        raise InternalError("The restorer has ignored identity: guard; its version may be too old for it.")


def set_fields(message: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named optional fields that are set, by name."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


# --- images ---


def input_image_from_proto(message: image_pb2.Image, field: str = "image") -> InputImage:
    """Read the image of a request, still encoded. Raises `InvalidRequest` for an unknown format."""
    if message.format != image_pb2.IMAGE_FORMAT_UNSPECIFIED and message.format not in _FORMATS:
        raise InvalidRequest.of(f"{field}.format", f"{message.format} is unknown")
    return InputImage(
        data=message.data,
        format=_FORMATS.get(message.format),
        width=optional(message, "width_px"),
        height=optional(message, "height_px"),
    )


def image_from_proto(message: image_pb2.Image) -> EncodedImage:
    """Read the image of a response. Raises `InternalError` if it is empty or of an unknown format."""
    image_format = _FORMATS.get(message.format)
    if image_format is None or not message.data:
        raise InternalError("A service sent an image that cannot be read.")
    return EncodedImage(message.data, image_format, message.width_px, message.height_px)


def optional_image_from_proto(message: Any, name: str) -> EncodedImage | None:
    """Read an optional image of a response."""
    return image_from_proto(getattr(message, name)) if message.HasField(name) else None


def image_to_proto(image: EncodedImage | InputImage) -> image_pb2.Image:
    """Write an image; what is None stays unset."""
    return image_pb2.Image(
        data=image.data,
        format=None if image.format is None else _FORMAT_NUMBERS[image.format],
        width_px=image.width,
        height_px=image.height,
    )


@dataclass(frozen=True)
class Output:
    """How a response's image is to be encoded; None is the service's default."""

    format: OutputFormat | None
    quality: int | None
    metadata: Metadata = defaults.METADATA


def output_from_proto(message: image_pb2.OutputOptions, violations: list[FieldViolation]) -> Output:
    """Read output options; what is unknown is added to the violations."""
    if message.format != image_pb2.IMAGE_FORMAT_UNSPECIFIED and message.format not in _FORMATS:
        violations.append(FieldViolation("output.format", f"{message.format} is unknown"))
    if message.metadata not in _METADATA:
        violations.append(FieldViolation("output.metadata", f"{message.metadata} is unknown"))
    metadata = _METADATA.get(message.metadata, defaults.METADATA)
    return Output(_FORMATS.get(message.format), optional(message, "quality"), metadata)


def output_to_proto(
    image_format: OutputFormat | None, quality: int | None, metadata: Metadata | None = None
) -> image_pb2.OutputOptions:
    """Write output options; what is None stays unset."""
    return image_pb2.OutputOptions(
        format=None if image_format is None else _FORMAT_NUMBERS[image_format],
        quality=quality,
        metadata=None if metadata is None else _METADATA_NUMBERS[metadata],
    )


# --- the outcome of a request ---


def skip_reason_from_proto(number: skip_reason_pb2.SkipReason) -> SkipReason | None:
    """Read a skip reason; None if nothing was skipped, `FAILED` for a reason of a newer service."""
    if number == skip_reason_pb2.SKIP_REASON_UNSPECIFIED:
        return None
    return _SKIP_REASONS.get(number, SkipReason.FAILED)


def skip_reason_to_proto(reason: SkipReason | None) -> skip_reason_pb2.SkipReason:
    """Write a skip reason, or that nothing was skipped."""
    return skip_reason_pb2.SKIP_REASON_UNSPECIFIED if reason is None else _SKIP_REASON_NUMBERS[reason]


def warnings_from_proto(messages: Iterable[warning_pb2.Warning]) -> tuple[ResponseWarning, ...]:
    """Read warnings; a code of a newer service becomes `UNSPECIFIED`."""
    return tuple(
        ResponseWarning(_WARNING_CODES.get(message.code, WarningCode.UNSPECIFIED), message.message)
        for message in messages
    )


def warnings_to_proto(warnings: Iterable[ResponseWarning]) -> list[warning_pb2.Warning]:
    """Write warnings."""
    return [
        warning_pb2.Warning(code=_WARNING_CODE_NUMBERS[warning.code], message=warning.message)
        for warning in warnings
    ]


def stages_from_proto(messages: Iterable[stage_report_pb2.StageReport]) -> tuple[StageReport, ...]:
    """Read the cost of each stage."""
    return tuple(
        StageReport(
            stage=message.stage,
            seconds=duration_from_proto(message.duration),
            peak_vram_bytes=optional(message, "peak_vram_bytes"),
        )
        for message in messages
    )


def stages_to_proto(reports: Iterable[StageReport]) -> list[stage_report_pb2.StageReport]:
    """Write the cost of each stage, rounded to nanoseconds."""
    return [
        stage_report_pb2.StageReport(
            stage=report.stage,
            duration=duration_to_proto(report.seconds),
            peak_vram_bytes=report.peak_vram_bytes,
        )
        for report in reports
    ]


def duration_to_proto(seconds: float) -> Duration:
    """Write a time, rounded to nanoseconds."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def duration_from_proto(message: Duration) -> float:
    """Read a time, in seconds."""
    return message.ToNanoseconds() / 1e9


# --- the state of a service ---


def status_from_proto(message: service_status_pb2.ServiceStatus) -> ServiceStatus:
    """Read a service's status."""
    return ServiceStatus(
        version=message.version,
        ready=message.ready,
        model_set=message.model_set,
        networks=tuple(LoadedNetwork(_ROLES.get(n.role), n.name) for n in message.networks),
        device=message.device,
        device_name=message.device_name,
        dtype=message.dtype,
        vram_free_bytes=optional(message, "vram_free_bytes"),
        vram_total_bytes=optional(message, "vram_total_bytes"),
        process_memory_bytes=optional(message, "process_memory_bytes"),
        queue_depth=optional(message, "queue_depth"),
        queue_capacity=optional(message, "queue_capacity"),
        running=optional(message, "running"),
        image_workers=optional(message, "image_workers"),
        image_workers_busy=optional(message, "image_workers_busy"),
        image_queue_depth=optional(message, "image_queue_depth"),
        model_set_hash=message.model_set_hash,
    )


def status_to_proto(status: ServiceStatus) -> service_status_pb2.ServiceStatus:
    """Write a service's status."""
    return service_status_pb2.ServiceStatus(
        version=status.version,
        ready=status.ready,
        model_set=status.model_set,
        networks=[
            service_status_pb2.LoadedNetwork(
                role=service_status_pb2.NETWORK_ROLE_UNSPECIFIED if n.role is None else _ROLE_NUMBERS[n.role],
                name=n.name,
            )
            for n in status.networks
        ],
        device=status.device,
        device_name=status.device_name,
        dtype=status.dtype,
        vram_free_bytes=status.vram_free_bytes,
        vram_total_bytes=status.vram_total_bytes,
        process_memory_bytes=status.process_memory_bytes,
        queue_depth=status.queue_depth,
        queue_capacity=status.queue_capacity,
        running=status.running,
        image_workers=status.image_workers,
        image_workers_busy=status.image_workers_busy,
        image_queue_depth=status.image_queue_depth,
        model_set_hash=status.model_set_hash,
    )
