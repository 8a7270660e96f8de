"""What a caller may request of the restorer, and what it returns: frozen, self-validating dataclasses.

Points and boxes are in px of the image, origin top left. This module knows neither protobuf nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from atelier_runtime import defaults
from atelier_runtime.checks import check_choice, check_not_negative, check_range, raise_violations
from atelier_runtime.errors import FieldViolation
from atelier_runtime.images import OutputFormat, Picture, RgbArray
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import Metadata, ResponseWarning, SkipReason

_LANDMARKS = 5

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]


class FaceRule(StrEnum):
    """Which of the detected faces are restored."""

    ALL = "all"
    LARGEST = "largest"
    CENTER = "center"


class Look(StrEnum):
    """How often to look at an image for its faces."""

    AUTO = "auto"
    """Once; again turned and larger where the first look gives reason to."""
    ONCE = "once"
    """Once, as the reference does."""
    THOROUGH = "thorough"
    """Turned and larger in any case."""


class MaskKind(StrEnum):
    """Where a restored face replaces the image."""

    FEATHER = "feather"
    """In the aligned square, with feathered edges."""
    PARSE = "parse"
    """Where a parsing network finds the face or its hair, within that square."""


class IdentityMode(StrEnum):
    """What is done about the likeness of a restored face to the face before."""

    OFF = "off"
    REPORT = "report"
    GUARD = "guard"
    """A face that would become somebody else is restored at a higher fidelity, or left as it was."""


@dataclass(frozen=True)
class Face:
    """A face as the detector found it.

    Landmarks: eyes, nose tip, corners of the mouth, those at the left of the upright face first.
    `orientation_unclear`: which way up it is could not be told.
    """

    index: int
    box: Box
    landmarks: Points
    confidence: float
    sharpness: float | None = None
    orientation_unclear: bool = False

    @property
    def size_px(self) -> float:
        """Shorter side of the box."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def eye_distance_px(self) -> float:
        """Distance between the eyes."""
        return math.dist(self.landmarks[0], self.landmarks[1])

    @property
    def roll_degrees(self) -> float:
        """Angle of the line from left to right eye, -180 to 180, clockwise positive (y points down)."""
        (x1, y1), (x2, y2) = self.landmarks[:2]
        return math.degrees(math.atan2(y2 - y1, x2 - x1))

    def scaled(self, scale: int) -> Face:
        """Return the face in px of the image upscaled `scale` times."""
        if scale == 1:
            return self
        x1, y1, x2, y2 = (value * scale for value in self.box)
        return replace(
            self, box=(x1, y1, x2, y2), landmarks=tuple((x * scale, y * scale) for x, y in self.landmarks)
        )


@dataclass(frozen=True)
class FaceEdit:
    """What to do with a face that the caller has already detected, in px of the input image.

    None: the request's value for all faces.
    """

    face: Face
    fidelity: float | None = None
    visibility: float | None = None
    skip: bool = False


