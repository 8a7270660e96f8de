"""Jobs that run in one call on the device thread."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from atelier_runtime import errors
from atelier_runtime.cost_model import Cost
from atelier_runtime.device_job import Job, Together
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.log import request_id
from tests.unit.runtime.blocker import Blocker


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(capacity=8)
    yield worker
    await asyncio.to_thread(worker.close)


class Calls:
    """Runs jobs together: answers each with its item, and records which came together."""

    def __init__(self) -> None:
        self.items: list[list[Any]] = []
        self.request_ids: list[str | None] = []

    def __call__(self, jobs: Sequence[Job[Any]]) -> None:
        self.items.append([job.item for job in jobs])
        self.request_ids.append(request_id.get())
        for job in jobs:
            job.succeed(job.item)

    def share(self, item: Any, *, key: object = "key", limit: int = 3) -> Together[Any]:
        return Together(key=key, limit=limit, function=self, item=item)


@pytest_asyncio.fixture
async def blocker(worker: DeviceWorker) -> AsyncIterator[Blocker]:
    """What keeps the device busy until a test releases it."""
    blocker = Blocker()
    worker.submit(blocker)
    await blocker.running()
    yield blocker
    blocker.release.set()


async def test_those_that_wait_run_together_up_to_the_limit(worker: DeviceWorker, blocker: Blocker) -> None:
    calls = Calls()
    request_id.set("mine")
    jobs = [worker.submit(calls.share(item)) for item in range(4)]
    blocker.release.set()
    assert [await job.result() for job in jobs] == [0, 1, 2, 3]
    assert calls.items == [[0, 1, 2], [3]]
    assert calls.request_ids == [None, "mine"], "what several requests share is logged under no one's ID"


async def test_only_equal_keys_run_together_and_the_order_stays(
    worker: DeviceWorker, blocker: Blocker
) -> None:
    calls = Calls()
    jobs = [worker.submit(calls.share(item, key=item[0])) for item in ("a1", "b1", "a2", "b2", "c1")]
    plain = worker.submit(lambda job: calls.items.append(["plain"]))
    blocker.release.set()
    await asyncio.gather(plain.result(), *(job.result() for job in jobs))
    assert calls.items == [["a1", "a2"], ["b1", "b2"], ["c1"], ["plain"]]


async def test_a_batch_that_runs_takes_no_place_in_the_queue(worker: DeviceWorker, blocker: Blocker) -> None:
    running, release = threading.Event(), threading.Event()

    def work(jobs: Sequence[Job[str]]) -> None:
        running.set()
        release.wait(10)
        for job in jobs:
            job.succeed("")

    jobs = [worker.submit(Together("key", 4, work, None)) for _ in range(4)]
    blocker.release.set()
    assert await asyncio.to_thread(running.wait, 10)
    try:
        waiting = [worker.submit(lambda job: "") for _ in range(worker.capacity)]
        with pytest.raises(errors.QueueFull, match="8 waiting, capacity 8"):
            worker.submit(lambda job: "")
    finally:
        release.set()
    await asyncio.gather(*(job.result() for job in [*jobs, *waiting]))


async def test_nothing_waits_for_a_batch_to_fill(worker: DeviceWorker) -> None:
    calls = Calls()
    assert await worker.submit(calls.share(1)).result() == 1
    assert calls.items == [[1]]


async def test_each_is_delivered_when_it_ends(worker: DeviceWorker, blocker: Blocker) -> None:
    first_delivered = threading.Event()

    def work(jobs: Sequence[Job[str]]) -> None:
        jobs[0].succeed("first")
        assert first_delivered.wait(10)
        jobs[1].fail(errors.BadImage("not this one"))
        jobs[2].succeed("last")

    jobs = [worker.submit(Together("key", 3, work, None)) for _ in range(3)]
    blocker.release.set()
    assert await jobs[0].result() == "first"
    assert worker.running == 2
    first_delivered.set()
    with pytest.raises(errors.BadImage):
        await jobs[1].result()
    assert await jobs[2].result() == "last"
    assert (worker.running, worker.depth) == (0, 0)


async def test_a_canceled_or_late_one_is_left_out(worker: DeviceWorker, blocker: Blocker) -> None:
    calls = Calls()
    late = worker.submit(calls.share("late"), deadline=asyncio.get_running_loop().time() + 0.05)
    canceled = worker.submit(calls.share("canceled"))
    kept = worker.submit(calls.share("kept"))
    canceled.cancel()
    with pytest.raises(errors.Cancelled):
        await canceled.result()
    await asyncio.sleep(0.06)
    blocker.release.set()
    with pytest.raises(errors.DeadlineExceeded):
        await late.result()
    assert await kept.result() == "kept"
    assert calls.items == [["kept"]]


async def test_a_call_that_raises_fails_all_that_it_has_not_ended(
    worker: DeviceWorker, blocker: Blocker
) -> None:
    def work(jobs: Sequence[Job[str]]) -> None:
        jobs[0].succeed("first")
        raise RuntimeError("a bug")

    jobs = [worker.submit(Together("key", 3, work, None)) for _ in range(3)]
    blocker.release.set()
    assert await jobs[0].result() == "first"
    for job in jobs[1:]:
        with pytest.raises(RuntimeError, match="a bug"):
            await job.result()
    assert await worker.submit(lambda job: "next").result() == "next"


async def test_a_call_that_forgets_one_fails_it(worker: DeviceWorker) -> None:
    job: Job[str] = worker.submit(Together("key", 3, lambda jobs: None, None))
    with pytest.raises(errors.InternalError):
        await job.result()


async def test_draining_and_closing_end_every_one(worker: DeviceWorker, blocker: Blocker) -> None:
    jobs = [worker.submit(Calls().share(item)) for item in range(2)]
    await asyncio.to_thread(worker.close)
    for job in jobs:
        with pytest.raises(errors.Cancelled):
            await job.result()


async def test_a_batch_counts_as_its_share_for_each_request(worker: DeviceWorker) -> None:
    taken = threading.Event()

    def work(jobs: Sequence[Job[str]]) -> None:
        if len(jobs) == 4:
            taken.wait(0.4)
        for job in jobs:
            job.succeed("")

    blocker = Blocker()
    worker.submit(blocker)
    await blocker.running()
    jobs = [worker.submit(Together("key", 4, work, None)) for _ in range(4)]
    start = time.monotonic()
    blocker.release.set()
    worker.forget_job_times()
    for job in jobs:
        await job.result()
    elapsed = time.monotonic() - start
    worker.submit(Blocker())
    assert 0 < worker.expected_wait().seconds <= elapsed / 2, "a fourth of the batch's time, not all of it"


async def test_those_that_will_run_together_count_as_one_call(worker: DeviceWorker, blocker: Blocker) -> None:
    costs = [Cost(10.0, 8.0, 12.0, 1), Cost(13.0, 10.0, 16.0, 1)]  # of one, and of two in a call
    share = Calls().share(0, limit=2)
    empty = worker.expected_wait().seconds
    assert empty == 0, "nothing is known of what is running"
    first = worker.submit(share, expected=costs)
    assert worker.expected_wait() == (10, 8, 1), "another kind of request comes after it"
    assert worker.expected_wait(share) == (0, 0, 2), "one of this kind joins it"
    second = worker.submit(share, expected=costs)
    assert worker.expected_wait(share) == (13, 10, 1), "their call is full"
    third = worker.submit(share, expected=costs)
    assert worker.expected_wait() == (23, 18, 1)
    assert worker.expected_wait(share) == (13, 10, 2)
    blocker.release.set()
    await asyncio.gather(first.result(), second.result(), third.result())
    assert worker.expected_wait() == (0, 0, 1)


async def test_a_finished_batch_leaves_nothing_to_the_garbage_collector(worker: DeviceWorker) -> None:
    class Image:
        pass

    images: list[weakref.ref[Image]] = []

    def work(jobs: Sequence[Job[Image]]) -> None:
        for job in jobs:
            image = Image()
            images.append(weakref.ref(image))
            job.succeed(image)

    gc.disable()
    try:
        jobs = [worker.submit(Together("key", 2, work, None)) for _ in range(2)]
        for job in jobs:
            await job.result()
        del jobs, job
        for _ in range(100):
            if all(image() is None for image in images):
                break
            await asyncio.sleep(0.01)
        assert [image() for image in images] == [None, None]
    finally:
        gc.enable()
