"""The channel to one backend: all its ready replicas behind one name, and what happens when one disappears.

gRPC does the load balancing. The name is resolved to the address of every replica, calls go to each in turn
(round_robin), and a replica that reports over grpc.health.v1 that it is not ready, or draining, gets none.
gRPC resolves the name again when a connection ends, and the services end each connection after
`MAX_CONNECTION_AGE_SECONDS`; so a new replica is found within that time.

Added here is what gRPC does not do. A call waits a bounded time for a replica while there is none. A call
that was lost with its replica, or refused because the replica is shutting down, is retried on another. So is
a call that is refused because a replica's queue is full or it cannot meet the deadline. Both only within a
retry budget: every success earns the retries of one call, so a backend that is full everywhere, or that
accepts connections and is dead behind them, gets hardly more calls than clients make. While there is no
connection nothing is retried. A call whose caller has already done work for it may also wait for a slot until
its deadline, in a line (`lines`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, Self, TypeVar

import grpc

from atelier_gateway.backends.lines import Lines
from atelier_runtime import metrics, tracing
from atelier_runtime.channel import channel_options
from atelier_runtime.errors import (
    DEFAULT_RETRY_AFTER_S,
    AtelierError,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    DeadlineUnmeetable,
    Forbidden,
    InternalError,
    InvalidRequest,
    QueueFull,
    ServiceDraining,
    ServiceNotReady,
    ServiceUnavailable,
    Unauthenticated,
)
from atelier_runtime.images import message_limit_bytes
from atelier_runtime.rpc_errors import from_rpc_error, is_from_grpc
from atelier_runtime.tls import Pem, PemFiles, channel_credentials

logger = logging.getLogger(__name__)

_RESOLVE_AGAIN_MS = 2_000

_MAX_ATTEMPTS = 3
_PAUSE_S = 0.1  # time for gRPC to learn that a replica is draining

_LAST_TRY_S = 1.0  # before its deadline, a call that waits for a slot asks for the last time

_GONE = (ServiceUnavailable, ServiceDraining, ServiceNotReady)
_FULL = (QueueFull, DeadlineUnmeetable)
"""Errors of one replica that another, or its successor, may not raise."""

_MAX_RETRIES_WHEN_FULL = 10
_MAX_RETRIES_WHEN_GONE = 100  # more than the calls that a replica can lose at once
_RETRIES_PER_SUCCESS = _MAX_ATTEMPTS - 1

_FRESH_CHANNEL_AFTER_S = 5.0
_REMAINING_CALLS_S = 3600.0

_WARN_AGAIN_S = 60.0

BackendName = Literal["generator", "restorer"]

T = TypeVar("T")


class _RetryBudget:
    """The retries that are left."""

    def __init__(self, most: int) -> None:
        self._left = self._most = most

    def take(self) -> bool:
        """Take one, if one is left."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def earn(self) -> None:
        """Add those of one call."""
        self._left = min(self._left + _RETRIES_PER_SUCCESS, self._most)