@dataclass(frozen=True)
class RestoreRequest:
    """Which faces of an image to restore, and how. The proto documents each field.

    `match_tone` None: the model set's default. `identity` None: report where the network is loaded.
    `min_similarity` None: the default of the restorer. `output_format` None: the input's. `fidelity_given`:
    the caller set it, and is told if it has no effect.
    """

    fidelity: float = defaults.FIDELITY
    faces: tuple[FaceEdit, ...] = ()
    rule: FaceRule = FaceRule.ALL
    max_faces: int = defaults.MAX_FACES
    min_face_px: float = defaults.MIN_FACE_PX
    max_face_px: float | None = None
    min_confidence: float = defaults.MIN_CONFIDENCE
    detect_size_px: int = defaults.DETECT_SIZE_PX
    look: Look = Look.AUTO
    max_sharpness: float | None = None
    visibility: float = defaults.VISIBILITY
    upscale: int = defaults.UPSCALE
    use_upscaler: bool = defaults.USE_UPSCALER
    aligned: bool = False
    mask: MaskKind = MaskKind.FEATHER
    match_tone: bool | None = None
    identity: IdentityMode | None = None
    min_similarity: float | None = None
    return_mask: bool = False
    return_crops: bool = False
    output_format: OutputFormat | None = None
    quality: int = defaults.QUALITY
    metadata: Metadata = defaults.METADATA
    fidelity_given: bool = False

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` naming every field that is out of range."""
        raise_violations(self._violations())

    @property
    def writes_recipe(self) -> bool:
        """Whether the file says how it was made."""
        return self.metadata == "recipe" and self.output_format != "raw"

    @property
    def sets_fidelity(self) -> bool:
        """Whether the caller set the fidelity; one that is not the default's was."""
        return self.fidelity_given or self.fidelity != defaults.FIDELITY

    def _violations(self) -> Iterator[FieldViolation]:
        ranges: dict[str, tuple[float, float]] = {
            "fidelity": defaults.FIDELITY_RANGE,
            "max_faces": defaults.MAX_FACES_RANGE,
            "min_confidence": defaults.CONFIDENCE_RANGE,
            "visibility": defaults.VISIBILITY_RANGE,
            "min_similarity": defaults.MIN_SIMILARITY_RANGE,
        }
        for field, limits in ranges.items():
            yield from check_range(field, getattr(self, field), limits)
        yield from _detect_size_violations(self.detect_size_px)
        yield from check_range("output.quality", self.quality, defaults.QUALITY_RANGE)
        yield from check_not_negative("min_face_px", self.min_face_px, "px")
        yield from check_not_negative("max_face_px", self.max_face_px, "px")
        yield from check_not_negative("max_sharpness", self.max_sharpness, "squared gray levels")
        yield from check_choice("upscale", self.upscale, defaults.UPSCALE_CHOICES)
        if self.match_tone and self.aligned:
            yield FieldViolation("match_tone", "cannot be used with an aligned face: nothing is pasted")
        if self.min_similarity is not None and self.identity is not IdentityMode.GUARD:
            yield FieldViolation("min_similarity", "is the limit of the guard; identity is not guard")
        yield from self._selection_violations()
        yield from self._face_violations()

    def _selection_violations(self) -> Iterator[FieldViolation]:
        """Options that select among detected faces have no meaning where none are detected."""
        if not self.aligned and not self.faces:
            return
        why = "an aligned image is a single face" if self.aligned else "the faces are given"
        unused = {
            "faces": self.aligned and bool(self.faces),
            "rule": self.rule is not FaceRule.ALL,
            "min_face_px": self.min_face_px != defaults.MIN_FACE_PX,
            "max_face_px": self.max_face_px is not None,
            "min_confidence": self.min_confidence != defaults.MIN_CONFIDENCE,
            "detect_size_px": self.detect_size_px != defaults.DETECT_SIZE_PX,
            "look": self.look is not Look.AUTO,
            "max_sharpness": self.max_sharpness is not None,
        }
        for name in (name for name, given in unused.items() if given):
            yield FieldViolation(name, f"selects among detected faces, but {why}")

    def _face_violations(self) -> Iterator[FieldViolation]:
        if len(self.faces) > defaults.MAX_FACE_EDITS:
            yield FieldViolation("faces", f"are {len(self.faces)}; the limit is {defaults.MAX_FACE_EDITS}")
            return
        for number, edit in enumerate(self.faces):
            name = f"faces[{number}]"
            yield from check_range(f"{name}.fidelity", edit.fidelity, defaults.FIDELITY_RANGE)
            yield from check_range(f"{name}.visibility", edit.visibility, defaults.VISIBILITY_RANGE)
            points = edit.face.landmarks
            if len(points) != _LANDMARKS:
                yield FieldViolation(
                    f"{name}.face.landmarks", f"are {len(points)} points; {_LANDMARKS} are required"
                )
            if not all(math.isfinite(value) for point in points for value in point):
                yield FieldViolation(f"{name}.face.landmarks", "must be finite numbers of px")
            if not all(math.isfinite(value) for value in edit.face.box):
                yield FieldViolation(f"{name}.face.box", "must be finite numbers of px")


@dataclass(frozen=True)
class DetectRequest:
    """Where to look for faces; `detect_size_px` 0 is full resolution."""

    min_confidence: float = defaults.MIN_CONFIDENCE
    detect_size_px: int = defaults.DETECT_SIZE_PX
    look: Look = Look.AUTO

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` naming every field that is out of range."""
        raise_violations(self._violations())

    def _violations(self) -> Iterator[FieldViolation]:
        yield from check_range("min_confidence", self.min_confidence, defaults.CONFIDENCE_RANGE)
        yield from _detect_size_violations(self.detect_size_px)


def _detect_size_violations(size_px: int) -> Iterator[FieldViolation]:
    if size_px != 0:
        yield from check_range("detect_size_px", size_px, defaults.DETECT_SIZE_PX_RANGE)


@dataclass(frozen=True)
class FaceOutcome:
    """The outcome for one face, in px of the returned image. `reason` is None where it was restored.

    `before` and `after` are its aligned crops (512, 512, 3), where they were requested and exist.
    `similarity`: the cosine of the face before and as it was pasted, None where it was not measured, or
    cannot be told because the face before is too ruined (`unknown`). `fidelity_requested`,
    `visibility_requested`: where the guard used another one.
    """

    face: Face
    reason: SkipReason | None
    fidelity: float | None
    before: RgbArray | None = None
    after: RgbArray | None = None
    similarity: float | None = None
    unknown: bool = False
    fidelity_requested: float | None = None
    visibility: float | None = None
    visibility_requested: float | None = None


@dataclass(frozen=True)
class RestoreResult:
    """An image with its faces restored. `mask`: uint8 (H, W), 0 where nothing was changed, if requested."""

    picture: Picture
    mask: RgbArray | None
    outcomes: tuple[FaceOutcome, ...]
    reason: SkipReason | None
    upscale_applied: int
    upscaler: str
    warnings: tuple[ResponseWarning, ...]
    tone_matched: bool
    stages: tuple[StageReport, ...]
    min_similarity: float | None = None
    """The guard's limit that was applied; None without a guard."""
    mask_sha256: str = ""
    """Of the mask's values; empty where no face was restored, or the file does not say it."""


@dataclass(frozen=True)
class DetectResult:
    """The faces of an image, highest confidence first, and its size in px, orientation applied."""

    faces: tuple[Face, ...]
    width: int
    height: int
    stages: tuple[StageReport, ...]
    warnings: tuple[ResponseWarning, ...]
