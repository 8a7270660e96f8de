"""The schemas of `POST /restore`, `/detect` and `/compare`: names, ranges, defaults."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from atelier_gateway.checking import (
    A_PICTURE,
    QUALITY_RANGE,
    WHOLE,
    Checker,
    RequestModel,
    openapi_schema,
    refusal,
    said,
)
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation

ALIASES = {"face_restoration_weight": "fidelity"}
"""What `POST /generate` calls it -> what it is called here."""

_DATA_URI = re.compile(r"data:([^,]{0,200}),")
_DETECT_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "const": 0},
        {
            "type": "integer",
            "minimum": defaults.DETECT_SIZE_PX_RANGE[0],
            "maximum": defaults.DETECT_SIZE_PX_RANGE[1],
        },
    ]
}


def _file(value: object) -> bytes:
    """Return a picture's file: bytes from a form, or decoded base64 from JSON."""
    if isinstance(value, str):
        value = _decoded(value)
    if not isinstance(value, bytes):
        raise said(f"is no text: it must be {A_PICTURE}")
    if not value:
        raise said(f"is empty: it must be {A_PICTURE}")
    return value


def _decoded(text: str) -> bytes:
    data_uri = _DATA_URI.match(text)
    if data_uri and not data_uri[1].lower().endswith(";base64"):
        raise said(f"is a data URI without ;base64: it must be {A_PICTURE}")
    encoded = text[data_uri.end() :] if data_uri else text
    if encoded.startswith("data:"):
        raise said(f"is a data URI without a comma: it must be {A_PICTURE}")
    try:
        # lines of 76 characters, as the program base64 breaks them, are no fault; any other foreign one is
        return binascii.a2b_base64(encoded.replace("\r\n", "").replace("\n", ""), strict_mode=True)
    except ValueError:
        raise said(f"is not base64: it must be {A_PICTURE}") from None


def _detect_size(value: int) -> int:
    low, high = defaults.DETECT_SIZE_PX_RANGE
    if value and not low <= value <= high:
        raise ValueError("out of range")
    return value


_Picture = Annotated[
    bytes,
    BeforeValidator(_file),
    WithJsonSchema({"type": "string", "format": "byte"}),
]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Pixels = Annotated[float, Field(ge=0.0)]
_Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class FaceEdit(RequestModel):
    """A face as `/detect` gave it, and what to do with it."""

    index: Annotated[int, Field(ge=0, le=2**32 - 1), WHOLE] | None = Field(
        None, description="Its place in the answer of /detect. Default: its place in this list."
    )
    box: Annotated[list[float], Field(min_length=4, max_length=4)] = Field(
        description="x1, y1, x2, y2 in px of the picture, origin top left."
    )
    landmarks: Annotated[list[_Point], Field(min_length=5, max_length=5)] = Field(
        description="x, y of left eye, right eye, nose tip, left and right corner of the mouth."
    )
    confidence: _Share | None = Field(None, description="The detector's. Default: 1, you vouch for it.")
    size_px: _Pixels | None = Field(None, description="As /detect gave it; not used.")
    sharpness: _Pixels | None = Field(None, description="As /detect gave it.")
    roll_degrees: float | None = Field(None, description="As /detect gave it; not used.")
    fidelity: _Share | None = Field(None, description="CodeFormer's w for this face. Default: the request's.")
    visibility: _Share | None = Field(
        None, description="Share of this face's restoration in the blend. Default: the request's."
    )
    skip: bool | None = Field(None, description="Leave this face as it is.")


class PhotoRequest(RequestModel):
    """Base of the three: one picture."""

    image: _Picture = Field(description="The picture: a PNG, JPEG or WebP file.", repr=False)


