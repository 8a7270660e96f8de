import numpy as np
import pytest

from atelier_restorer.gray import Recoloring, gray_face, is_gray, recoloring, to_gray, toned_face
from tests.parity import recipe

FACE = recipe.image("face", 1, 512, 512)
SCENE = recipe.image("scene", 2, 512, 512)
GRAY = np.repeat(SCENE[..., :1], 3, axis=2)
SEPIA = np.clip(GRAY.astype(int) * 3 // 4 + (40, 20, 0), 0, 255).astype(np.uint8)


def test_which_images_are_gray_toned_or_in_color() -> None:
    noise = np.random.default_rng(0).normal(0, 1.5, GRAY.shape)
    scan = np.clip(GRAY + noise, 0, 255).astype(np.uint8)  # of a gray print, by a scanner with noise
    assert is_gray(GRAY) and not is_gray(scan) and not is_gray(SEPIA) and not is_gray(SCENE)
    assert is_gray(GRAY.astype(np.uint16) * 257)
    assert recoloring(GRAY, True) is gray_face
    assert recoloring(scan, False) is recoloring(SEPIA, False) is toned_face
    assert recoloring(SCENE, False) is None
    assert recoloring(SCENE[:1, :1], False) is toned_face
    assert recoloring(np.broadcast_to(SCENE[:, :1], (512, 5000, 3)), False) is None


def test_a_gray_face_is_gray_with_its_crops_brightness_and_contrast() -> None:
    dark = (GRAY // 3).astype(np.uint8)
    face = gray_face(FACE, dark)
    assert is_gray(face)
    assert face.mean() == pytest.approx(dark.mean(), abs=0.5)
    assert face.std() == pytest.approx(dark.std(), rel=0.02)
    luma = to_gray(FACE)[..., 0].ravel()
    assert np.corrcoef(face[..., 0].ravel(), luma)[0, 1] > 0.99


def test_a_toned_face_has_its_crops_tone() -> None:
    face = toned_face(FACE, SEPIA)
    np.testing.assert_allclose(face.mean(axis=(0, 1)), SEPIA.mean(axis=(0, 1)), atol=0.5)
    assert np.corrcoef(face[..., 0].ravel(), to_gray(FACE)[..., 0].ravel())[0, 1] > 0.99


def test_values_beyond_black_and_white_are_clipped() -> None:
    hard = np.where(GRAY > 127, 255, 0).astype(np.uint8)
    face = gray_face(FACE, hard)
    luma = to_gray(FACE)[..., 0]
    assert (face[luma >= np.quantile(luma, 0.99)] == 255).all()
    assert (face[luma <= np.quantile(luma, 0.01)] == 0).all()


@pytest.mark.parametrize("recolor", [gray_face, toned_face])
def test_a_face_or_a_crop_without_contrast(recolor: Recoloring) -> None:
    flat = np.full((512, 512, 3), (200, 30, 120), np.uint8)
    assert np.ptp(recolor(FACE, flat).reshape(-1, 3), axis=0).max() == 0
    assert np.ptp(recolor(flat, FACE).reshape(-1, 3), axis=0).max() == 0
