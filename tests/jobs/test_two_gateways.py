"""Two gateways with one database: each knows the other's jobs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.job_client import events_in
from tests.contract.services import ScriptedServices, eventually
from tests.jobs.farm import Farm, Gateway
from tests.postgres import Postgres


@pytest.fixture(scope="module")
def services() -> Iterator[ScriptedServices]:
    with ScriptedServices() as running:
        yield running


@pytest.fixture(scope="module")
def pair(
    services: ScriptedServices, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway]]:
    folder = tmp_path_factory.mktemp("pair")
    with Farm(services, folder, postgres.create_database(), REPLICAS=2) as farm:
        yield farm.gateway(), farm.gateway(JOBS_AT_ONCE=0)


def test_a_listener_here_sees_a_job_that_runs_there(
    services: ScriptedServices, pair: tuple[Gateway, Gateway]
) -> None:
    services.reset()
    services.generator.hold = True
    one, two = pair
    job = two.submit(preview_interval_steps=1)  # `two` carries out none
    with two.client.stream("GET", f"/v1/jobs/{job['id']}/events") as response:
        seen, progress = [], 0.0
        for name, _, data in events_in(response):
            seen.append(name)
            if name in ("snapshot", "progress"):  # it may have begun before we listened
                progress = max(progress, data["progress"])
            if name == "preview":
                services.generator.hold = False
    assert seen[0] == "snapshot" and seen[-1] == "status" and {"preview", "output"} <= set(seen)
    assert progress > 0
    url = two.finished(job)["outputs"][-1]["url"]
    assert two.client.get(url).content == one.client.get(url).content


def test_a_cancel_here_stops_a_job_there(services: ScriptedServices, pair: tuple[Gateway, Gateway]) -> None:
    services.reset()
    services.generator.hold = True
    before = services.generator.cancelled
    job = pair[0].submit()
    eventually(lambda: services.generator.running == 1)
    assert pair[1].client.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    eventually(lambda: services.generator.cancelled == before + 1)


def test_a_job_that_runs_there_expires_here(
    services: ScriptedServices, pair: tuple[Gateway, Gateway]
) -> None:
    services.reset()
    services.generator.hold = True
    before = services.generator.cancelled
    job = pair[0].submit()
    eventually(lambda: services.generator.running == 1)
    assert pair[1].client.post(f"/v1/jobs/{job['id']}/expire").status_code == 204
    eventually(lambda: services.generator.cancelled == before + 1)
    for gateway in pair:
        assert gateway.client.get(f"/v1/jobs/{job['id']}").status_code == 410
        assert job["id"] not in gateway.client.get("/v1/jobs").text


def test_a_hundred_cancels_at_random_moments(
    services: ScriptedServices, tmp_path: Path, postgres_url: str
) -> None:
    """State and stage agree, and nobody else's job is touched."""
    services.reset()
    services.generator.seconds, services.restorer.seconds = 0.3, 0.1
    rng = random.Random(5)
    with Farm(services, tmp_path, postgres_url, REPLICAS=2, JOBS_AT_ONCE=3) as farm:
        gateways = farm.gateway(), farm.gateway()
        jobs = [gateways[number % 2].submit() for number in range(150)]
        victims = rng.sample(jobs, 100)

        def cancel(job: Any) -> str:
            time.sleep(rng.uniform(0, 6))
            with httpx.Client(base_url=rng.choice(gateways).url, timeout=30, trust_env=False) as client:
                response = client.post(f"/v1/jobs/{job['id']}/cancel")
            assert response.status_code == 200, response.text
            return str(response.json()["status"])

        with ThreadPoolExecutor(16) as pool:
            answers = dict(zip((job["id"] for job in victims), pool.map(cancel, victims), strict=True))
        ended = {job["id"]: gateways[0].finished(job) for job in jobs}
        for job_id, job in ended.items():
            if job_id not in answers:
                assert job["status"] == "completed", job
            elif answers[job_id] in ("completed", "cancelled"):
                assert job["status"] == answers[job_id], "final is final"
            else:
                assert job["status"] in ("completed", "cancelled")
            assert (job["result"] is not None) == (job["status"] == "completed")
        assert {"completed", "cancelled"} == {job["status"] for job in ended.values()}
        eventually(lambda: services.generator.running == services.restorer.running == 0)
        eventually(
            lambda: sum(sum(each.metric("atelier_backend_pending").values()) for each in gateways) == 0
        )
