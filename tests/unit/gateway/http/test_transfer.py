"""Which bodies in flight make room for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.types import Message, Receive, Scope, Send

from atelier_gateway.http.transfer import Transfer, TransferMiddleware, Transfers
from atelier_runtime.errors import QueueFull

MIB = 2**20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transfers(clock: Clock) -> Transfers:
    return Transfers(max_bytes=10 * MIB, stall_seconds=20, clock=clock)


Body = Callable[[int], Transfer]


@pytest.fixture
def ended() -> list[Transfer]:
    return []


@pytest.fixture
def body(transfers: Transfers, ended: list[Transfer]) -> Iterator[Body]:
    """A function that returns a body of which so much has come."""
    with ExitStack() as moving:

        def arrive(size: int) -> Transfer:
            transfer = Transfer(transfers)
            transfer.require(size)
            moving.enter_context(transfer.moving(lambda: ended.append(transfer)))
            transfer.hold(size)
            transfer.moved(size)
            return transfer

        yield arrive


def test_a_body_that_hardly_moves_makes_room(
    transfers: Transfers, clock: Clock, body: Body, ended: list[Transfer]
) -> None:
    slow = body(9 * MIB)
    for _ in range(10):
        clock.now += 1
        slow.moved(8 * 1024)
    body(9 * MIB)
    assert ended == [slow] and slow.was_given_up and transfers.bytes == 9 * MIB


def test_the_slowest_goes_first_and_no_more_than_need_be(
    clock: Clock, body: Body, ended: list[Transfer]
) -> None:
    slow, slower = body(4 * MIB), body(4 * MIB)
    for _ in range(10):
        clock.now += 1
        slow.moved(9 * 1024)
        slower.moved(8 * 1024)
    body(5 * MIB)
    assert ended == [slower]


@pytest.mark.parametrize("moved", [65 * 1024, MIB])
def test_a_body_that_moves_keeps_its_room(
    clock: Clock, body: Body, ended: list[Transfer], moved: int
) -> None:
    steady = body(9 * MIB)
    for _ in range(10):
        clock.now += 1
        steady.moved(moved)
    with pytest.raises(QueueFull, match="9 MiB of others"):
        body(2 * MIB)
    assert ended == [] and not steady.was_given_up


def test_a_body_that_stands_still_makes_room_after_a_while(
    clock: Clock, body: Body, ended: list[Transfer]
) -> None:
    body(9 * MIB)
    for seconds in (4.9, 0.2, 4.9):  # the first period knows of the fast beginning only
        clock.now += seconds
        with pytest.raises(QueueFull):
            body(2 * MIB)
    clock.now += 0.2
    body(2 * MIB)
    assert len(ended) == 1


def test_nothing_is_ended_in_vain(clock: Clock, body: Body, ended: list[Transfer]) -> None:
    """Neither for a body that would not fit all the same, nor one that holds next to nothing."""
    fast, slow, small = body(7 * MIB), body(2 * MIB), body(1000)
    for _ in range(10):
        clock.now += 1
        fast.moved(MIB)
        slow.moved(1000)
        small.moved(10)
    with pytest.raises(QueueFull):
        body(4 * MIB)
    assert ended == []
    body(2 * MIB)
    assert ended == [slow]


def test_what_the_client_has_received_counts_not_what_has_left(transfers: Transfers, clock: Clock) -> None:
    """Slices leave in bursts, whenever megabytes of the kernel's buffer are free."""
    unread = 4 * MIB
    response = Transfer(transfers)
    with response.moving(lambda: pytest.fail("was ended"), unread=lambda: unread):
        response.hold(9 * MIB)
        response.moved(6 * MIB)
        for _ in range(20):
            clock.now += 1
            unread -= 200 * 1024
            with pytest.raises(QueueFull):
                Transfer(transfers).require(2 * MIB)
        assert response.take_pace() == pytest.approx(200 * 1024)


def test_what_has_arrived_is_not_given_up(transfers: Transfers, clock: Clock, body: Body) -> None:
    """The networks work on it."""
    transfer = Transfer(transfers)
    with transfer.moving(lambda: pytest.fail("was ended")):
        transfer.hold(9 * MIB)
    clock.now += 100
    with pytest.raises(QueueFull):
        body(2 * MIB)


async def test_a_large_response_leaves_on_any_server() -> None:
    """Only our own server can end it early; benchmarks run the application on others."""
    transfers = Transfers(max_bytes=10 * MIB, stall_seconds=20)
    sent: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": bytes(MIB)})

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message["body"])

    await TransferMiddleware(app, transfers=transfers)({"type": "http"}, receive, send)
    assert sum(map(len, sent)) == MIB and len(sent) > 1
    assert transfers.bytes == 0 and not transfers.moving
