"""How long a new request waits for the device: what those before it are expected to take, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from atelier_runtime.cost_model import Cost
from atelier_runtime.device_job import Job, Together


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


def expected_wait(
    running: Sequence[Job[Any]],
    batch: int,
    elapsed_s: float,
    waiting: Sequence[Job[Any]],
    slots: int,
    undecided: int,
    mean_s: float,
    together: Together[Any] | None = None,
) -> Wait:
    """Return the wait of a new request.

    `running`: since `elapsed_s`, in a call that was for `batch` jobs; `waiting`: in order. `slots`: further
    requests, each of which takes `mean_s`; so do those `undecided`, but they may take no time at all.
    `together`: of the new request, which joins others if there are such.
    """
    seconds, low_s = (slots + undecided) * mean_s, slots * mean_s
    if running:
        cost = cost_of_call(running[0].expected, batch, mean_s)
        seconds += max(0.0, cost.seconds - elapsed_s)
        low_s += max(0.0, _certain(cost) - elapsed_s)
    for group in _calls(waiting):
        work = group[0].work
        if together is not None and work == together and len(group) < together.limit:
            return Wait(seconds, low_s, len(group) + 1)
        cost = cost_of_call(group[0].expected, len(group), mean_s)
        seconds += cost.seconds
        low_s += _certain(cost)
    return Wait(seconds, low_s)


def _certain(cost: Cost) -> float:
    """Return the seconds that count for sure: none of a guess, such as one from the first runs."""
    return cost.low_s if cost.observations else 0.0


def _calls(waiting: Sequence[Job[Any]]) -> list[list[Job[Any]]]:
    """Return the jobs of each call to come, if no other job came."""
    calls: list[list[Job[Any]]] = []
    for job in waiting:
        limit = getattr(job.work, "limit", 1)
        joined = next((call for call in calls if call[0].work == job.work and len(call) < limit), None)
        if joined is None or limit == 1:
            calls.append([job])
        else:
            joined.append(job)
    return calls
