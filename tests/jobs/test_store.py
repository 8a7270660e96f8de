"""The rows of jobs in SQLite and in PostgreSQL: accepted once, claimed by one, fair, ended, expired."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, update

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.store import (
    IdempotencyConflict,
    JobStore,
    LeaseLost,
    Limits,
    Release,
    TooManyJobs,
)
from atelier_gateway.jobs.tables import deliveries, jobs, metadata
from atelier_gateway.jobs.turns import AtOnce
from atelier_gateway.jobs.values import (
    IDEMPOTENCY_MS,
    MAX_ATTEMPTS,
    Claim,
    JobProgress,
    JobStatus,
    Output,
    now_ms,
)
from atelier_runtime.settings import StartupError
from tests.jobs.rows import MANY, Rows, new_job, rows_in

FILE = Output("image", "x/image.png", "image/png", 10, 2, 3)


@pytest_asyncio.fixture
async def rows(database_url: str) -> AsyncIterator[Rows]:
    async with rows_in(database_url) as opened:
        yield opened


async def claimed(store: JobStore, runner: str = "a") -> Claim:
    claim = await store.claim(runner)
    assert claim is not None
    return claim


async def run_out(rows: Rows, claim: Claim) -> None:
    """Let a lease end."""
    async with rows.database.writing() as connection:
        past = {"lease_until": now_ms() - 1}
        await connection.execute(update(jobs).where(jobs.c.id == claim.job.id).values(past))


async def test_a_job_from_acceptance_to_expiry(rows: Rows) -> None:
    job, is_new = await rows.store.submit(new_job(ttl_ms=0))
    assert is_new and job.status is JobStatus.QUEUED and await rows.store.waiting_before(job) == 0
    claim = await claimed(rows.store)
    assert claim.job.id == job.id and claim.job.attempts == 1 and claim.fence == 1
    assert await rows.store.claim("b") is None
    assert await rows.store.report(claim, JobProgress("base", 3, 9, 0.25, 8000, (b"jpeg",))) is False
    [change] = await rows.store.changes([(job.id, 1)])
    assert (change.job.stage, change.job.step, change.job.steps) == ("base", 3, 9)
    assert change.job.progress == 0.25 and change.job.expected_ms == 8000
    assert change.previews == ("anBlZw==",) and change.preview_number == 1
    assert await rows.store.changes([(job.id, change.job.version)]) == []
    done = await rows.store.complete(claim, {"success": True}, [FILE])
    assert done.status is JobStatus.COMPLETED and done.result == {"success": True} and done.progress == 1
    assert done.output("image") == FILE and done.output("mask") is None
    assert done.expires_at == done.completed_at
    assert [each.id for each in await rows.upkeep.due()] == [job.id]
    await rows.upkeep.expire([job.id])
    gone = await rows.store.get(job.id)
    assert gone is not None and gone.expired and gone.result is None and gone.outputs == ()
    assert await rows.upkeep.due() == [] and await rows.store.list_of(("",), before=None, limit=9) == []
    assert await rows.upkeep.delete_old() == 0, "its idempotency key is still kept"
    async with rows.database.writing() as connection:
        await connection.execute(update(jobs).values(created_at=now_ms() - IDEMPOTENCY_MS - 1))
    assert await rows.upkeep.delete_old() == 1 and await rows.store.get(job.id) is None


async def test_one_claim_may_write_and_no_other(rows: Rows) -> None:
    await rows.store.submit(new_job())
    slow = await claimed(rows.store, "slow")
    await run_out(rows, slow)
    quick = await claimed(rows.store, "quick")
    assert quick.job.id == slow.job.id and quick.fence == 2 and quick.job.attempts == 2
    assert quick.was_lost and not slow.was_lost
    for write in (
        rows.store.report(slow),
        rows.store.keep(slow, [FILE]),
        rows.store.complete(slow, {}, []),
        rows.store.fail(slow, {}),
        rows.store.cancelled(slow),
        rows.store.release(slow),
    ):
        with pytest.raises(LeaseLost):
            await write
    await rows.store.complete(quick, {}, [])
    with pytest.raises(LeaseLost):
        await rows.store.fail(quick, {})


async def test_a_report_renews_the_lease(rows: Rows) -> None:
    await rows.store.submit(new_job())
    claim = await claimed(rows.store)
    await run_out(rows, claim)
    await rows.store.report(claim)
    assert await rows.store.claim("b") is None
    async with rows.database.reading() as connection:
        until = (await connection.execute(select(jobs.c.lease_until))).scalar_one()
    assert 0 < until - now_ms() <= MANY.lease_ms


async def test_a_lost_job_is_begun_again_until_its_attempts_are_used_up(rows: Rows) -> None:
    job, _ = await rows.store.submit(new_job())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = await claimed(rows.store)
        assert claim.job.attempts == attempt
        await run_out(rows, claim)
    assert await rows.store.claim("a") is None
    [failed] = await rows.upkeep.fail_lost()
    assert failed.id == job.id and failed.status is JobStatus.FAILED
    assert failed.error is not None and failed.error["code"] == "internal"
    assert await rows.upkeep.fail_lost() == []


async def test_what_is_given_back_counts_only_if_it_failed(rows: Rows) -> None:
    await rows.store.submit(new_job())
    for why, attempts, waits in (
        (Release.UNDONE, 0, 0),
        (Release.WAITS, 0, 1),
        (Release.FAILED, 1, 1),
        (Release.WAITS, 1, 2),
    ):
        job = await rows.store.release(await claimed(rows.store), why=why)
        assert (job.status, job.attempts, job.waits) == (JobStatus.QUEUED, attempts, waits)
    await rows.store.release(await claimed(rows.store), after_ms=60_000)
    assert await rows.store.claim("a") is None, "not yet"
    assert await rows.upkeep.oldest_waiting_ms() == 0


async def test_cancel(rows: Rows) -> None:
    waiting, _ = await rows.store.submit(new_job())
    canceled = await rows.store.cancel(waiting.id)
    assert canceled is not None and canceled.status is JobStatus.CANCELLED
    assert await rows.store.claim("a") is None
    running, _ = await rows.store.submit(new_job())
    other, _ = await rows.store.submit(new_job())
    claim = await claimed(rows.store)
    asked = await rows.store.cancel(running.id)
    assert asked is not None and asked.status is JobStatus.IN_PROGRESS and asked.cancel_requested
    assert await rows.store.report(claim) is True
    assert (await rows.store.cancelled(claim)).status is JobStatus.CANCELLED
    untouched = await rows.store.get(other.id)
    assert untouched is not None and untouched.version == 1
    assert await rows.store.cancel("job_unknown") is None
    again = await rows.store.cancel(running.id)
    assert again is not None and again.status is JobStatus.CANCELLED


async def test_a_job_that_has_ended_may_expire_before_its_time(rows: Rows) -> None:
    job, _ = await rows.store.submit(new_job())
    claim = await claimed(rows.store)
    await rows.store.complete(claim, {"success": True}, [FILE])
    kept, _ = await rows.store.submit(new_job())
    gone = await rows.store.expire(job.id)
    assert gone is not None and gone.status is JobStatus.COMPLETED and gone.is_gone and not gone.expired
    assert [each.id for each in await rows.upkeep.due()] == [job.id], "whatever ends now, it is deleted"
    assert [each.id for each in await rows.store.list_of(("",), before=None, limit=9)] == [kept.id]
    assert await rows.store.expire(job.id) == gone
    await rows.upkeep.expire([job.id])
    again = await rows.store.expire(job.id)
    assert again is not None and again.expired and again.result is None
    assert await rows.store.expire(new_job().id) is None


async def test_a_job_that_waits_is_canceled_and_expires(rows: Rows) -> None:
    hook = {"url": "https://example.com/hook", "events": ["cancelled"]}
    job, _ = await rows.store.submit(new_job(webhook=hook))
    gone = await rows.store.expire(job.id)
    assert gone is not None and gone.status is JobStatus.CANCELLED and gone.expires_at == gone.completed_at
    assert [each.id for each in await rows.upkeep.due()] == [job.id]
    assert await rows.store.claim("a") is None
    assert [each.job_id for each in await rows.outbox.take(9)] == [job.id]


@pytest.mark.parametrize("end", ["complete", "cancelled", "lost", "given back, begun", "given back"])
async def test_a_job_that_runs_expires_when_its_work_has_stopped(rows: Rows, end: str) -> None:
    job, _ = await rows.store.submit(new_job())
    claim = await claimed(rows.store)
    await rows.store.keep(claim, [FILE])
    gone = await rows.store.expire(job.id)
    assert gone is not None and gone.status is JobStatus.IN_PROGRESS and gone.cancel_requested
    assert gone.is_gone and await rows.upkeep.due() == [], "its files are still being written"
    assert await rows.store.list_of(("",), before=None, limit=9) == []
    assert await rows.store.report(claim) is True
    if end == "complete":
        await rows.store.complete(claim, {}, [FILE])
    elif end == "cancelled":
        await rows.store.cancelled(claim)
    elif end == "lost":
        async with rows.database.writing() as connection:
            await connection.execute(update(jobs).values(attempts=MAX_ATTEMPTS))
        await run_out(rows, claim)
        await rows.upkeep.fail_lost()
    else:
        await rows.store.release(claim, after_ms=60_000)
        assert await rows.upkeep.due() == []
        if end == "given back, begun":
            claim = await claimed(rows.store)
            assert claim.job.cancel_requested
            await rows.store.cancelled(claim)
        else:
            gone = await rows.store.expire(job.id)
            assert gone is not None and gone.status is JobStatus.CANCELLED
    assert [each.id for each in await rows.upkeep.due()] == [job.id]


async def test_a_canceled_job_that_was_put_off_does_not_wait(rows: Rows) -> None:
    job, _ = await rows.store.submit(new_job())
    claim = await claimed(rows.store)
    await rows.store.cancel(job.id)
    await rows.store.release(claim, after_ms=60_000, why=Release.WAITS)
    assert (await claimed(rows.store)).job.cancel_requested


async def test_the_key_served_longest_ago_comes_first(rows: Rows) -> None:
    for owner, count in (("a", 6), ("b", 2), ("c", 1)):
        for _ in range(count):
            await rows.store.submit(new_job(owner=owner))
    order = []
    for _ in range(9):
        claim = await claimed(rows.store)
        order.append(claim.job.owner)
        await asyncio.sleep(0.002)  # served at another millisecond
    assert sorted(order[:3]) == ["a", "b", "c"] and sorted(order[3:5]) == ["a", "b"]
    assert order[5:] == ["a"] * 4


async def test_a_key_has_no_more_jobs_in_progress_than_it_may(database_url: str) -> None:
    async with rows_in(database_url, at_once_of=lambda: [AtOnce(("a", "aa"), 2)]) as rows:
        for owner in ("a", "a", "aa", "b"):
            await rows.store.submit(new_job(owner=owner))
        claims = [await claimed(rows.store) for _ in range(3)]
        assert sorted(claim.job.owner[:1] for claim in claims) == ["a", "a", "b"]
        assert await rows.store.claim("c") is None, "the third waits"
        await rows.store.complete(next(claim for claim in claims if claim.job.owner != "b"), {}, [])
        assert (await claimed(rows.store)).job.owner != "b"


async def test_gateways_that_claim_at_once_keep_to_it(postgres_url: str) -> None:
    async with (
        rows_in(postgres_url, at_once_of=lambda: [AtOnce(("a",), 1)]) as rows,
        rows_in(postgres_url, at_once_of=lambda: [AtOnce(("a",), 1)]) as others,
    ):
        for _ in range(8):
            await rows.store.submit(new_job(owner="a"))
        stores = [rows.store, others.store] * 4
        claims = await asyncio.gather(*(store.claim("c") for store in stores))
        assert len([claim for claim in claims if claim is not None]) == 1


async def test_then_priority_then_age(rows: Rows) -> None:
    first, _ = await rows.store.submit(new_job(owner="a"))
    urgent, _ = await rows.store.submit(new_job(owner="a", priority=5))
    last, _ = await rows.store.submit(new_job(owner="a"))
    assert await rows.store.waiting_before(last) == 2 and await rows.store.waiting_before(urgent) == 0
    assert [(await claimed(rows.store)).job.id for _ in range(3)] == [urgent.id, first.id, last.id]


async def test_limits_of_all_and_of_each_key(database_url: str) -> None:
    async with rows_in(database_url, Limits(3, 2)) as rows:
        await rows.store.submit(new_job(owner="a"))
        await rows.store.submit(new_job(owner="a"))
        with pytest.raises(TooManyJobs) as refused:
            await rows.store.submit(new_job(owner="a"))
        assert refused.value.of_owner and refused.value.limit == 2
        await rows.store.submit(new_job(owner="b"))
        with pytest.raises(TooManyJobs) as refused:
            await rows.store.submit(new_job(owner="c"))
        assert not refused.value.of_owner and refused.value.limit == 3
        await claimed(rows.store)
        await rows.store.submit(new_job(owner="c"))


async def test_the_same_key_is_one_job_for_each_owner(rows: Rows) -> None:
    first, is_new = await rows.store.submit(new_job(owner="a", idempotency_key="k", fingerprint="1"))
    again, is_new_again = await rows.store.submit(new_job(owner="a", idempotency_key="k", fingerprint="1"))
    assert is_new and not is_new_again and again.id == first.id
    with pytest.raises(IdempotencyConflict):
        await rows.store.submit(new_job(owner="a", idempotency_key="k", fingerprint="2"))
    other, is_new = await rows.store.submit(new_job(owner="b", idempotency_key="k", fingerprint="2"))
    assert is_new and other.id != first.id
    together = [rows.store.submit(new_job(idempotency_key="now", fingerprint="1")) for _ in range(10)]
    accepted = await asyncio.gather(*together)
    assert len({job.id for job, _ in accepted}) == 1 and sum(is_new for _, is_new in accepted) == 1


async def test_a_key_is_free_again_after_a_day(rows: Rows) -> None:
    first, _ = await rows.store.submit(new_job(idempotency_key="k", fingerprint="1"))
    async with rows.database.writing() as connection:
        await connection.execute(update(jobs).values(created_at=now_ms() - IDEMPOTENCY_MS - 1))
    second, is_new = await rows.store.submit(new_job(idempotency_key="k", fingerprint="2"))
    assert is_new and second.id != first.id


async def test_what_jobs_of_a_type_take(rows: Rows) -> None:
    assert await rows.store.typical_run_ms(new_job().type) is None
    for milliseconds in (100, 300, 9000):
        await rows.store.submit(new_job())
        claim = await claimed(rows.store)
        await rows.store.complete(claim, {}, [])
        async with rows.database.writing() as connection:
            took = {"completed_at": jobs.c.started_at + milliseconds}
            await connection.execute(update(jobs).where(jobs.c.id == claim.job.id).values(took))
    assert await rows.store.typical_run_ms(new_job().type) == 300


async def test_events_are_written_with_what_they_tell_of(rows: Rows) -> None:
    webhook = {"url": "https://example.com", "events": ["started", "completed"]}
    job, _ = await rows.store.submit(new_job(webhook=webhook))
    claim = await claimed(rows.store)
    await rows.store.release(claim)
    claim = await claimed(rows.store)
    await rows.store.complete(claim, {}, [])
    [first, second] = await rows.outbox.take(10)
    assert [each.job_id for each in (first, second)] == [job.id, job.id] and first.attempts == 1
    assert '"type":"job.started"' in first.body and '"type":"job.completed"' in second.body
    assert await rows.outbox.take(10) == [], "put off, in case this process ends"
    await rows.outbox.put_off(first, 0)
    [again] = await rows.outbox.take(10)
    assert again.id == first.id and again.attempts == 2 and again.body == first.body
    await rows.outbox.remove_all("", "https://example.com")
    async with rows.database.reading() as connection:
        assert (await connection.execute(select(deliveries))).all() == []
    unwanted, _ = await rows.store.submit(new_job(webhook={**webhook, "events": ["failed"]}))
    await rows.store.cancel(unwanted.id)
    assert await rows.outbox.take(10) == []


async def test_two_gateways_never_run_a_job_twice(postgres_url: str) -> None:
    async with rows_in(postgres_url) as one, rows_in(postgres_url) as two:
        for _ in range(500):
            await one.store.submit(new_job())
        ran: Counter[str] = Counter()

        async def carry_out(store: JobStore, name: str) -> None:
            while (claim := await store.claim(name)) is not None:
                ran[claim.job.id] += 1
                await store.complete(claim, {}, [])

        stores = [one.store, two.store] * 4
        await asyncio.gather(*(carry_out(store, f"runner {n}") for n, store in enumerate(stores)))
        assert len(ran) == 500 and set(ran.values()) == {1}
        counts = await two.upkeep.counts()
        assert counts == {(new_job().type, JobStatus.COMPLETED): 500}


async def test_the_migrations_make_the_tables(rows: Rows) -> None:
    """Column for column, index for index, as the statements expect them."""

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": "job_schema"})
        return list(compare_metadata(context, metadata))

    async with rows.database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_file_of_sqlite_belongs_to_one_gateway(sqlite_url: str) -> None:
    async with rows_in(sqlite_url):
        second = Database(sqlite_url)
        with pytest.raises(StartupError, match="another gateway uses"):
            second.open()
    async with rows_in(sqlite_url):  # released
        pass


async def test_a_database_that_is_not_there() -> None:
    with pytest.raises(StartupError, match="ATELIER_GATEWAY_JOBS_DATABASE"):
        async with rows_in("postgresql://atelier:secret@127.0.0.1:1/jobs"):
            pass
