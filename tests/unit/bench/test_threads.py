"""What the benchmark of threads compares."""

from __future__ import annotations

import pytest

from bench import threads


@pytest.mark.parametrize(
    ("processors", "expected"),
    [
        (1, ["1 + 1", "2 + 2", "1 + 1, spinning"]),
        (2, ["2 + 2", "2 + 1", "1 + 2", "1 + 1", "2 + 2, spinning"]),
        (8, ["8 + 8", "8 + 4", "4 + 8", "4 + 4", "8 + 8, spinning"]),
    ],
)
def test_services_with_all_processors_are_compared_with_those_with_half(
    processors: int, expected: list[str]
) -> None:
    variants = threads.service_variants(processors)
    assert list(variants) == expected
    for name, variables in variants.items():
        generator, restorer = name.partition(",")[0].split(" + ")
        assert variables["ATELIER_GENERATOR_CPU_THREADS"] == generator
        assert variables["ATELIER_RESTORER_CPU_THREADS"] == restorer
        assert ("GOMP_SPINCOUNT" in variables) == ("spinning" in name)


def test_rates_are_compared_round_by_round() -> None:
    found = threads.compared({"first": [1.0, 2.0], "second": [2.0, 4.0]})["second"]
    assert found == {
        "a_second": {"n": 2, "median": 3.0, "min": 2.0, "max": 4.0},
        "over_the_first": {"n": 2, "median": 2.0, "min": 2.0, "max": 2.0},
    }


def test_networks_run_in_two_processes_at_once() -> None:
    assert threads.networks_at_once(2, "retinaface", "float32", 1, "sleeping", 0) > 0
