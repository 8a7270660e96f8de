import numpy as np
import pytest

from atelier_restorer.detections import Detections, joined, overlaps, seen_best, without_second_boxes

UPRIGHT = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)])
"""Landmarks as fractions of a face's box."""


def face(left: float, top: float, side: float, score: float = 0.9) -> Detections:
    """A square face of an image with sides of 1000 px."""
    box = np.array([left, top, left + side, top + side]) / 1000
    landmarks = UPRIGHT * side / 1000 + (left / 1000, top / 1000)
    odds = np.log(score / (1 - score))
    return Detections(box[None], landmarks[None], np.array([score], np.float32), np.array([odds]))


@pytest.mark.parametrize("turns", range(4))
def test_faces_of_a_turned_image_are_turned_back(turns: int) -> None:
    """Against pixels that are turned with the image."""
    height, width = 40, 60
    image = np.zeros((height, width, 5))
    corners = [(7, 5), (22, 9), (15, 13), (8, 20), (21, 22)]
    for number, (x, y) in enumerate(corners):
        image[y, x, number] = 1
    turned = np.rot90(image, turns)
    sides = np.array([turned.shape[1], turned.shape[0]])
    seen = np.array([np.argwhere(turned[..., number])[0][::-1] for number in range(5)])
    landmarks = (seen + 0.5) / sides
    box = np.concatenate((landmarks.min(axis=0), landmarks.max(axis=0)))
    one = np.ones(1)
    back = Detections(box[None], landmarks[None], one.astype(np.float32), one).turned_back(turns)
    np.testing.assert_allclose(back.landmarks[0] * (width, height) - 0.5, corners)
    expected = np.array([7.5, 5.5, 22.5, 22.5]) / (width, height, width, height)
    np.testing.assert_allclose(back.boxes[0], expected)


def test_faces_of_a_part_are_faces_of_the_image() -> None:
    part = face(500, 250, 250)
    moved = part.moved(0.2, 0.4, 0.1, 0.2)
    np.testing.assert_allclose(moved.boxes[0], (0.25, 0.45, 0.275, 0.5))
    np.testing.assert_allclose(moved.landmarks[0], part.landmarks[0] * (0.1, 0.2) + (0.2, 0.4))


def test_faces_are_joined_by_their_odds() -> None:
    both = joined([face(0, 0, 100, 0.7), face(300, 0, 100, 0.9)])
    np.testing.assert_allclose(both.scores, (0.9, 0.7))
    np.testing.assert_allclose(both.boxes[:, 0], (0.3, 0))


def test_each_face_is_kept_as_it_was_seen_best() -> None:
    every = joined(
        [face(0, 0, 100, 0.7), face(500, 500, 200, 0.9), face(5, 5, 100, 0.8), face(9, 9, 20, 0.6)]
    )
    assert seen_best(every).scores.tolist() == [np.float32(score) for score in (0.9, 0.8, 0.6)]
    assert len(seen_best(every.where(slice(0)))) == 0


def test_overlaps_of_boxes() -> None:
    boxes = np.array([(0, 0, 2, 2), (1, 1, 3, 3), (5, 5, 6, 6)], float)
    np.testing.assert_allclose(overlaps(boxes[:1], boxes)[0], (1, 1 / 7, 0))


def test_a_smaller_box_over_the_same_head_is_left_out() -> None:
    """IoU 0.18, half of the smaller inside of the larger, one nose: what suppression by overlap leaves."""
    both = joined([face(100, 100, 200, 0.99), face(180, 150, 90, 0.9)])
    assert without_second_boxes(both, 1000, 1000).scores.tolist() == [np.float32(0.99)]


@pytest.mark.parametrize("apart", [0.5, 0.6, 0.8, 1.0])
def test_faces_cheek_to_cheek_are_two(apart: float) -> None:
    """A face is about as wide as its box: boxes that share half of their width are of profiles that touch."""
    both = joined([face(100, 100, 200, 0.99), face(100 + 200 * apart, 110, 190, 0.98)])
    assert len(without_second_boxes(both, 1000, 1000)) == 2


def test_a_childs_face_before_a_large_one_is_a_face() -> None:
    both = joined([face(100, 100, 400, 0.99), face(330, 330, 120, 0.98)])
    assert len(without_second_boxes(both, 1000, 1000)) == 2


def test_thousands_of_faces_are_not_all_compared() -> None:
    """What has a low score may come in tens of thousands: the rest stays as it is, in its order."""
    many = [face(20 * (n % 50), 20 * (n // 50), 15, 0.9 - n * 1e-4) for n in range(2050)]
    second = joined([*many, face(1, 1, 9, 0.5)])
    kept = without_second_boxes(second, 1000, 1000)
    assert len(kept) == 2051 and kept.scores.tolist() == second.scores.tolist()
    assert len(without_second_boxes(joined([many[0], face(1, 1, 9, 0.5)]), 1000, 1000)) == 1
