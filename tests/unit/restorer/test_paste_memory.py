"""Pasting works on the face's own rectangle: its memory does not depend on the size of the image."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from atelier_restorer.align import crop_to_picture
from atelier_restorer.paste import paste_face, restored_parts, soften_parts
from atelier_runtime.images import PixelArray
from tests.parity import recipe
from tests.unit.restorer.pasting import Place, matrix_of

CROP = recipe.image("face", 1, 512, 512)


def peak_bytes(image: np.ndarray, place: Place, parsed: bool) -> int:
    """Return the peak of the memory that pasting one face allocates."""
    matrix = crop_to_picture(matrix_of(place), 1)
    classes = np.zeros((512, 512), np.uint8)
    classes[60:400, 100:412] = 1
    tracemalloc.start()
    try:
        parts = soften_parts(restored_parts(classes)) if parsed else None
        paste_face(image, None, CROP, matrix, 1, parts=parts)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parsed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("place", [Place(400, 400, 420, 12), Place(0, 300, 420, -20), Place(300, 300, 60)])
def test_a_face_takes_as_much_memory_in_an_image_of_24_megapixels_as_in_one_of_1(
    place: Place, dtype: type, parsed: bool
) -> None:
    small: PixelArray = np.full((816, 1224, 3), 90, dtype)
    large: PixelArray = np.full((4000, 6000, 3), 90, dtype)
    least, most = (peak_bytes(image, place, parsed) for image in (small, large))
    assert least > 100_000, "OpenCV's allocations are traced"
    assert most <= 1.01 * least
    assert most < large.nbytes / 4
    assert (small != 90).any() and np.array_equal(large[:700, :700], small[:700, :700])
