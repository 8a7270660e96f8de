"""How long a new request waits for the device: what those before it are expected to take, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from atelier_runtime.cost_model import Cost
from atelier_runtime.device_job import Job, Together
from atelier_runtime.fair_queue import FairQueue


class _Work(Protocol):
    @property
    def work(self) -> object: ...


W = TypeVar("W", bound=_Work)


class Wait(NamedTuple):
    """A wait of about `seconds`, in all likelihood of `low_s` or more.

    `call`: how many jobs would then run in one call, the new one included.
    """

    seconds: float
    low_s: float
    call: int = 1


def cost_of_call(expected: Sequence[Cost], jobs: int, mean_s: float) -> Cost:
    """Return the cost of a call that does some jobs, of which `expected` are those of 1, 2, ... of them.

    If these are unknown, that of as many jobs that take the mean.
    """
    if expected:
        return expected[min(jobs, len(expected)) - 1]
    return Cost(jobs * mean_s, jobs * mean_s, jobs * mean_s, observations=1)


@dataclass(frozen=True, eq=False)
class Request:
    """A request in a forecast of the queue; `expected` as in `Job`, empty if it takes the mean.

    `is_certain`: False if it may take no time at all.
    """

    work: object = None
    expected: Sequence[Cost] = ()
    is_certain: bool = True


def take_call(queue: FairQueue[W]) -> list[W]:
    """Take the next item and those that run together with it, of each caller in turn, up to the limit."""
    first = queue.take()
    if first is None:
        return []
    call = [first]
    if isinstance(together := first.work, Together):
        while len(call) < together.limit and (another := queue.take(lambda item: item.work == together)):
            call.append(another)
    return call


def expected_wait(
    running: Sequence[Job[Any]],
    batch: int,
    elapsed_s: float,
    slots: int,
    waiting: FairQueue[Request],
    new: Request,
    mean_s: float,
) -> Wait:
    """Return the wait of a new request, which is one of those that are waiting; these are used up.

    `running`: since `elapsed_s`, in a call that was for `batch` jobs. `slots`: further requests that have
    begun, each of which takes `mean_s`.
    """
    seconds = low_s = slots * mean_s
    if running:
        cost = cost_of_call(running[0].expected, batch, mean_s)
        seconds += max(0.0, cost.seconds - elapsed_s)
        low_s += max(0.0, _certain(cost) - elapsed_s)
    while new not in (call := take_call(waiting)):
        cost = cost_of_call(call[0].expected, len(call), mean_s)
        seconds += cost.seconds
        low_s += _certain(cost) if call[0].is_certain else 0.0
    return Wait(seconds, low_s, len(call))


def _certain(cost: Cost) -> float:
    """Return the seconds that count for sure: none of a guess, such as one from the first runs."""
    return cost.low_s if cost.observations else 0.0
