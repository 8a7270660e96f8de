"""Restarts of every service while clients ask steadily, and pods that die: nobody notices who need not."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.k8s.manifests import NAMES, combined
from tests.k8s.runner.clients import DRAWING, Client, Load, client, steady
from tests.k8s.runner.cluster import Cluster, applied
from tests.k8s.runner.pods import Pod
from tests.postgres import Postgres

pytestmark = pytest.mark.slow

KILLS = 10

NEEDED_BY = {
    "gateway": ("/generate", "/detect"),
    "generator": ("/generate",),
    "restorer": ("/generate", "/detect"),
}
"""Which of the clients' requests are in each service."""


def shared_jobs(cluster: Cluster, postgres: Postgres, folder: Path) -> None:
    """Give the gateways one database for their jobs, and a folder in the place of a bucket."""
    cluster["gateway"].set_environment(
        ATELIER_GATEWAY_JOBS_DATABASE=postgres.create_database(), ATELIER_GATEWAY_JOBS_FILES=f"file:{folder}"
    )


async def test_restarting_each_service_in_turn_fails_no_request(tmp_path: Path, postgres: Postgres) -> None:
    async with applied(combined("jobs-postgres"), tmp_path) as cluster:
        shared_jobs(cluster, postgres, tmp_path / "files")
        await cluster.ready()
        async with steady(cluster) as load:
            for name in NAMES:
                cluster[name].restart()
                print(f"{name} was restarted in {await cluster.rolled_out(name):.0f} s")
                await more(cluster, load, 4)
    assert not [str(outcome) for outcome in load.failed]
    print(f"{len(load.outcomes)} requests, none failed")


@pytest.mark.cluster
async def test_a_pod_that_dies_fails_only_what_was_in_it(tmp_path: Path, postgres: Postgres) -> None:
    victims = random.Random(3)
    async with applied(combined("jobs-postgres"), tmp_path) as cluster, client(cluster) as app:
        shared_jobs(cluster, postgres, tmp_path / "files")
        cluster["generator"].replicas = cluster["restorer"].replicas = 2
        await cluster.ready()
        async with steady(cluster) as load:
            await more(cluster, load, 4)
            for number in range(KILLS):
                name = NAMES[number % len(NAMES)]
                await check_death(cluster, app, load, victims.choice(cluster.pods(name)))


async def check_death(cluster: Cluster, app: Client, load: Load, victim: Pod) -> None:
    """Kill one pod while a job runs: requests that may have been in it may fail, the job and others do not.

    Those are what needs its service and began before it died, or until no Service had its address any more:
    the kubelet sees at once that a container has ended, and no probe has to fail first.
    """
    job_id = await app.submit("generate", **DRAWING | {"num_inference_steps": 20})
    await asyncio.sleep(0.5)
    died, seen, restarts = time.monotonic(), len(load.outcomes), victim.restarts
    victim.kill()
    out = died + await cluster.until(lambda: not cluster.sends_to(victim))
    await cluster.until(lambda: victim.restarts > restarts and victim.ready)
    back = time.monotonic() - died
    await more(cluster, load, 4)
    failed = [outcome for outcome in load.outcomes[seen:] if not outcome.good]
    assert not [f"{outcome.path}: {outcome}" for outcome in failed if outcome.began > out]
    needed_by = NEEDED_BY[victim.workload.name]
    assert not [f"{outcome.path}: {outcome}" for outcome in failed if outcome.path not in needed_by]
    late = [str(outcome) for outcome in failed if outcome.began > died]
    ends = time.monotonic() + 120
    while (status := await app.status(job_id)) in ("queued", "in_progress"):
        assert time.monotonic() < ends, "the job does not end"
        await asyncio.sleep(0.5)
    assert status == "completed"
    print(f"{victim.name} was out of its Service after {out - died:.1f} s and back after {back:.1f} s")
    print(f"{len(failed)} requests failed, {len(late)} of them began after its death")


async def more(cluster: Cluster, load: Load, count: int) -> None:
    """Wait until that many further requests have ended."""
    target = len(load.outcomes) + count
    await cluster.until(lambda: len(load.outcomes) >= target)
