import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import torch

from atelier_runtime import errors
from atelier_runtime.cost_model import FRESH_S, Cost
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.log import request_id
from tests.unit.runtime.blocker import Blocker


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(capacity=1)
    yield worker
    await asyncio.to_thread(worker.close)


async def test_events_arrive_in_order_and_then_the_result(worker: DeviceWorker) -> None:
    def work(job: Job[int]) -> int:
        for step in range(5):
            job.emit(step)
        return 7

    job = worker.submit(work)
    assert [event async for event in job.events()] == [0, 1, 2, 3, 4]
    assert await job.result() == 7


async def test_work_runs_off_the_event_loop_one_at_a_time_with_its_request_id(worker: DeviceWorker) -> None:
    request_id.set("abc")
    seen: list[tuple[str | None, str]] = []
    jobs = [
        worker.submit(lambda job: seen.append((request_id.get(), threading.current_thread().name)))
        for _ in range(2)
    ]
    for job in jobs:
        await job.result()
    assert seen == [("abc", "device")] * 2


async def test_a_full_queue_refuses_at_once_and_says_when_to_retry(worker: DeviceWorker) -> None:
    blocker = Blocker()
    running = worker.submit(blocker)
    await blocker.running()
    waiting = worker.submit(lambda job: "second")
    with pytest.raises(errors.QueueFull) as caught:
        worker.submit(lambda job: "third")
    assert (caught.value.retry_after_s or 0) >= 1
    blocker.release.set()
    assert (await running.result(), await waiting.result()) == ("done", "second")


async def test_a_cancelled_job_in_the_queue_frees_its_slot(worker: DeviceWorker) -> None:
    blocker = Blocker()
    worker.submit(blocker)
    await blocker.running()
    waiting = worker.submit(lambda job: "never")
    waiting.cancel()
    with pytest.raises(errors.Cancelled):
        await waiting.result()
    assert worker.depth == 0
    next_one = worker.submit(lambda job: "next")
    blocker.release.set()
    assert await next_one.result() == "next"


async def test_a_running_job_stops_at_its_next_check_and_the_next_one_runs(worker: DeviceWorker) -> None:
    blocker = Blocker()
    job = worker.submit(blocker)
    await blocker.running()
    task = asyncio.create_task(job.result())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.submit(lambda job: 1).result() == 1


async def test_a_deadline_stops_the_work(worker: DeviceWorker) -> None:
    job = worker.submit(Blocker(), deadline=time.monotonic() + 0.05)
    with pytest.raises(errors.DeadlineExceeded):
        await job.result()


async def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(worker: DeviceWorker) -> None:
    await worker.submit(lambda job: time.sleep(0.2)).result()  # the worker learns how long a job takes
    blocker = Blocker()
    worker.submit(blocker)
    await blocker.running()
    with pytest.raises(errors.DeadlineUnmeetable):
        worker.submit(lambda job: None, deadline=time.monotonic() + 0.05)
    blocker.release.set()


def cost(seconds: float, low_s: float | None = None, *, proven: bool = True) -> Cost:
    return Cost(seconds, seconds if low_s is None else low_s, 2 * seconds, 3, proven=proven)


async def test_the_wait_is_what_those_before_are_expected_to_take(worker: DeviceWorker) -> None:
    blocker = Blocker()
    worker.submit(blocker, expected=[cost(100, 80)])
    await blocker.running()
    waiting = worker.submit(lambda job: None, expected=[cost(30, 20)])
    wait = worker.expected_wait()
    assert 129 <= wait.seconds <= 130 and 99 <= wait.low_s <= 100, "less what has passed since"
    with pytest.raises(errors.QueueFull) as caught:
        worker.submit(lambda job: None)
    assert caught.value.retry_after_s == 130
    waiting.cancel()
    assert 99 <= worker.expected_wait().seconds <= 100
    blocker.release.set()


async def test_a_deadline_is_compared_with_the_least_that_wait_and_work_may_take(
    worker: DeviceWorker,
) -> None:
    blocker = Blocker()
    worker.submit(blocker, expected=[cost(100, 40)])
    await blocker.running()
    now = time.monotonic()
    with pytest.raises(errors.DeadlineUnmeetable, match=r"start in about (99|100)\.\d s"):
        worker.check_slot(now + 30)
    with pytest.raises(errors.DeadlineUnmeetable, match=r"end in about 1[12]\d\.\d s") as caught:
        worker.check_slot(now + 50, [cost(20, 15)])
    assert caught.value.retry_after_s == 5, "then it fits"
    worker.check_slot(now + 56, [cost(20, 15)])
    worker.check_slot(now + 50, [cost(20, 15, proven=False)])  # or it would never be found out
    blocker.release.set()


async def test_work_that_is_too_long_for_its_deadline_is_not_asked_for_again_at_once(
    worker: DeviceWorker,
) -> None:
    with pytest.raises(errors.DeadlineUnmeetable) as caught:
        worker.check_slot(time.monotonic() + 10, [cost(20, 15)])
    assert caught.value.retry_after_s == FRESH_S


