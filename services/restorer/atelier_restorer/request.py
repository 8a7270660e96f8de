"""What the stage is asked to do and what it answers, past the wire: frozen dataclasses, checked once.

Points and boxes are in px of the picture, origin top left. This module knows neither protobuf nor torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from atelier_runtime import defaults
from atelier_runtime.errors import (FieldViolation, InvalidRequest)
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Format, Picture, RgbArray
from atelier_runtime.metrics import StageReport

_LANDMARKS = 5

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]


class FaceRule(StrEnum):
    """Which of the faces found are restored."""

    ALL = "all"
    LARGEST = "largest"
    CENTER = "center"


class MaskKind(StrEnum):
    """Where a restored face replaces the picture."""

    FEATHER = "feather"
    """In the aligned square, with soft edges."""
    PARSE = "parse"
    """Where a parsing network sees the face or its hair, within that square."""


@dataclass(frozen=True)
class Face:
    """A face as the detector sees it. Landmarks: eyes, nose tip, corners of the mouth, left ones first."""

    index: int
    box: Box
    landmarks: Points
    confidence: float
    sharpness: float | None = None

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
        """Turn of the line from left to right eye, clockwise positive (y points down)."""
        (x1, y1), (x2, y2) = self.landmarks[:2]
        return math.degrees(math.atan2(y2 - y1, x2 - x1))

    def enlarged(self, scale: int) -> Face:
        """Return the face in px of the picture enlarged ``scale`` times."""
        if scale == 1:
            return self
        x1, y1, x2, y2 = (value * scale for value in self.box)
        return replace(
            self, box=(x1, y1, x2, y2), landmarks=tuple((x * scale, y * scale) for x, y in self.landmarks)
        )


@dataclass(frozen=True)
class FaceEdit:
    """What to do with one face that the caller knows already, in px of the input picture.

    None: as the request says for all faces.
    """

    face: Face
    fidelity: float | None = None
    visibility: float | None = None
    skip: bool = False


@dataclass(frozen=True)
class RestoreRequest:
    """Which faces of a picture to restore, and how. The meaning of each field is in the proto.

    `match_tone` None: as the model set says.
    """

    fidelity: float = defaults.FIDELITY
    faces: tuple[FaceEdit, ...] = ()
    rule: FaceRule = FaceRule.ALL
    max_faces: int = defaults.MAX_FACES
    min_face_px: float = defaults.MIN_FACE_PX
    max_face_px: float | None = None
    min_confidence: float = defaults.MIN_CONFIDENCE
    max_sharpness: float | None = None
    visibility: float = defaults.VISIBILITY
    upscale: int = defaults.UPSCALE
    use_upscaler: bool = defaults.USE_UPSCALER
    aligned: bool = False
    mask: MaskKind = MaskKind.FEATHER
    match_tone: bool | None = None
    return_mask: bool = False
    return_crops: bool = False
    output_format: Format | None = None
    raw_output: bool = False
    quality: int = defaults.QUALITY

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` naming every field that is out of range."""
        check = _Checker()
        check.within("fidelity", self.fidelity, defaults.FIDELITY_RANGE)
        check.within("max_faces", self.max_faces, defaults.MAX_FACES_RANGE)
        check.at_least_0("min_face_px", self.min_face_px)
        check.at_least_0("max_face_px", self.max_face_px)
        check.within("min_confidence", self.min_confidence, defaults.CONFIDENCE_RANGE)
        check.within("visibility", self.visibility, defaults.VISIBILITY_RANGE)
        check.within("output.quality", self.quality, defaults.QUALITY_RANGE)
        if self.upscale not in defaults.UPSCALE_CHOICES:
            choices = ", ".join(map(str, defaults.UPSCALE_CHOICES))
            check.violate("upscale", f"must be one of {choices}, is {self.upscale}")
        check.at_least_0("max_sharpness", self.max_sharpness, "squared grey levels")
        if self.match_tone and self.aligned:
            check.violate(
                "match_tone",
                "is for faces that are pasted into a picture, but an aligned picture is one face",
            )
        self._check_choice(check)
        self._check_orders(check)
        check.finish()

    def _check_choice(self, check: _Checker) -> None:
        """What chooses among found faces has no meaning where none are looked for."""
        why = "an aligned picture is one face" if self.aligned else "the faces are given"
        if not self.aligned and not self.faces:
            return
        unused = {
            "faces": self.aligned and bool(self.faces),
            "rule": self.rule is not FaceRule.ALL,
            "min_face_px": self.min_face_px != defaults.MIN_FACE_PX,
            "max_face_px": self.max_face_px is not None,
            "min_confidence": self.min_confidence != defaults.MIN_CONFIDENCE,
            "max_sharpness": self.max_sharpness is not None,
        }
        for name in (name for name, given in unused.items() if given):
            check.violate(name, f"chooses among faces found, but {why}")

    def _check_orders(self, check: _Checker) -> None:
        if len(self.faces) > defaults.MAX_FACE_EDITS:
            check.violate("faces", f"are {len(self.faces)}; the limit is {defaults.MAX_FACE_EDITS}")
            return
        for number, order in enumerate(self.faces):
            name = f"faces[{number}]"
            if order.fidelity is not None:
                check.within(f"{name}.fidelity", order.fidelity, defaults.FIDELITY_RANGE)
            if order.visibility is not None:
                check.within(f"{name}.visibility", order.visibility, defaults.VISIBILITY_RANGE)
            points = order.face.landmarks
            if len(points) != _LANDMARKS:
                check.violate(f"{name}.face.landmarks", f"are {len(points)} points; {_LANDMARKS} are needed")
            if not all(math.isfinite(value) for point in points for value in point):
                check.violate(f"{name}.face.landmarks", "must be numbers of px")
            if not all(math.isfinite(value) for value in order.face.box):
                check.violate(f"{name}.face.box", "must be numbers of px")


