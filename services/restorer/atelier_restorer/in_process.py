"""The restorer's servicer without a socket, for commands that need no running service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from atelier_restorer.client import Client
from atelier_restorer.servicer import RestorerServicer, RestorerService
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.device import DeviceWorker
from atelier_runtime.errors import AtelierError, InternalError, NotFound
from atelier_runtime.health import ServiceStatus
from atelier_runtime.settings import StartupError

log = logging.getLogger(__name__)

_FOR_EVER_S = 1e9
_QUEUE_CAPACITY = 64  # more than a command ever sends at once


class _Context:
    """What the servicer asks of a call: the time that is left."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def time_remaining(self) -> float:
        """Return the seconds left."""
        return self._deadline - time.monotonic()


@asynccontextmanager
async def open_here(
    settings: RestorerSettings, roles: Collection[str], required: Collection[str]
) -> AsyncIterator[Client]:
    """Load the networks of `roles` and offer them as a client.

    Raises `StartupError` if a network of `required` is neither in the model set nor given as a file.
    """
    worker = DeviceWorker(_QUEUE_CAPACITY)
    stage = RestorerService(settings, worker, _no_state, roles)
    try:
        await worker.submit(lambda job: stage.load()).result()
        worker.forget_job_times()
        for role in required:
            if role not in stage.models.components:
                name = stage.models.model_set.name
                raise StartupError(
                    f"MODEL_SET: the set '{name}' has no {role}; --{role} FILE names a checkpoint"
                )
        servicer = RestorerServicer(stage)
        yield Client(
            _method(servicer.RestoreFaces),
            _method(servicer.DetectFaces),
            _method(servicer.CompareFidelities),
            timeout_s=_FOR_EVER_S,
        )
    finally:
        await asyncio.to_thread(worker.close)


def _method(call: Callable[..., Awaitable[Any]]) -> Callable[[Any, float], Awaitable[Any]]:
    async def ask(message: Any, seconds: float) -> Any:
        try:
            return await call(message, _Context(seconds))
        except AtelierError:
            raise
        except Exception as error:  # one picture's accident is not the next one's
            log.exception("internal error")
            raise InternalError(
                f"Something went wrong on our side: {type(error).__name__}: {error}"
            ) from error

    return ask


def _no_state() -> ServiceStatus:
    raise NotFound("A command has no state to tell.")
