"""The requests of `POST /restore`, `/detect` and `/compare`: names, ranges, defaults, and their specs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, WithJsonSchema

from atelier_gateway.api.native.faces_response import DetectAnswer
from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.api.native.request import ClientNames, Quality, given_fields
from atelier_gateway.core import values
from atelier_gateway.core.values import CompareSpec, DetectSpec, Face, RestoreSpec
from atelier_gateway.http.validation import INTEGER, RequestModel, Validator, refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation
from atelier_runtime.images import Format, InputImage

ALIASES = {"face_restoration_weight": "fidelity"}
"""The name in `POST /generate` -> the name here."""

_CONTRACT_NAMES = {"use_upscaler": "use_realesrgan"}
"""The spec's name of a field -> the contract's, where they differ."""

_SAME_NAME = (
    *("max_faces", "min_face_px", "max_face_px", "min_confidence", "max_sharpness", "visibility", "upscale"),
    *("aligned", "mask", "match_tone", "output_format", "quality", "return_mask", "return_crops"),
    *("fidelity", "rule", "detect_size", "look", "identity", "min_similarity", "metadata"),
)

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


def _check_detect_size(value: int) -> int:
    low, high = defaults.DETECT_SIZE_PX_RANGE
    if value and not low <= value <= high:
        raise ValueError("out of range")
    return value


_DetectSize = Annotated[int, AfterValidator(_check_detect_size), WithJsonSchema(_DETECT_SIZE_SCHEMA), INTEGER]
_Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_Similarity = Annotated[
    float, Field(ge=defaults.MIN_SIMILARITY_RANGE[0], le=defaults.MIN_SIMILARITY_RANGE[1])
]
_Pixels = Annotated[float, Field(ge=0.0)]
_Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class FaceEdit(RequestModel):
    """A face as `/detect` returned it, and what to do with it."""

    index: Annotated[int, Field(ge=0, le=2**32 - 1), INTEGER] | None = Field(
        None,
        description="As returned by /detect; not used: the response numbers faces by their position in this "
        "list.",
    )
    box: Annotated[list[float], Field(min_length=4, max_length=4)] = Field(
        description="x1, y1, x2, y2 in px of the image, origin top left."
    )
    landmarks: Annotated[list[_Point], Field(min_length=5, max_length=5)] = Field(
        description="x, y of left eye, right eye, nose tip, left and right corner of the mouth."
    )
    confidence: _Fraction | None = Field(None, description="The detector's. Default: 1 (trusted).")
    size_px: _Pixels | None = Field(None, description="As returned by /detect; not used.")
    sharpness: _Pixels | None = Field(None, description="As returned by /detect.")
    roll_degrees: float | None = Field(None, description="As returned by /detect; not used.")
    fidelity: _Fraction | None = Field(
        None, description="CodeFormer's w for this face. Default: the request's."
    )
    visibility: _Fraction | None = Field(
        None, description="Opacity of this face's restoration. Default: the request's."
    )
    skip: bool | None = Field(None, description="Leave this face as it is.")
    orientation_unclear: bool | None = Field(
        None, description="As returned by /detect: true leaves this face as it is."
    )

    def to_value(self, position: int) -> values.FaceEdit:
        """Return the edit; `position` in the list stands in for the index."""
        x1, y1, x2, y2 = self.box
        face = Face(
            index=position if self.index is None else self.index,
            box=(x1, y1, x2, y2),
            landmarks=tuple((x, y) for x, y in self.landmarks),
            confidence=1.0 if self.confidence is None else self.confidence,
            size_px=self.size_px,
            sharpness=self.sharpness,
            roll_degrees=self.roll_degrees,
            orientation_unclear=bool(self.orientation_unclear),
        )
        return values.FaceEdit(face, fidelity=self.fidelity, visibility=self.visibility, skip=self.skip)


_DETECT_SIZE_FIELD: Any = Field(
    defaults.DETECT_SIZE_PX,
    description="The image's short side is resized to this for the detector's first look, in px; 0: full "
    "resolution.",
)
_Look = Literal["auto", "once", "thorough"]
_LOOK_FIELD: Any = Field(
    "auto",
    description="How often to look for faces: once, upright; again, turned or at larger sizes, where the "
    "first look finds no face, doubtful or very small ones (auto); or in all turns and sizes (thorough).",
)


class PhotoRequest(RequestModel):
    """The base of the three: one image."""

    image: ImageField = Field(description="The image: a PNG, JPEG or WebP file.", repr=False)


class RestoreOptions(PhotoRequest):
    """What `/restore` and `/compare` have in common. Options that are not given are left to the restorer."""

    faces: Annotated[list[FaceEdit], Field(max_length=defaults.MAX_FACE_EDITS)] = Field(
        [],
        description="Edits of single faces: what /detect returned, each optionally with a fidelity or "
        "with skip; the whole response of /detect is taken too. No detection runs then. Empty: all detected "
        "faces, selected by the rule.",
    )
    rule: Literal["all", "largest", "center"] = Field(
        "all", description="Which faces to restore if no edits are given."
    )
    only_center_face: bool = Field(
        False, description="Same as the rule center; cannot be used together with rule."
    )
    max_faces: Annotated[
        int, Field(ge=defaults.MAX_FACES_RANGE[0], le=defaults.MAX_FACES_RANGE[1]), INTEGER
    ] = Field(
        defaults.MAX_FACES,
        description="Restore at most this many faces, highest confidence first; the rest are reported as "
        "over_limit. 0: no face is detected, the image is only upscaled or re-encoded.",
    )
    min_face_px: _Pixels = Field(
        defaults.MIN_FACE_PX, description="Faces with a shorter side below this are too_small."
    )
    max_face_px: _Pixels | None = Field(
        None, description="Faces with a shorter side above this are left alone. Default: no limit."
    )
    max_sharpness: _Pixels | None = Field(
        None,
        description="Faces sharper than this are left alone. Applied last, to the faces that rule and "
        "max_faces have selected: a skipped face is not replaced by another. Default: no limit.",
    )
    min_confidence: _Fraction = Field(
        defaults.MIN_CONFIDENCE, description="Faces below this confidence are not restored."
    )
    detect_size: _DetectSize = _DETECT_SIZE_FIELD
    look: _Look = _LOOK_FIELD
    visibility: _Fraction = Field(
        defaults.VISIBILITY, description="Opacity of the restored face over the original."
    )
    upscale: Annotated[Literal[1, 2, 4], INTEGER] = Field(
        default=defaults.UPSCALE, description="Upscaling factor of the whole image, faces or not."
    )
    use_realesrgan: bool = Field(
        defaults.USE_UPSCALER, description="Upscale with the upscaler network, if loaded; otherwise Lanczos."
    )
    aligned: bool = Field(False, description="The image is a single face of 512 x 512 px, already aligned.")
    mask: Literal["feather", "parse"] = Field(
        "feather",
        description="The aligned square with feathered edges, or the parts of the face that a network finds.",
    )
    match_tone: bool | None = Field(
        None,
        description="Subtract the difference of tone along a face's square from what is pasted, so that no "
        "visible box remains around the face. Default: set by the model set. True cannot be used "
        "together with aligned.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="The image's format. Default: what Accept prefers, otherwise the input's."
    )
    quality: Quality = Field(defaults.QUALITY, description="For jpeg and webp; 100 makes webp lossless.")
    metadata: Literal["recipe", "none"] = Field(
        default=defaults.METADATA,
        description="What the file says of how it was made: the recipe, or nothing; what the photo says of "
        "itself stays.",
    )
    return_mask: bool = Field(False, description="Return the mask: 8-bit gray, 0 where nothing was changed.")
    return_crops: bool = Field(False, description="Return each face's aligned crop before and after.")

    def to_restore_spec(self, output_format: Format | None) -> RestoreSpec:
        """Return what is requested; None where the client left it open."""
        given = given_fields(self)
        options = {name: given[name] for name in _SAME_NAME if name in given}
        if self.only_center_face:
            options["rule"] = "center"
        options["output_format"] = self.output_format or output_format
        return RestoreSpec(
            InputImage(self.image),
            faces=tuple(face.to_value(position) for position, face in enumerate(self.faces)),
            use_upscaler=given.get("use_realesrgan"),
            **options,
        )


class RestoreRequest(RestoreOptions):
    """The body of `POST /restore`."""

    fidelity: _Fraction = Field(
        defaults.FIDELITY, description="CodeFormer's w: 0 best looking, 1 closest to the input."
    )
    identity: Literal["off", "report", "guard"] | None = Field(
        None,
        description="Measure how alike each restored face is to the face before, and report it as "
        "identity_similarity; guard: restore a face at the lowest of several fidelities, from the one asked "
        "for to 1, at which it still is the same person (with a network that has no fidelity, at the highest "
        "of several visibilities, from the one asked for down), and leave it as it was if there is none. "
        "Default: report where the restorer has an identity network, which report and guard require.",
    )
    min_similarity: _Similarity | None = Field(
        None,
        description="The guard's limit, a cosine. Default: what was measured for the model set's identity "
        "network. Only together with the guard.",
    )


class CompareRequest(RestoreOptions):
    """The body of `POST /compare`."""

    fidelities: Annotated[list[_Fraction], Field(min_length=1, max_length=defaults.MAX_FIDELITIES)] = Field(
        description="Values of CodeFormer's w, one image for each."
    )

    identity: Literal["off", "report"] | None = Field(
        None,
        description="Measure how alike each restored face is to the face before, and report it as "
        "identity_similarity. Default: report where the restorer has an identity network. Refused as report "
        "where it has none.",
    )

    def to_spec(self) -> CompareSpec:
        """Return what is requested; None where the client left it open."""
        return CompareSpec(self.to_restore_spec(None), tuple(self.fidelities))


class DetectRequest(PhotoRequest):
    """The body of `POST /detect`."""

    min_confidence: _Fraction = Field(
        defaults.MIN_CONFIDENCE, description="Faces below this confidence are not returned."
    )
    detect_size: _DetectSize = _DETECT_SIZE_FIELD
    look: _Look = _LOOK_FIELD

    def to_spec(self) -> DetectSpec:
        """Return what is requested; None where the client left it open."""
        given = given_fields(self)
        return DetectSpec(
            InputImage(self.image),
            min_confidence=given.get("min_confidence"),
            detect_size=given.get("detect_size"),
            look=given.get("look"),
        )


RequestT = TypeVar("RequestT", bound=PhotoRequest)

RESTORE = Validator(RestoreRequest, ALIASES)
COMPARE = Validator(
    CompareRequest,
    {},
    {"min_similarity": "is the limit of the guard of /restore; a comparison takes no guard"},
)
DETECT = Validator(DetectRequest, {})


@dataclass(frozen=True)
class ParsedRequest(Generic[RequestT]):
    """A valid request, and how its client named the fields."""

    request: RequestT
    names: ClientNames


def parse_request(
    validator: Validator[RequestT], body: Mapping[str, Any], *, max_image_bytes: int
) -> ParsedRequest[RequestT]:
    """Validate a JSON object, or the fields of a form. A large image takes a while: not for the event loop.

    Raises:
        InvalidRequest: names every offending field, up to 100 of them.
    """
    validated = validator.validate(_with_list_of_faces(body))
    request, names, violations = validated.request, dict(validated.names), validated.violations
    if isinstance(request, RestoreOptions) and request.only_center_face:
        if "rule" in request.model_fields_set:
            violations += [
                FieldViolation("only_center_face", "is the rule center: give only one of them"),
                FieldViolation("rule", "cannot be used together with only_center_face"),
            ]
        names["rule"] = "only_center_face"
    if request is not None and len(request.image) > max_image_bytes:
        size = len(request.image)
        violations.append(FieldViolation("image", f"has {size} bytes, the limit is {max_image_bytes}"))
    if violations or request is None:
        raise refusal(violations)
    return ParsedRequest(request, ClientNames(_CONTRACT_NAMES, names))


def _with_list_of_faces(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace a whole response of `/detect` in `faces` by the list in it; anything else is left as it is."""
    given = body.get("faces")
    if not isinstance(given, dict) or "faces" not in given or set(given) - set(DetectAnswer.model_fields):
        return body
    return {**body, "faces": given["faces"]}
