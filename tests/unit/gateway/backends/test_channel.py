"""A call goes to a replica that can serve it, and to another if that one goes away; on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from atelier_gateway.backends import channel as channel_module
from atelier_runtime import metrics
from atelier_runtime.caller import caller
from atelier_runtime.errors import (
    AtelierError,
    DeadlineUnmeetable,
    OutOfMemory,
    QueueFull,
    ServiceDraining,
    ServiceUnavailable,
)
from tests.unit.gateway.backends.replicas import (
    ReplicaSet,
    free_port,
    in_time,
    name,
    until,
    until_true,
    value,
)


@pytest.fixture
async def replica_set() -> AsyncIterator[ReplicaSet]:
    replica_set = ReplicaSet()
    yield replica_set
    await replica_set.close()


async def test_calls_go_to_each_replica_in_turn(replica_set: ReplicaSet) -> None:
    a, b = await replica_set.replica("a"), await replica_set.replica("b")
    channel = await replica_set.channel(a.port, b.port)

    async def both_are_connected() -> bool:
        return {await channel.call(name, in_time()) for _ in range(2)} == {"a", "b"}

    await until(both_are_connected)
    names = [await channel.call(name, in_time()) for _ in range(20)]
    assert names.count("a") == names.count("b") == 10


async def test_a_replica_that_is_not_ready_gets_no_calls(replica_set: ReplicaSet) -> None:
    loading, ready = await replica_set.replica("a"), await replica_set.replica("b")
    await loading.set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
    channel = await replica_set.channel(loading.port, ready.port)
    assert {await channel.call(name, in_time()) for _ in range(10)} == {"b"}
    assert loading.calls == 0


async def test_a_call_that_a_draining_replica_refuses_is_retried_elsewhere(replica_set: ReplicaSet) -> None:
    # The channel does not know yet that it is draining: it still counts as ready.
    draining = await replica_set.replica("a", ServiceDraining(retry_after_s=1))
    serving = await replica_set.replica("b")
    channel = await replica_set.channel(draining.port, serving.port)

    async def refused_once() -> bool:
        assert await channel.call(name, in_time()) == "b"
        return draining.calls > 0

    await until(refused_once)


async def test_a_call_for_which_a_replica_has_no_slot_is_retried_elsewhere(replica_set: ReplicaSet) -> None:
    full, free = await replica_set.replica("a", QueueFull(retry_after_s=7)), await replica_set.replica("b")
    channel = await replica_set.channel(full.port, free.port)
    retries = metrics.BACKEND_RETRIES.labels("restorer", "queue_full")
    before = value(retries)

    async def refused_often() -> bool:
        assert await channel.call(name, in_time()) == "b"
        return full.calls >= 20  # twice the initial retry budget: every success refills it

    await until(refused_often)
    assert value(retries) == before + full.calls


@pytest.mark.parametrize("refusal", [QueueFull, DeadlineUnmeetable])
async def test_if_all_are_full_the_error_is_that_of_the_one_with_a_free_slot_first(
    replica_set: ReplicaSet, refusal: type[AtelierError]
) -> None:
    replicas = [await replica_set.replica(str(wait_s)) for wait_s in (40, 7, 50)]
    channel = await replica_set.channel(*(replica.port for replica in replicas))

    async def all_are_connected() -> bool:
        for replica in replicas:
            replica.calls = 0
        for _ in replicas:
            await channel.call(name, in_time())
        return all(replica.calls == 1 for replica in replicas)

    await until(all_are_connected)
    for replica in replicas:
        replica.error = refusal(retry_after_s=float(replica.name))
    with pytest.raises(refusal) as refused:
        await channel.call(name, in_time())
    assert refused.value.retry_after_s == 7 and [replica.calls for replica in replicas] == [2, 2, 2]


async def test_the_retry_budget_of_a_backend_that_is_full_everywhere_ends(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    failures = metrics.BACKEND_FAILURES.labels("restorer", "queue_full")
    before = value(failures)
    for _ in range(50):
        with pytest.raises(QueueFull):
            await channel.call(name, in_time())
    assert value(failures) == before + 50
    assert full.calls == 60, "ten more than were made, however long it lasts"


async def test_the_retry_budget_of_a_backend_that_is_dead_behind_its_connection_ends(
    replica_set: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_PAUSE_S", 0)
    dead = await replica_set.replica("a", ServiceUnavailable())
    channel = await replica_set.channel(dead.port)
    for _ in range(100):
        with pytest.raises(ServiceUnavailable):
            await channel.call(name, in_time())
    assert dead.calls == 200, "a hundred more than were made, however long it lasts"
    dead.error = None
    await channel.call(name, in_time())
    dead.error = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await channel.call(name, in_time())
    assert dead.calls == 204, "a success has earned the retries of one call"


async def test_while_there_is_no_replica_no_call_is_made_twice(replica_set: ReplicaSet) -> None:
    channel = await replica_set.channel(free_port(), wait_s=0.2)
    made = 0

    async def count(to: grpc.aio.Channel) -> str:
        nonlocal made
        made += 1
        return await name(to)

    for outcome in await asyncio.gather(
        *(channel.call(count, in_time()) for _ in range(20)), return_exceptions=True
    ):
        assert isinstance(outcome, ServiceUnavailable)
    assert made == 20


async def test_a_call_can_wait_for_a_slot(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    failures = metrics.BACKEND_FAILURES.labels("restorer", "queue_full")
    before = value(failures)
    calls = [asyncio.create_task(channel.call(name, in_time(), wait_for_slot=True)) for _ in range(3)]

    async def all_wait() -> bool:
        return channel.waiting_for_slot == 3 and full.calls > 15

    await until(all_wait)
    assert not any(call.done() for call in calls)
    calls[0].cancel()
    full.error = None
    assert await asyncio.gather(*calls[1:]) == ["a"] * 2
    assert (channel.waiting_for_slot, value(failures)) == (0, before)


async def test_of_those_that_wait_for_a_slot_the_oldest_gets_it(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    served: list[int] = []

    async def ask(number: int) -> None:
        await channel.call(name, in_time(), wait_for_slot=True)
        served.append(number)

    calls = []
    for number in range(6):
        calls.append(asyncio.create_task(ask(number)))
        await until_true(lambda: channel.waiting_for_slot == len(calls))
    calls.pop(3).cancel()

    async def let_one_in() -> None:
        before = len(served)
        full.free = 1
        await until_true(lambda: len(served) > before)

    for _ in range(5):
        await let_one_in()
    assert served == [0, 1, 2, 4, 5]


async def test_a_new_call_does_not_overtake_those_that_wait_for_a_slot(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    first = asyncio.create_task(channel.call(name, in_time(), wait_for_slot=True))
    await until_true(lambda: channel.waiting_for_slot == 1)
    full.free = 1
    second = asyncio.create_task(channel.call(name, in_time(), wait_for_slot=True))
    assert await first == "a"
    assert not second.done()
    full.error = None
    assert await second == "a"


async def test_what_was_accepted_after_a_refusal_waits_no_more(replica_set: ReplicaSet) -> None:
    replica = await replica_set.replica("a", None)
    channel = await replica_set.channel(replica.port)
    finished, waited = asyncio.Event(), 0

    async def ask() -> None:
        refused = False

        async def once(to: grpc.aio.Channel) -> None:
            nonlocal refused, waited
            if not refused:
                refused = True
                raise QueueFull(retry_after_s=1)
            waited += channel.waiting_for_slot > 0
            await finished.wait()

        await channel.call(once, in_time(), wait_for_slot=True)

    calls = [asyncio.create_task(ask()) for _ in range(9)]
    await until_true(lambda: waited == 9)
    await until_true(lambda: channel.waiting_for_slot == 0)
    assert channel.waiting_by_caller == {}
    finished.set()
    await asyncio.gather(*calls)
    assert channel.waiting_for_slot == 0


async def test_nobody_waits_in_the_line_of_another_caller(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    asked: list[str] = []

    async def ask(who: str) -> None:
        caller.set(who)

        async def once(to: grpc.aio.Channel) -> str:
            asked.append(who)
            return await name(to)

        await channel.call(once, in_time(), wait_for_slot=True)

    calls = [asyncio.create_task(ask("many")) for _ in range(4)]
    await until_true(lambda: channel.waiting_for_slot == 4)
    calls.append(asyncio.create_task(ask("one")))
    await until_true(lambda: asked.count("one") >= 3 and channel.waiting_for_slot == 5)
    assert channel.waiting_by_caller == {"many": 4, "one": 1}
    full.error = None
    await asyncio.gather(*calls)


async def test_the_wait_for_a_slot_ends_at_the_deadline(replica_set: ReplicaSet) -> None:
    full = await replica_set.replica("a", QueueFull(retry_after_s=7))
    channel = await replica_set.channel(full.port)
    failures = metrics.BACKEND_FAILURES.labels("restorer", "queue_full")
    before = value(failures)
    with pytest.raises(QueueFull):
        await channel.call(name, time.monotonic() + 2.5, wait_for_slot=True)
    assert full.calls >= 3
    assert (channel.waiting_for_slot, value(failures)) == (0, before + 1)


async def test_an_error_that_a_retry_does_not_change_is_not_retried(replica_set: ReplicaSet) -> None:
    small = await replica_set.replica("a", OutOfMemory())
    failures = metrics.BACKEND_FAILURES.labels("restorer", "out_of_memory")
    before = value(failures)
    channel = await replica_set.channel(small.port)
    with pytest.raises(OutOfMemory):
        await channel.call(name, in_time())
    assert (value(failures), small.calls) == (before + 1, 1)


async def test_retries_end(replica_set: ReplicaSet) -> None:
    draining = await replica_set.replica("a", ServiceDraining(retry_after_s=1))
    channel = await replica_set.channel(draining.port)
    with pytest.raises(ServiceDraining):
        await channel.call(name, in_time())
    assert draining.calls == 3


async def test_a_call_waits_for_a_replica_and_counts_as_pending_meanwhile(replica_set: ReplicaSet) -> None:
    port = free_port()
    pending = metrics.BACKEND_PENDING.labels("restorer")
    before = value(pending)
    channel = await replica_set.channel(port, wait_s=20)
    call = asyncio.create_task(channel.call(name, in_time()))
    await asyncio.sleep(0.3)
    assert value(pending) == before + 1
    await replica_set.replica("late", port=port)
    assert await call == "late"
    assert value(pending) == before


async def test_calls_that_wait_together_replace_the_channel_only_once(
    replica_set: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_FRESH_CHANNEL_AFTER_S", 1.0)
    port = free_port()
    channel = await replica_set.channel(port, wait_s=30)
    opened: list[object] = []
    open_channel = channel._open

    def open_and_count(**options: str | None) -> object:
        opened.append(options)
        return open_channel(**options)

    monkeypatch.setattr(channel, "_open", open_and_count)
    calls = []
    for _ in range(4):
        calls.append(asyncio.create_task(channel.call(name, in_time())))
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.3)
    await replica_set.replica("late", port=port)
    assert await asyncio.gather(*calls) == ["late"] * 4
    assert 1 <= len(opened) <= 2, "once a second, not once for each waiting call"


@pytest.mark.parametrize("wait_s", [0.0, 0.3])
async def test_without_a_replica_a_call_fails_when_the_wait_is_over(
    replica_set: ReplicaSet, wait_s: float
) -> None:
    channel = await replica_set.channel(free_port(), wait_s=wait_s)
    with pytest.raises(ServiceUnavailable) as error:
        await channel.call(name, in_time())
    assert error.value.retry_after_s


async def test_the_wait_ends_at_the_deadline(replica_set: ReplicaSet) -> None:
    channel = await replica_set.channel(free_port(), wait_s=600)
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(channel.call(name, time.monotonic() + 0.3), 20)
