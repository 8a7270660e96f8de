"""Gateways that are killed or asked to end, and services and databases that go away: no job is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.script import file_of, gradient
from tests.contract.scripted_generator import STEPS
from tests.contract.services import ScriptedServices, eventually
from tests.jobs.farm import FINAL, Farm, Gateway
from tests.postgres import Postgres

PHOTO = ("photo.png", file_of(gradient(64, 48)))


@pytest.fixture
def services() -> Iterator[ScriptedServices]:
    with ScriptedServices() as running:
        yield running


def names(job: Any) -> list[str]:
    return [output["name"] for output in job["outputs"]]


def test_killed_between_drawing_and_restoring(
    services: ScriptedServices, tmp_path: Path, database_url: str
) -> None:
    services.restorer.hold = True
    with Farm(services, tmp_path, database_url, JOBS_LEASE_SECONDS=3) as farm:
        first = farm.gateway()
        job = first.submit()
        eventually(lambda: names(first.look(job)) == ["drawn"] and services.restorer.running == 1)
        drawn = first.client.get(first.look(job)["outputs"][0]["url"]).content
        first.kill()
        services.restorer.hold = False
        second = farm.gateway()
        done = second.finished(job)
        assert done["status"] == "completed" and done["attempts"] == 2 and names(done) == ["drawn", "image"]
        assert services.generator.steps == STEPS, "the second attempt takes no step"
        assert second.client.get(done["outputs"][0]["url"]).content == drawn


def test_what_is_not_done_is_handed_back(
    services: ScriptedServices, tmp_path: Path, database_url: str
) -> None:
    services.generator.hold = True
    with Farm(services, tmp_path, database_url) as farm:
        first = farm.gateway()
        job = first.submit()
        eventually(lambda: services.generator.running == 1)
        with first.client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
            first.terminate()
            assert b"snapshot" in events.read(), "and whoever follows is let go"
        assert services.generator.cancelled == 1
        services.generator.hold = False
        second = farm.gateway()
        done = second.finished(job, within_s=20)  # less than a lease
        assert done["status"] == "completed" and done["attempts"] == 1


def test_an_accepted_job_survives_at_once(
    services: ScriptedServices, tmp_path: Path, database_url: str
) -> None:
    with Farm(services, tmp_path, database_url, JOBS_AT_ONCE=0) as farm:
        first = farm.gateway()
        given = {"type": "restore", "input": "{}"}
        response = first.client.post("/v1/jobs", data=given, files={"image": PHOTO})
        first.kill()
        assert response.status_code == 202
        second = farm.gateway(JOBS_AT_ONCE=1)
        assert second.finished(response.json())["status"] == "completed"
        assert services.restorer.requests[-1].image.data == PHOTO[1]


def test_a_service_that_is_away_is_waited_for(
    services: ScriptedServices, tmp_path: Path, sqlite_url: str
) -> None:
    with Farm(services, tmp_path, sqlite_url) as farm:
        gateway = farm.gateway()
        services.stop_generator()
        job = gateway.submit()
        eventually(lambda: "a job waits for a service" in gateway.log.read_text())
        assert gateway.look(job)["status"] in ("queued", "in_progress")
        services.start_generator()
        done = gateway.finished(job)
        assert done["status"] == "completed" and done["attempts"] == 1


def health(gateway: Gateway) -> tuple[int, str, bool]:
    response = gateway.client.get("/health")
    return response.status_code, response.json()["status"], response.json()["jobs_available"]


def test_a_database_that_is_away(services: ScriptedServices, tmp_path: Path, postgres: Postgres) -> None:
    with Farm(services, tmp_path, postgres.create_database()) as farm:
        gateway = farm.gateway()
        services.generator.hold = True
        job = gateway.submit()
        eventually(lambda: services.generator.running == 1)
        postgres.stop()
        try:
            body = {"type": "detect", "input": {"image": "aGk="}}
            refused = gateway.client.post("/v1/jobs", json=body)
            assert refused.status_code == 503 and refused.headers["retry-after"], refused.text
            assert refused.json()["error"]["code"] == "stage_unavailable"
            assert gateway.client.get(f"/v1/jobs/{job['id']}").status_code == 503
            assert gateway.client.post("/generate", json={"prompt": ""}).status_code == 422, (
                "not its business"
            )
            assert health(gateway) == (200, "degraded", False)
            services.generator.hold = False
            eventually(lambda: services.generator.running == 0)
        finally:
            postgres.start()
        done = gateway.finished(job)
        assert done["status"] == "completed" and done["attempts"] == 1
        assert health(gateway) == (200, "healthy", True)


def test_a_database_that_may_only_be_read_for_a_while(
    services: ScriptedServices, tmp_path: Path, postgres: Postgres
) -> None:
    """As after a failover to a replica: that is neither an error of ours, nor the end of the runner."""
    url = postgres.create_database()
    with Farm(services, tmp_path, url) as farm:
        gateway = farm.gateway()
        postgres.execute(url, "ALTER DATABASE {name} SET default_transaction_read_only = on")
        body = {"type": "generate", "input": {"prompt": "x"}}
        refused = gateway.client.post("/v1/jobs", json=body)
        assert refused.status_code == 503 and refused.headers["retry-after"], refused.text
        time.sleep(3)
        postgres.execute(url, "ALTER DATABASE {name} RESET default_transaction_read_only")
        assert gateway.finished(gateway.submit())["status"] == "completed"


def test_a_gateway_that_stood_still_for_longer_than_its_lease(
    services: ScriptedServices, tmp_path: Path, sqlite_url: str
) -> None:
    services.generator.hold = True
    with Farm(services, tmp_path, sqlite_url, JOBS_LEASE_SECONDS=3) as farm:
        gateway = farm.gateway()
        job = gateway.submit()
        eventually(lambda: services.generator.running == 1)
        gateway.pause(4)
        eventually(lambda: gateway.look(job)["attempts"] == 2 or services.generator.running == 1)
        time.sleep(2)
        canceled = gateway.client.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert canceled["status"] == "cancelled"
        eventually(lambda: services.generator.running == 0)


def submit_with_patience(farm_of: list[Gateway], body: dict[str, Any], form: bool) -> Any:
    """Submit through whichever gateway answers, as clients behind a balancer do."""
    key = {"Idempotency-Key": f"{random.getrandbits(64):x}"}
    end = time.monotonic() + 120
    while True:
        gateway = random.choice(farm_of)
        try:
            with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
                if form:
                    response = client.post("/v1/jobs", data=body, files={"image": PHOTO}, headers=key)
                else:
                    response = client.post("/v1/jobs", json=body, headers=key)
            if response.status_code in (200, 202):
                return response.json()
            assert response.status_code in (429, 503), response.text
        except httpx.HTTPError:  # killed at this moment: the same key makes it safe to ask again
            pass
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_everything_is_killed_again_and_again(
    services: ScriptedServices, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """200 jobs at five times the capacity; every accepted one ends, once, and says how."""
    url: str = request.getfixturevalue(f"{kind}_url")
    rng = random.Random(7)
    services.generator.seconds, services.restorer.seconds = 0.3, 0.1
    settings = {"JOBS_LEASE_SECONDS": 3, "JOBS_AT_ONCE": 4}
    with Farm(services, tmp_path, url, **settings) as farm:
        gateways = [farm.gateway() for _ in range(1 if kind == "sqlite" else 2)]

        def submit(number: int) -> Any:
            kinds = ("generate", "restore", "detect", "compare")
            if kinds[number % 4] == "generate":
                body: dict[str, Any] = {
                    "type": "generate",
                    "input": {"prompt": "x", "width": 256, "height": 256, "seed": number},
                }
                return submit_with_patience(gateways, body, form=False)
            fields = '{"fidelities": [0.5]}' if kinds[number % 4] == "compare" else "{}"
            return submit_with_patience(gateways, {"type": kinds[number % 4], "input": fields}, form=True)

        with ThreadPoolExecutor(8) as pool:
            submitting = [pool.submit(submit, number) for number in range(200)]
            postgres = request.getfixturevalue("postgres") if kind == "postgres" else None
            for disturbance in range(20):
                time.sleep(rng.uniform(0.2, 1.0))
                if disturbance % 2 == 0:  # ten times
                    number = rng.randrange(len(gateways))
                    gateways[number].kill()
                    gateways[number] = farm.gateway()
                elif disturbance % 4 == 1:  # five times
                    services.stop_generator()
                    time.sleep(0.3)
                    services.start_generator()
                else:
                    services.stop_restorer()
                    time.sleep(0.3)
                    services.start_restorer()
                if postgres is not None and disturbance in (7, 13):
                    postgres.stop()
                    time.sleep(0.5)
                    postgres.start()
            accepted = [each.result() for each in submitting]
        assert len({job["id"] for job in accepted}) == 200, "each once"
        look = gateways[0]
        ended = [look.finished(job, within_s=180) for job in accepted]
        assert all(job["status"] in FINAL for job in ended)
        for job in ended:
            if job["status"] == "failed":  # begun three times, and each time its gateway was killed
                assert job["error"]["code"] == "internal" and job["attempts"] == 3, job
            else:
                assert job["status"] == "completed", job
        assert sum(job["status"] == "completed" for job in ended) >= 190
        seeds = [job["result"]["seed"] for job in ended if job["type"] == "generate" and job["result"]]
        assert len(seeds) == len(set(seeds)), "no job's result is another's"
        for job in ended:
            for output in job["outputs"]:
                assert len(look.client.get(output["url"]).content) == output["size_bytes"]
        eventually(lambda: sum(look.metric("atelier_backend_pending").values()) == 0)
        assert sum(look.metric("atelier_requests_in_progress").values()) <= 1  # this look at them
