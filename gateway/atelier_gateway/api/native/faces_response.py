"""The responses of `POST /restore`, `/detect` and `/compare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.api.native.report import (
    StageAnswer,
    WarningCodes,
    rounded_box,
    to_data_uri,
    warnings_and_stages,
)
from atelier_gateway.core.values import Detection, FaceOutcome, Restoration
from atelier_runtime.images import EncodedImage
from atelier_runtime.outcomes import SkipReason

_DATA_URI = ["data:image/png;base64,..."]


class FoundFace(BaseModel):
    """One face, as `/restore` takes it back in `faces`: unchanged, or with `fidelity` or `skip`."""

    index: int = Field(description="Its position in the detector's list, highest confidence first.")
    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in px of the image (of the returned one, where it was restored), "
        "origin top left."
    )
    landmarks: list[tuple[float, float]] = Field(
        description="x, y of left eye, right eye, nose tip, left and right corner of the mouth."
    )
    confidence: float = Field(description="The detector's, 0 to 1.")
    size_px: float | None = Field(description="Length of the box's shorter side.")
    sharpness: float | None = Field(
        description="Variance of the Laplacian of the aligned gray crop; higher is sharper. Null: unknown."
    )
    roll_degrees: float | None = Field(
        description="Angle of the line between the eyes, -180 to 180, clockwise positive. Null: unknown."
    )
    orientation_unclear: bool = Field(
        description="Which way up the face is could not be told: it may be on its side or upside down. It is "
        "not restored."
    )


class DetectAnswer(BaseModel):
    """The response of `POST /detect`."""

    success: Literal[True] = True
    faces: list[FoundFace] = Field(description="Highest confidence first.")
    width: int = Field(description="Of the image in px, after its orientation was applied.")
    height: int = Field(description="Of the image in px, after its orientation was applied.")
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")
    warnings: list[str] = []
    warning_codes: WarningCodes = []
    stages: list[StageAnswer] = []


class FaceReport(FoundFace):
    """The outcome for one face."""

    restored: bool
    reason: SkipReason | None = Field(None, description="Why it was not restored.")
    fidelity: float | None = Field(
        None,
        description="CodeFormer's w that was used; null if not restored, or if the network has none.",
    )
    fidelity_requested: float | None = Field(
        None, description="The w that was asked for, where the guard used a higher one to keep the likeness."
    )
    visibility: float | None = Field(
        None, description="The visibility at which it was pasted; null if not restored."
    )
    visibility_requested: float | None = Field(
        None,
        description="The visibility that was asked for, where the guard used a lower one to keep the "
        "likeness. It does with a network that has no fidelity.",
    )
    identity_similarity: float | None = Field(
        None,
        description="Likeness to the face before, -1 to 1: the cosine by the identity network. Of a face "
        "with the reason identity_changed, the highest that was reached. Null: not measured, or unknown.",
    )
    identity_unknown: bool = Field(
        False, description="The face before is too ruined to tell whose it is, so that its likeness is null."
    )


class RestoredFace(FaceReport):
    """The outcome for one face, with its crops."""

    crop_before: str | None = Field(None, description="The aligned crop as a data URI, if requested.")
    crop_after: str | None = Field(
        None,
        description="The crop as it was pasted, as a data URI, if requested. Of a face with the reason "
        "identity_changed, the most alike of those that the guard did not let through.",
    )


class Outcome(BaseModel):
    """The outcome for an image, without its faces and the image itself."""

    final_resolution: str = Field(description="Width x height of the returned image.", examples=["1536x1536"])
    face_restoration_applied: bool = Field(description="At least one face was restored.")
    face_restoration_reason: SkipReason | None = Field(
        None, description="Why face restoration was requested but skipped."
    )
    tone_matched: bool = Field(description="Restored faces were matched to the tone of their surroundings.")
    min_similarity: float | None = Field(
        None, description="The limit that the guard of the likeness applied; null without a guard."
    )
    upscale_applied: int
    upscaler: str | None = Field(None, description="What upscaled the image; null if nothing was upscaled.")
    model_set: str = Field(description="The model set that restored the faces.")
    warnings: list[str] = []
    warning_codes: WarningCodes = []
    stages: list[StageAnswer] = []


class RestoreReport(Outcome):
    """Everything about a restored image but the images; the JSON of `X-Atelier-Report`."""

    success: Literal[True] = True
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")
    faces: list[FaceReport] = []


class RestoredImage(Outcome):
    """A restored image and the outcome for its faces."""

    image: str = Field(description="The image as a data URI.", examples=_DATA_URI)
    mask: str | None = Field(
        None, description="Gray PNG as a data URI, if requested: 0 where nothing was changed."
    )
    faces: list[RestoredFace] = Field(
        [], description="Every face, highest confidence first; edits in the order they came."
    )


class RestoreAnswer(RestoredImage):
    """The response of `POST /restore`."""

    success: Literal[True] = True
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")


class ComparedPicture(RestoredImage):
    """The image at one of the fidelities."""

    fidelity: float = Field(description="The requested fidelity.")


class CompareAnswer(BaseModel):
    """The response of `POST /compare`."""

    success: Literal[True] = True
    results: list[ComparedPicture] = Field(description="One for each fidelity, in the order requested.")
    request_id: str
    total_time_seconds: float = Field(description="Wall time of the request.")


def detect_report(detection: Detection, request_id: str, seconds: float) -> DetectAnswer:
    """Return the response to a detection.

    Nothing is rounded: editing this face gives exactly the image that detecting it again would have given.
    """
    return DetectAnswer(
        faces=[FoundFace(**dataclasses.asdict(face)) for face in detection.faces],
        width=detection.width,
        height=detection.height,
        request_id=request_id,
        total_time_seconds=seconds,
        **warnings_and_stages(detection.warnings, detection.stages),
    )


def detect_body(detection: Detection, request_id: str, seconds: float) -> bytes:
    """Return the JSON of a detection."""
    return orjson.dumps(detect_report(detection, request_id, seconds).model_dump(mode="json"))


def restore_report(restoration: Restoration, request_id: str, seconds: float) -> RestoreReport:
    """Return everything about a restored image but the images."""
    return RestoreReport(
        **_outcome(restoration),
        request_id=request_id,
        total_time_seconds=seconds,
        faces=[FaceReport(**_face(outcome)) for outcome in restoration.faces],
    )


def restore_body(restoration: Restoration, request_id: str, seconds: float) -> bytes:
    """Return report and images as JSON. Takes milliseconds per megabyte: not for the event loop."""
    answer = RestoreAnswer(**_restored_image(restoration), request_id=request_id, total_time_seconds=seconds)
    return orjson.dumps(answer.model_dump(mode="json"))


def compare_body(
    fidelities: Sequence[float], restorations: Sequence[Restoration], request_id: str, seconds: float
) -> bytes:
    """Return all images as JSON. Takes milliseconds per megabyte: not for the event loop."""
    answer = CompareAnswer(
        results=[
            ComparedPicture(**_restored_image(restoration), fidelity=fidelity)
            for fidelity, restoration in zip(fidelities, restorations, strict=True)
        ],
        request_id=request_id,
        total_time_seconds=seconds,
    )
    return orjson.dumps(answer.model_dump(mode="json"))


def _restored_image(restoration: Restoration) -> dict[str, Any]:
    return {
        **_outcome(restoration),
        "image": to_data_uri(restoration.image),
        "mask": _optional_data_uri(restoration.mask),
        "faces": [
            RestoredFace(
                **_face(outcome),
                crop_before=_optional_data_uri(outcome.crop_before),
                crop_after=_optional_data_uri(outcome.crop_after),
            )
            for outcome in restoration.faces
        ],
    }


def _outcome(restoration: Restoration) -> dict[str, Any]:
    return {
        "final_resolution": f"{restoration.image.width}x{restoration.image.height}",
        "face_restoration_applied": restoration.face_restoration_applied,
        "face_restoration_reason": restoration.face_restoration_reason,
        "tone_matched": restoration.tone_matched,
        "min_similarity": restoration.min_similarity,
        "upscale_applied": restoration.upscale_applied,
        "upscaler": restoration.upscaler or None,
        "model_set": restoration.model_set,
        **warnings_and_stages(restoration.warnings, restoration.stages),
    }


def _face(outcome: FaceOutcome) -> dict[str, Any]:
    face = outcome.face
    return {
        "index": face.index,
        "box": rounded_box(face.box, 2),
        "landmarks": [(round(x, 2), round(y, 2)) for x, y in face.landmarks],
        "confidence": round(face.confidence, 4),
        "size_px": _rounded(face.size_px),
        "sharpness": _rounded(face.sharpness),
        "roll_degrees": _rounded(face.roll_degrees),
        "orientation_unclear": face.orientation_unclear,
        "restored": outcome.restored,
        "reason": outcome.reason,
        "fidelity": outcome.fidelity,
        "fidelity_requested": outcome.fidelity_requested,
        "visibility": outcome.visibility,
        "visibility_requested": outcome.visibility_requested,
        "identity_similarity": _rounded(outcome.identity_similarity, 4),
        "identity_unknown": outcome.identity_unknown,
    }


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def _optional_data_uri(image: EncodedImage | None) -> str | None:
    return None if image is None else to_data_uri(image)
