"""Where the squares of two faces overlap, each face keeps what is nearer to it."""

from __future__ import annotations

import numpy as np
import pytest

from atelier_restorer.align import TEMPLATE, crop_to_picture
from atelier_restorer.neighbors import PastedFace
from atelier_restorer.paste import paste_face, soften_parts
from tests.unit.restorer.pasting import Place, matrix_of

RED, BLUE, GREEN = (200, 0, 0), (0, 0, 200), (0, 120, 0)

SIDE_BY_SIDE = (Place(300, 300, 300, 8), Place(430, 310, 280, -12))
ONE_ABOVE_THE_OTHER = (Place(300, 250, 320), Place(290, 400, 260, 20))
A_CHILD_BEFORE_AN_ADULT = (Place(300, 300, 420), Place(380, 420, 150))
PAIRS = [SIDE_BY_SIDE, ONE_ABOVE_THE_OTHER, A_CHILD_BEFORE_AN_ADULT]


def pasted(*faces: tuple[Place, tuple[int, int, int]], scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with flat faces, pasted in their order, and its mask."""
    image = np.full((720 * scale, 720 * scale, 3), GREEN, np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    covered: list[PastedFace] = []
    for place, color in faces:
        matrix = crop_to_picture(matrix_of(place), scale)
        crop = np.full((512, 512, 3), color, np.uint8)
        one = paste_face(image, mask, crop, matrix, scale, neighbors=covered)
        assert one is not None
        covered.append(one)
    return image, mask


def landmarks(place: Place, scale: int = 1) -> np.ndarray:
    matrix = crop_to_picture(matrix_of(place), scale)
    return np.rint(TEMPLATE @ matrix[:, :2].T + matrix[:, 2]).astype(int)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("pair", PAIRS)
def test_eyes_nose_and_mouth_of_both_faces_are_their_own(pair: tuple[Place, Place], scale: int) -> None:
    for faces in (((pair[0], RED), (pair[1], BLUE)), ((pair[1], BLUE), (pair[0], RED))):
        image, mask = pasted(*faces, scale=scale)
        for place, color in faces:
            x, y = landmarks(place, scale).T
            np.testing.assert_array_equal(image[y, x], [color] * 5)
            assert (mask[y, x] == 255).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_order_makes_no_difference_but_within_the_feathers(pair: tuple[Place, Place]) -> None:
    one, mask = pasted((pair[0], RED), (pair[1], BLUE))
    other, _ = pasted((pair[1], BLUE), (pair[0], RED))
    both = np.logical_and(*(pasted((place, RED))[1] == 255 for place in pair))
    assert both.sum() > 5000
    assert np.abs(one[both].astype(int) - other[both]).max() <= 2
    assert (mask[both] == 255).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_nothing_of_the_image_shows_between_two_faces(pair: tuple[Place, Place]) -> None:
    image, _ = pasted((pair[0], RED), (pair[1], BLUE))
    both = np.logical_and(*(pasted((place, RED))[1] == 255 for place in pair))
    assert image[both][:, 1].max() == 0
    seam = image[both][(image[both] > 20)[:, [0, 2]].all(axis=1)]
    assert 0 < len(seam) < 0.4 * both.sum(), "they fade into each other, but only between them"


def test_a_face_out_of_reach_changes_no_bit() -> None:
    apart = (Place(150, 150, 200, 5), Place(520, 500, 260, -30))
    matrix = crop_to_picture(matrix_of(apart[1]), 1)
    alone = np.full((720, 720, 3), GREEN, np.uint8)
    image, _ = pasted((apart[0], RED), (apart[1], BLUE))
    paste_face(alone, None, np.full((512, 512, 3), RED, np.uint8), crop_to_picture(matrix_of(apart[0]), 1), 1)
    paste_face(alone, None, np.full((512, 512, 3), BLUE, np.uint8), matrix, 1)
    np.testing.assert_array_equal(image, alone)


def blue_beside(place: Place, other: Place, visibility: float, parts: np.ndarray | None) -> np.ndarray:
    """Return an image with a blue face at `place`, which leaves what the red one at `other` covers to it."""
    image = np.full((720, 720, 3), GREEN, np.uint8)
    red, blue = (np.full((512, 512, 3), color, np.uint8) for color in (RED, BLUE))
    covered = paste_face(image, None, red, crop_to_picture(matrix_of(other), 1), 1, visibility, parts)
    assert covered is not None
    paste_face(image, None, blue, crop_to_picture(matrix_of(place), 1), 1, neighbors=[covered])
    return image


@pytest.mark.parametrize("pair", PAIRS)
def test_what_a_neighbor_hardly_shows_is_hardly_left_to_it(pair: tuple[Place, Place]) -> None:
    shown = {
        visibility: (blue_beside(pair[1], pair[0], visibility, None) == BLUE).all(axis=2).sum()
        for visibility in (1.0, 0.02)
    }
    alone = np.full((720, 720, 3), GREEN, np.uint8)
    crop = np.full((512, 512, 3), BLUE, np.uint8)
    paste_face(alone, None, crop, crop_to_picture(matrix_of(pair[1]), 1), 1)
    whole = (alone == BLUE).all(axis=2)
    faint = blue_beside(pair[1], pair[0], 0.02, None)
    assert np.abs(faint[whole].astype(int) - BLUE).max() <= 6, "two per cent of the other, at most"
    assert shown[1.0] < 0.97 * whole.sum()


def test_what_a_parsed_neighbor_does_not_cover_is_not_left_to_it() -> None:
    parts = np.zeros((512, 512), bool)
    parts[150:420, 120:260] = True  # the left half of its face
    place, other = Place(430, 310, 280), Place(300, 300, 300)
    image = blue_beside(place, other, 1.0, soften_parts(parts))
    alone = np.full((720, 720, 3), GREEN, np.uint8)
    paste_face(alone, None, np.full((512, 512, 3), BLUE, np.uint8), crop_to_picture(matrix_of(place), 1), 1)
    covered = (alone == BLUE).all(axis=2)
    assert image[covered][:, 1].max() <= GREEN[1] / 4 + 2, "a quarter of the image shows, where one fades"
    assert (image[covered][:, 1] <= 2).mean() > 0.9, "and nothing of it elsewhere"


def test_a_face_at_the_edge_of_the_image_keeps_its_part() -> None:
    pair = (Place(40, 300, 300), Place(190, 300, 300))
    image, _ = pasted((pair[0], RED), (pair[1], BLUE))
    for place, color in zip(pair, (RED, BLUE), strict=True):
        inside = [(x, y) for x, y in landmarks(place) if 0 <= x < 720]
        assert all(tuple(image[y, x]) == color for x, y in inside)
