"""Our paste-back against the reference's images.

Two gray levels are what two versions of OpenCV differ by.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from atelier_restorer.align import crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.gray import gray_face, recoloring, toned_face
from atelier_restorer.paste import paste_face, restored_parts, soften_parts
from tests.parity import recipe
from tests.parity.face_parts import classes
from tests.parity.reference_paste import (
    ALL,
    GOLDENS,
    SETS,
    STEP,
    Faults,
    Golden,
    adain_gray,
    background,
    paste,
    restored,
    upscaled,
)

LEVELS = 2
SHARE = 0.999

# A parsed face costs a forward pass of 5 s and more; the first face is parsed only once, for all cases.
CASES = [
    pytest.param(name, marks=pytest.mark.slow if golden.parsed and len(golden.faces) > 1 else ())
    for name, golden in GOLDENS.items()
]


def ours(golden: Golden, shift_px: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return our image, its mask, and the image before."""
    before = upscaled(background(), golden.scale)
    picture, mask = before.copy(), np.zeros(before.shape[:2], np.uint8)
    for number, name in enumerate(golden.faces):
        matrix = crop_to_picture(face_to_crop(SETS[name]["landmarks"]), golden.scale)
        matrix[:, 2] += shift_px
        parts = soften_parts(restored_parts(classes(number))) if golden.parsed else None
        paste_face(picture, mask, restored(number), matrix, golden.scale, parts=parts)
    return picture, mask, before


def reference(golden: Golden, faults: Faults) -> np.ndarray:
    faces = [(restored(number), name) for number, name in enumerate(golden.faces)]
    parsed = [classes(number) for number in range(len(faces))] if golden.parsed else None
    return paste(background(), faces, golden.scale, parsed, faults)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many levels two pictures differ by at each pixel, in the channel that differs most."""
    return np.asarray(np.abs(a.astype(float) - b).max(axis=2))


def within(found: np.ndarray, levels: int) -> float:
    return float((found <= levels).mean())


@pytest.mark.parametrize("name", CASES)
def test_pictures_equal_the_references_inside_the_mask_and_the_input_outside(name: str) -> None:
    golden = GOLDENS[name]
    shift_px = 0.5 if golden.scale > 1 else 0.0  # the reference's error, see docs/parity.md
    picture, mask, before = ours(golden, shift_px)
    np.testing.assert_array_equal(picture[mask == 0], before[mask == 0])
    step = STEP[golden.scale]
    expected = recipe.golden("paste")[name][..., ::-1]
    inside = mask[::step, ::step] > 0
    inside[[0, -1]] = inside[:, [0, -1]] = False  # the reference's gray edge, see docs/parity.md
    assert inside.sum() > 400
    assert within(difference(picture[::step, ::step], expected)[inside], LEVELS) >= SHARE


@pytest.mark.parametrize(
    ("file", "name"),
    [("paste_frontal_up1", "frontal_up1"), ("paste_frontal_up1_parse", "frontal_up1_parse")],
)
def test_whole_pictures_equal_the_references(file: str, name: str) -> None:
    expected = cv2.imread(str(recipe.FOLDER / "goldens" / f"{file}.png"))
    assert expected is not None
    picture, mask, before = ours(GOLDENS[name])
    np.testing.assert_array_equal(picture[mask == 0], before[mask == 0])
    assert within(difference(picture, expected[..., ::-1])[mask > 0], LEVELS) >= SHARE


@pytest.mark.parametrize("name", CASES)
def test_ours_with_the_references_faults_would_be_the_reference(name: str) -> None:
    """The entire difference, inside and outside of the mask, at any scale, comes from the listed faults."""
    golden = GOLDENS[name]
    step = STEP[golden.scale]
    faulty, right = reference(golden, ALL), reference(golden, Faults())
    expected = recipe.golden("paste")[name][..., ::-1]
    assert difference(faulty[::step, ::step], expected).max() <= 1, "the facts reproduce the golden"
    picture, _, _ = ours(golden)
    assert within(difference(picture, right), 1) >= 0.9999
    assert difference(picture, right).max() <= LEVELS
    with_the_faults = (picture + faulty - right)[::step, ::step]
    assert within(difference(with_the_faults, expected), LEVELS) >= SHARE


def test_a_gray_face_equals_the_references_where_that_does_not_overflow() -> None:
    """The reference's picture was upscaled to 512 px first, see docs/parity.md."""
    golden = recipe.golden("paste")["gray_up1"]
    before = upscaled(np.repeat(background()[..., 2:], 3, axis=2), 512 / 480)
    picture, mask = before.copy(), np.zeros(before.shape[:2], np.uint8)
    matrix = face_to_crop(SETS["frontal"]["landmarks"])
    face = gray_face(restored(0), cut_crop(before, matrix))
    paste_face(picture, mask, face, crop_to_picture(matrix, 1), 1)
    np.testing.assert_array_equal(picture[mask == 0], before[mask == 0])
    np.testing.assert_array_equal(picture[..., 0], picture[..., 1])
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    inside = mask[::3, ::3] > 0
    assert within(difference(picture[::3, ::3], golden)[inside], LEVELS) >= SHARE


def test_a_face_in_a_sepia_picture_equals_the_references() -> None:
    """Without a golden: the facts of the gray path, which the test above proves, for an image with a tone."""
    gray = background()[..., 2:].astype(float)
    before = np.rint(gray * 0.6 + (60, 45, 25)).astype(np.uint8)
    assert recoloring(before, False) is toned_face
    matrix = face_to_crop(SETS["frontal"]["landmarks"])
    crop = cut_crop(before, matrix)
    expected = paste(before, [(adain_gray(restored(0), crop), "frontal")], 1, None, Faults())
    picture, mask = before.copy(), np.zeros(before.shape[:2], np.uint8)
    paste_face(picture, mask, toned_face(restored(0), crop), crop_to_picture(matrix, 1), 1)
    assert within(difference(picture, expected)[mask > 0], LEVELS) >= SHARE
    changed_by = picture[mask == 255].mean(axis=0) - before[mask == 255].mean(axis=0)
    assert np.ptp(changed_by) < 1, "the tone is kept"
