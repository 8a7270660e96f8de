"""A call goes to a replica that can carry it out, and to another if that one goes away; real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from atelier_gateway.link import BackendChannel
from atelier_runtime import metrics
from atelier_runtime.errors import (
    AtelierError,
    DeadlineUnmeetable,
    OutOfMemory,
    QueueFull,
    ServiceDraining,
    ServiceUnavailable,
)
from atelier_runtime.rpc_errors import to_status

SERVICE = "atelier.restorer.v1.RestorerService"


class Replica:
    """A gRPC server with one method, which answers its name or fails as told; and grpc.health.v1."""

    def __init__(self, name: str, error: AtelierError | None = None) -> None:
        self.name, self.error, self.calls, self.port = name, error, 0, 0
        self.health = health.aio.HealthServicer()

    async def start(self, port: int) -> int:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        await self.say(health_pb2.HealthCheckResponse.SERVING)
        method = grpc.unary_unary_rpc_method_handler(self._answer)
        handler = grpc.method_handlers_generic_handler("test.Stage", {"Name": method})
        self.server.add_generic_rpc_handlers((handler,))
        bound = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()
        return bound

    async def say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        await self.health.set(SERVICE, status)

    async def _answer(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        if self.error is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(self.error)))
        return self.name.encode()


async def name(channel: grpc.aio.Channel) -> str:
    answer: bytes = await channel.unary_unary("/test.Stage/Name")(b"", timeout=20)
    return answer.decode()


class Street:
    """The replicas and links of one test."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self.links: list[BackendChannel] = []

    async def replica(self, name: str, error: AtelierError | None = None, port: int = 0) -> Replica:
        replica = Replica(name, error)
        replica.port = await replica.start(port)
        self.replicas.append(replica)
        return replica

    def link(self, *ports: int, wait_s: float = 10.0) -> BackendChannel:
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        link = BackendChannel("restorer", target, SERVICE, max_pixels=65_536, most_pictures=1, wait_s=wait_s)
        self.links.append(link)
        return link


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    street = Street()
    yield street
    for link in street.links:
        await link.close()
    for replica in street.replicas:
        await replica.server.stop(None)


def in_time() -> float:
    return time.monotonic() + 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


async def test_calls_go_to_each_replica_in_turn(street: Street) -> None:
    stage = street.link((await street.replica("a")).port, (await street.replica("b")).port)

    async def both_are_connected() -> bool:
        return {await stage.call(name, in_time()) for _ in range(2)} == {"a", "b"}

    await until(both_are_connected)
    answers = [await stage.call(name, in_time()) for _ in range(20)]
    assert answers.count("a") == answers.count("b") == 10


async def test_a_replica_that_says_it_is_not_ready_gets_no_calls(street: Street) -> None:
    loading, ready = await street.replica("a"), await street.replica("b")
    await loading.say(health_pb2.HealthCheckResponse.NOT_SERVING)
    stage = street.link(loading.port, ready.port)
    assert {await stage.call(name, in_time()) for _ in range(10)} == {"b"}
    assert loading.calls == 0


async def test_a_call_that_a_draining_replica_refuses_is_made_elsewhere(street: Street) -> None:
    # Its health has not been heard of yet: it still counts as ready.
    draining, standing = await street.replica("a", ServiceDraining(retry_after_s=1)), await street.replica("b")
    stage = street.link(draining.port, standing.port)

    async def refused_once() -> bool:
        assert await stage.call(name, in_time()) == "b"
        return draining.calls > 0

    await until(refused_once)


async def test_a_call_for_which_a_replica_has_no_place_is_made_at_another(street: Street) -> None:
    full, free = await street.replica("a", QueueFull(retry_after_s=7)), await street.replica("b")
    stage = street.link(full.port, free.port)
    retries = metrics.BACKEND_RETRIES.labels("restorer", "queue_full")
    before = retries._value.get()

    async def refused_often() -> bool:
        assert await stage.call(name, in_time()) == "b"
        return full.calls >= 20  # twice what is there to begin with: answers bring new rations

    await until(refused_often)
    assert retries._value.get() == before + full.calls


@pytest.mark.parametrize("refusal", [QueueFull, DeadlineUnmeetable])
async def test_where_all_are_full_the_one_that_is_free_first_is_told(
    street: Street, refusal: type[AtelierError]
) -> None:
    replicas = [await street.replica(str(wait_s), refusal(retry_after_s=wait_s)) for wait_s in (40, 7, 50)]
    stage = street.link(*(replica.port for replica in replicas))

    async def all_are_connected() -> bool:
        for replica in replicas:
            replica.error, replica.calls = None, 0
        for _ in replicas:
            await stage.call(name, in_time())
        return all(replica.calls == 1 for replica in replicas)

    await until(all_are_connected)
    for replica in replicas:
        replica.error = refusal(retry_after_s=float(replica.name))
    with pytest.raises(refusal) as refused:
        await stage.call(name, in_time())
    assert refused.value.retry_after_s == 7 and [replica.calls for replica in replicas] == [2, 2, 2]


async def test_a_stage_that_is_full_everywhere_is_not_called_for_ever(street: Street) -> None:
    full = await street.replica("a", QueueFull(retry_after_s=7))
    stage = street.link(full.port)
    failures = metrics.BACKEND_FAILURES.labels("restorer", "queue_full")
    before = failures._value.get()
    for _ in range(50):
        with pytest.raises(QueueFull):
            await stage.call(name, in_time())
    assert failures._value.get() == before + 50
    assert full.calls == 60, "ten more than were made, however long it lasts"


async def test_a_failure_that_another_try_does_not_change_is_not_repeated(street: Street) -> None:
    small = await street.replica("a", OutOfMemory())
    failures = metrics.BACKEND_FAILURES.labels("restorer", "out_of_memory")
    before = failures._value.get()
    with pytest.raises(OutOfMemory):
        await street.link(small.port).call(name, in_time())
    assert (failures._value.get(), small.calls) == (before + 1, 1)


async def test_tries_have_an_end(street: Street) -> None:
    draining = await street.replica("a", ServiceDraining(retry_after_s=1))
    with pytest.raises(ServiceDraining):
        await street.link(draining.port).call(name, in_time())
    assert draining.calls == 3


async def test_a_call_waits_for_a_replica_and_counts_as_pending_meanwhile(street: Street) -> None:
    port = free_port()
    pending = metrics.BACKEND_PENDING.labels("restorer")
    before = pending._value.get()
    call = asyncio.create_task(street.link(port, wait_s=20).call(name, in_time()))
    await asyncio.sleep(0.3)
    assert pending._value.get() == before + 1
    await street.replica("late", port=port)
    assert await call == "late"
    assert pending._value.get() == before


@pytest.mark.parametrize("wait_s", [0.0, 0.3])
async def test_without_any_replica_a_call_fails_when_the_wait_is_over(street: Street, wait_s: float) -> None:
    with pytest.raises(ServiceUnavailable) as error:
        await street.link(free_port(), wait_s=wait_s).call(name, in_time())
    assert error.value.retry_after_s


async def test_waiting_ends_with_the_deadline(street: Street) -> None:
    call = street.link(free_port(), wait_s=600).call(name, time.monotonic() + 0.3)
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(call, 20)