async def test_requests_whose_images_are_being_decoded_refuse_nobody_a_deadline(worker: DeviceWorker) -> None:
    await worker.submit(lambda job: time.sleep(0.2)).result()
    with worker.hold_slot():
        wait = worker.expected_wait()
        assert wait.seconds >= 0.2 and wait.low_s == 0
        worker.check_slot(time.monotonic() + 0.1)
    assert worker.expected_wait() == (0, 0, 1)


async def test_guesses_refuse_nobody_a_deadline(worker: DeviceWorker) -> None:
    blocker = Blocker()
    worker.submit(blocker, expected=[Cost(100, 50, 400, observations=0)])
    await blocker.running()
    assert 99 <= worker.expected_wait().seconds <= 100
    worker.check_slot(time.monotonic() + 1)
    blocker.release.set()


async def test_a_job_that_takes_longer_than_expected_has_no_negative_time_left(worker: DeviceWorker) -> None:
    blocker = Blocker()
    worker.submit(blocker, expected=[cost(0.001)])
    await blocker.running()
    await asyncio.sleep(0.01)
    assert worker.expected_wait() == (0.0, 0.0, 1)
    blocker.release.set()


async def test_out_of_memory_is_translated_and_keeps_no_frames(worker: DeviceWorker) -> None:
    def work(job: Job[None]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(errors.OutOfMemory) as caught:
        await worker.submit(work).result()
    assert caught.value.__cause__ is None and caught.value.__context__ is None


async def test_a_finished_job_leaves_nothing_to_the_garbage_collector(worker: DeviceWorker) -> None:
    class Pixels:
        pass

    seen: list[weakref.ref[Pixels]] = []

    def pixels() -> Pixels:
        made = Pixels()
        seen.append(weakref.ref(made))
        return made

    def generate(job: Job[Pixels]) -> Pixels:
        return pixels()

    def run_out(job: Job[None]) -> None:
        held = pixels()
        try:
            raise torch.OutOfMemoryError(f"no memory left besides {held}")
        except torch.OutOfMemoryError:
            raise errors.OutOfMemory from None

    async def call(work: Callable[[Job[Any]], Any]) -> None:
        with contextlib.suppress(errors.OutOfMemory):
            await worker.submit(work).result()

    gc.disable()
    try:
        for work in (generate, run_out):
            await call(work)
            async with asyncio.timeout(10):
                while seen[-1]() is not None:
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_draining_finishes_accepted_work_and_accepts_nothing_new(worker: DeviceWorker) -> None:
    blocker = Blocker()
    running = worker.submit(blocker)
    await blocker.running()
    worker.stop_accepting()
    with pytest.raises(errors.ServiceDraining):
        worker.submit(lambda job: None)
    blocker.release.set()
    assert await running.result() == "done"


def _number(number: int, job: Job[int]) -> int:
    return number


async def _reserve(worker: DeviceWorker) -> None:
    async with worker.reserve_slot():
        pass


async def test_a_slot_counts_as_one_request_however_many_jobs_it_submits(worker: DeviceWorker) -> None:
    async with worker.reserve_slot():
        assert (worker.depth, worker.running) == (1, 0)
        jobs = [worker.submit(partial(_number, n), has_slot=True) for n in range(5)]
        assert [await job.result() for job in jobs] == list(range(5))
        assert worker.depth == 1
        waiting = asyncio.create_task(_reserve(worker))
        await asyncio.sleep(0)  # one waits, one is running
        with pytest.raises(errors.QueueFull):
            await _reserve(worker)
        with pytest.raises(errors.QueueFull):
            worker.submit(lambda job: None)
        assert not waiting.done()
    await waiting
    assert worker.depth == 0
    async with worker.reserve_slot():
        pass


async def test_a_slot_stays_valid_while_the_worker_drains(worker: DeviceWorker) -> None:
    async with worker.reserve_slot():
        worker.stop_accepting()
        assert await worker.submit(lambda job: 1, has_slot=True).result() == 1
        with pytest.raises(errors.ServiceDraining):
            async with worker.reserve_slot():
                pass


async def test_a_slot_is_free_again_after_a_failure(worker: DeviceWorker) -> None:
    for _ in range(5):
        with pytest.raises(ValueError):
            async with worker.reserve_slot():
                raise ValueError
    assert worker.depth == 0


async def test_a_slot_that_is_held_after_the_work_is_measured_without_that_time(worker: DeviceWorker) -> None:
    async with worker.reserve_slot() as work_is_done:
        await worker.submit(lambda job: time.sleep(0.2), has_slot=True).result()
        work_is_done()
        assert worker.expected_wait() == (0, 0, 1), "and keeps nobody waiting"
        await asyncio.sleep(0.5)
    async with worker.reserve_slot():
        assert 0.2 <= worker.expected_wait().seconds < 0.5


async def test_slots_measure_how_long_a_request_takes(worker: DeviceWorker) -> None:
    async with worker.reserve_slot():
        await worker.submit(lambda job: time.sleep(0.2), has_slot=True).result()
    async with worker.reserve_slot():
        assert worker.expected_wait().seconds >= 0.2
        with pytest.raises(errors.DeadlineUnmeetable):
            async with worker.reserve_slot(deadline=time.monotonic() + 0.1):
                pass
