"""Stops work when nobody is waiting for it any longer: at its deadline, or when the client disconnects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from atelier_runtime.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")


@dataclass(frozen=True)
class RequestClock:
    """When a request came in and its deadline, both on the `time.monotonic()` clock."""

    started: float
    deadline: float

    def elapsed_s(self) -> float:
        """Return the seconds since the request came in, to the millisecond."""
        return round(time.monotonic() - self.started, 3)


WorkHandler = Callable[[Request, RequestClock], Coroutine[Any, Any, Response]]


def work_route(handler: WorkHandler, *, deadline_s: float) -> Callable[[Request], Awaitable[Response]]:
    """Wrap the handler of a route that does work.

    The deadline runs from the first byte of the request, its body included. If the client disconnects, the
    handler is canceled, and with it the services' work.
    """

    async def handle(request: Request) -> Response:
        started = time.monotonic()
        clock = RequestClock(started, started + deadline_s)
        body = _BodyReceiver(request.receive)
        try:
            async with asyncio.timeout(deadline_s) as timeout:
                return await cancel_on_disconnect(handler(Request(request.scope, body), clock), body)
        except TimeoutError:
            if not timeout.expired():  # the handler's own
                raise
            raise DeadlineExceeded() from None

    return handle


class _BodyReceiver:
    """Hands the body's messages to the handler; once it has them all, `disconnected` can wait for the end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body_ended = asyncio.Event()

    async def __call__(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):  # the last part of the body, or http.disconnect
            self._body_ended.set()
        return message

    async def disconnected(self) -> None:
        """Return when the client has disconnected, not before the handler has read the body."""
        await self._body_ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def cancel_on_disconnect(work: Coroutine[Any, Any, T], body: _BodyReceiver) -> T:
    """Await `work`, or cancel it and raise `Cancelled` as soon as the client disconnects."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(body.disconnected())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("The client disconnected.")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})
        for task in (working, watching):  # what it raised while it ended is nobody's: not for the log
            if not task.cancelled():
                task.exception()
        # The task keeps the exception that is raised here, which keeps this frame: no cycle, or the request
        # would stay in memory.
        del work, working, watching, task
