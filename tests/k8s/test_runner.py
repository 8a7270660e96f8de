"""The runner of the manifests leaves nothing behind, whatever fails, and its clients tell good from bad."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import psutil
import pytest

from tests.k8s.manifests import overlay
from tests.k8s.runner.clients import Outcome
from tests.k8s.runner.cluster import applied
from tests.k8s.runner.pods import all_of


def children() -> set[psutil.Process]:
    """The processes that this one has started and that have not ended."""
    return {each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE}


async def test_a_cluster_that_cannot_be_made_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "prometheus").mkdir()  # where Prometheus wants its own
    before = children()
    with pytest.raises(FileExistsError):
        async with applied(overlay("cpu-demo"), tmp_path):
            pass
    assert children() <= before


async def test_a_cluster_that_does_not_end_well_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    with pytest.raises(OSError, match="the first"):
        async with applied(overlay("cpu-demo"), tmp_path) as cluster:
            await cluster.until(lambda: all(each.pods for each in cluster.deployments.values()))
            assert children() > before

            [pod] = cluster.pods("generator")
            close = pod.close

            async def fails() -> None:
                await close()
                raise OSError("the first")

            monkeypatch.setattr(pod, "close", fails)
    assert children() <= before


async def test_all_are_waited_for_and_the_first_error_is_raised() -> None:
    ended: list[str] = []

    async def end(name: str, error: OSError | None = None, rounds: int = 1) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
        ended.append(name)
        if error is not None:
            raise error

    with pytest.raises(OSError, match="of b"):
        await all_of(end("a"), end("b", OSError("of b")), end("c", OSError("of c")), end("d", rounds=50))
    assert sorted(ended) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("path", "status", "applied", "reason", "good"),
    [
        ("/generate", 200, True, None, True),
        ("/generate", 200, False, "no_face", True),
        ("/generate", 200, False, None, True),
        ("/generate", 200, False, "restorer_unavailable", False),
        ("/generate", 200, False, "restorer_busy", False),
        ("/generate", 503, True, None, False),
        ("/detect", 200, None, None, True),
    ],
)
def test_a_picture_whose_faces_were_not_restored_is_not_good(
    path: str, status: int, applied: bool | None, reason: str | None, good: bool
) -> None:
    answer = {"face_restoration_applied": applied, "face_restoration_reason": reason}
    response = httpx.Response(status, json={} if applied is None else answer)
    assert Outcome(path, 0, 1, response).good is good
    assert not Outcome(path, 0, 1, None, "it was reset").good
