"""Our alignment and the soft square against the reference's.

Tolerance: two gray levels, which is what two versions of OpenCV differ by.
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
def test_the_inverse_at_scale_2_is_the_references_except_for_its_half_pixel(name: str) -> None:
    """Upscaling by 2 moves a pixel's center by half a pixel; the reference stores 0, then pastes at 1."""
    ours = crop_to_picture(face_to_crop(SETS[name]["landmarks"]), 2)
    for key, too_much in (("inverse_up2", -0.5), ("inverse_up2_at_paste", 0.5)):
        expected = np.array(SETS[name][key])
        expected[:, 2] -= too_much
        np.testing.assert_allclose(ours, expected, atol=1e-3)


def least_squares(landmarks: list[list[float]]) -> np.ndarray:
    """Return the similarity that fits all five points best, by the normal equations."""
    points = np.array(landmarks)
    x, y, one, zero = points[:, 0], points[:, 1], np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    (a, b, tx, ty), *_ = np.linalg.lstsq(rows, TEMPLATE.T.ravel())
    return np.array([[a, -b, tx], [b, a, ty]])


@pytest.mark.parametrize("name", SETS)
def test_why_the_least_median_of_squares(name: str) -> None:
    """A profile has a landmark that fits no frontal view; with least squares it would rotate the crop."""
    landmarks = SETS[name]["landmarks"]
    corners = np.array([(0, 511, 511, 0), (0, 0, 511, 511), (1, 1, 1, 1)], dtype=float)
    off = (
        crop_to_picture(face_to_crop(landmarks), 1) - crop_to_picture(least_squares(landmarks), 1)
    ) @ corners
    furthest_px = np.hypot(*off).max()
    if name.startswith("profile"):
        assert furthest_px == pytest.approx(26.5, abs=1)
    else:
        assert furthest_px < 0.001


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