@dataclass(frozen=True)
class DetectRequest:
    """Where to look for faces; ``detect_size_px`` 0 looks at the picture as it is."""

    min_confidence: float = defaults.MIN_CONFIDENCE
    detect_size_px: int = defaults.DETECT_SIZE_PX

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` naming every field that is out of range."""
        check = _Checker()
        check.within("min_confidence", self.min_confidence, defaults.CONFIDENCE_RANGE)
        if self.detect_size_px != 0:
            check.within("detect_size_px", self.detect_size_px, defaults.DETECT_SIZE_PX_RANGE)
        check.finish()


@dataclass(frozen=True)
class FaceOutcome:
    """What became of one face, in px of the returned picture. ``reason`` is None where it was restored.

    ``before`` and ``after`` are its aligned crops (512, 512, 3), where they were asked for and exist.
    """

    face: Face
    reason: SkipReason | None
    fidelity: float | None
    before: RgbArray | None = None
    after: RgbArray | None = None


@dataclass(frozen=True)
class RestoreResult:
    """A picture with its faces restored.

    ``mask`` is uint8 (H, W), 0 where nothing was changed, if the request wants it.
    """

    picture: Picture
    mask: RgbArray | None
    outcomes: tuple[FaceOutcome, ...]
    reason: SkipReason | None
    upscale_applied: int
    upscaler: str
    warnings: tuple[str, ...]
    tone_matched: bool
    stages: tuple[StageReport, ...] = field(default=())


class _Checker:
    """Collects violations, so that a request hears of all of them at once."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def violate(self, name: str, message: str) -> None:
        self._violations.append(FieldViolation(name, message))

    def within(self, name: str, value: float, limits: tuple[float, float]) -> None:
        if not limits[0] <= value <= limits[1]:  # false for NaN as well
            self.violate(name, f"must be between {limits[0]} and {limits[1]}, is {value}")

    def at_least_0(self, name: str, value: float | None, unit: str = "px") -> None:
        if value is not None and not (value >= 0 and math.isfinite(value)):
            self.violate(name, f"must be a number of {unit}, 0 or more, is {value}")

    def finish(self) -> None:
        if self._violations:
            raise InvalidRequest(self._violations)
