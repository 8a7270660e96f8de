"""The sizes of the generator's images, as the gateway and the generator compute them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_runtime import defaults
from atelier_runtime.sizes import Size, result_size


@pytest.mark.parametrize(
    ("requested", "hires_fix", "lanczos_scale", "result"),
    [
        ((1024, 1024), False, None, (1024, 1024)),
        ((1024, 768), False, 1.0, (1024, 768)),
        ((1024, 1024), True, None, (1536, 1536)),
        ((1000, 264), True, None, (1496, 392)),  # 1500 x 396, down to multiples of 8
        ((264, 2048), True, None, (392, 3072)),
        ((512, 768), True, None, (768, 1152)),
        ((1024, 1024), False, 1.5, (1536, 1536)),
        ((1024, 512), False, 4.0, (4096, 2048)),
        ((1000, 1000), False, 1.1, (1096, 1096)),
        ((2000, 2000), False, 1.1, (2200, 2200)),  # 2200.0000000000005 as a double
        ((400, 400), False, 1.12, (448, 448)),  # 448.00000000000006 as a double
        ((400, 400), False, 1.14, (456, 456)),  # 455.99999999999994 as a double
        ((256, 256), False, 1.01, (256, 256)),
        ((2048, 2048), False, 4.0, (8192, 8192)),
        ((1024, 1024), True, 4.0, (1536, 1536)),  # hires fix takes precedence; a request has only one of them
    ],
)
def test_the_size_of_the_finished_image(
    requested: tuple[int, int], hires_fix: bool, lanczos_scale: float | None, result: tuple[int, int]
) -> None:
    assert result_size(Size(*requested), hires_fix=hires_fix, lanczos_scale=lanczos_scale) == result


SIDES = st.integers(32, 256).map(lambda n: n * defaults.SIDE_PX_MULTIPLE)


@given(width=SIDES, height=SIDES, scale=st.floats(*defaults.LANCZOS_SCALE_RANGE))
def test_sides_are_multiples_of_8_at_most_8_px_below_the_exact_size(
    width: int, height: int, scale: float
) -> None:
    size = result_size(Size(width, height), hires_fix=False, lanczos_scale=scale)
    for side, given_side in zip(size, (width, height), strict=True):
        assert side % 8 == 0 and side >= given_side
        assert -8 < side - given_side * scale < 1e-6


def test_a_size_is_its_sides() -> None:
    size = Size(1024, 768)
    assert (str(size), size.pixels, tuple(size)) == ("1024x768", 786_432, (1024, 768))


@pytest.mark.parametrize(
    ("other", "contained"),
    [((4, 3), True), ((4, 2), True), ((5, 3), False), ((4, 4), False), ((3, 4), False)],
)
def test_what_a_size_contains(other: tuple[int, int], contained: bool) -> None:
    assert Size(4, 3).contains(Size(*other)) is contained
