"""The overlay for a CPU, carried out without a cluster: it comes up, shares its work, grows and shrinks."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest

import atelier_demo_models
from tests.k8s.manifests import overlay
from tests.k8s.runner.clients import Client, Outcome, client, photograph, picture, restored
from tests.k8s.runner.cluster import Cluster, applied
from tests.k8s.runner.pods import Pod

pytestmark = pytest.mark.slow

CALLS = 300
MISSING = "codeformer.safetensors"


async def test_it_comes_up_from_nothing_and_a_missing_file_takes_nothing_down(tmp_path: Path) -> None:
    broken = tmp_path / "set"
    shutil.copytree(atelier_demo_models.path(), broken)
    (broken / MISSING).unlink()
    async with applied(overlay("cpu-demo"), tmp_path) as cluster, client(cluster) as app:
        await cluster.ready()
        outcome = await app.draw()
        assert picture(outcome).shape == (256, 256, 3) and restored(outcome)

        [before] = cluster.pods("restorer")
        cluster["restorer"].set_environment(ATELIER_RESTORER_MODEL_SET=str(broken))
        await cluster.until(lambda: len(cluster.pods("restorer")) == 2)
        [_, new] = cluster.pods("restorer")
        await cluster.until(lambda: new.restarts >= 1)
        assert any(MISSING in line for line in new.log().splitlines()), new.log()
        assert not new.ready and before.ready
        assert restored(await app.draw(seed=2)), "the one that serves goes on"

        cluster["restorer"].set_environment(ATELIER_RESTORER_MODEL_SET="demo")
        print(f"the rollout of the mended set took {await cluster.rolled_out('restorer'):.0f} s")
        assert before.deleted and restored(await app.draw(seed=3))


async def test_restorers_share_calls_and_come_and_go(tmp_path: Path) -> None:
    async with applied(overlay("cpu-demo"), tmp_path) as cluster, client(cluster) as app:
        cluster["generator"].replicas = 0
        cluster["gateway"].set_environment(ATELIER_GATEWAY_GENERATOR="none")
        cluster["restorer"].replicas = 3
        await cluster.ready()
        pods, photo = cluster.pods("restorer"), photograph()
        await until_all_are_called(app, pods, photo)

        before = [len(pod.calls("DetectFaces")) for pod in pods]
        outcomes = await many(app, photo, CALLS)
        assert not [str(outcome) for outcome in outcomes if not outcome.good]
        after = [len(pod.calls("DetectFaces")) for pod in pods]
        shares = [100 * (now - then) / CALLS for now, then in zip(after, before, strict=True)]
        print(f"shares of {CALLS} calls in percent: {shares}")
        assert sum(shares) == pytest.approx(100) and max(shares) - min(shares) <= 8

        cluster["restorer"].replicas = 4
        await cluster.ready("restorer")
        [*_, fourth] = cluster.pods("restorer")
        started = time.monotonic()
        await until_all_are_called(app, [fourth], photo)
        print(f"a fourth restorer was used after {time.monotonic() - started:.0f} s")
        await check_draining(cluster, app, fourth)


async def check_draining(cluster: Cluster, app: Client, leaving: Pod) -> None:
    """A restorer that is stopped while it has work gets no more a second later, and finishes what it has."""
    photo, stopped = photograph(faces=2), asyncio.Event()

    async def keep_busy() -> list[Outcome]:
        outcomes = []
        while not stopped.is_set():
            outcomes.append(await app.restore(photo))
        return outcomes

    busy = [asyncio.create_task(keep_busy()) for _ in range(8)]
    await cluster.until(lambda: bool(leaving.calls("RestoreFaces")))
    cluster["restorer"].replicas = 3
    await cluster.until(lambda: leaving.gone)
    await asyncio.sleep(5)
    stopped.set()
    outcomes = [outcome for each in await asyncio.gather(*busy) for outcome in each]
    assert not [str(outcome) for outcome in outcomes if not outcome.good]
    [draining] = leaving.lines("draining")
    stops = datetime.fromisoformat(draining["time"]).timestamp()
    last = max(leaving.calls("RestoreFaces")) - stops
    print(f"of {len(outcomes)} calls the last went to a restorer {last:.1f} s after its SIGTERM")
    assert last <= 1
    assert leaving.lines("stopped")[0]["all_work_finished"]


async def until_all_are_called(app: Client, pods: list[Pod], photo: bytes) -> None:
    """Call until each of the pods has had a call."""
    ends = time.monotonic() + 90
    while not all(pod.calls("DetectFaces") for pod in pods):
        assert time.monotonic() < ends, "one of them is not used after 90 s"
        assert all(outcome.good for outcome in await many(app, photo, 4))


async def many(app: Client, photo: bytes, count: int) -> list[Outcome]:
    """Find the faces of a photograph that many times, four at the same time."""
    free = asyncio.Semaphore(4)

    async def one() -> Outcome:
        async with free:
            return await app.detect(photo)

    return await asyncio.gather(*(one() for _ in range(count)))
