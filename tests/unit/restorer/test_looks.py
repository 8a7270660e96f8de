"""Faces are found whichever way up they are, and however small, by the published RetinaFace."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from skimage import data

from atelier_restorer.detect import FaceDetector, resized, size_warnings, to_faces
from atelier_restorer.looks import _Search, find_faces
from atelier_restorer.request import Face, Look
from atelier_runtime.outcomes import WarningCode
from tests.published_retinaface import published_detector

ROLL_OF_TURN = {0: 0, 1: -90, 2: 180, 3: 90}
"""Quarter turns of a photo, counterclockwise -> degrees by which its faces then are turned, clockwise."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return published_detector()


@pytest.fixture
def pixels_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pixels of each batch that the detector sees from now on."""
    seen: list[int] = []
    original = FaceDetector.raw

    def recording(self: FaceDetector, batch: np.ndarray) -> object:
        seen.append(batch[..., 0].size)
        return original(self, batch)

    monkeypatch.setattr(FaceDetector, "raw", recording)
    return seen


def found(
    detector: FaceDetector,
    image: np.ndarray,
    look: Look = Look.AUTO,
    *,
    size_px: int = 640,
    min_confidence: float = 0.8,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[Face], list[bool]]:
    result = find_faces(
        detector, image, size_px=size_px, min_confidence=min_confidence, look=look, check=check
    )
    return to_faces(result.faces, image.shape[1], image.shape[0]), result.unclear.tolist()


def portrait(side: int) -> np.ndarray:
    """Return a photo of a woman's head; her face is 0.42 of it wide."""
    head = np.ascontiguousarray(data.astronaut()[10:250, 102:342])
    return cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)


