from typing import Any

import pytest

from atelier_generator.plan import (
    Plan,
    Redraw,
    count_steps,
    make_plan,
    pass_size,
    refiner_schedule_steps,
    steps_run,
)
from atelier_runtime.sizes import Size


@pytest.mark.parametrize(
    ("requested", "multiple", "max_side", "size"),
    [
        ((1024, 1024), 8, None, (1024, 1024)),
        ((1000, 1016), 64, None, (1024, 1024)),
        ((264, 256), 64, None, (320, 256)),
        ((1024, 1024), 64, 256, (256, 256)),
        ((1024, 768), 64, 256, (256, 192)),
        ((768, 1024), 64, 256, (192, 256)),
        ((1024, 1000), 64, 256, (256, 256)),
        ((2048, 256), 64, 256, (256, 64)),
        ((256, 2048), 64, 128, (64, 128)),
        ((512, 512), 64, 768, (512, 512)),
        ((1000, 512), 64, 1000, (960, 512)),  # 1000 itself is not a multiple of 64
        ((256, 256), 64, 32, (64, 64)),  # never below one multiple
    ],
)
def test_pass_size(requested, multiple, max_side, size):
    assert pass_size(Size(*requested), multiple, max_side) == size


@pytest.mark.parametrize("multiple", [8, 64])
@pytest.mark.parametrize("max_side", [None, 128, 256, 512, 768])
def test_pass_sizes_are_multiples_within_the_limit(multiple, max_side):
    for width in range(256, 2049, 56):
        for height in range(256, 2049, 88):
            size = pass_size(Size(width, height), multiple, max_side)
            assert size.width % multiple == size.height % multiple == 0
            if max_side is None:
                assert size.contains(Size(width, height))
            else:
                assert max(size) <= max_side


def plan(
    width: int,
    height: int,
    *,
    hires: bool = False,
    refine: bool = False,
    scale: float | None = None,
    multiple: int = 8,
    max_side: int | None = None,
    refiner_max_side: int | None = None,
) -> Plan:
    return make_plan(
        Size(width, height),
        hires_fix=hires,
        refine=refine,
        lanczos_scale=scale,
        size_multiple=multiple,
        max_side=max_side,
        refiner_max_side=refiner_max_side,
    )


def test_hires_starts_at_three_quarters_and_ends_at_one_and_a_half():
    result = plan(1024, 1024, hires=True)
    assert (result.base, result.second, result.result) == ((768, 768), (1536, 1536), (1536, 1536))
    assert not result.limited


def test_passes_of_hires_stay_within_max_side():
    result = plan(1024, 512, hires=True, max_side=512, multiple=64)
    assert (result.base, result.second, result.result) == ((512, 256), (512, 256), (1536, 768))
    assert result.limited
    between = plan(256, 256, hires=True, max_side=256, multiple=64)
    assert (between.base, between.second, between.full) == ((192, 192), (256, 256), (384, 384))


def test_a_refiner_with_a_larger_limit_than_the_base_uses_it():
    limits: dict[str, Any] = {"multiple": 32, "max_side": 128, "refiner_max_side": 512}
    result = plan(1024, 512, refine=True, **limits)
    assert (result.base, result.second, result.result) == ((128, 64), (512, 256), (1024, 512))
    assert result.limited
    hires = plan(1024, 1024, hires=True, refine=True, **limits)
    assert (hires.base, hires.second, hires.full) == ((128, 128), (512, 512), (1536, 1536))
    small = plan(256, 256, refine=True, **limits)
    assert (small.base, small.second, small.limited) == ((128, 128), (256, 256), True)


def test_the_refiners_limit_does_not_apply_to_the_base():
    limits: dict[str, Any] = {"multiple": 32, "max_side": 128, "refiner_max_side": 512}
    assert plan(1024, 1024, **limits).second is None
    hires = plan(1024, 1024, hires=True, **limits)
    assert (hires.base, hires.second) == ((128, 128), (128, 128))


def test_a_refiner_without_its_own_limit_uses_that_of_the_base():
    result = plan(1024, 1024, refine=True, max_side=256)
    assert result.base == result.second == (256, 256)
    free = plan(1024, 1024, refine=True)
    assert free.base == free.second == (1024, 1024) and not free.limited


def test_lanczos_scale_does_not_change_the_passes():
    result = plan(512, 512, scale=2.0)
    assert (result.base, result.second, result.full, result.result) == (
        (512, 512),
        None,
        (512, 512),
        (1024, 1024),
    )


def test_a_set_at_its_native_size_is_not_limited():
    assert not plan(256, 256, max_side=256, multiple=64).limited
    assert plan(264, 256, max_side=256, multiple=64).limited


@pytest.mark.parametrize(("requested", "run"), [(1, 1), (2, 1), (3, 1), (4, 1), (10, 3), (30, 9), (150, 45)])
def test_the_refiner_runs_at_least_one_step(requested, run):
    assert steps_run(refiner_schedule_steps(requested), 0.3) == run


def test_steps_are_counted_for_all_passes():
    refiner = Redraw(30, 0.3, by_refiner=True, hires=False)
    assert count_steps(30, refiner) == (30, 0, 9)
    hires = Redraw(25, 0.35, by_refiner=True, hires=True)
    assert count_steps(30, hires) == (30, 8, 0)
    assert count_steps(30, hires).total == 38