class RestoreOptions(PhotoRequest):
    """What `/restore` and `/compare` have in common. Options that were not given are left to the restorer."""

    faces: Annotated[list[FaceEdit], Field(max_length=defaults.MAX_FACE_EDITS)] = Field(
        [],
        description="Orders for single faces: what /detect gave, each with a fidelity, or skip, or neither. "
        "Nothing is detected then. Empty: all that the detector finds, by the rule.",
    )
    rule: Literal["all", "largest", "center"] = Field(
        "all", description="Which faces to restore where no orders are given."
    )
    only_center_face: bool = Field(False, description="The same as the rule center; not together with rule.")
    max_faces: Annotated[
        int, Field(ge=defaults.MAX_FACES_RANGE[0], le=defaults.MAX_FACES_RANGE[1]), WHOLE
    ] = Field(
        defaults.MAX_FACES,
        description="At most this many faces, the surest first; the rest are reported as over_limit. "
        "0: no face is looked for, the picture is only enlarged or encoded anew.",
    )
    min_face_px: _Pixels = Field(
        defaults.MIN_FACE_PX, description="Faces with a shorter side below this are too_small."
    )
    max_face_px: _Pixels | None = Field(
        None, description="Faces with a shorter side above this are left alone. Default: no limit."
    )
    max_sharpness: _Pixels | None = Field(
        None,
        description="Faces sharper than this are left alone. Looked at last, among the faces that rule and "
        "max_faces have chosen: no other face takes the place of a sharp one. Default: no limit.",
    )
    min_confidence: _Share = Field(
        defaults.MIN_CONFIDENCE, description="Faces less sure than this are not restored."
    )
    visibility: _Share = Field(
        defaults.VISIBILITY, description="Share of the restored face in the blend with the original."
    )
    upscale: Annotated[Literal[1, 2, 4], WHOLE] = Field(
        default=defaults.UPSCALE, description="Enlargement of the whole picture, faces or not."
    )
    use_realesrgan: bool = Field(
        defaults.USE_UPSCALER, description="Enlarge with the upscaler network, if loaded; else Lanczos."
    )
    aligned: bool = Field(False, description="The picture is one face of 512 x 512 px, aligned already.")
    mask: Literal["feather", "parse"] = Field(
        "feather",
        description="The aligned square with soft edges, or the parts of the face that a network finds.",
    )
    match_tone: bool | None = Field(
        None,
        description="Take the difference of tone along a face's square off what is pasted, so that no "
        "lighter or darker box shows. Default: as the model set says. True not together with aligned.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="The picture's encoding. Default: what Accept asks for, else the input's."
    )
    quality: Annotated[int, QUALITY_RANGE, WHOLE] = Field(
        defaults.QUALITY, description="Of jpeg and webp; 100 makes webp lossless."
    )
    return_mask: bool = Field(False, description="Return the mask: 8-bit gray, 0 where nothing was changed.")
    return_crops: bool = Field(False, description="Return each face's aligned crop before and after.")


class RestoreRequest(RestoreOptions):
    """An order to restore one picture."""

    fidelity: _Share = Field(
        defaults.FIDELITY, description="CodeFormer's w: 0 best looking, 1 closest to the input."
    )


class CompareRequest(RestoreOptions):
    """An order to restore one picture at several fidelities."""

    fidelities: Annotated[list[_Share], Field(min_length=1, max_length=defaults.MAX_FIDELITIES)] = Field(
        description="Values of CodeFormer's w, one picture for each."
    )


class DetectRequest(PhotoRequest):
    """An order to find the faces of one picture."""

    min_confidence: _Share = Field(
        defaults.MIN_CONFIDENCE, description="Faces less sure than this are not returned."
    )
    detect_size: Annotated[int, AfterValidator(_detect_size), WithJsonSchema(_DETECT_SIZE_SCHEMA), WHOLE] = (
        Field(
            defaults.DETECT_SIZE_PX,
            description="The picture's short side is resized to this for the detector, in px; 0: as it is.",
        )
    )


PhotoT = TypeVar("PhotoT", bound=PhotoRequest)

RESTORE = Checker(RestoreRequest, ALIASES)
COMPARE = Checker(CompareRequest, {})
DETECT = Checker(DetectRequest, {})


@dataclass(frozen=True)
class PhotoOrder(Generic[PhotoT]):
    """A checked order, and how its client names the fields."""

    request: PhotoT
    names: dict[str, str]


def read_photo_order(
    checker: Checker[PhotoT], body: Mapping[str, Any], *, max_image_bytes: int
) -> PhotoOrder[PhotoT]:
    """Check a JSON object, or what a form came to. A large picture takes a while: call it in a thread.

    Raises:
        InvalidRequest: it names every offending field, up to 100 of them.
    """
    checked = checker.check(body)
    request, names, violations = checked.request, checked.names, checked.violations
    if (
        isinstance(request, RestoreOptions)
        and request.only_center_face
        and names.get("rule")
        and body["rule"]
    ):
        violations.append(FieldViolation("only_center_face", "is the rule center: give only one of them"))
        violations.append(FieldViolation("rule", "cannot be used together with only_center_face"))
    if request is not None and len(request.image) > max_image_bytes:
        size = len(request.image)
        violations.append(FieldViolation("image", f"has {size} bytes, the limit is {max_image_bytes}"))
    if violations or request is None:
        raise refusal(violations)
    return PhotoOrder(request, names)


def openapi_json_schema(checker: Checker[Any]) -> dict[str, Any]:
    """Return the JSON schema of a body."""
    return openapi_schema(checker, checker.model.__name__)


def openapi_form_schema(checker: Checker[Any]) -> dict[str, Any]:
    """Return the schema of a form: the picture is a file, and nothing is null."""
    schema = openapi_json_schema(checker)
    properties: dict[str, Any] = schema["properties"]
    for described in properties.values():
        parts = [part for part in described.pop("anyOf", ()) if part.get("type") != "null"]
        described |= {"anyOf": parts} if len(parts) > 1 else parts[0] if parts else {}
        if described.get("default", 0) is None:
            del described["default"]
    properties["image"]["format"] = "binary"
    return schema
