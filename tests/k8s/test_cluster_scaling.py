"""The ScaledObjects at work: who is scaled by what, what is held without Prometheus, and zero and back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.k8s.manifests import combined, of_kind
from tests.k8s.runner.autoscaler import SYNC_S, Autoscaler
from tests.k8s.runner.clients import DRAWING, client, photograph, picture, restored
from tests.k8s.runner.cluster import START_S, Cluster, applied
from tests.postgres import Postgres

JOBS = 12

COMPONENTS = ("monitoring", "keda", "jobs-postgres")


def autoscaler(name: str, *components: str) -> Autoscaler:
    manifests = combined("keda", *components, namespace="atelier")
    return Autoscaler(of_kind(manifests, "ScaledObject")[f"atelier-{name}"])


def replicas(scaler: Autoscaler, values: Sequence[Sequence[float | None]], first: int) -> list[int]:
    """How many replicas there are after each decision, one every `SYNC_S` seconds of a simulated clock."""
    found = [first]
    for step, each in enumerate(values):
        found.append(scaler.decide(step * SYNC_S, each, found[-1]))
    return found[1:]


@pytest.mark.parametrize("name", ["generator", "restorer"])
@pytest.mark.parametrize("load", [0.8, 2.5, 3.5])
def test_noise_changes_the_number_twice_in_ten_minutes_at_most(name: str, load: float) -> None:
    scaler, noise = autoscaler(name), random.Random(7)
    middle = load * scaler.triggers[0].threshold
    values = [[middle * noise.uniform(0.8, 1.2), 0.0] for _ in range(int(600 / SYNC_S))]
    found = replicas(scaler, values, first=max(1, round(load)))
    assert len(scaler.events) <= 2, found


def test_the_number_follows_the_work_at_the_pace_of_the_policies() -> None:
    scaler = autoscaler("generator")
    up = replicas(scaler, [[12.0, 0.0]] * 17, first=1)  # 8 replicas' worth, for four minutes
    assert up[:4] == [3] * 4 and up[4:8] == [5] * 4 and up[-1] == 8
    scaler = autoscaler("generator")
    down = replicas(scaler, [[0.0, 0.0]] * 120, first=8)
    assert down[: int(900 / SYNC_S)] == [8] * int(900 / SYNC_S), "not before fifteen quiet minutes"
    assert down[-1] < 8 and all(before - after in (0, 1) for before, after in pairwise(down))


def test_waiting_jobs_count_as_work() -> None:
    assert replicas(autoscaler("generator"), [[0.0, 4.5]], first=1) == [3]
    assert replicas(autoscaler("restorer"), [[0.0, 9.0]], first=1) == [3]


def test_without_prometheus_the_fallback_holds_and_takes_nothing_away() -> None:
    nothing = [[None, None]] * 8
    assert replicas(autoscaler("generator"), nothing, first=1) == [1, 1, 1, 2, 2, 2, 2, 2]
    assert replicas(autoscaler("generator"), nothing, first=5) == [5] * 8


def test_one_query_that_fails_takes_nothing_away() -> None:
    assert replicas(autoscaler("generator"), [[None, 0.0]] * 2, first=4) == [4, 4]


def test_to_zero_after_the_cooldown_and_back_at_the_first_call() -> None:
    scaler = autoscaler("generator", "scale-to-zero")
    names = [trigger.name for trigger in scaler.triggers]
    quiet: list[float | None] = [0.0] * len(names)
    called = [2.0 if name == "pending" else 0.0 for name in names]
    cooldown = int(scaler.scaled["spec"]["cooldownPeriod"] / SYNC_S)
    found = replicas(scaler, [list(called), *[list(quiet)] * (cooldown + 1)], first=1)
    assert found == [2] + [2] * cooldown + [0] or found == [1] + [1] * cooldown + [0], found
    assert replicas(scaler, [list(quiet)] * 2 + [list(called)], first=0) == [0, 0, 1]


@asynccontextmanager
async def scaled(folder: Path, postgres: Postgres, *components: str) -> AsyncIterator[Cluster]:
    """The bases with these components, and one database for the gateways' jobs."""
    manifests = combined(*COMPONENTS, *components, namespace="atelier")
    async with applied(manifests, folder) as cluster:
        cluster["gateway"].set_environment(
            ATELIER_GATEWAY_JOBS_DATABASE=postgres.create_database(),
            ATELIER_GATEWAY_JOBS_FILES=f"file:{folder / 'files'}",
        )
        yield cluster


