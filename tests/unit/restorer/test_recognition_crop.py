"""The crop for face recognition: where the landmarks land, and that shrinking does not alias."""

from __future__ import annotations

import cv2
import numpy as np

from atelier_restorer.align import CROP_SIZE, TEMPLATE
from atelier_restorer.recognition_crop import (
    ARCFACE_TEMPLATE,
    CROP_TO_RECOGNITION,
    SIDE,
    recognition_crop,
    similarity_between,
)


def test_the_landmarks_land_on_the_template_as_well_as_a_similarity_allows() -> None:
    mapped = TEMPLATE @ CROP_TO_RECOGNITION[:, :2].T + CROP_TO_RECOGNITION[:, 2]
    errors = np.linalg.norm(mapped - ARCFACE_TEMPLATE, axis=1)
    assert errors.max() < 3.5, "the templates differ in the distance from the eyes to the mouth"
    reference, _ = cv2.estimateAffinePartial2D(TEMPLATE, ARCFACE_TEMPLATE, method=cv2.LMEDS)
    least = np.linalg.norm(mapped - ARCFACE_TEMPLATE) ** 2
    other = np.linalg.norm(TEMPLATE @ reference[:, :2].T + reference[:, 2] - ARCFACE_TEMPLATE) ** 2
    assert least <= other + 1e-9, "no other similarity has a smaller sum of squares"


def test_a_similarity_is_recovered_exactly() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (6, 2))
    cosine, sine = 1.7 * np.cos(0.6), 1.7 * np.sin(0.6)
    expected = np.array([[cosine, -sine, 5.0], [sine, cosine, -8.0]])
    found = similarity_between(points, points @ expected[:, :2].T + expected[:, 2])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_ramp_stays_a_ramp_at_the_right_place() -> None:
    x = np.broadcast_to(np.arange(CROP_SIZE) / 2, (CROP_SIZE, CROP_SIZE))
    crop = np.repeat(np.asarray(x, np.uint8)[..., None], 3, axis=2)
    inverse = cv2.invertAffineTransform(CROP_TO_RECOGNITION)
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    expected = (inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]) / 2 - 0.25
    found = recognition_crop(crop)[..., 0].astype(float)
    assert np.abs(found - expected)[5:-5, 5:-5].max() < 1.2


def test_a_pattern_finer_than_a_pixel_becomes_gray() -> None:
    y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE]
    crop = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    found = recognition_crop(crop).astype(float)
    assert found.shape == (SIDE, SIDE, 3) and np.abs(found - 127.5).max() < 40 and found.std() < 15
