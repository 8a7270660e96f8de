"""What the benchmark of networks on a CPU compares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import cpu


def test_every_network_is_compared_with_version_0_1() -> None:
    assert cpu.VARIANTS.keys() == cpu.NETWORKS.keys() == cpu.INPUTS.keys()
    assert {variants[0] for variants in cpu.VARIANTS.values()} == {cpu.AS_IN_0_1}


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down during the run must not look like a slow variant."""

    def seconds() -> Iterator[float]:
        yield from (4.0, 2.0, 1.0)
        yield from (8.0, 4.0, 2.0)

    samples = seconds()
    monkeypatch.setattr(
        cpu, "run_apart", lambda *given: {"a face": next(samples), "peak_memory_bytes": 2**20}
    )
    result = cpu.measure("parsenet", threads=1, rounds=2)
    found = result["bfloat16"]
    assert isinstance(found, dict) and found["peak_memory_mib"] == 1
    assert found["a face"]["times_as_fast"] == {"n": 2, "median": 4.0, "min": 4.0, "max": 4.0}
    assert found["a face"]["seconds"] == {"n": 2, "median": 1.5, "min": 1.0, "max": 2.0}


def test_a_network_runs_in_each_variant() -> None:
    for variant in cpu.VARIANTS["retinaface"]:
        assert cpu.run_apart("retinaface", variant, threads=1)["an image"] > 0