@asynccontextmanager
async def busy(cluster: Cluster, count: int, path: str) -> AsyncIterator[None]:
    """That many clients that ask without a pause, for pictures without faces restored or for photographs."""
    stopped, photo = asyncio.Event(), photograph(faces=8)

    async def ask() -> None:
        async with client(cluster) as app:
            while not stopped.is_set():
                if path == "/generate":
                    await app.draw(use_face_restoration=False, num_inference_steps=20)
                else:
                    await app.restore(photo)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), 0.1)

    asking = [asyncio.create_task(ask()) for _ in range(count)]
    try:
        yield
    finally:
        stopped.set()
        await asyncio.gather(*asking)


async def until_jobs_want_more_than(cluster: Cluster, name: str, count: int) -> None:
    """Wait until the trigger of jobs would have more replicas than that, whatever the others want."""
    [scaler] = [each for each in cluster.autoscalers if each.target == f"atelier-{name}"]
    [jobs] = [trigger for trigger in scaler.triggers if trigger.name == "jobs"]
    assert count * jobs.threshold < JOBS, "or they could not want more"
    ends = time.monotonic() + START_S
    while (value := await cluster.prometheus.value(jobs.query)) is None or value <= count * jobs.threshold:
        assert time.monotonic() < ends, f"{name}: the trigger of jobs has {value}"
        await asyncio.sleep(1)


@pytest.mark.slow
@pytest.mark.cluster
async def test_each_stage_is_scaled_by_its_own_work_and_held_without_prometheus(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with scaled(tmp_path, postgres) as cluster, client(cluster) as app:
        await cluster.ready()
        wanted = cluster.scale_automatically(start=False)
        async with busy(cluster, 5, "/generate"):
            await cluster.until(lambda: wanted["generator"] > 1)
            assert wanted["restorer"] == 1 and wanted["gateway"] == 2
        before = wanted["generator"]
        async with busy(cluster, 8, "/restore"):
            await cluster.until(lambda: wanted["restorer"] > 1)
            assert wanted["generator"] == before

        for seed in range(JOBS):
            await app.submit("generate", **DRAWING | {"num_inference_steps": 50, "seed": seed})
        await until_jobs_want_more_than(cluster, "generator", before)
        await cluster.until(lambda: wanted["generator"] > before)
        cluster.prometheus.close()
        held = dict(wanted)
        await asyncio.sleep(5 * SYNC_S)
        print(f"wanted, and held without Prometheus: {held}")
        assert wanted == held


@pytest.mark.slow
async def test_at_zero_a_call_is_refused_at_once_or_held_and_wakes_the_stage(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with scaled(tmp_path, postgres, "scale-to-zero") as cluster, client(cluster) as app:
        gateway = cluster["gateway"]
        holds = gateway.workload.setting("BACKEND_WAIT_SECONDS")
        assert holds == "280"
        cluster["generator"].replicas = cluster["restorer"].replicas = 0
        gateway.set_environment(ATELIER_GATEWAY_BACKEND_WAIT_SECONDS="0")
        await cluster.ready("gateway")
        refused = await app.draw()
        assert refused.response is not None and refused.response.status_code == 503, str(refused)
        assert int(refused.response.headers["Retry-After"]) > 0
        assert not cluster["generator"].pods and not cluster["restorer"].pods, "before any could have started"
        print(f"refused after {1000 * (refused.ended - refused.began):.0f} ms")

        gateway.set_environment(ATELIER_GATEWAY_BACKEND_WAIT_SECONDS=holds)
        await cluster.rolled_out("gateway")
        cluster.scale_automatically()
        held = await app.draw()
        assert picture(held).shape == (256, 256, 3)
        assert restored(held), "by a restorer that was started for it too"
        assert len(cluster.pods("generator")) == len(cluster.pods("restorer")) == 1
        print(f"held for {held.ended - held.began:.0f} s, then drawn and restored by pods started for it")
