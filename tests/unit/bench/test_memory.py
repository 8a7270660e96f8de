from dataclasses import replace
from pathlib import Path

import pytest

from atelier_runtime.images import decode
from bench import memory


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert memory.slope([1, 4, 12, 24], [30.0, 60.0, 140.0, 260.0]) == 10
    assert memory.slope([4], [60.0]) is None


@pytest.mark.parametrize("variant", memory.VARIANTS)
def test_the_file_has_the_format_and_depth_of_its_case(variant: memory.Case) -> None:
    small = replace(variant, megapixels=0.05)
    picture = decode(memory._file(memory._scene(small), small), max_pixels=10**6, deep=True)
    assert (picture.format, picture.bits) == (variant.file_format, variant.bits)


@pytest.mark.slow  # it starts two services
def test_a_service_takes_more_memory_for_a_larger_picture(tmp_path: Path) -> None:
    model_set = memory._narrow_set(tmp_path)
    peaks = [memory.measure(memory.Case(megapixels=size), model_set)[1] for size in (2.0, 16.0)]
    assert peaks[1] > peaks[0] + 3 * 14, "at least the decoded picture, 3 bytes a pixel"