def with_portraits(height: int, width: int, places: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Return a scene with portraits at (left, top, side, quarter turns)."""
    scene = np.full((height, width, 3), (96, 104, 112), np.uint8)
    for left, top, side, turns in places:
        scene[top : top + side, left : left + side] = np.rot90(portrait(side), turns)
    return scene


def rolls_at(faces: list[Face], places: list[tuple[int, int, int, int]]) -> list[float | None]:
    """Return the roll of the face that was found in each place, None if there is not exactly one."""
    rolls: list[float | None] = []
    for left, top, side, _ in places:
        middle = [
            face
            for face in faces
            if left < (face.box[0] + face.box[2]) / 2 < left + side
            and top < (face.box[1] + face.box[3]) / 2 < top + side
        ]
        rolls.append(middle[0].roll_degrees if len(middle) == 1 else None)
    return rolls


def angle_between(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("look", [Look.AUTO, Look.THOROUGH])
@pytest.mark.parametrize("turns", range(4))
def test_a_turned_photo_has_its_landmarks_where_they_are(
    detector: FaceDetector, turns: int, look: Look
) -> None:
    photo = data.astronaut()
    [upright], _ = found(detector, photo, Look.ONCE)
    [face], unclear = found(detector, np.ascontiguousarray(np.rot90(photo, turns)), look)
    side = photo.shape[0]
    points = np.array(upright.landmarks)
    for _ in range(turns):
        points = np.stack((points[:, 1], side - points[:, 0]), axis=1)
    apart = np.linalg.norm(np.array(face.landmarks) - points, axis=1).mean()
    assert apart < 0.1 * upright.eye_distance_px
    assert angle_between(face.roll_degrees, upright.roll_degrees + ROLL_OF_TURN[turns]) < 8
    assert unclear == [False]


@pytest.mark.parametrize("look", [Look.AUTO, Look.THOROUGH])
def test_those_that_lie_are_seen_upright_among_others(detector: FaceDetector, look: Look) -> None:
    places = [(20, 20, 300, 0), (360, 40, 280, 2), (680, 20, 300, 0), (40, 360, 300, 1), (380, 370, 260, 0)]
    places.append((690, 360, 290, 3))
    faces, unclear = found(detector, with_portraits(700, 1020, places), look)
    rolls = rolls_at(faces, places)
    for (*_, turns), roll in zip(places, rolls, strict=True):
        assert roll is not None and angle_between(roll, ROLL_OF_TURN[turns]) < 12, rolls
    assert not any(unclear) and len(faces) == len(places)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("look", [Look.AUTO, Look.THOROUGH])
def test_upright_ones_among_more_that_lie_are_not_lost(
    detector: FaceDetector, look: Look, turns: int
) -> None:
    upright = [(10 + 130 * number, 10, 120, 0) for number in range(3)]
    turned = [(10 + 250 * (number % 3), 150 + 250 * (number // 3), 240, turns) for number in range(6)]
    scene = with_portraits(650, 770, [*upright, *turned])
    scene[:140] = scene[:140] * 0.4  # in the dark, so that a turned look does not see them
    once, _ = found(detector, scene, Look.ONCE)
    assert [roll is not None and abs(roll) < 12 for roll in rolls_at(once, upright)] == [True] * len(upright)
    faces, unclear = found(detector, scene, look)
    for (*_, turn), roll in zip([*upright, *turned], rolls_at(faces, [*upright, *turned]), strict=True):
        assert roll is not None and angle_between(roll, ROLL_OF_TURN[turn]) < 12
    assert not any(unclear) and len(faces) == len(upright) + len(turned)


def test_one_look_is_the_networks_own_list(detector: FaceDetector, pixels_seen: list[int]) -> None:
    scene = with_portraits(700, 1020, [(20, 20, 300, 2), (360, 40, 40, 0), (680, 20, 300, 0)])
    faces, unclear = found(detector, scene, Look.ONCE)
    assert pixels_seen == [resized(scene, 640)[..., 0].size]
    assert faces == detector.detect([scene], size_px=640, min_confidence=0.8)[0]
    assert unclear == [False] * len(faces)


def test_a_photo_with_a_clear_face_is_looked_at_once(detector: FaceDetector, pixels_seen: list[int]) -> None:
    photo = data.astronaut()
    faces, _ = found(detector, photo)
    assert pixels_seen == [640 * 640]
    assert faces == detector.detect([photo], size_px=640, min_confidence=0.8)[0]


def test_what_has_a_low_score_is_no_reason_to_look_closer(
    detector: FaceDetector, pixels_seen: list[int]
) -> None:
    photo = data.astronaut()
    faces, _ = found(detector, photo, min_confidence=0.0, size_px=320)
    assert min(face.size_px for face in faces if face.confidence < 0.5) < 20 < faces[0].size_px
    assert pixels_seen[0] == 320 * 320 and max(pixels_seen) == 320 * 320


def test_a_photo_without_a_face_is_looked_at_in_all_turns(
    detector: FaceDetector, pixels_seen: list[int]
) -> None:
    assert found(detector, data.coffee()) == ([], [])
    assert pixels_seen == [640 * 960] * 4, "it is not enlarged further: that shows nothing more"


def test_small_faces_are_found_at_a_larger_size(detector: FaceDetector, pixels_seen: list[int]) -> None:
    """Faces of 30 to 65 px in 6 megapixels: 10 to 21 px in the first look."""
    places = [
        (60 + 290 * column, 60 + 300 * row, 72 + 12 * ((row + column) % 8), 0)
        for row in range(6)
        for column in range(10)
    ]
    scene = with_portraits(2000, 3000, places)
    once, _ = found(detector, scene, Look.ONCE)
    pixels_seen.clear()
    faces, unclear = found(detector, scene)
    assert len(once) < 50
    rolls = rolls_at(faces, places)
    assert all(roll is not None and abs(roll) < 15 for roll in rolls), f"{len(once)} were found at once"
    assert len(faces) == len(places) and not any(unclear)
    assert pixels_seen[0] == 640 * 960 and sum(seen >= 1280 * 1920 for seen in pixels_seen) == 2


def test_a_large_face_beside_small_ones_is_found_once(detector: FaceDetector) -> None:
    places = [(100, 100, 1700, 0), *((2000 + 150 * number, 900, 130, 0) for number in range(5))]
    faces, _ = found(detector, with_portraits(2000, 3000, places))
    assert None not in rolls_at(faces, places)
    assert len(faces) == len(places)


def test_a_panorama_is_seen_with_its_own_short_side(detector: FaceDetector) -> None:
    places = [(120 + 140 * number, 60 + 90 * (number % 7), 90, 0) for number in range(60)]
    panorama = with_portraits(768, 8725, places)
    once, _ = found(detector, panorama, Look.ONCE)
    faces, _ = found(detector, panorama)
    assert len(faces) >= len(once) and None not in rolls_at(faces, places)
    assert size_warnings(8725, 768, 640) == size_warnings(8725, 768, 0) == []
    [warning] = size_warnings(8725, 768, 2048)
    assert warning.code is WarningCode.DETECT_SIZE_LIMITED and "8725x768" in warning.message


def test_faces_of_a_lower_confidence_are_left_out(detector: FaceDetector) -> None:
    scene = with_portraits(700, 1020, [(20, 20, 300, 2), (360, 40, 200, 1), (680, 20, 300, 0)])
    every, _ = found(detector, scene)
    confidences = [face.confidence for face in every]
    assert len(every) == 3 and confidences == sorted(confidences, reverse=True)
    some, _ = found(detector, scene, min_confidence=confidences[1])
    assert [face.confidence for face in some] == confidences[:1]


def test_a_search_can_be_ended_between_looks(detector: FaceDetector, pixels_seen: list[int]) -> None:
    def end() -> None:
        if len(pixels_seen) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        found(detector, data.coffee(), check=end)
    assert len(pixels_seen) == 2


@pytest.mark.parametrize("look", [Look.AUTO, Look.THOROUGH])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_close_up_has_one_face(detector: FaceDetector, turns: int, margin: float, look: Look) -> None:
    """Filling the image, a face is seen in several turns."""
    photo = data.astronaut()
    [face], _ = found(detector, photo, Look.ONCE)
    x1, y1, x2, y2 = face.box
    more = margin * (x2 - x1)
    tight = photo[round(y1 - more) : round(y2 + more), round(x1 - more) : round(x2 + more)]
    close_up = cv2.resize(np.rot90(tight, turns), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    faces, _ = found(detector, close_up, look)
    assert len(faces) == 1
    assert angle_between(faces[0].roll_degrees, ROLL_OF_TURN[turns]) < 15


@pytest.mark.parametrize("look", [Look.AUTO, Look.THOROUGH])
def test_all_that_has_a_low_score_is_returned_in_a_moment(
    detector: FaceDetector, pixels_seen: list[int], look: Look
) -> None:
    photo = cv2.resize(data.astronaut(), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    once, _ = found(detector, photo, Look.ONCE, min_confidence=0.0)
    pixels_seen.clear()
    every, unclear = found(detector, photo, look, min_confidence=0.0)
    assert len(every) == len(unclear) > 0.9 * len(once) > 1000
    assert sum(pixels_seen) < 12 * 640 * 640


@pytest.mark.parametrize("count", [130, 200])
def test_a_crowd_upside_down_is_turned_whatever_its_size(detector: FaceDetector, count: int) -> None:
    """More faces than are looked at one by one."""
    columns = 20
    places = [(10 + 90 * (n % columns), 10 + 90 * (n // columns), 80, 2) for n in range(count)]
    scene = with_portraits(20 + 90 * -(-count // columns), 20 + 90 * columns, places)
    faces, unclear = found(detector, scene)
    rolls = rolls_at(faces, places)
    right = [roll is not None and angle_between(roll, 180) < 20 for roll in rolls]
    assert sum(right) >= 0.95 * count and not any(unclear)


@pytest.mark.parametrize("angle", [-52, -47, -44, 44, 47, 52])
def test_a_face_between_two_turns_is_not_unclear_where_both_agree(detector: FaceDetector, angle: int) -> None:
    canvas = np.full((720, 720, 3), (96, 104, 112), np.uint8)
    canvas[210:510, 210:510] = portrait(300)
    matrix = cv2.getRotationMatrix2D((360, 360), -angle, 1)
    turned = cv2.warpAffine(canvas, matrix, (720, 720), borderValue=(96, 104, 112))
    [face], [unclear] = found(detector, turned)
    if angle_between(face.roll_degrees, angle) < 12:
        assert not unclear


def test_a_box_far_larger_than_the_image_takes_no_memory(detector: FaceDetector) -> None:
    """As the anchors of a panorama may give: a square around it is cut without ever being padded."""
    panorama = np.full((60, 40_000, 3), 90, np.uint8)
    search = _Search(detector, panorama, 64, 0.5, lambda: None)
    tracemalloc.start()
    try:
        crop, part = search._crop(np.array([-0.2, -0.5, 1.2, 1.5]), 128)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert crop.shape == (128, 128, 3) and part[2] == pytest.approx(2.8)
