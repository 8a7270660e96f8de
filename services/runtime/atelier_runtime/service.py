"""What a gRPC service implements, and what the runtime implements for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import psutil
import torch
from google.protobuf.message import Message

from atelier_runtime import __version__, wire
from atelier_runtime.device import device_name
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.service_status import LoadedNetwork, ServiceStatus
from atelier_runtime.vram import memory_info


@dataclass(frozen=True)
class LoadedModels:
    """What a service has loaded. `dtype` is that of its main network."""

    model_set: str
    model_set_hash: str
    networks: tuple[LoadedNetwork, ...]
    device: torch.device
    dtype: torch.dtype

    @property
    def works_on(self) -> str:
        """The device's name and the dtype, such as "NVIDIA H200, bfloat16"."""
        return f"{device_name(self.device)}, {dtype_name(self.dtype)}"


class Service(Protocol):
    """A service that `ServiceServer` runs. `load` and `warm_up` run on the device thread."""

    name: str
    """Full protobuf name, such as `atelier.generator.v1.GeneratorService`."""

    def load(self) -> LoadedModels:
        """Read the networks into memory. Raises `StartupError`."""

    def warm_up(self) -> None:
        """Run every network once and check the output. Raises `StartupError`."""

    def register(self, server: grpc.aio.Server, status: Callable[[], ServiceStatus]) -> None:
        """Add the servicer, whose `GetStatus` returns `status` (see `StatusServicer`), to the server."""


class StatusServicer:
    """Implements `GetStatus`; a servicer inherits it before the generated class."""

    def __init__(self, response: type[Message], status: Callable[[], ServiceStatus]) -> None:
        """`response`: the service's own `GetStatusResponse`."""
        self._status_response: Any = response
        self._status = status

    async def GetStatus(self, request: Message, context: grpc.aio.ServicerContext) -> Message:
        """Report what is loaded and how busy the service is."""
        response: Message = self._status_response(status=self.current_status())
        return response

    def current_status(self) -> Any:
        """Return the part of the response that all services have, a `ServiceStatus` message."""
        return wire.status_to_proto(self._status())


def service_status(
    loaded: LoadedModels | None, worker: DeviceWorker, image_workers: ImageWorkers, *, ready: bool
) -> ServiceStatus:
    """Return the status of a service now. `loaded` None: the networks are still being loaded."""
    vram = memory_info(loaded.device) if loaded else None
    return ServiceStatus(
        version=__version__,
        ready=ready,
        model_set=loaded.model_set if loaded else "",
        networks=loaded.networks if loaded else (),
        device=str(loaded.device) if loaded else "",
        device_name=device_name(loaded.device) if loaded else "",
        dtype=dtype_name(loaded.dtype) if loaded else "",
        vram_free_bytes=vram[0] if vram else None,
        vram_total_bytes=vram[1] if vram else None,
        process_memory_bytes=psutil.Process().memory_info().rss,
        queue_depth=worker.depth,
        queue_capacity=worker.capacity,
        running=worker.running,
        image_workers=image_workers.size,
        image_workers_busy=image_workers.running,
        image_queue_depth=image_workers.waiting,
        model_set_hash=loaded.model_set_hash if loaded else "",
    )


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """Return a call's deadline on the clock of `time.monotonic`, None if it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
