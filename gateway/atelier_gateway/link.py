"""The way to one stage: all its ready replicas behind one name, and what happens when one of them goes.

gRPC does the spreading. The name is resolved to every replica's address, calls go to each in turn
(round_robin), and a replica that says by grpc.health.v1 that it is not ready, or drains, gets none. gRPC
asks for the addresses again when a connection ends, and the stages end each after
`MAX_CONNECTION_AGE_SECONDS`; so a new replica is found within that time.

Here is added what gRPC does not do: a call waits a bounded time for a replica while there is none, and one
that a replica refused because it is going, or that was lost with it, is made again elsewhere. So is one for
which a replica has no place or no time: the next in turn may. Those tries are rationed, each answer earns
those of one call: a stage that is full everywhere and answers nothing hears hardly more than clients call.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import grpc

from atelier_runtime import defaults, metrics
from atelier_runtime.errors import (
    AtelierError,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InternalError,
    InvalidRequest,
    QueueFull,
    ServiceDraining,
    ServiceNotReady,
    ServiceUnavailable,
)
from atelier_runtime.images import message_limit_bytes
from atelier_runtime.rpc_errors import from_rpc_error

UNREACHABLE_RETRY_AFTER_S = 5.0

_CONNECT_TIMEOUT_MS = 5_000
_PING_TIMEOUT_MS = 10_000
_RESOLVE_AGAIN_MS = 2_000
_LARGEST_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit

_TRIES = 3
_PAUSE_S = 0.1  # for the word to arrive that a replica drains

_GONE = (ServiceUnavailable, ServiceDraining, ServiceNotReady)
_FULL = (QueueFull, DeadlineUnmeetable)
"""Errors of one replica that another, or its successor, need not give."""

_MOST_RATIONS = 10
_RATIONS_PER_ANSWER = _TRIES - 1

_FRESH_CHANNEL_AFTER_S = 5.0
_LEFT_OVER_CALLS_S = 3600.0

StageName = Literal["generator", "restorer"]

T = TypeVar("T")


class BackendChannel:
    """The channels to one stage. Make it in the event loop that uses it; nothing is connected yet."""

    def __init__(
        self,
        stage: StageName,
        address: str,
        service: str,
        *,
        max_pixels: int,
        most_pictures: int,
        wait_s: float,
    ) -> None:
        """`address`: a gRPC target. `service`: the name by which the stage tells its readiness.

        `most_pictures`: pictures of `max_pixels` in one answer. `wait_s`: how long a call waits for one.
        """
        limit = message_limit_bytes(max_pixels)
        sizes = [
            ("grpc.max_receive_message_length", min(most_pictures * limit, _LARGEST_MESSAGE_BYTES)),
            ("grpc.max_send_message_length", limit),
        ]
        self._stage: StageName = stage
        self._wait_s = wait_s
        self._open = lambda: _open_channel(address, sizes, health_of=service)
        self._channel = self._open()
        # Unhealthy replicas included: one that loads or drains can still say so.
        self.status_channel = _open_channel(address, sizes, health_of=None)
        self._closing: set[asyncio.Task[None]] = set()
        self._rations = _MOST_RATIONS
        for error in (*_GONE, *_FULL):  # from 0 on: Prometheus sees no rise in a series that begins with 1
            metrics.BACKEND_RETRIES.labels(stage, error.reason)

    async def close(self) -> None:
        """Close the channels; calls in flight are cancelled."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()
        await self.status_channel.close()

    async def call(self, once: Callable[[grpc.aio.Channel], Awaitable[T]], deadline: float) -> T:
        """Make a call that any replica may carry out, and again if its replica goes away; counted as pending.

        `once` makes the call on a channel. What is lost with a replica is done anew from the beginning, so
        `once` must not have handed anything out. Raises the stage's error as ours; of several that were full,
        that of the one which will be free first.
        """
        pending = metrics.BACKEND_PENDING.labels(self._stage)
        refusals: list[AtelierError] = []
        pending.inc()
        try:
            for attempt in range(1, _TRIES + 1):
                found = await self._wait_for_replica(deadline)
                try:
                    answer = await once(self._channel)
                except grpc.aio.AioRpcError as error:
                    ours = our_error(self._stage, error)
                else:
                    self._rations = min(self._rations + _RATIONS_PER_ANSWER, _MOST_RATIONS)
                    return answer
                if isinstance(ours, _FULL):
                    refusals.append(ours)
                if attempt == _TRIES or not self._worth_another_try(ours, found):
                    ours = min(refusals, key=_retry_after_s) if isinstance(ours, _FULL) else ours
                    metrics.BACKEND_FAILURES.labels(self._stage, ours.reason).inc()
                    raise ours
                metrics.BACKEND_RETRIES.labels(self._stage, ours.reason).inc()
                if isinstance(ours, _GONE):
                    await asyncio.sleep(attempt * _PAUSE_S)
            raise AssertionError("the last try returns or raises")
        finally:
            pending.dec()

    def _worth_another_try(self, error: AtelierError, found: bool) -> bool:
        """Tell whether another replica may do better; takes a ration if this one was full."""
        if isinstance(error, _FULL) and self._rations >= 1:
            self._rations -= 1
            return True
        return isinstance(error, _GONE) and found

    async def _wait_for_replica(self, deadline: float) -> bool:
        """Wait until a replica is ready; return False if there is none in time, which the call will tell."""
        started = time.monotonic()
        end = min(started + self._wait_s, deadline)
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            now = time.monotonic()
            if now >= end:
                return False
            if now >= started + _FRESH_CHANNEL_AFTER_S:
                # gRPC asks for a name that does not resolve ever more rarely, up to every two minutes; a new
                # channel asks at once. A name has no addresses while its stage has no replicas.
                self._replace(self._channel)
                started = now
                continue
            change = self._channel.wait_for_state_change(state)
            try:
                await asyncio.wait_for(change, min(end, started + _FRESH_CHANNEL_AFTER_S) - now)
            except TimeoutError:
                continue
        return True

    def _replace(self, old: grpc.aio.Channel) -> None:
        self._channel = self._open()
        closing = asyncio.create_task(old.close(_LEFT_OVER_CALLS_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _retry_after_s(error: AtelierError) -> float:
    return math.inf if error.retry_after_s is None else error.retry_after_s


def _open_channel(address: str, sizes: list[tuple[str, int]], *, health_of: str | None) -> grpc.aio.Channel:
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health_of is not None:
        config["healthCheckConfig"] = {"serviceName": health_of}
    return grpc.aio.insecure_channel(
        address,
        options=[
            *sizes,
            ("grpc.service_config", json.dumps(config)),
            ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_AGAIN_MS),  # gRPC's own: 30 s
            # A stage that restarts is found again within a second or two, not after gRPC's two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # An address that swallows packets, or a process that hangs, is given up long before the deadline.
            ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
            ("grpc.keepalive_time_ms", int(defaults.PING_INTERVAL_S * 1000)),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.enable_http_proxy", 0),
            # Two gateways in one process (as in tests) must not share a connection's backoff.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def unreachable(stage: StageName) -> ServiceUnavailable:
    """Return the error of a stage that gives no answer."""
    return ServiceUnavailable(f"The {stage} cannot be reached.", retry_after_s=UNREACHABLE_RETRY_AFTER_S)


def our_error(stage: StageName, error: grpc.aio.AioRpcError) -> AtelierError:
    """Rebuild the stage's error. Texts of gRPC itself hold addresses, so they are not passed on."""
    ours = from_rpc_error(error)
    if isinstance(ours, (ServiceUnavailable, Cancelled)):  # a stage that is killed cancels its calls
        return unreachable(stage)
    if isinstance(ours, DeadlineExceeded):
        return DeadlineExceeded(f"The deadline passed while the {stage} worked.")
    if isinstance(ours, BodyTooLarge) or (isinstance(ours, InvalidRequest) and not ours.fields):
        return InternalError(f"The {stage} refused a message: {error.details()}")
    if isinstance(ours, InternalError):
        return InternalError(f"The {stage} failed: {error.details()}")
    return ours
