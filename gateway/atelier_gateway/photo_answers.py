"""What `POST /restore`, `/detect` and `/compare` answer: models, reports, and the bodies with pictures."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.accept import MEDIA_TYPES
from atelier_gateway.answers import StageAnswer, rounded_box, stage_answer
from atelier_gateway.photo_schema import CompareRequest, RestoreOptions
from atelier_gateway.work import Detection, FaceOutcome, Restoration, StagePicture
from atelier_runtime.outcomes import SkipReason

_DATA_URI = ["data:image/png;base64,..."]


class FoundFace(BaseModel):
    """One face, as `/restore` takes it back in `faces`: unchanged, or with `fidelity` or `skip`."""

    index: int = Field(description="Its place in the detector's list, 0 is the surest.")
    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in px of the picture (where it was restored: the returned one), "
        "origin top left."
    )
    landmarks: list[tuple[float, float]] = Field(
        description="x, y of left eye, right eye, nose tip, left and right corner of the mouth."
    )
    confidence: float = Field(description="The detector's, 0 to 1.")
    size_px: float | None = Field(description="Length of the box's shorter side.")
    sharpness: float | None = Field(
        description="Variance of the Laplacian of the aligned gray crop; more is sharper. Null: not known."
    )
    roll_degrees: float | None = Field(
        description="Turn of the line between the eyes, clockwise positive. Null: not known."
    )


class DetectAnswer(BaseModel):
    """The answer of `POST /detect`."""

    success: Literal[True] = True
    faces: list[FoundFace] = Field(description="The surest first.")
    width: int = Field(description="Of the picture in px, after its orientation was applied.")
    height: int = Field(description="Of the picture in px, after its orientation was applied.")
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")
    stages: list[StageAnswer] = []


class FaceReport(FoundFace):
    """What became of one face."""

    restored: bool
    reason: SkipReason | None = Field(None, description="Why it was left as it was.")
    fidelity: float | None = Field(None, description="CodeFormer's w that was used; null if not restored.")


class RestoredFace(FaceReport):
    """What became of one face, with its crops."""

    crop_before: str | None = Field(None, description="The aligned crop as a data URI, if asked for.")
    crop_after: str | None = Field(
        None, description="The crop as it was pasted, as a data URI, if asked for."
    )


class Outcome(BaseModel):
    """What became of a picture: everything but its faces, and the picture itself."""

    final_resolution: str = Field(
        description="Width x height of the returned picture.", examples=["1536x1536"]
    )
    face_restoration_applied: bool = Field(description="At least one face was restored.")
    face_restoration_reason: SkipReason | None = Field(None, description="Asked for and not done: why.")
    tone_matched: bool = Field(description="Restored faces were given the tone of their surroundings.")
    upscale_applied: int
    upscaler: str | None = Field(None, description="What enlarged the picture; null if nothing was enlarged.")
    model_set: str = Field(description="The model set that restored.")
    warnings: list[str] = []
    stages: list[StageAnswer] = []


class RestoreReport(Outcome):
    """Everything about a restored picture but the pictures; the JSON of `X-Atelier-Report`."""

    success: Literal[True] = True
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")
    faces: list[FaceReport] = []


class Pictures(Outcome):
    """A restored picture and what became of its faces."""

    image: str = Field(description="The picture as a data URI.", examples=_DATA_URI)
    mask: str | None = Field(
        None, description="Gray PNG as a data URI, if asked for: 0 where nothing was changed."
    )
    faces: list[RestoredFace] = Field([], description="Every face, the surest first; orders as they came.")


class RestoreAnswer(Pictures):
    """The answer of `POST /restore`."""

    success: Literal[True] = True
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")


class ComparedPicture(Pictures):
    """The picture at one of the fidelities."""

    fidelity: float = Field(description="The one that was asked for.")


class CompareAnswer(BaseModel):
    """The answer of `POST /compare`."""

    success: Literal[True] = True
    results: list[ComparedPicture] = Field(description="One for each fidelity, in the order asked.")
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")


def detect_body(detection: Detection, request_id: str, seconds: float) -> bytes:
    """Return the body of an answer of `/detect`.

    Nothing is rounded: an order with this face gives the very picture that its detection would have given.
    """
    answer = DetectAnswer(
        faces=[FoundFace(**dataclasses.asdict(face)) for face in detection.faces],
        width=detection.width,
        height=detection.height,
        request_id=request_id,
        total_time_seconds=seconds,
        stages=[stage_answer(report) for report in detection.stages],
    )
    return orjson.dumps(answer.model_dump(mode="json"))


def restore_report(
    restoration: Restoration, request: RestoreOptions, request_id: str, seconds: float
) -> RestoreReport:
    """Return what is told of a picture beside the picture."""
    return RestoreReport(
        **_outcome(restoration, request),
        request_id=request_id,
        total_time_seconds=seconds,
        faces=[FaceReport(**_told(face)) for face in restoration.faces],
    )


def restore_body(restoration: Restoration, request: RestoreOptions, request_id: str, seconds: float) -> bytes:
    """Put picture and report into one JSON body. Takes milliseconds a megabyte: call it in a thread."""
    answer = RestoreAnswer(
        **_pictures(restoration, request), request_id=request_id, total_time_seconds=seconds
    )
    return orjson.dumps(answer.model_dump(mode="json"))


def compare_body(
    restorations: tuple[Restoration, ...], request: CompareRequest, request_id: str, seconds: float
) -> bytes:
    """Put all pictures into one JSON body. Takes milliseconds a megabyte: call it in a thread."""
    answer = CompareAnswer(
        results=[
            ComparedPicture(**_pictures(restoration, request), fidelity=fidelity)
            for fidelity, restoration in zip(request.fidelities, restorations, strict=True)
        ],
        request_id=request_id,
        total_time_seconds=seconds,
    )
    return orjson.dumps(answer.model_dump(mode="json"))


def _pictures(restoration: Restoration, request: RestoreOptions) -> dict[str, Any]:
    return {
        **_outcome(restoration, request),
        "image": _data_uri(restoration.picture),
        "mask": _data_uri(restoration.mask),
        "faces": [
            RestoredFace(
                **_told(face),
                crop_before=_data_uri(face.crop_before),
                crop_after=_data_uri(face.crop_after),
            )
            for face in restoration.faces
        ],
    }


def _outcome(restoration: Restoration, request: RestoreOptions) -> dict[str, Any]:
    asked = request.max_faces > 0
    return {
        "final_resolution": f"{restoration.picture.width}x{restoration.picture.height}",
        "face_restoration_applied": restoration.applied,
        "face_restoration_reason": restoration.reason if asked and not restoration.applied else None,
        "tone_matched": restoration.tone_matched,
        "upscale_applied": restoration.upscale_applied,
        "upscaler": restoration.upscaler or None,
        "model_set": restoration.model_set,
        "warnings": list(restoration.warnings),
        "stages": [stage_answer(report) for report in restoration.stages],
    }


def _told(outcome: FaceOutcome) -> dict[str, Any]:
    face = outcome.face
    return {
        "index": face.index,
        "box": rounded_box(face.box, 2),
        "landmarks": [(round(x, 2), round(y, 2)) for x, y in face.landmarks],
        "confidence": round(face.confidence, 4),
        "size_px": _rounded(face.size_px),
        "sharpness": _rounded(face.sharpness),
        "roll_degrees": _rounded(face.roll_degrees),
        "restored": outcome.restored,
        "reason": outcome.reason,
        "fidelity": outcome.fidelity,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _data_uri(picture: StagePicture | None) -> str | None:
    if picture is None:
        return None
    media_type = MEDIA_TYPES[picture.format]
    return f"data:{media_type};base64,{base64.b64encode(picture.data).decode('ascii')}"
