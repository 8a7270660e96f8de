from typing import Any

import pytest

from atelier_restorer.align import TEMPLATE
from atelier_restorer.request import DetectRequest, Face, FaceEdit, FaceRule, RestoreRequest
from atelier_restorer.selection import apply_face_edits, select_faces
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.outcomes import SkipReason

NAN = float("nan")


def face(index: int, x: float, y: float, size: float, confidence: float = 0.9) -> Face:
    points = tuple((x + size * (a / 512 - 0.5), y + size * (b / 512 - 0.5)) for a, b in TEMPLATE.tolist())
    half = size / 2
    return Face(index, (x - half, y - half, x + half, y + half), points, confidence)


FACES = [
    face(0, 100, 100, 50, 0.99),
    face(1, 300, 200, 80, 0.95),
    face(2, 500, 100, 120, 0.9),
    face(3, 320, 300, 15, 0.85),  # eyes 3.7 px apart
    face(4, 200, 200, 60, 0.7),
]
TOO_SMALL, SKIPPED = SkipReason.TOO_SMALL, SkipReason.SKIPPED
LOW, OVER = SkipReason.LOW_CONFIDENCE, SkipReason.OVER_LIMIT


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, None, None, TOO_SMALL, LOW]),
        ({"min_confidence": 0.5}, [None, None, None, TOO_SMALL, None]),
        ({"min_confidence": 0.9}, [None, None, LOW, LOW, LOW]),
        ({"min_face_px": 60}, [TOO_SMALL, None, None, TOO_SMALL, LOW]),
        ({"max_face_px": 100}, [None, None, SKIPPED, TOO_SMALL, LOW]),
        ({"max_faces": 2}, [None, None, OVER, TOO_SMALL, LOW]),
        ({"rule": FaceRule.LARGEST}, [SKIPPED, SKIPPED, None, TOO_SMALL, LOW]),
        ({"rule": FaceRule.CENTER}, [SKIPPED, None, SKIPPED, TOO_SMALL, LOW]),
        ({"rule": FaceRule.LARGEST, "max_face_px": 100}, [SKIPPED, None, SKIPPED, TOO_SMALL, LOW]),
        ({"rule": FaceRule.CENTER, "min_face_px": 500}, [TOO_SMALL, TOO_SMALL, TOO_SMALL, TOO_SMALL, LOW]),
    ],
)
def test_which_faces_are_restored(options: dict[str, Any], expected: list[SkipReason | None]) -> None:
    assert select_faces(FACES, RestoreRequest(**options), 640, 400) == expected


def test_of_70_faces_64_are_restored_by_default() -> None:
    crowd = [face(index, 100, 100, 50) for index in range(70)]
    expected = [None] * 64 + [OVER] * 6
    assert select_faces(crowd, RestoreRequest(), 640, 400) == expected
    edits = [FaceEdit(one) for one in crowd]
    assert apply_face_edits(RestoreRequest(faces=tuple(edits))) == expected
    skipped = [FaceEdit(crowd[0], skip=True), *edits[1:]]
    assert apply_face_edits(RestoreRequest(faces=tuple(skipped))) == [SKIPPED] + [None] * 64 + [OVER] * 5


def test_no_faces_give_no_reasons() -> None:
    assert select_faces([], RestoreRequest(rule=FaceRule.CENTER), 640, 400) == []


def test_defaults_are_those_of_the_shared_table() -> None:
    request = RestoreRequest()
    assert (request.fidelity, request.max_faces, request.min_confidence) == (
        defaults.FIDELITY,
        defaults.MAX_FACES,
        defaults.MIN_CONFIDENCE,
    )
    assert DetectRequest().detect_size_px == defaults.DETECT_SIZE_PX


@pytest.mark.parametrize("field", ["fidelity", "visibility", "min_confidence"])
@pytest.mark.parametrize("value", [-0.001, 1.001, NAN, float("inf")])
def test_fractions_must_be_from_0_to_1(field: str, value: float) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(InvalidRequest) as caught:
        RestoreRequest(**options)
    assert [violation.field for violation in caught.value.fields] == [field]
    assert "from 0 to 1" in caught.value.fields[0].message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_range_are_allowed(value: float) -> None:
    RestoreRequest(fidelity=value, visibility=value, min_confidence=value)


def test_every_violation_is_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        RestoreRequest(fidelity=NAN, max_faces=-1, upscale=3, quality=0, min_face_px=-1)
    names = [violation.field for violation in caught.value.fields]
    assert sorted(names) == ["fidelity", "max_faces", "min_face_px", "output.quality", "upscale"]


def test_geometry_of_a_face() -> None:
    tilted = Face(0, (10, 20, 40, 80), ((10, 10), (20, 20), (0, 0), (0, 0), (0, 0)), 0.9)
    assert tilted.size_px == 30
    assert tilted.roll_degrees == pytest.approx(45)
    assert tilted.eye_distance_px == pytest.approx(200**0.5)
    assert tilted.scaled(2).box == (20, 40, 80, 160)
    assert tilted.scaled(2).landmarks[1] == (40, 40)
    assert tilted.scaled(1) is tilted
