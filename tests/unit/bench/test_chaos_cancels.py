"""What `bench.chaos` demands of drawings that were given up, and of jobs on a full disk."""

from __future__ import annotations

import asyncio

import httpx

from bench.chaos import page
from bench.chaos.cancels import LEAVE_AFTER_S, settled
from bench.chaos.disk_full import submit_another
from bench.chaos.figures import Result


def test_a_drawing_that_goes_on_breaks_the_promise() -> None:
    whole_s = 24.0
    went_on = settled(whole_s - max(LEAVE_AFTER_S), whole_s)
    assert went_on.goal == "≤ 6 s (a quarter of that drawing)"
    assert page.is_broken(Result([went_on]))
    assert not page.is_broken(Result([settled(1.0, whole_s)]))


def test_a_job_that_was_accepted_on_a_full_disk_has_to_complete_too() -> None:
    answers = iter(
        [httpx.Response(202, json={"id": "b"}), httpx.Response(503, json={"error": {"code": "x"}})]
    )
    jobs = ["a"]

    async def submit_two() -> list[bool]:
        transport = httpx.MockTransport(lambda request: next(answers))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return [(await submit_another(client, jobs)).is_whole for _ in range(2)]

    assert asyncio.run(submit_two()) == [True, False]
    assert jobs == ["a", "b"]
