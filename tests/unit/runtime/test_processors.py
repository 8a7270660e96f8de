from __future__ import annotations

from pathlib import Path

import pytest

from atelier_runtime.processors import usable_processors


@pytest.fixture(autouse=True)
def sixteen_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("max 100000", 16),
        ("3200000 100000", 16),
    ],
)
def test_a_containers_quota_of_version_2(tmp_path: Path, quota: str, processors: int) -> None:
    write(tmp_path / "cgroup/cpu.max", f"{quota}\n")
    write(tmp_path / "own", "0::/\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == processors


def test_the_quota_of_a_parent_group_applies(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/kubepods/pod1/cpu.max", "300000 100000\n")
    write(tmp_path / "cgroup/kubepods/pod1/container/cpu.max", "max 100000\n")
    write(tmp_path / "own", "0::/kubepods/pod1/container\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 3


@pytest.mark.parametrize(("quota", "processors"), [("400000", 4), ("-1", 16)])
def test_a_quota_of_version_1(tmp_path: Path, quota: str, processors: int) -> None:
    write(tmp_path / "cgroup/cpu/pod1/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "cgroup/cpu/pod1/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "own", "5:memory:/elsewhere\n4:cpu,cpuacct:/pod1\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == processors


def test_a_quota_of_version_2_beside_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/unified/service/cpu.max", "250000 100000\n")
    write(tmp_path / "own", "5:memory:/elsewhere\n0::/service\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 3


def test_a_fraction_of_a_processor_in_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "120000")
    write(tmp_path / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 2


def test_the_smallest_of_quotas_and_affinity_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cgroup/pod/cpu.max", "400000 100000\n")
    write(tmp_path / "cgroup/pod/container/cpu.max", "600000 100000\n")
    write(tmp_path / "own", "0::/pod/container\n")
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 4
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 7, 9})
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 3


@pytest.mark.parametrize("text", ["", "100000", "many 100000", "100000 often"])
def test_a_quota_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cgroup/cpu.max", text)
    assert usable_processors(tmp_path / "cgroup", tmp_path / "own") == 16


def test_without_control_groups_affinity_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5})
    assert usable_processors(tmp_path / "none", tmp_path / "neither") == 2


def test_the_processors_of_this_machine() -> None:
    assert 1 <= usable_processors() <= 16
