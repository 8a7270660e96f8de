"""How many threads a service uses, by the processors that it may use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atelier_runtime import processors, threads
from atelier_runtime.images import workers
from atelier_runtime.settings import ServiceSettings


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 4, 8, 16])
def usable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine of 32 processors, of which affinity leaves some."""
    count = int(request.param)
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(0, 2 * count, 2)))
    monkeypatch.setattr(processors, "_folders", lambda cgroups, own: [])  # a quota of the machine that tests
    return count


def settings(image_workers: int = 0) -> ServiceSettings:
    return ServiceSettings(port=0, metrics_port=0, image_workers=image_workers)


def test_networks_use_every_usable_processor(usable: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert threads.set_network_threads(0) == torch.get_num_threads() == usable
    assert [(r.__dict__["threads"], r.__dict__["usable_processors"]) for r in caplog.records] == [
        (usable, usable)
    ]


def test_the_setting_wins(usable: int) -> None:
    assert threads.set_network_threads(3) == torch.get_num_threads() == 3
    assert workers.image_workers_of(settings(image_workers=5)).size == 5


def test_there_is_an_image_worker_for_each_processor_up_to_eight(usable: int) -> None:
    assert workers.image_workers_of(settings()).size == min(usable, 8)


@pytest.mark.parametrize(("quota", "expected"), [("150000", 2), ("400000", 4), ("-1", 8)])
def test_a_quota_counts_as_affinity_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(processors, "_folders", lambda cgroups, own: [tmp_path])
    assert threads.set_network_threads(0) == torch.get_num_threads() == expected
