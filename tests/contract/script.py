"""What both scripted services have in common: the script, and the images that they return."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_status import rpc_status
from PIL import Image
from PIL.ImageFile import ImageFile

from atelier.common.v1 import image_pb2, service_status_pb2
from atelier_runtime import defaults, images, wire
from atelier_runtime.errors import AtelierError
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.rpc_errors import to_status
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus

MODEL_SET_HASH = "d0" * 32


@dataclass
class Script:
    """What a service does next, and what it has received."""

    error: AtelierError | None = None
    seconds: float = 0
    """How long work takes, at least."""
    hold: bool = False
    """Work until the call is canceled or `hold` is set to False."""
    held_after: int | None = None
    """Hold all requests after so many."""
    silent: bool = False
    """Do not respond to GetStatus."""
    status: dict[str, Any] = field(default_factory=dict)
    networks: dict[NetworkRole, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    """Fields of the result that differ from the usual ones."""
    size: tuple[int, int] | None = None
    """Width and height of the generated image; None: as requested."""
    faces: list[tuple[float, bool, SkipReason | None]] = field(default_factory=list)
    """(confidence, restored, reason) of each face."""
    max_results: int = 8
    """A comparison ends after this many images."""
    guardless: bool = False
    """Ignore a guard of the likeness, as a restorer from before there was one."""
    no_image: bool = False
    """Respond without the restored image."""
    image: image_pb2.Image | None = None
    """The restored image, if it is to be another one."""
    error_at: int | None = None
    """The number, from 0, of the generated image that fails, of several."""
    requests: list[Any] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    steps: int = 0
    """Denoising steps taken."""
    set_steps: int = 30
    """Those of the model set."""
    colorless: bool = False
    """The model set does not say what its latents look like: there are no previews."""
    running: int = 0
    cancelled: int = 0


class Scripted:
    """The base of a scripted servicer."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def begin(self, request: Any, context: grpc.aio.ServicerContext, *, held: bool = True) -> None:
        """Record a request; fail or hold it as the script says."""
        script = self.script
        script.requests.append(request)
        number = len(script.requests)
        script.request_ids.append(str(dict(context.invocation_metadata()).get("x-request-id")))
        script.seconds_left.append(context.time_remaining())
        if script.error is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(script.error, "service")))
        script.running += 1
        try:
            await asyncio.sleep(script.seconds)
            while held and (script.hold or (script.held_after is not None and number > script.held_after)):
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            script.cancelled += 1
            raise
        finally:
            script.running -= 1

    async def status(self) -> service_status_pb2.ServiceStatus:
        """Return the status that the script says, or never."""
        script = self.script
        while script.silent:
            await asyncio.sleep(0.01)
        values: dict[str, Any] = {
            "version": "0.1.0",
            "ready": True,
            "model_set": "demo",
            "model_set_hash": MODEL_SET_HASH,
            "networks": tuple(LoadedNetwork(role, name) for role, name in script.networks.items()),
            "device": "cpu",
            "device_name": "two cores",
            "dtype": "float32",
            "vram_free_bytes": None,
            "vram_total_bytes": None,
            "process_memory_bytes": None,
            "queue_depth": 0,
            "queue_capacity": 8,
            "running": 0,
            "image_workers": 2,
            "image_workers_busy": 0,
            "image_queue_depth": 0,
        }
        return wire.status_to_proto(ServiceStatus(**{**values, **script.status}))


def gradient(width: int, height: int) -> images.RgbArray:
    """Red increases to the right, green downwards."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return pixels


def file_of(pixels: images.RgbArray, file_format: images.Format = "png") -> bytes:
    return images.encode(images.Picture(pixels), file_format, defaults.QUALITY)


def encoded(pixels: images.RgbArray, image_format: images.OutputFormat, quality: int) -> image_pb2.Image:
    return wire.image_to_proto(images.encode_output(images.Picture(pixels), image_format, quality))


def opened(data: bytes) -> ImageFile:
    """Decode an image file and its pixels."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def set_fields(message: Any, values: Mapping[str, Any]) -> None:
    """Set fields of a message; a list is appended."""
    for name, value in values.items():
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
