"""How `bench.chaos` measures the growth of processes."""

from __future__ import annotations

from bench.chaos.leaks import growth
from bench.chaos.stack import Usage


def test_growth_is_that_of_each_process_from_where_it_began() -> None:
    looks = [
        {"service": Usage(10, 5, 1000), "worker": Usage(4, 2, 100)},
        {"service": Usage(12, 6, 1010), "worker": Usage(4, 2, 105)},
    ]
    assert growth(looks) == [Usage(0, 0, 0), Usage(2, 1, 15)]


def test_a_process_that_starts_later_counts_from_then_on() -> None:
    looks = [
        {"service": Usage(10, 5, 1000)},
        {"service": Usage(12, 6, 1000), "worker": Usage(4, 2, 30_000)},
        {"service": Usage(12, 6, 1000), "worker": Usage(4, 2, 30_007)},
    ]
    assert growth(looks) == [Usage(0, 0, 0), Usage(2, 1, 0), Usage(2, 1, 7)]


def test_what_a_process_had_grown_by_is_not_forgotten_when_another_replaces_it() -> None:
    first, second = {"first": Usage(4, 2, 100)}, {"second": Usage(4, 2, 100)}
    grown = [{"first": Usage(4, 2, 150)}, {"second": Usage(4, 2, 150)}]
    assert [usage.private_kib for usage in growth([first, grown[0], second, grown[1]])] == [0, 50, 50, 100]
