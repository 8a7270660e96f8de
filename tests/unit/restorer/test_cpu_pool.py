"""CPU-bound work runs off the event loop, a limited number of functions at a time."""

import asyncio
import contextlib
import gc
import threading

import pytest

from atelier_restorer.cpu_pool import CpuPool, check
from atelier_runtime import metrics


class Work:
    """A function that runs until `release`, and counts how many run at the same time."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0
        self.most = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
        assert self.release.wait(30)
        with self._lock:
            self.running -= 1
        return "done"


async def until_running(work: Work, count: int) -> None:
    async with asyncio.timeout(30):
        while work.running < count:
            await asyncio.sleep(0.005)


async def test_functions_run_in_threads_at_most_size_at_a_time() -> None:
    pool, work = CpuPool(2), Work()
    calls = [asyncio.create_task(pool.run(work)) for _ in range(5)]
    await until_running(work, 2)
    await asyncio.sleep(0.05)
    assert work.running == 2
    work.release.set()
    assert await asyncio.gather(*calls) == ["done"] * 5
    assert work.most == 2 and threading.get_ident() not in work.threads


async def test_a_waiting_caller_that_is_cancelled_does_not_start_its_function() -> None:
    pool, first, second = CpuPool(1), Work(), Work()
    call = asyncio.create_task(pool.run(first))
    await until_running(first, 1)
    waiting = asyncio.create_task(pool.run(second))
    await asyncio.sleep(0)
    waiting.cancel()
    first.release.set()
    assert await call == "done"
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert second.most == 0


async def test_a_cancelled_caller_keeps_its_thread_until_the_function_ends() -> None:
    pool, work = CpuPool(1), Work()
    calls = []
    for _ in range(4):
        calls.append(asyncio.create_task(pool.run(work)))
        await until_running(work, 1)
        calls[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[-1]
    honest = asyncio.create_task(pool.run(lambda: 7))
    await asyncio.sleep(0.05)
    assert work.running == 1 and not honest.done()
    work.release.set()
    assert await honest == 7
    assert work.most == 1


async def test_an_error_after_the_caller_was_cancelled_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, started, release = CpuPool(1), threading.Event(), threading.Event()

    def fail() -> None:
        started.set()
        release.wait(30)
        raise ValueError("a corrupt image")

    call = asyncio.create_task(pool.run(fail))
    await asyncio.to_thread(started.wait, 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await pool.run(lambda: 7) == 7
    gc.collect()
    assert not caplog.records


async def test_an_error_is_raised_and_frees_the_thread() -> None:
    pool = CpuPool(1)

    def fail() -> None:
        raise ValueError("a corrupt image")

    for _ in range(2):
        with pytest.raises(ValueError, match="corrupt"):
            await pool.run(fail)
    assert await pool.run(lambda: 7) == 7


async def test_items_are_worked_on_in_order_until_the_caller_is_cancelled() -> None:
    pool, begun, release = CpuPool(1), list[int](), threading.Event()

    def double(number: int) -> int:
        begun.append(number)
        assert number < 5 or release.wait(30)
        return 2 * number

    assert await pool.run_each(double, range(4), contextlib.nullcontext()) == [0, 2, 4, 6]
    call = asyncio.create_task(pool.run_each(double, range(4, 1000), contextlib.nullcontext()))
    async with asyncio.timeout(30):
        while 5 not in begun:
            await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await pool.run(lambda: list(begun)) == [0, 1, 2, 3, 4, 5]


async def test_a_running_function_can_ask_whether_its_caller_is_gone() -> None:
    pool, started, release, checked = CpuPool(1), threading.Event(), threading.Event(), list[bool]()

    def work() -> None:
        check()
        started.set()
        release.wait(30)
        checked.append(True)
        check()
        checked.append(False)

    call = asyncio.create_task(pool.run(work))
    await asyncio.to_thread(started.wait, 30)
    assert metrics.CPU_POOL_BUSY._value.get() == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await pool.run(lambda: 7) == 7
    assert checked == [True]
    assert metrics.CPU_POOL_BUSY._value.get() == 0
    check()  # outside a pool there is nobody to be gone
