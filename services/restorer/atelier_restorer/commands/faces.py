"""A plan for single faces: the output of `detect`, edited."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from atelier_restorer.commands.paths import PlanError, shown
from atelier_restorer.request import Face, FaceEdit

_KNOWN = ("box", "landmarks", "confidence", "fidelity", "visibility", "skip", "orientation_unclear")
_IGNORED = ("index", "size_px", "sharpness", "roll_degrees")  # in the output of detect or POST /detect
_REQUIRED = ("box", "landmarks")
_LANDMARKS = 5


def read_face_edits(path: Path) -> tuple[FaceEdit, ...]:
    """Read `{"faces": [{"box", "landmarks", "confidence", "fidelity", "visibility", "skip"}]}`, or the list.

    Box and landmarks are required. Other fields of `detect`'s output and of POST /detect are ignored. Ranges
    are checked by the request. An image may have no faces.

    Raises:
        PlanError: the file cannot be read, or a face in it is invalid; it is named.
    """
    name = f"--faces {shown(path)}"
    try:
        plan = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise PlanError(f"{name}: is not UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"{name}: {error}") from error
    except RecursionError:
        raise PlanError(f"{name}: is nested too deeply") from None
    faces = plan.get("faces") if isinstance(plan, dict) else plan
    if not isinstance(faces, list):
        raise PlanError(f"{name}: does not contain a list of faces; the output of detect is expected")
    return tuple(_face_edit(f"{name}: face {number}", face) for number, face in enumerate(faces))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return result


def _face_edit(name: str, face: Any) -> FaceEdit:
    if not isinstance(face, dict):
        raise PlanError(f"{name} is not an object")
    if unknown := sorted(set(face) - {*_KNOWN, *_IGNORED}):
        known = ", ".join(_KNOWN)
        raise PlanError(f"{name} has unknown fields: {', '.join(unknown)}; known fields are {known}")
    if missing := [key for key in _REQUIRED if key not in face]:
        raise PlanError(f"{name} lacks {', '.join(missing)}")
    box = _numbers(f"{name}: box", face["box"], 4)
    points = face["landmarks"]
    if not isinstance(points, list) or len(points) != _LANDMARKS:
        raise PlanError(f"{name}: landmarks must be {_LANDMARKS} points [x, y]")
    landmarks = [_numbers(f"{name}: a landmark", point, 2) for point in points]
    skip, unclear = (_flag(name, key, face) for key in ("skip", "orientation_unclear"))
    fidelity, visibility, confidence = (
        None if face.get(key) is None else _numbers(f"{name}: {key}", [face[key]], 1)[0]
        for key in ("fidelity", "visibility", "confidence")
    )
    return FaceEdit(
        face=Face(
            index=0,
            box=(box[0], box[1], box[2], box[3]),
            landmarks=tuple((x, y) for x, y in landmarks),
            confidence=1.0 if confidence is None else confidence,
            orientation_unclear=unclear,
        ),
        fidelity=fidelity,
        visibility=visibility,
        skip=skip,
    )


def _flag(name: str, key: str, face: dict[str, Any]) -> bool:
    flag = False if face.get(key) is None else face[key]
    if not isinstance(flag, bool):
        raise PlanError(f"{name}: {key} must be true or false")
    return flag


def _numbers(name: str, values: Any, count: int) -> list[float]:
    numeric = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not numeric or len(values) != count:
        raise PlanError(f"{name} must be {count} numbers" if count > 1 else f"{name} must be a number")
    try:
        numbers = [float(value) for value in values]
    except OverflowError:
        raise PlanError(f"{name} is out of range") from None
    if not all(math.isfinite(number) for number in numbers):
        raise PlanError(f"{name} is not finite")
    return numbers
