"""Costs that are known, and what the model makes of them: lines, outliers, sizes that were not seen."""

from __future__ import annotations

import random

import pytest

from atelier_runtime.cost_model import FRESH_S, Cost, CostModel, Work, fit_line, total

FIXED, RATE = 0.02, 3e-6


def work(size: int, steps: int = 10, rows: int = 2, kind: str = "unet", like: str = "") -> Work:
    """A pass of some steps at a size in positions, with rows of which each computes `size`."""
    return Work(kind, (size, rows), steps, steps * rows * size, rows * size, like=like, guess_s=7.0)


def true_seconds(size: int, steps: int = 10, rows: int = 2) -> float:
    return steps * (FIXED + RATE * rows * size)


def trained(*sizes: int, times: int = 3, noise: float = 0.0) -> CostModel:
    model, rng = CostModel(), random.Random(0)
    for _ in range(times):
        for size in sizes:
            model.observe(work(size), true_seconds(size) * rng.lognormvariate(0, noise))
    return model


@pytest.mark.parametrize("size", [500, 8_000, 12_000, 50_000, 200_000])
def test_a_linear_cost_is_recovered_between_and_beyond_what_was_seen(size: int) -> None:
    model = trained(1_000, 10_000, 40_000)
    for steps, rows in ((10, 2), (3, 1), (50, 8)):
        cost = model.estimate(work(size, steps, rows))
        assert cost.seconds == pytest.approx(true_seconds(size, steps, rows), rel=0.02)
        assert cost.low_s < cost.seconds < cost.high_s
        assert cost.observations == 0 and not cost.proven


def test_noise_is_averaged() -> None:
    model = trained(1_000, 4_000, 10_000, 40_000, times=20, noise=0.1)
    for size in (2_000, 10_000, 100_000):
        assert model.estimate(work(size)).seconds == pytest.approx(true_seconds(size), rel=0.15)


def test_an_outlier_hardly_counts() -> None:
    model = trained(1_000, 4_000, 10_000, 40_000)
    model.observe(work(20_000), 30 * true_seconds(20_000))  # compiled, say
    assert model.estimate(work(80_000)).seconds == pytest.approx(true_seconds(80_000), rel=0.1)
    for _ in range(3):
        model.observe(work(20_000), true_seconds(20_000))
    assert model.estimate(work(20_000)).seconds == pytest.approx(true_seconds(20_000), rel=0.1)


def test_a_size_that_was_seen_has_its_own_median() -> None:
    """Such as one for which the device has a slower algorithm."""
    model = trained(1_000, 10_000, 40_000)
    model.observe(work(20_000), 2 * true_seconds(20_000))
    once = model.estimate(work(20_000)).seconds / true_seconds(20_000)
    assert 1.4 < once < 2
    for _ in range(4):
        model.observe(work(20_000), 2 * true_seconds(20_000))
    assert model.estimate(work(20_000)).seconds == pytest.approx(2 * true_seconds(20_000), rel=0.1)
    assert model.estimate(work(40_000)).seconds == pytest.approx(true_seconds(40_000), rel=0.1)


def test_a_device_that_slows_down_is_followed() -> None:
    model = trained(10_000, times=10)
    for _ in range(3):
        model.observe(work(10_000), 2 * true_seconds(10_000))
    assert model.estimate(work(10_000)).seconds == pytest.approx(2 * true_seconds(10_000), rel=0.1)


def test_a_slow_spell_proves_nothing_for_long() -> None:
    now = 0.0
    model = CostModel(lambda: now)
    size = work(10_000)
    usual = true_seconds(10_000)
    for seconds in (usual, usual, 10 * usual, 10 * usual, 10 * usual):
        model.observe(size, seconds)
    cost = model.estimate(size)
    assert cost.seconds > 5 * usual and cost.proven
    assert cost.low_s <= usual, "two of the last five took no longer"
    for _ in range(5):
        model.observe(size, 10 * usual)
    assert model.estimate(size).low_s > 5 * usual
    now = FRESH_S
    assert not model.estimate(size).proven
    model.observe(size, usual)
    cost = model.estimate(size)
    assert cost.low_s <= usual and cost.seconds < 4 * usual, "one run decides"


def test_one_size_scales_with_what_is_computed() -> None:
    model = trained(10_000, times=1)
    assert model.estimate(work(40_000)).seconds == pytest.approx(4 * true_seconds(10_000), rel=0.05)


