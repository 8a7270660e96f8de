"""Our alignment and pasting against the reference's.

Tolerance: two grey levels, which is what two versions of OpenCV differ by.
"""

import json
from typing import Any

import numpy as np
import pytest

from atelier_restorer.align import TEMPLATE, crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.paste import paste_face
from tests.parity import recipe

GEOMETRY: dict[str, Any] = json.loads((recipe.FOLDER / "goldens" / "geometry.json").read_text("utf-8"))
SETS: dict[str, Any] = GEOMETRY["sets"]


@pytest.fixture(scope="module")
def background() -> np.ndarray:
    return recipe.image("background", 1, 480, 640, noise=3)


def test_the_template() -> None:
    np.testing.assert_array_equal(TEMPLATE, GEOMETRY["template_512"])


@pytest.mark.parametrize("name", SETS)
def test_matrices_and_crops(name: str, background: np.ndarray) -> None:
    expected = SETS[name]
    matrix = face_to_crop(expected["landmarks"])
    np.testing.assert_allclose(matrix, expected["affine"], atol=1e-3)
    np.testing.assert_allclose(crop_to_picture(matrix, 1), expected["inverse_up1"], atol=1e-3)
    golden = recipe.golden("crops")[f"crop_{name}"].astype(int)
    crop = cut_crop(background, matrix)[::8, ::8, ::-1].astype(int)
    assert np.abs(crop - golden).max() <= 2


@pytest.mark.parametrize("name", SETS)
def test_the_reference_pastes_half_a_pixel_off_at_scale_2_and_we_do_not(name: str) -> None:
    expected = np.array(SETS[name]["inverse_up2_at_paste"])
    expected[:, 2] -= 0.5
    np.testing.assert_allclose(crop_to_picture(face_to_crop(SETS[name]["landmarks"]), 2), expected, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", ["frontal", "small", "large", "rotm40_out_tl"])
def test_the_soft_mask(name: str, scale: int) -> None:
    picture = np.zeros((480 * scale, 640 * scale, 3), np.uint8)
    mask = np.zeros(picture.shape[:2], np.uint8)
    matrix = crop_to_picture(face_to_crop(SETS[name]["landmarks"]), scale)
    if scale > 1:
        matrix[:, 2] += 0.5  # the reference's error, see above
    paste_face(picture, mask, np.full((512, 512, 3), 255, np.uint8), matrix, scale)
    golden = recipe.golden("maskprobe")[f"{name}_up{scale}"].astype(int)
    assert np.abs(picture[::2, ::2, 0].astype(int) - golden).max() <= 2
    np.testing.assert_array_equal(picture[..., 0], mask)


@pytest.mark.parametrize(
    ("golden_name", "faces"),
    [
        ("frontal_up1", ["frontal"]),
        ("out_tl_up1", ["rotm40_out_tl"]),
        ("small_up1", ["small"]),
        ("overlap2_up1", ["frontal", "rot40"]),
    ],
)
def test_pasted_pictures(golden_name: str, faces: list[str], background: np.ndarray) -> None:
    picture = background.copy()
    mask = np.zeros(picture.shape[:2], np.uint8)
    for number, name in enumerate(faces):
        crop = recipe.image(f"restored{number}", 1, 512, 512, noise=3)
        paste_face(picture, mask, crop, crop_to_picture(face_to_crop(SETS[name]["landmarks"]), 1), 1)
    np.testing.assert_array_equal(picture[mask == 0], background[mask == 0])
    golden = recipe.golden("paste")[golden_name].astype(int)
    difference = np.abs(picture[::3, ::3, ::-1].astype(int) - golden)
    # The reference darkens the rim of a small face: it multiplies the face by a mask, but not the background
    # by what the mask leaves. We blend with one mask, so some rim pixels of the 62 px face are lighter.
    rim = 0.001 if golden_name == "small_up1" else 0.0
    assert (difference > 2).mean() <= rim
    assert difference.max() <= (8 if rim else 2)
