"""What both scripted stages have in common: the script, and the pictures that they make."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status

from atelier.common.v1 import error_reason_pb2, image_pb2, service_status_pb2, stage_report_pb2
from atelier_runtime import images
from atelier_runtime.errors import AtelierError
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.rpc_errors import to_status

FORMATS = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
}


@dataclass
class Script:
    """What a stage does next, and what it has seen."""

    error: AtelierError | None = None
    hold: bool = False
    """Work without end, until the call is cancelled or `hold` is taken back."""
    silent: bool = False
    """Do not answer GetStatus."""
    status: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    """Fields of the result that differ from the usual one."""
    draws: tuple[int, int] | None = None
    """Width and height of the drawing; None: as asked."""
    faces: list[tuple[float, bool, SkipReason | None]] = field(default_factory=list)
    """(confidence, restored, reason) of each face."""
    most_results: int = 8
    """A comparison answers no more than this."""
    no_picture: bool = False
    """Answer without the restored picture."""
    requests: list[Any] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0


def picture(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return pixels


def reason(value: SkipReason) -> int:
    return error_reason_pb2.SkipReason.Value(f"SKIP_REASON_{value.name}")


def encoded(pixels: np.ndarray, output: image_pb2.OutputOptions) -> image_pb2.Image:
    height, width = pixels.shape[:2]
    if output.format == image_pb2.IMAGE_FORMAT_RAW_RGB8:
        data = pixels.tobytes()
    else:
        data = images.encode(images.Picture(pixels), FORMATS[output.format], output.quality)
    return image_pb2.Image(data=data, format=output.format, width_px=width, height_px=height)


def stage_report(stage: str, seconds: float) -> stage_report_pb2.StageReport:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return stage_report_pb2.StageReport(stage=stage, duration=duration)


class Scripted:
    def __init__(self, script: Script) -> None:
        self.script = script

    async def begin(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        script = self.script
        script.requests.append(request)
        script.request_ids.append(str(dict(context.invocation_metadata()).get("x-request-id")))
        script.seconds_left.append(context.time_remaining())
        if script.error is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(script.error, "stage")))
        script.running += 1
        try:
            while script.hold:
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            script.cancelled += 1
            raise
        finally:
            script.running -= 1

    async def tell_status(self, message: type[Any]) -> Any:
        script = self.script
        while script.silent:
            await asyncio.sleep(0.01)
        status = service_status_pb2.ServiceStatus(
            **{
                "version": "0.1.0",
                "ready": True,
                "model_set": "demo",
                "device": "cpu",
                "device_name": "two cores",
                **script.status,
            }
        )
        for role, name in script.networks.items():
            status.networks.add(role=role, name=name)
        return message(status=status)
