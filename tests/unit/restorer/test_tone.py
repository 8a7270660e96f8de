"""Restored faces take on the tone around them: tones that were added to crops are removed again."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from atelier_restorer.align import CROP_SIZE, cut_crop
from atelier_restorer.gray import gray_face
from atelier_restorer.tone import match_tone
from tests.unit.restorer.pasting import (
    ACROSS_THE_EDGE,
    FLAT_COLORS,
    INSIDE,
    SCALES,
    Pasted,
    Place,
    flat,
    matrix_of,
    paste_back,
    portrait,
    ring,
)

LEVELS = 24
IMAGES = [portrait(), *map(flat, FLAT_COLORS[1:3])]
ALL_PLACES = INSIDE + ACROSS_THE_EDGE
Y, X = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE]
FACE = np.hypot((X - 256) / 125, (Y - 280) / 150) < 0.9


def lighter(crop: np.ndarray) -> np.ndarray:
    """Return a crop that is lighter all over."""
    return added(crop, np.full((CROP_SIZE, CROP_SIZE, 3), LEVELS, np.float32))


def tinted(crop: np.ndarray) -> np.ndarray:
    """Return a crop that is redder to the right, darker in blue to the bottom, and wavy in green."""
    waves = LEVELS * np.cos(X / 90) * np.sin(Y / 120)
    return added(crop, np.stack([X * LEVELS / CROP_SIZE, waves, -Y * LEVELS / CROP_SIZE], axis=2))


def another_face(crop: np.ndarray) -> np.ndarray:
    """Return a crop with another face in its middle and the border that it had."""
    changed = crop.copy()
    cv2.ellipse(changed, (256, 270), (130, 160), 0, 0, 360, (225, 60, 20), cv2.FILLED)
    return changed


def added(crop: np.ndarray, tone: np.ndarray) -> np.ndarray:
    toned: np.ndarray = np.rint(crop + tone).clip(0, 255).astype(np.uint8)
    return toned


def matched(place: Place, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that changes a crop of that place and then matches its tone."""
    return lambda crop: match_tone(change(crop), crop, matrix_of(place), 240, 240)


def shift_of_ring(pasted: Pasted, scale: int) -> float:
    """Return by how many levels the mean color of the ring around the face has changed."""
    return float(np.abs(pasted.change[ring(pasted.mask, scale)].mean(axis=0)).max())


@pytest.mark.parametrize("place", ALL_PLACES)
def test_a_network_that_keeps_the_border_is_not_corrected(place: Place) -> None:
    for image in IMAGES:
        crop = cut_crop(image, matrix_of(place))
        for change in (np.copy, another_face):
            np.testing.assert_array_equal(matched(place, change)(crop), change(crop))


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("change", [lighter, tinted])
def test_the_ring_keeps_its_mean_color_whatever_tone_was_added(
    change: Callable[[np.ndarray], np.ndarray], scale: int, place: Place
) -> None:
    for image in IMAGES:
        assert shift_of_ring(paste_back(image, place, scale, matched(place, change)), scale) < 1
    plain = paste_back(IMAGES[0], place, scale, change)
    assert shift_of_ring(plain, scale) > 1.5, "what was added would have shown"


@pytest.mark.parametrize("change", [lighter, tinted])
def test_the_face_keeps_every_pixel_of_the_network(change: Callable[[np.ndarray], np.ndarray]) -> None:
    place = INSIDE[2]
    for image in IMAGES:
        crop = cut_crop(image, matrix_of(place))
        np.testing.assert_array_equal(matched(place, change)(crop)[FACE], change(crop)[FACE])


def test_no_box_is_left_in_a_flat_image() -> None:
    """What remains of another tone follows the face, and has no step where a square could end."""
    place = Place(120, 120, CROP_SIZE / 4)
    crop = cut_crop(flat((90, 120, 60)), matrix_of(place))
    left = matched(place, lighter)(crop).astype(int) - crop
    near_border = np.minimum(np.minimum(X, CROP_SIZE - 1 - X), np.minimum(Y, CROP_SIZE - 1 - Y)) < 48
    assert np.abs(left[near_border]).max() == 0
    assert (left[FACE] == LEVELS).all()
    assert max(np.abs(np.diff(left, axis=axis)).max() for axis in (0, 1)) <= 2


@pytest.mark.parametrize("place", ACROSS_THE_EDGE[:-1])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_face_across_the_edge_matches_the_part_inside_the_image(scale: int, place: Place) -> None:
    for image in IMAGES:
        pasted = paste_back(image, place, scale, matched(place, lighter))
        # of a face of 20 px at a corner the ring is a handful of pixels
        assert shift_of_ring(pasted, scale) < (1 if place.side > 20 else 2)


@pytest.mark.parametrize("place", ACROSS_THE_EDGE)
def test_the_fill_of_a_crop_beyond_the_image_does_not_count(place: Place) -> None:
    crop = cut_crop(portrait(), matrix_of(place))
    beyond = cut_crop(np.ones((240, 240, 3), np.uint8), matrix_of(place))[..., 0] > 1
    assert beyond.any()
    other = crop.copy()
    other[beyond] = (250, 0, 99)
    results = [match_tone(tinted(crop), c, matrix_of(place), 240, 240) for c in (crop, other)]
    np.testing.assert_array_equal(results[0], results[1])


def test_a_face_that_covers_the_image_has_no_border_to_match() -> None:
    place = ACROSS_THE_EDGE[-1]
    crop = cut_crop(portrait(), matrix_of(place))
    np.testing.assert_array_equal(matched(place, tinted)(crop), tinted(crop))


@pytest.mark.parametrize("place", ALL_PLACES)
def test_gray_stays_gray(place: Place) -> None:
    gray = np.repeat(portrait()[..., :1], 3, axis=2)
    crop = cut_crop(gray, matrix_of(place))  # what fills it beyond the edge is not gray
    restored = gray_face(tinted(crop), crop)
    result = match_tone(restored, crop, matrix_of(place), 240, 240)
    np.testing.assert_array_equal(result, np.repeat(result[..., :1], 3, axis=2))


def test_white_stays_white() -> None:
    crop = np.full((CROP_SIZE, CROP_SIZE, 3), 255, np.uint8)
    restored = crop.copy()
    restored[::2] = 155
    whole = np.array([[1, 0, 0], [0, 1, 0]], np.float64)  # the crop is the image
    rim = match_tone(restored, crop, whole, CROP_SIZE, CROP_SIZE)[:40]
    assert (rim[1::2] == 255).all(), "half of the difference more than white is white"
    assert (rim[::2] == 205).all()