class BackendChannel:
    """The gRPC channels to one backend, as an asynchronous context manager.

    They are opened on entering, in the event loop that will use them; nothing is connected before the first
    call.
    """

    def __init__(
        self,
        backend: BackendName,
        address: str,
        service: str,
        *,
        max_pixels: int,
        wait_s: float,
        tls: PemFiles | None = None,
    ) -> None:
        """Remember what to open.

        Args:
            backend: For metrics and messages.
            address: A gRPC target, such as `127.0.0.1:50051` or `dns:///restorer:50052`.
            service: The full protobuf name by which replicas report their readiness.
            max_pixels: Messages may hold one image of this size.
            wait_s: How long a call waits for a replica while there is none.
            tls: What to trust and to present; None: nothing is encrypted. Once the files change, new calls
                use a new channel, and those in flight end on the former.
        """
        self._tls = tls
        self._pem: Pem | None = None
        self._warned_at = -math.inf
        self._backend: BackendName = backend
        self._address = address
        self._service = service
        self._message_limit = message_limit_bytes(max_pixels)
        self._wait_s = wait_s
        self._channel: grpc.aio.Channel
        self._status_channel: grpc.aio.Channel
        self._replaced_at = -math.inf
        self._closing: set[asyncio.Task[None]] = set()
        self._retries_when_full = _RetryBudget(_MAX_RETRIES_WHEN_FULL)
        self._retries_when_gone = _RetryBudget(_MAX_RETRIES_WHEN_GONE)
        self._lines = Lines()
        metrics.BACKEND_PENDING.labels(backend)
        for error in (*_GONE, *_FULL):  # from 0 on: Prometheus sees no increase in a series that starts at 1
            metrics.BACKEND_RETRIES.labels(backend, error.reason)

    async def __aenter__(self) -> Self:
        """Open the channels."""
        self._pem = None if self._tls is None else self._tls.newest()
        self._channel = self._open(health_of=self._service)
        self._status_channel = self._open(health_of=None)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the channels; calls in flight are canceled."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()
        await self._status_channel.close()

    @property
    def status_channel(self) -> grpc.aio.Channel:
        """Reaches replicas that are not ready too: one that is loading or draining can still report so."""
        self._use_newest_files()
        return self._status_channel

    def error_of(self, rpc_error: grpc.aio.AioRpcError) -> AtelierError:
        """Rebuild the service's error; with TLS, log what gRPC says of a replica that it cannot reach."""
        is_due = time.monotonic() >= self._warned_at + _WARN_AGAIN_S
        is_lost = rpc_error.code() is grpc.StatusCode.UNAVAILABLE and is_from_grpc(rpc_error)
        if self._tls is not None and is_lost and is_due:
            self._warned_at = time.monotonic()
            logger.warning(
                "a service cannot be reached",
                extra={"backend": self._backend, "error": rpc_error.details()},
            )
        return to_atelier_error(self._backend, rpc_error)

    @property
    def waiting_for_slot(self) -> int:
        """Calls that wait because every replica is full."""
        return self._lines.waiting

    @property
    def waiting_by_caller(self) -> dict[str, int]:
        """The same of each caller, if there are any."""
        return self._lines.by_caller()

    async def call(
        self,
        once: Callable[[grpc.aio.Channel], Awaitable[T]],
        deadline: float,
        *,
        wait_for_slot: bool = False,
    ) -> T:
        """Make a call that any replica can serve; retry it elsewhere if its replica goes away or is full.

        `once` makes the call on a channel. A retry starts from the beginning, so `once` must not have handed
        out any part of the result. `wait_for_slot`: if all replicas are full, try again until the deadline.
        Raises the service's error as ours; of several replicas that are full, the error of the one that will
        have a free slot first.
        """
        pending = metrics.BACKEND_PENDING.labels(self._backend)
        pending.inc()
        try:
            if wait_for_slot:
                return await self._call_in_line(once, deadline)
            return await self._call_a_few_times(once, deadline)
        except AtelierError as error:
            metrics.BACKEND_FAILURES.labels(self._backend, error.reason).inc()
            raise
        finally:
            pending.dec()

    async def _call_in_line(self, once: Callable[[grpc.aio.Channel], Awaitable[T]], deadline: float) -> T:
        """Ask again until the deadline while all replicas are full, of each caller the oldest call first."""
        last_try = deadline - _LAST_TRY_S
        was_refused = False
        with self._lines.enter() as in_line:
            while True:
                await in_line.may_ask(last_try, was_refused=was_refused)
                try:
                    return await self._call_a_few_times(once, deadline)
                except QueueFull as error:
                    if time.monotonic() >= last_try:
                        raise
                    self._count_retry(error)
                was_refused = True

    async def _call_a_few_times(self, once: Callable[[grpc.aio.Channel], Awaitable[T]], deadline: float) -> T:
        refusals: list[AtelierError] = []
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            is_connected = await self._wait_for_replica(deadline)
            try:
                result = await once(self._channel)
            except grpc.aio.AioRpcError as rpc_error:
                error = self.error_of(rpc_error)
            except InternalError as unusable:  # the replica responded, with what it must not send
                error = unusable
            else:
                self._retries_when_full.earn()
                self._retries_when_gone.earn()
                return result
            if isinstance(error, _FULL):
                refusals.append(error)
            if attempt == _MAX_ATTEMPTS or not self._is_worth_a_retry(error, is_connected):
                try:
                    raise min(refusals, key=_retry_after_s) if isinstance(error, _FULL) else error
                finally:  # the exception keeps this frame, and the request's image in it: not in a cycle
                    del error, refusals
            self._count_retry(error)
            if isinstance(error, _GONE):
                await asyncio.sleep(attempt * _PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _count_retry(self, error: AtelierError) -> None:
        metrics.BACKEND_RETRIES.labels(self._backend, error.reason).inc()
        tracing.event("retry", reason=error.reason)

    def _is_worth_a_retry(self, error: AtelierError, is_connected: bool) -> bool:
        """Return whether another replica may succeed; takes from the retry budget."""
        if isinstance(error, _FULL):
            return self._retries_when_full.take()
        return isinstance(error, _GONE) and is_connected and self._retries_when_gone.take()

    async def _wait_for_replica(self, deadline: float) -> bool:
        """Wait until a replica is ready. Returns False if none is in time; the call then fails by itself."""
        started = time.monotonic()
        end = min(started + self._wait_s, deadline)
        self._use_newest_files()
        while True:
            channel = self._channel
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return True
            now = time.monotonic()
            if now >= end:
                return False
            # gRPC retries a name that does not resolve less and less often, down to every two minutes; a
            # new channel resolves it at once. A name has no addresses while its service has no replicas.
            fresh_at = max(started, self._replaced_at) + _FRESH_CHANNEL_AFTER_S
            if now >= fresh_at:
                self._replace(channel)
                continue
            change = channel.wait_for_state_change(state)
            with suppress(TimeoutError):
                await asyncio.wait_for(change, min(end, fresh_at) - now)

    def _use_newest_files(self) -> None:
        """Open other channels if the TLS files have changed."""
        if self._tls is None or (newest := self._tls.newest()) is self._pem:
            return
        self._pem = newest
        self._replace(self._channel)
        self._retire(self._status_channel)
        self._status_channel = self._open(health_of=None)

    def _replace(self, old: grpc.aio.Channel) -> None:
        self._channel = self._open(health_of=self._service)
        self._replaced_at = time.monotonic()
        self._retire(old)

    def _retire(self, old: grpc.aio.Channel) -> None:
        """Close a channel once its calls have ended."""
        closing = asyncio.create_task(old.close(_REMAINING_CALLS_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _open(self, *, health_of: str | None) -> grpc.aio.Channel:
        config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if health_of is not None:
            config["healthCheckConfig"] = {"serviceName": health_of}
        limit = self._message_limit
        options = [
            *channel_options(max_receive_bytes=limit, max_send_bytes=limit),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_AGAIN_MS),  # gRPC's own: 30 s
            # A service that restarts is found again within a second or two, not after gRPC's two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # Two gateways in one process (as in tests) must not share a connection's backoff.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self._pem is None:
            return grpc.aio.insecure_channel(self._address, options=options)
        return grpc.aio.secure_channel(self._address, channel_credentials(self._pem), options=options)


def unreachable(backend: BackendName) -> ServiceUnavailable:
    """Return the error of a backend that does not respond."""
    return ServiceUnavailable(f"The {backend} cannot be reached.", retry_after_s=DEFAULT_RETRY_AFTER_S)


def to_atelier_error(backend: BackendName, rpc_error: grpc.aio.AioRpcError) -> AtelierError:
    """Rebuild the service's error. gRPC's own messages contain addresses, so they are not passed on."""
    error = from_rpc_error(rpc_error)
    if isinstance(error, (ServiceUnavailable, Cancelled)):  # a service that is killed cancels its calls
        return unreachable(backend)
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(f"The deadline expired while the {backend} was working.")
    if isinstance(error, BodyTooLarge) or (isinstance(error, InvalidRequest) and not error.fields):
        return InternalError(f"The {backend} refused a message: {rpc_error.details()}")
    if isinstance(error, (Unauthenticated, Forbidden)):
        return InternalError(f"The {backend} refused the gateway: {rpc_error.details()}")
    if isinstance(error, InternalError):
        return InternalError(f"The {backend} failed: {rpc_error.details()}")
    return error


def _retry_after_s(error: AtelierError) -> float:
    return math.inf if error.retry_after_s is None else error.retry_after_s
