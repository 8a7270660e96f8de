"""What jobs cost: accepting, claiming, following, and what ten thousand finished ones change.

`python -m bench.jobs` starts a gateway with scripted services (see tests/contract) on SQLite, and with
`--postgres URL` also two stores on that database, which must be empty. Times are milliseconds; ratios are of
the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from atelier_gateway.jobs.database import Database
from atelier_gateway.jobs.migrations import upgrade
from atelier_gateway.jobs.outbox import Outbox
from atelier_gateway.jobs.store import JobStore, Limits
from atelier_gateway.jobs.tables import jobs
from atelier_gateway.jobs.values import Claim, JobStatus, JobType, NewJob, new_id, now_ms
from bench.report import machine, percentile, print_json, spread
from tests.contract.stack import Stack

INPUT = {"prompt": "a red apple", "width": 256, "height": 256}


def summary(samples: list[float]) -> dict[str, float | int]:
    """Return the spread of seconds as milliseconds, with the 99th percentile."""
    milliseconds = [1000 * each for each in samples]
    return {**spread(milliseconds), "p99": round(percentile(milliseconds, 0.99), 3)}


def submit_seconds(stack: Stack, count: int) -> list[float]:
    """Return the seconds of submissions that nobody carries out."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        response = stack.client.post("/v1/jobs", json={"type": "generate", "input": INPUT})
        samples.append(time.perf_counter() - start)
        assert response.status_code == 202, response.text
    return samples


def parse_seconds(stack: Stack, count: int) -> list[float]:
    """Return the seconds that the synchronous route takes to read a request and to refuse it."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        response = stack.client.post("/generate", json={**INPUT, "model": "another"})
        samples.append(time.perf_counter() - start)
        assert response.status_code == 422, response.text
    return samples


def finished_rows(count: int) -> list[dict[str, Any]]:
    """Return rows of jobs that have ended."""
    now = now_ms()
    return [
        {
            "id": new_id(),
            "type": JobType.GENERATE,
            "status": JobStatus.COMPLETED,
            "owner": "",
            "priority": 0,
            "input": {"fields": INPUT, "files": {}},
            "ttl_ms": 3_600_000,
            "created_at": now,
            "available_at": now,
            "started_at": now,
            "completed_at": now + number,
            "expires_at": now + 86_400_000,
            "attempts": 1,
            "waits": 0,
            "fence": 1,
            "cancel_requested": False,
            "progress": 1.0,
            "preview_number": 0,
            "result": {"success": True},
            "outputs": [],
            "expired": False,
            "version": 3,
        }
        for number in range(count)
    ]


async def add_rows(url: str, count: int) -> None:
    """Add jobs that have ended."""
    database = Database(url)
    rows = finished_rows(count)
    for start in range(0, count, 500):
        async with database.writing() as connection:
            await connection.execute(insert(jobs), rows[start : start + 500])
    await database.close()


def accepting(count: int, rounds: int) -> dict[str, object]:
    """Submissions over HTTP on SQLite, without and with 10,000 finished jobs."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/jobs.db"
        settings = {"jobs_database": url, "jobs_files": f"file:{folder}/files", "jobs_at_once": 0}
        with Stack(**settings, jobs_waiting=1_000_000, jobs_waiting_per_key=1_000_000) as stack:
            submit_seconds(stack, 20)
            parse_seconds(stack, 20)
            before = [(submit_seconds(stack, count), parse_seconds(stack, count)) for _ in range(rounds)]
            asyncio.run(add_rows(url, 10_000))
            after = [(submit_seconds(stack, count), parse_seconds(stack, count)) for _ in range(rounds)]
    result: dict[str, object] = {}
    medians = {}
    for name, samples in (("empty", before), ("10,000 finished", after)):
        submits = [each for group, _ in samples for each in group]
        parses = [each for _, group in samples for each in group]
        medians[name] = spread(submits)["median"]
        result[name] = {"submit, ms": summary(submits), "synchronous parse, ms": summary(parses)}
    result["ratio of medians"] = round(medians["10,000 finished"] / medians["empty"], 3)
    return result


async def claiming(url: str, count: int) -> dict[str, object]:
    """Two stores that empty a queue as gateways do: one claim after another, four ended at a time."""
    databases = [Database(url), Database(url)]
    await upgrade(databases[0])
    stores = [JobStore(each, Limits(10**6, 10**6), Outbox(each, lambda job: {})) for each in databases]
    for _ in range(count):
        await stores[0].submit(NewJob(new_id(), JobType.DETECT, {"fields": {}, "files": {}}))
    samples: list[float] = []
    taken: list[str] = []

    async def end(store: JobStore, claim: Claim, slots: asyncio.Semaphore) -> None:
        await store.complete(claim, {}, [])
        slots.release()

    async def carry_out(store: JobStore) -> None:
        slots, ending = asyncio.Semaphore(4), []
        while True:
            await slots.acquire()
            start = time.perf_counter()
            claim = await store.claim("bench")
            if claim is None:
                break
            samples.append(time.perf_counter() - start)
            taken.append(claim.job.id)
            ending.append(asyncio.create_task(end(store, claim, slots)))
        await asyncio.gather(*ending)

    start = time.perf_counter()
    await asyncio.gather(*(carry_out(store) for store in stores))
    seconds = time.perf_counter() - start
    for database in databases:
        await database.close()
    assert len(taken) == len(set(taken)) == count
    return {"claim, ms": summary(samples), "jobs a second": round(count / seconds, 1)}


def following(rounds: int) -> dict[str, object]:
    """From a job's end to its event."""
    samples = []
    with Stack() as stack:
        for _ in range(rounds):
            stack.generator.hold = True
            job = stack.client.post("/v1/jobs", json={"type": "generate", "input": INPUT}).json()
            with stack.client.stream("GET", job["urls"]["events"]) as response:
                ended: list[float] = []

                def look(job_id: str = job["id"], ended: list[float] = ended) -> None:
                    while stack.client.get(f"/v1/jobs/{job_id}").json()["status"] != "completed":
                        time.sleep(0.002)
                    ended.append(time.perf_counter())

                watching = threading.Thread(target=look)
                watching.start()
                time.sleep(0.3)
                stack.generator.hold = False
                response.read()
                received = time.perf_counter()
                watching.join()
            samples.append(max(0.0, received - ended[0]))
    return {"from the end to its event, ms": summary(samples)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="submissions of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=500, help="jobs to claim")
    parser.add_argument("--postgres", help="URL of an empty database")
    args = parser.parse_args()
    result: dict[str, object] = {
        "machine": machine(),
        "accepting on SQLite": accepting(args.count, args.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        result["claiming on SQLite"] = asyncio.run(claiming(f"sqlite:///{folder}/jobs.db", args.jobs))
    if args.postgres:
        result["claiming on PostgreSQL"] = asyncio.run(claiming(args.postgres, args.jobs))
    result["following"] = following(10)
    print_json(result)


if __name__ == "__main__":
    main()
