"""The device's queue between callers: turns, places in a full queue, and how long each is told to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from typing import TypeVar

import pytest
import pytest_asyncio

from atelier_runtime import errors
from atelier_runtime.caller import caller
from atelier_runtime.cost_model import Cost
from atelier_runtime.device_job import Job, Together
from atelier_runtime.device_worker import DeviceWorker
from tests.unit.runtime.blocker import Blocker

T = TypeVar("T")
TEN_SECONDS = [Cost(10.0, 8.0, 12.0, 1)]


def as_caller(name: str, function: Callable[[], T]) -> T:
    def call() -> T:
        caller.set(name)
        return function()

    return Context().run(call)


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(capacity=4)
    yield worker
    await asyncio.to_thread(worker.close)


@pytest_asyncio.fixture
async def blocker(worker: DeviceWorker) -> AsyncIterator[Blocker]:
    """What keeps the device busy until a test releases it, for the caller "running"."""
    blocker = Blocker()
    as_caller("running", lambda: worker.submit(blocker))
    await blocker.running()
    yield blocker
    blocker.release.set()


class Device:
    """Records whose jobs run, in their order."""

    def __init__(self, worker: DeviceWorker) -> None:
        self.worker = worker
        self.ran: list[str] = []

    def submit(self, name: str) -> Job[None]:
        def work(job: Job[None]) -> None:
            self.ran.append(name)

        return as_caller(name[0], lambda: self.worker.submit(work, expected=TEN_SECONDS))

    def refuses(self, name: str) -> float:
        with pytest.raises(errors.QueueFull) as caught:
            self.submit(name)
        assert caught.value.retry_after_s is not None
        return caught.value.retry_after_s


async def test_callers_take_turns_on_the_device(worker: DeviceWorker, blocker: Blocker) -> None:
    device = Device(worker)
    jobs = [device.submit(name) for name in ("a1", "a2", "a3", "b1")]
    blocker.release.set()
    await asyncio.gather(*(job.result() for job in jobs))
    assert device.ran == ["a1", "b1", "a2", "a3"]


async def test_a_full_queue_has_places_for_all_callers(worker: DeviceWorker, blocker: Blocker) -> None:
    device = Device(worker)
    jobs = [device.submit(name) for name in ("a1", "a2", "a3", "a4")]
    device.refuses("a5")
    jobs.append(device.submit("b1"))
    with pytest.raises(errors.QueueFull) as caught:
        await jobs.pop(3).result()
    assert caught.value.retry_after_s == 40, "the three before it and that of the other"
    assert (worker.depth, worker.running) == (4, 1)
    blocker.release.set()
    await asyncio.gather(*(job.result() for job in jobs))
    assert device.ran == ["a1", "b1", "a2", "a3"]


async def test_a_request_that_runs_is_not_displaced(worker: DeviceWorker) -> None:
    busy = Blocker()
    running = as_caller("a", lambda: worker.submit(busy))
    await busy.running()
    device = Device(worker)
    others = [device.submit(name) for name in ("b1", "c1", "d1", "e1")]
    device.refuses("f1")
    busy.release.set()
    assert await running.result() == "done"
    await asyncio.gather(*(job.result() for job in others))


async def test_the_wait_is_that_until_ones_own_turn(worker: DeviceWorker, blocker: Blocker) -> None:
    device = Device(worker)
    for name in ("a1", "a2", "a3"):
        device.submit(name)
    assert as_caller("a", worker.expected_wait).seconds == 30
    assert as_caller("b", worker.expected_wait).seconds == 10
    device.submit("a4")
    assert as_caller("b", worker.expected_wait).seconds == 10, "it gets the place of a4"
    assert device.refuses("a5") == 40
    as_caller("b", lambda: worker.check_slot(asyncio.get_running_loop().time() + 9))
    with pytest.raises(errors.DeadlineUnmeetable):
        as_caller("b", lambda: worker.check_slot(asyncio.get_running_loop().time() + 7))


async def test_a_full_batch_has_jobs_of_all_callers(worker: DeviceWorker, blocker: Blocker) -> None:
    calls: list[str] = []

    def work(jobs: Sequence[Job[None]]) -> None:
        calls.append("".join(job.caller for job in jobs))
        for job in jobs:
            job.succeed(None)

    share: Together[None] = Together("key", 2, work, None)
    jobs = [as_caller(name, lambda: worker.submit(share)) for name in "aaab"]
    blocker.release.set()
    await asyncio.gather(*(job.result() for job in jobs))
    assert calls == ["ab", "aa"]


class Slots:
    """Requests of several jobs, which hold their slots until they are told to end."""

    def __init__(self, worker: DeviceWorker) -> None:
        self.worker = worker
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def start(self, name: str) -> asyncio.Task[None]:
        async def hold() -> None:
            caller.set(name[0])
            async with self.worker.reserve_slot():
                self.begun.append(name)
                await self.ends[name].wait()

        self.ends[name] = asyncio.Event()
        task = asyncio.create_task(hold())
        await self.settle()
        return task

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_turns_for_slots_go_round_too(worker: DeviceWorker) -> None:
    slots = Slots(worker)
    tasks = {name: await slots.start(name) for name in ("a1", "a2", "a3", "a4", "a5")}
    assert slots.begun == ["a1", "a2", "a3"], "the others wait with their images not yet decoded"
    tasks["b1"] = await slots.start("b1")
    with pytest.raises(errors.QueueFull):
        await tasks.pop("a5")
    await slots.end("a1")
    assert slots.begun[3:] == ["b1"], "the other has just had its turn"
    tasks["a6"] = await slots.start("a6")
    await slots.end("a2")
    assert slots.begun[4:] == ["a4"]
    tasks["a6"].cancel()
    await slots.settle()
    assert worker.depth == 3
    for name in ("a3", "a4", "b1"):
        await slots.end(name)
    await asyncio.wait(tasks.values())
    assert worker.depth == 0


async def test_a_slot_that_has_begun_is_not_displaced(worker: DeviceWorker) -> None:
    slots = Slots(worker)
    tasks = [await slots.start(name) for name in ("a1", "a2", "a3", "b1", "c1")]
    with pytest.raises(errors.QueueFull):
        await (await slots.start("d1"))
    await slots.end("a1")
    assert slots.begun[3:] == ["b1"]
    for name in ("a2", "a3", "b1", "c1"):
        await slots.end(name)
    await asyncio.gather(*tasks)


async def test_closing_ends_those_that_wait_for_a_slot(worker: DeviceWorker) -> None:
    slots = Slots(worker)
    tasks = [await slots.start(name) for name in ("a1", "a2", "a3", "a4")]
    await asyncio.to_thread(worker.close)
    with pytest.raises(errors.Cancelled):
        await tasks[3]
    for name in ("a1", "a2", "a3"):
        await slots.end(name)
    await asyncio.gather(*tasks[:3])
