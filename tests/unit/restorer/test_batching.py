"""Faces of several requests in one batch: none may affect the others."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest
import pytest_asyncio
import torch

from atelier_restorer.batching import FaceBatcher, RestoredCrop, RestoredFace
from atelier_runtime import errors
from atelier_runtime.caller import caller
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.log import request_id
from atelier_runtime.outcomes import SkipReason

SIDE = 8
POISON = 13
LARGEST = 3


class Inverter:
    """A stand-in for the network: adds the fidelity in percent to each value; its memory is limited."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.limits: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.memory_for = 100

    def restore(
        self, crops: np.ndarray, decodes: Sequence[tuple[int, float]], *, max_batch: int
    ) -> list[RestoredCrop]:
        self.limits.append(max_batch)
        self.entered.set()
        assert self.open.wait(20)
        if (crops == POISON).all(axis=(1, 2, 3)).any():
            raise RuntimeError("poison")
        if len(decodes) > self.memory_for:
            raise torch.OutOfMemoryError("too many")
        self.batches.append(len(decodes))
        return [(crops[i] + np.uint8(100 * w)).astype(np.uint8) for i, w in decodes]


def crop(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(capacity=50)
    yield worker
    await asyncio.to_thread(worker.close)


@pytest.fixture
def network() -> Inverter:
    return Inverter()


@pytest.fixture
def batcher(worker: DeviceWorker, network: Inverter) -> FaceBatcher:
    return FaceBatcher(worker, network, max_batch=LARGEST)


def levels(faces: Sequence[RestoredFace]) -> list[list[int | str]]:
    return [[c if isinstance(c, str) else int(c[0, 0, 0]) for c in face.crops] for face in faces]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition was never met")


async def test_an_idle_device_does_not_wait_for_a_batch_to_fill(
    batcher: FaceBatcher, network: Inverter
) -> None:
    assert levels(await batcher.restore([crop(1)], [[0.5]])) == [[51]]
    assert network.batches == [1]


async def test_waiting_faces_are_batched_and_returned_to_their_own_request(
    batcher: FaceBatcher, network: Inverter
) -> None:
    network.open.clear()
    first = asyncio.create_task(batcher.restore([crop(0)], [[0.0]]))
    await until(network.entered.is_set)
    requests = [
        asyncio.create_task(batcher.restore([crop(10 * n), crop(10 * n + 1)], [[0.01], [0.02]]))
        for n in range(1, 6)
    ]
    await asyncio.sleep(0)
    network.open.set()
    await first
    for n, request in enumerate(requests, start=1):
        assert levels(await request) == [[10 * n + 1], [10 * n + 3]]
    assert network.batches == [1, 3, 3, 3, 1]


async def test_a_batch_has_faces_of_every_caller(worker: DeviceWorker) -> None:
    seen: list[list[int]] = []

    class Recorder(Inverter):
        def restore(
            self, crops: np.ndarray, decodes: Sequence[tuple[int, float]], *, max_batch: int
        ) -> list[RestoredCrop]:
            seen.append([int(each[0, 0, 0]) for each in crops])
            return super().restore(crops, decodes, max_batch=max_batch)

    network = Recorder()
    batcher = FaceBatcher(worker, network, max_batch=LARGEST)

    async def restore(name: str, values: Sequence[int]) -> None:
        caller.set(name)
        await batcher.restore([crop(value) for value in values], [[0.5]] * len(values))

    network.open.clear()
    tasks = [asyncio.create_task(restore("first", [0]))]
    await until(network.entered.is_set)
    tasks += [asyncio.create_task(restore("many", range(20, 25))), asyncio.create_task(restore("few", [30]))]
    await asyncio.sleep(0)
    network.open.set()
    await asyncio.gather(*tasks)
    assert seen == [[0], [20, 30, 21], [22, 23, 24]]


async def test_several_fidelities_of_one_face_are_one_entry(batcher: FaceBatcher, network: Inverter) -> None:
    faces = await batcher.restore([crop(1), crop(2)], [[0.0, 0.1, 0.2, 0.3], [0.5]])
    assert levels(faces) == [[1, 11, 21, 31], [52]]
    assert network.batches == [4, 1]


async def test_one_poisoned_face_is_reported_and_the_others_are_restored(
    batcher: FaceBatcher, caplog: pytest.LogCaptureFixture
) -> None:
    request_id.set("wedding-7")
    faces = await batcher.restore([crop(1), crop(POISON), crop(3)], [[0.0]] * 3)
    assert levels(faces) == [[1], [SkipReason.FAILED], [3]]
    records = [record for record in caplog.records if record.message == "a face could not be restored"]
    assert [vars(record)["request_id"] for record in records] == ["wedding-7"]
    assert records[0].levelno == logging.ERROR


async def test_a_batch_that_exceeds_the_memory_is_halved_and_later_ones_stay_small(
    batcher: FaceBatcher, network: Inverter
) -> None:
    network.memory_for = 1
    assert levels(await batcher.restore([crop(n) for n in range(5)], [[0.0]] * 5)) == [[n] for n in range(5)]
    assert batcher.max_batch == 1
    network.memory_for = 0
    assert levels(await batcher.restore([crop(1)], [[0.0]])) == [[SkipReason.OUT_OF_MEMORY]]


async def test_fidelities_of_one_face_that_exceed_the_memory_are_halved(
    batcher: FaceBatcher, network: Inverter
) -> None:
    network.memory_for = 2
    sweep = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert levels(await batcher.restore([crop(1), crop(2)], [sweep, [0.5]])) == [[1, 11, 21, 31, 41], [52]]
    assert network.batches == [2, 1, 2, 1]
    assert network.limits[0] == LARGEST
    assert network.limits[-1] == batcher.max_batch == 1


async def test_a_fidelity_that_does_not_fit_alone_is_out_of_memory_for_each(
    batcher: FaceBatcher, network: Inverter
) -> None:
    network.memory_for = 0
    missing = SkipReason.OUT_OF_MEMORY
    assert levels(await batcher.restore([crop(1)], [[0.0, 0.1, 0.2]])) == [[missing] * 3]


async def test_a_poisoned_face_fails_once_for_all_its_fidelities(
    batcher: FaceBatcher, network: Inverter
) -> None:
    assert levels(await batcher.restore([crop(POISON)], [[0.0, 0.1]])) == [[SkipReason.FAILED] * 2]
    assert len(network.limits) == 1


async def test_a_cancelled_request_leaves_the_queue_and_the_others_stay(
    batcher: FaceBatcher, network: Inverter
) -> None:
    network.open.clear()
    first = asyncio.create_task(batcher.restore([crop(0)], [[0.0]]))
    await until(network.entered.is_set)
    gone = asyncio.create_task(batcher.restore([crop(5)] * 4, [[0.0]] * 4))
    stays = asyncio.create_task(batcher.restore([crop(7)], [[0.0]]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    network.open.set()
    assert levels(await stays) == [[7]]
    await first
    assert sum(network.batches) == 2


async def test_a_face_past_its_deadline_is_not_restored(batcher: FaceBatcher, network: Inverter) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await batcher.restore([crop(1), crop(2)], [[0.0], [0.0]], deadline=time.monotonic() - 1)
    assert network.batches == []
    assert levels(await batcher.restore([crop(1)], [[0.0]], deadline=time.monotonic() + 60)) == [[1]]


async def test_no_request_waits_for_a_worker_that_ended(worker: DeviceWorker, batcher: FaceBatcher) -> None:
    blocker = threading.Event()
    worker.submit(lambda job: blocker.wait(20))
    await until(lambda: worker.running == 1)  # or the thread could take the faces while all are canceled
    waiting = asyncio.create_task(batcher.restore([crop(1)], [[0.0]]))
    await asyncio.sleep(0)
    worker.cancel_all()
    blocker.set()
    with pytest.raises(errors.Cancelled):
        await asyncio.wait_for(waiting, 20)


async def test_an_internal_error_fails_every_request_of_the_batch(batcher: FaceBatcher) -> None:
    with pytest.raises(errors.InternalError):
        await batcher.restore([crop(1), np.zeros((4, 4, 3), np.uint8)], [[0.0], [0.0]])
