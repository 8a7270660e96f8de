import pytest

from bench.generate import stage_seconds
from bench.report import percentile, spread


@pytest.mark.parametrize(
    ("share", "count", "rank"), [(0.99, 100, 99), (0.5, 5, 3), (1.0, 5, 5), (0.0, 5, 1), (0.99, 1, 1)]
)
def test_a_percentile_is_the_sample_of_the_nearest_rank(share: float, count: int, rank: int) -> None:
    samples = [float(number) for number in range(count, 0, -1)]
    assert percentile(samples, share) == rank


def test_the_median_is_reported_with_its_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"n": 3, "median": 2.0, "min": 1.0, "max": 3.0}


def test_rounds_of_one_phase_are_added_up() -> None:
    stages = [("base", 2.0), ("decode", 0.5), ("hires", 1.0), ("decode", 1.5)]
    answer = [{"stage": name, "seconds": seconds} for name, seconds in stages]
    assert stage_seconds(answer) == {"base": 2.0, "decode": 2.0, "hires": 1.0}
