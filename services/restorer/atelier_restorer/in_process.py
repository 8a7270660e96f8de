"""The restorer's servicer in this process, without a socket, for commands that run without a service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from atelier_restorer.client import MAX_CONCURRENCY, Client
from atelier_restorer.models import Models
from atelier_restorer.servicer import RestorerService, RestorerServicer
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import AtelierError, InternalError
from atelier_runtime.images.workers import image_workers_of
from atelier_runtime.service import service_status
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError

logger = logging.getLogger(__name__)

_NO_TIMEOUT_S = 1e9
_QUEUE_CAPACITY = 64  # more than a command ever sends at once


class _Context:
    """What the servicer needs of a gRPC context: the time left."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def time_remaining(self) -> float:
        """Return the seconds until the deadline."""
        return self._deadline - time.monotonic()


@asynccontextmanager
async def open_in_process(
    settings: RestorerSettings,
    roles: Collection[NetworkRole],
    required: Collection[NetworkRole],
    *,
    concurrency: int = MAX_CONCURRENCY,
    check: Callable[[Models], None] | None = None,
) -> AsyncIterator[Client]:
    """Load the networks of `roles` and yield a client for them, with up to `concurrency` calls at once.

    `check` is called with them, and raises what it likes if they do not suffice. Raises `StartupError` if a
    network of `required` is neither in the model set nor given as a file.
    """
    worker = DeviceWorker(_QUEUE_CAPACITY)
    image_workers = image_workers_of(settings)
    service = RestorerService(settings, worker, image_workers, roles)
    try:
        loaded = await worker.submit(lambda job: service.load()).result()
        worker.forget_job_times()
        for role in required:
            if role not in service.models.components:
                name = service.models.model_set.name
                raise StartupError(
                    f"MODEL_SET: the set '{name}' does not have a {role}; --{role} FILE names a checkpoint"
                )
        if check is not None:
            check(service.models)
        servicer = RestorerServicer(
            service, partial(service_status, loaded, worker, image_workers, ready=True)
        )
        yield Client(
            _unary(servicer.RestoreFaces),
            _unary(servicer.DetectFaces),
            _stream(servicer.CompareFidelities),
            timeout_s=_NO_TIMEOUT_S,
            concurrency=concurrency,
        )
    finally:
        image_workers.close()
        await asyncio.to_thread(worker.close)


def _unary(call: Callable[..., Awaitable[Any]]) -> Callable[[Any, float], Awaitable[Any]]:
    async def call_with_timeout(message: Any, seconds: float) -> Any:
        with _unforeseen_errors():
            return await call(message, _Context(seconds))

    return call_with_timeout


def _stream(call: Callable[..., AsyncIterator[Any]]) -> Callable[[Any, float], AsyncIterator[Any]]:
    async def call_with_timeout(message: Any, seconds: float) -> AsyncIterator[Any]:
        with _unforeseen_errors():
            async for response in call(message, _Context(seconds)):
                yield response

    return call_with_timeout


@contextmanager
def _unforeseen_errors() -> Iterator[None]:
    """Turn what is not an `AtelierError` into one: a failure with one image must not affect the next."""
    try:
        yield
    except AtelierError:
        raise
    except Exception as error:
        logger.exception("internal error")
        raise InternalError(f"{InternalError.default_message} {type(error).__name__}: {error}") from error