def test_the_spread_is_that_of_past_predictions() -> None:
    steady, noisy = (trained(10_000, times=60, noise=noise) for noise in (0.02, 0.5))
    size = work(10_000)
    narrow, wide = steady.estimate(size), noisy.estimate(size)
    assert narrow.high_s / narrow.low_s < 1.25
    assert wide.high_s / wide.low_s > 2
    assert narrow.observations >= 3 and narrow.proven
    unseen, far = steady.estimate(work(11_000)), steady.estimate(work(500_000))
    assert unseen.high_s / unseen.seconds > narrow.high_s / narrow.seconds
    assert far.high_s / far.seconds > 1.5 * unseen.high_s / unseen.seconds


def test_without_history_there_is_a_guess_with_a_wide_spread() -> None:
    model = CostModel()
    assert not model.knows("unet")
    guess = model.estimate(work(10_000))
    assert guess.seconds == 7.0 and guess.high_s > 2 * guess.seconds and guess.low_s < guess.seconds / 2
    assert guess.observations == 0 and guess.peak_bytes is None
    model.observe(work(10_000), 2.0)
    assert model.knows("unet")
    other = model.estimate(work(10_000, kind="another", like="unet"))
    assert other.seconds == pytest.approx(2.0, rel=0.05) and other.high_s > 2 * other.seconds


def test_what_was_learned_in_the_warm_up_is_forgotten_with_the_first_real_one() -> None:
    model = CostModel()
    model.observe(work(10_000), 100.0, provisional=True)
    provisional = model.estimate(work(10_000))
    assert provisional.seconds == pytest.approx(100, rel=0.05) and provisional.observations == 0
    model.observe(work(20_000), true_seconds(20_000))
    assert model.estimate(work(10_000)).seconds < true_seconds(20_000)
    model.observe(work(10_000), 100.0, provisional=False)
    assert model.estimate(work(10_000)).observations == 1


def test_what_is_proven_is_recent() -> None:
    now = 0.0
    model = CostModel(clock=lambda: now)
    for number in range(3):
        assert not model.estimate(work(10_000)).proven, number
        model.observe(work(10_000), 1.0)
    assert model.estimate(work(10_000)).proven
    now = 601.0
    assert not model.estimate(work(10_000)).proven, "or a device that was slow once would refuse for ever"


def test_the_peak_is_that_of_the_size_or_of_a_line_through_others() -> None:
    model = CostModel()
    gib = 2**30

    def observe(size: int, peak: float) -> None:
        model.observe(work(size), 1.0, int(peak * gib))

    observe(10_000, 8)
    assert model.estimate(work(10_000)).peak_bytes == 8 * gib
    assert model.estimate(work(20_000)).peak_bytes is None, "unknown rather than guessed"
    observe(40_000, 14)
    observe(40_000, 13)
    assert model.estimate(work(40_000)).peak_bytes == 14 * gib
    assert model.estimate(work(20_000)).peak_bytes == pytest.approx(10 * gib, rel=0.02)
    assert model.estimate(work(10_000, rows=4)).peak_bytes == pytest.approx(10 * gib, rel=0.02)


def test_history_is_bounded() -> None:
    model = CostModel()
    for size in range(1_000, 11_000, 10):
        model.observe(work(size), true_seconds(size))
    assert model.estimate(work(1_000)).observations == 0
    assert model.estimate(work(10_990)).observations == 1


def test_nonsense_is_not_learned() -> None:
    model = CostModel()
    model.observe(work(10_000), 0.0)
    model.observe(work(10_000, steps=0), 1.0)
    assert not model.knows("unet")


def test_a_sum_is_known_as_well_as_its_least_known_large_part() -> None:
    large, small = Cost(10, 9, 12, 4, proven=True, peak_bytes=5), Cost(0.1, 0.05, 0.4, 0)
    assert total([large, small]) == Cost(10.1, 9.05, 12.4, 4, proven=True)
    assert total([large, large.times(0.5), Cost(5, 1, 9, 1)]) == Cost(20, 14.5, 27, 1)
    assert total([]) == Cost(0, 0, 0)


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ([(2.0, 6.0, 1)], (0.0, 3.0)),
        ([(0.0, 6.0, 1)], (6.0, 0.0)),
        ([(1e12, 3.0, 5), (2e12, 5.0, 5)], (1.0, 2e-12)),
        ([(1.0, 5.0, 5), (2.0, 4.0, 5)], (4.44, 0.0)),  # less for more: the rate is not negative
        ([(1.0, 1.0, 5), (2.0, 3.0, 5)], (0.0, 1.1)),  # more than its share: nor is the fixed part
    ],
)
def test_lines(points: list[tuple[float, float, int]], line: tuple[float, float]) -> None:
    assert fit_line(points) == pytest.approx(line, rel=0.06)
