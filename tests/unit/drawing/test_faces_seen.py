"""Turned, small, crowded and partly hidden faces: what is drawn of them and what is annotated."""

from typing import Any

import cv2
import numpy as np
import pytest

from drawing import Drawing, draw
from drawing.canvas import Canvas
from drawing.figure import draw_person
from drawing.person import Person
from drawing.plan import HeadPlan, Light
from drawing.pose import Pose


def person(**facts: Any) -> Person:
    given: dict[str, Any] = {
        "sex": "woman", "age": "adult", "skin": "light", "eye_color": "brown", "hair_color": "black",
        "hair_style": "bun", "expression": "smiling", "beard": None, "glasses": None, "hat": None,
        "hat_color": None, "earrings": False, "necklace": False, "clothes": "shirt", "shirt": "red",
        "tie": None, "scarf": None, "cover": None, "width": 1.0, "jaw": 0.5, "turn": 0.0,
    }  # fmt: skip
    return Person(**{**given, **facts})


def portrait(**facts: Any) -> tuple[Canvas, np.ndarray, np.ndarray]:
    """The canvas, the landmarks in its pixels, and which of them are seen."""
    canvas = Canvas(512)
    canvas.gradient((72, 132, 212), (72, 132, 212))
    placed = draw_person(canvas, person(**facts), Pose(0.5, 0.5, 0.3, 0.0), Light(), 0)
    return canvas, placed.landmarks * 512, canvas.owners.at(placed.landmarks) == placed.owner


def drawn(seed: int, size: int, kind: str) -> Drawing:
    return draw(np.random.default_rng(seed), size, kind)


@pytest.mark.parametrize("turn", [-1.0, -0.6, 0.0, 0.6, 1.0])
def test_pupils_are_at_the_eye_landmarks_of_a_turned_head(turn: float) -> None:
    canvas, landmarks, seen = portrait(turn=turn)
    gray = cv2.cvtColor(canvas.pixels, cv2.COLOR_RGB2GRAY)
    assert seen.all()
    for x, y in np.round(landmarks[:2]).astype(int):
        assert gray[y - 1 : y + 2, x - 1 : x + 2].mean() < 60
        dark = np.argwhere(gray[y - 12 : y + 13, x - 12 : x + 13] < 60) - 12
        assert np.abs(dark.mean(0)).max() < 2.5, "the pupil's middle is the landmark"


def test_a_turned_head_takes_nose_and_eyes_to_its_side_and_narrows_the_farther_half() -> None:
    front = HeadPlan(person(), Light()).landmarks()
    right = HeadPlan(person(turn=1.0), Light()).landmarks()
    left = HeadPlan(person(turn=-1.0), Light()).landmarks()
    assert (right[:, 0] > front[:, 0] + 0.1).all()
    nearer, farther = right[2, 0] - right[0, 0], right[1, 0] - right[2, 0]
    assert farther < 0.6 * nearer
    assert right[1, 0] - right[0, 0] < 0.95 * (front[1, 0] - front[0, 0])
    mirrored = left[[1, 0, 2, 4, 3]] * (-1, 1)
    np.testing.assert_allclose(right, mirrored, atol=1e-9)


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({}, [True] * 5),
        ({"cover": "scarf", "scarf": "blue"}, [True, True, False, False, False]),
        ({"hat": "hat", "hat_color": "red"}, [True] * 5),
        ({"hat": "hat", "hat_color": "red", "cover": "brim"}, [False, None, True, True, True]),
        ({"cover": "hand"}, [None, True, None, False, None]),
    ],
)
def test_landmarks_behind_something_are_not_visible(
    facts: dict[str, object], seen: list[bool | None]
) -> None:
    _, _, found = portrait(**facts)
    for expected, visible in zip(seen, found, strict=True):
        assert expected is None or expected == visible


def test_faces_cut_at_the_edge_keep_true_landmarks_and_a_box_inside_the_picture() -> None:
    cut = 0
    for seed in range(200):
        drawing = drawn(seed, 64, "portrait")
        face = drawing.faces[0]
        outside = ((face.landmarks < 0) | (face.landmarks >= 64)).any(1)
        if outside.any():
            cut += 1
            assert face.hidden > 0.1 and min(face.box) >= 0 and max(face.box) <= 64
            assert not np.array(face.visible)[outside].any()
    assert cut >= 2


def test_people_in_two_rows_hide_each_other_little() -> None:
    hidden = [face.hidden for seed in range(20) for face in drawn(seed, 64, "crowd").faces]
    assert 0 < np.mean(np.array(hidden) > 0.02) < 0.7
    assert np.mean(np.array(hidden) > 0.6) < 0.03


def test_people_far_away_are_small_and_stand_on_the_ground() -> None:
    for seed in range(12):
        for face in drawn(seed, 512, "far").faces:
            left, top, right, bottom = face.box
            assert 20 < right - left < 60 and 25 < bottom - top < 75
            assert bottom < 0.65 * 512


@pytest.mark.parametrize("kind", ["crowd", "far", "clock", "bicycle"])
def test_every_size_is_the_same_picture_for_small_things_too(kind: str) -> None:
    one, other = drawn(4, 256, kind), drawn(4, 1024, kind)
    assert one.caption == other.caption
    shrunk = cv2.resize(other.image, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - one.image).mean() < 1.5
    for face, larger in zip(one.faces, other.faces, strict=True):
        np.testing.assert_allclose(larger.landmarks, face.landmarks * 4, rtol=1e-5)
        assert abs(face.hidden - larger.hidden) < 0.02
