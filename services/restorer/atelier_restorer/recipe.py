"""What a restored photograph says of itself: which faces a network made, as asked, and with which set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from atelier_restorer.request import FaceEdit, FaceOutcome, RestoreRequest, RestoreResult
from atelier_runtime import __version__, defaults
from atelier_runtime.recipes import COMPOSITE, Marks
from atelier_runtime.recipes.marks import VERSION
from atelier_runtime.recipes.reading import text_of_png

_LANCZOS = "lanczos"
_CONTRACT_NAMES = {"use_upscaler": "use_realesrgan", "detect_size_px": "detect_size"}
"""The request's name of a field -> that of `POST /restore`, where they differ."""
_SAME_NAME = (
    *("fidelity", "rule", "max_faces", "min_face_px", "max_face_px", "min_confidence", "max_sharpness"),
    *("look", "visibility", "upscale", "aligned", "mask", "match_tone", "identity", "min_similarity"),
)


@dataclass(frozen=True)
class Origin:
    """What restores: the model set, its SHA-256, and the device's name and dtype."""

    model_set: str
    model_set_hash: str
    device: str


def marks_of(result: RestoreResult, request: RestoreRequest, file_format: str, origin: Origin) -> Marks:
    """Return what is written into a file of this format.

    The infotext of a drawing that was a PNG file is kept, for which other formats have another place. A photo
    that no network has changed keeps its own source type: it is not said to be a composite.
    """
    is_restored = any(outcome.reason is None for outcome in result.outcomes)
    is_composite = is_restored or result.upscaler not in ("", _LANCZOS)
    return Marks(
        recipe=_recipe(result, request, file_format, origin),
        infotext=None if file_format == "png" else text_of_png(result.picture.texts),
        source_type=COMPOSITE if is_composite else None,
        builds_on=True,
    )


def _recipe(
    result: RestoreResult, request: RestoreRequest, file_format: str, origin: Origin
) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "version": VERSION,
        "kind": "restoration",
        "software": f"Atelier {__version__}",
        "request": dict(_request(request, file_format)),
        "model_set": {"name": origin.model_set, "hash": origin.model_set_hash},
        "device": origin.device,
        "size": [result.picture.width, result.picture.height],
        "faces": [_face(outcome) for outcome in result.outcomes],
        "tone_matched": result.tone_matched,
    }
    if result.reason is not None and request.max_faces > 0:
        recipe["reason"] = result.reason
    if result.mask_sha256:
        recipe["mask_sha256"] = result.mask_sha256
    if result.upscaler:
        recipe["upscaler"] = result.upscaler
    if result.warnings:
        recipe["warnings"] = list(dict.fromkeys(warning.code for warning in result.warnings))
    return recipe


def _request(request: RestoreRequest, file_format: str) -> Iterator[tuple[str, Any]]:
    """Yield the options by the names of `POST /restore`; those of None are up to the restorer."""
    for name in (*_SAME_NAME, *_CONTRACT_NAMES):
        if (value := getattr(request, name)) is not None:
            yield _CONTRACT_NAMES.get(name, name), value
    yield "output_format", file_format
    if file_format != defaults.OUTPUT_FORMAT:
        yield "quality", request.quality
    if request.faces:
        yield "faces", [_edit(edit) for edit in request.faces]


def _edit(edit: FaceEdit) -> dict[str, Any]:
    given = {"fidelity": edit.fidelity, "visibility": edit.visibility, "skip": edit.skip or None}
    return {
        "box": _rounded(edit.face.box),
        "landmarks": [_rounded(point) for point in edit.face.landmarks],
        **{name: value for name, value in given.items() if value is not None},
    }


def _face(outcome: FaceOutcome) -> dict[str, Any]:
    """Return what became of a face, its box in px of the file's image."""
    face: dict[str, Any] = {
        "index": outcome.face.index,
        "box": _rounded(outcome.face.box),
        "restored": outcome.reason is None,
    }
    values = {
        "reason": outcome.reason,
        "fidelity": outcome.fidelity,
        "visibility": outcome.visibility,
        "identity_similarity": None if outcome.similarity is None else round(outcome.similarity, 4),
    }
    return face | {name: value for name, value in values.items() if value is not None}


def _rounded(numbers: tuple[float, ...]) -> list[float]:
    return [round(float(number), 2) for number in numbers]
