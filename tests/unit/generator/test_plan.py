import pytest

from atelier_generator.plan import count_steps, make_plan, pass_size, refiner_schedule_steps, steps_run
from atelier_runtime.sizes import Size, result_size
from atelier_runtime.upscaler import center_crop, covering_box


@pytest.mark.parametrize(
    ("asked", "multiple", "max_side", "drawn"),
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
def test_pass_size(asked, multiple, max_side, drawn):
    assert pass_size(Size(*asked), multiple, max_side) == drawn


@pytest.mark.parametrize("multiple", [8, 64])
@pytest.mark.parametrize("max_side", [None, 128, 256, 512, 768])
def test_pass_sizes_are_multiples_within_the_limit(multiple, max_side):
    for width in range(256, 2049, 56):
        for height in range(256, 2049, 88):
            drawn = pass_size(Size(width, height), multiple, max_side)
            assert drawn.width % multiple == drawn.height % multiple == 0
            if max_side is None:
                assert drawn.contains(Size(width, height))
            else:
                assert max(drawn) <= max_side


@pytest.mark.parametrize(
    ("asked", "hires", "scale", "result"),
    [
        ((1024, 1024), False, None, (1024, 1024)),
        ((1024, 1024), True, None, (1536, 1536)),
        ((1000, 1000), True, None, (1496, 1496)),  # 1500 down to a multiple of 8
        ((512, 768), True, None, (768, 1152)),
        ((1024, 1024), False, 1.5, (1536, 1536)),
        ((1000, 1000), False, 1.1, (1096, 1096)),
        ((2000, 2000), False, 1.1, (2200, 2200)),  # 2000 * 1.1 is 2200.0000000000005
        ((1024, 512), False, 4.0, (4096, 2048)),
        ((1024, 1024), False, 1.0, (1024, 1024)),
    ],
)
def test_result_size(asked, hires, scale, result):
    assert result_size(Size(*asked), hires_fix=hires, lanczos_scale=scale) == result


def plan(
    width, height, *, hires=False, refine=False, scale=None, multiple=8, max_side=None, refiner_max_side=None
):
    return make_plan(
        Size(width, height),
        hires_fix=hires,
        refine=refine,
        lanczos_scale=scale,
        size_multiple=multiple,
        max_side=max_side,
        refiner_max_side=refiner_max_side,
    )


def test_hires_draws_at_three_quarters_and_ends_at_one_and_a_half():
    made = plan(1024, 1024, hires=True)
    assert (made.base, made.second, made.result) == ((768, 768), (1536, 1536), (1536, 1536))
    assert not made.limited


def test_passes_of_hires_stay_within_max_side():
    made = plan(1024, 512, hires=True, max_side=512, multiple=64)
    assert (made.base, made.second, made.result) == ((512, 256), (512, 256), (1536, 768))
    assert made.limited
    between = plan(256, 256, hires=True, max_side=256, multiple=64)
    assert (between.base, between.second, between.full) == ((192, 192), (256, 256), (384, 384))


def test_a_refiner_that_may_draw_larger_than_the_base_does():
    limits = {"multiple": 32, "max_side": 128, "refiner_max_side": 512}
    made = plan(1024, 512, refine=True, **limits)
    assert (made.base, made.second, made.result) == ((128, 64), (512, 256), (1024, 512))
    assert made.limited
    hires = plan(1024, 1024, hires=True, refine=True, **limits)
    assert (hires.base, hires.second, hires.full) == ((128, 128), (512, 512), (1536, 1536))
    small = plan(256, 256, refine=True, **limits)
    assert (small.base, small.second, small.limited) == ((128, 128), (256, 256), True)


def test_the_refiners_side_is_not_the_bases():
    limits = {"multiple": 32, "max_side": 128, "refiner_max_side": 512}
    assert plan(1024, 1024, **limits).second is None
    hires = plan(1024, 1024, hires=True, **limits)
    assert (hires.base, hires.second) == ((128, 128), (128, 128))


def test_a_refiner_without_a_side_of_its_own_draws_where_the_base_does():
    made = plan(1024, 1024, refine=True, max_side=256)
    assert made.base == made.second == (256, 256)
    free = plan(1024, 1024, refine=True)
    assert free.base == free.second == (1024, 1024) and not free.limited


def test_simple_enlargement_does_not_change_the_passes():
    made = plan(512, 512, scale=2.0)
    assert (made.base, made.second, made.full, made.result) == (
        (512, 512),
        None,
        (512, 512),
        (1024, 1024),
    )


def test_a_set_at_its_native_size_is_not_limited():
    assert not plan(256, 256, max_side=256, multiple=64).limited
    assert plan(264, 256, max_side=256, multiple=64).limited


def test_crop_is_centered_and_exact():
    assert center_crop(Size(1024, 1024), Size(1000, 1016)) == (12, 4, 1012, 1020)


def test_covering_box_has_the_wanted_aspect():
    assert covering_box(Size(256, 64), Size(2048, 256)) == (0, 16, 256, 48)
    left, top, right, bottom = covering_box(Size(256, 256), Size(1024, 1000))
    assert (left, right) == (0, 256)
    assert (bottom - top) / (right - left) == pytest.approx(1000 / 1024)
    assert top == pytest.approx(256 - bottom)


@pytest.mark.parametrize(("asked", "run"), [(1, 1), (2, 1), (3, 1), (4, 1), (10, 3), (30, 9), (150, 45)])
def test_the_refiner_takes_at_least_one_step(asked, run):
    assert steps_run(refiner_schedule_steps(asked), 0.3) == run


def test_steps_are_counted_for_all_passes():
    assert count_steps(30, hires_fix=False, refine=True) == (30, 0, 9)
    assert count_steps(30, hires_fix=True, refine=False) == (30, 8, 0)
    assert count_steps(30, hires_fix=True, refine=False).total == 38
