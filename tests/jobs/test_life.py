"""Whatever happens to jobs, in whatever order: hypothesis plays clients, runners that die, and time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import select, update

from atelier_gateway.jobs.store import LeaseLost, Release
from atelier_gateway.jobs.tables import jobs
from atelier_gateway.jobs.values import MAX_ATTEMPTS, Claim, JobStatus, Output, now_ms
from tests.jobs.rows import Rows, new_job, rows_in

T = TypeVar("T")
_FILE = Output("drawn", "x", "image/png", 1, 1, 1)


class Life(RuleBasedStateMachine):
    """Knows what each job must be, from what was done to it."""

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory()
        self._stack = AsyncExitStack()
        self.ended: dict[str, JobStatus] = {}
        self.newest: dict[str, int] = {}
        self.dead: set[str] = set()
        self.gone: set[str] = set()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        opened = rows_in(f"sqlite:///{self._folder.name}/jobs.db")
        self.rows: Rows = self._run(self._stack.enter_async_context(opened))

    def teardown(self) -> None:
        self._run(self._stack.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._folder.cleanup()

    @rule(target=ids, owner=st.sampled_from("abc"), priority=st.integers(-2, 2))
    def submit(self, owner: str, priority: int) -> str:
        job, is_new = self._run(self.rows.store.submit(new_job(owner=owner, priority=priority)))
        assert is_new
        return job.id

    @rule(target=claims)
    def claim(self) -> Any:
        claim = self._run(self.rows.store.claim("runner"))
        if claim is None:
            return multiple()
        job_id = claim.job.id
        assert job_id not in self.ended and claim.fence == self.newest.get(job_id, 0) + 1
        assert 1 <= claim.job.attempts <= MAX_ATTEMPTS
        self.newest[job_id] = claim.fence
        self.dead.discard(job_id)
        return claim

    def _owned(self, claim: Claim) -> bool:
        job_id = claim.job.id
        return self.newest.get(job_id) == claim.fence and job_id not in self.ended

    def _write(self, claim: Claim, work: Coroutine[Any, Any, T]) -> T | None:
        try:
            done = self._run(work)
        except LeaseLost:
            assert not self._owned(claim)
            return None
        assert self._owned(claim)
        return done

    @rule(claim=claims)
    def report(self, claim: Claim) -> None:
        self._write(claim, self.rows.store.report(claim))

    @rule(claim=claims)
    def keep(self, claim: Claim) -> None:
        self._write(claim, self.rows.store.keep(claim, [_FILE]))

    @rule(claim=consumes(claims), how=st.sampled_from(["complete", "fail", "cancelled"]))
    def end(self, claim: Claim, how: str) -> None:
        store = self.rows.store
        if how == "complete":
            job = self._write(claim, store.complete(claim, {}, [_FILE]))
        elif how == "fail":
            job = self._write(claim, store.fail(claim, {"code": "internal", "message": "", "fields": []}))
        else:
            job = self._write(claim, store.cancelled(claim))
        if job is not None:
            self.ended[job.id] = job.status

    @rule(claim=consumes(claims), why=st.sampled_from(Release))
    def release(self, claim: Claim, why: Release) -> None:
        if why is Release.FAILED and claim.job.attempts >= MAX_ATTEMPTS:
            return  # a runner fails it instead
        job = self._write(claim, self.rows.store.release(claim, why=why))
        if job is not None:
            assert job.status is JobStatus.QUEUED
            self.newest[job.id] = claim.fence
            self.ended.pop(job.id, None)
            self.dead.add(job.id)  # its claim may not write any more

    @rule(claim=claims)
    def die(self, claim: Claim) -> None:
        """A runner is killed: its lease ends."""

        async def end_lease() -> None:
            owned = (jobs.c.id == claim.job.id, jobs.c.fence == claim.fence)
            async with self.rows.database.writing() as connection:
                await connection.execute(update(jobs).where(*owned).values(lease_until=now_ms() - 1))

        self._run(end_lease())

    @rule()
    def tidy(self) -> None:
        for job in self._run(self.rows.upkeep.fail_lost()):
            assert job.attempts == MAX_ATTEMPTS
            self.ended[job.id] = JobStatus.FAILED

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        job = self._run(self.rows.store.cancel(job_id))
        assert job is not None
        if job_id in self.ended:
            assert job.status is self.ended[job_id], "final is final"
        elif job.status is JobStatus.CANCELLED:
            self.ended[job_id] = JobStatus.CANCELLED
        else:
            assert job.status is JobStatus.IN_PROGRESS and job.cancel_requested

    @rule(job_id=ids)
    def expire(self, job_id: str) -> None:
        job = self._run(self.rows.store.expire(job_id))
        assert job is not None and job.is_gone
        self.gone.add(job_id)
        if job_id in self.ended:
            assert job.status is self.ended[job_id], "final is final"
        elif job.status is JobStatus.CANCELLED:
            self.ended[job_id] = JobStatus.CANCELLED
        else:
            assert job.status is JobStatus.IN_PROGRESS and job.cancel_requested

    @invariant()
    def rows_are_what_they_must_be(self) -> None:
        if not hasattr(self, "rows"):
            return

        async def all_rows() -> Any:
            async with self.rows.database.reading() as connection:
                return (await connection.execute(select(jobs))).mappings().all()

        for row in self._run(all_rows()):
            status = JobStatus(row["status"])
            if row["id"] in self.ended:
                assert status is self.ended[row["id"]]
            else:
                assert not status.is_final
            assert status.is_final == (row["completed_at"] is not None) == (row["expires_at"] is not None)
            assert (row["ttl_ms"] == 0) == (row["id"] in self.gone)
            if status.is_final and row["id"] in self.gone:
                assert row["expires_at"] <= now_ms()
            assert (row["lease_until"] is not None) == (status is JobStatus.IN_PROGRESS)
            assert 0 <= row["attempts"] <= MAX_ATTEMPTS and row["attempts"] <= row["fence"]


Life.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLife = Life.TestCase
