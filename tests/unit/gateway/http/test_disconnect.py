"""A work route's handler ends at its deadline, or when the client disconnects."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from atelier_gateway.http.disconnect import RequestClock, work_route
from atelier_runtime.errors import AtelierError, Cancelled, DeadlineExceeded

PARTS: list[Message] = [
    {"type": "http.request", "body": b"ab", "more_body": True},
    {"type": "http.request", "body": b"cd", "more_body": False},
]
DISCONNECT: Message = {"type": "http.disconnect"}


def request(*messages: Message) -> Request:
    """A request whose client sends these messages and then stays silent."""

    async def stream() -> AsyncIterator[Message]:
        for message in messages:
            yield message
        await asyncio.Event().wait()

    receive: Callable[[], Any] = aiter(stream()).__anext__
    return Request({"type": "http", "method": "POST", "headers": []}, receive)


class Work:
    """A handler that reads the body and then works until it is canceled, or not at all."""

    def __init__(self, *, endless: bool) -> None:
        self.endless = endless
        self.body = b""
        self.cancelled = False

    async def __call__(self, request: Request, clock: RequestClock) -> Response:
        self.body = await request.body()
        try:
            if self.endless:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Response(f"{clock.deadline - clock.started:.0f}")


async def test_the_handler_reads_the_body_and_knows_its_deadline() -> None:
    work = Work(endless=False)
    response = await work_route(work, deadline_s=9)(request(*PARTS))
    assert (work.body, response.body) == (b"abcd", b"9")


async def test_a_handler_that_finished_wins_over_a_client_that_left() -> None:
    work = Work(endless=False)
    response = await work_route(work, deadline_s=9)(request(*PARTS, DISCONNECT))
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("messages", "raised"), [((*PARTS, DISCONNECT), Cancelled), (tuple(PARTS), DeadlineExceeded)]
)
async def test_work_is_cancelled(messages: tuple[Message, ...], raised: type[AtelierError]) -> None:
    work = Work(endless=True)
    with pytest.raises(raised):
        await work_route(work, deadline_s=9 if raised is Cancelled else 0.1)(request(*messages))
    assert (work.body, work.cancelled) == (b"abcd", True)


async def test_the_deadline_includes_the_body() -> None:
    work = Work(endless=False)
    with pytest.raises(DeadlineExceeded):
        await work_route(work, deadline_s=0.1)(request(PARTS[0]))
    assert work.body == b""


async def test_an_error_of_the_handler_is_raised_without_waiting_for_the_body() -> None:
    async def refuse(request: Request, clock: RequestClock) -> Response:
        raise ValueError("refused unread")

    with pytest.raises(ValueError, match="refused unread"):
        await asyncio.wait_for(work_route(refuse, deadline_s=9)(request(PARTS[0])), 5)


async def test_an_error_while_the_work_is_ended_is_not_left_behind() -> None:
    left_behind: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left_behind.append(context))

    async def work(request: Request, clock: RequestClock) -> Response:
        await request.body()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise DeadlineExceeded() from None
        return Response()

    with pytest.raises(DeadlineExceeded):
        await work_route(work, deadline_s=0.01)(request(*PARTS))
    gc.collect()
    assert left_behind == []
