"""What the gateway asks of the stages and what it gets back: plain values, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atelier_runtime.outcomes import SkipReason
from atelier_runtime.images import Format
from atelier_runtime.metrics import StageReport


@dataclass(frozen=True)
class StagePicture:
    """A picture on its way between stages: a file's bytes, or raw RGB8 rows from the top left."""

    data: bytes
    format: Format | Literal["raw"]
    width: int
    height: int


@dataclass(frozen=True)
class Encoding:
    """How a stage is to encode its picture. `quality` (1 to 100) is for jpeg and webp."""

    format: Format | Literal["raw"]
    quality: int


@dataclass(frozen=True)
class Generation:
    """What the generator made of an order. A reason is None where nothing was left undone."""

    picture: StagePicture
    seed: int
    model_set: str
    refiner_applied: bool
    refiner_reason: SkipReason | None
    hires_fix_applied: bool
    hires_fix_reason: SkipReason | None
    upscaler: str
    """Name of what enlarged the picture; empty if nothing was enlarged."""
    warnings: tuple[str, ...]
    stages: tuple[StageReport, ...]


@dataclass(frozen=True)
class Face:
    """A face as the detector sees it.

    `box`: x1, y1, x2, y2 and `landmarks`: (x, y) of eyes, nose tip, corners of the mouth, left ones first,
    in px of the picture. `sharpness` and the others that may be None: not known.
    """

    index: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    confidence: float
    size_px: float | None
    sharpness: float | None
    roll_degrees: float | None


@dataclass(frozen=True)
class FaceOutcome:
    """What became of one face, in px of the returned picture. The crops are there if they were asked for."""

    face: Face
    restored: bool
    reason: SkipReason | None
    fidelity: float | None
    crop_before: StagePicture | None
    crop_after: StagePicture | None


@dataclass(frozen=True)
class RestorationOrder:
    """What the restorer is to do with a drawn picture."""

    picture: StagePicture
    restore_faces: bool
    fidelity: float
    match_tone: bool | None
    """None: as the restorer's model set says."""
    upscale: int
    use_realesrgan: bool
    encoding: Encoding


@dataclass(frozen=True)
class Restoration:
    """What the restorer did. `mask` is there if it was asked for."""

    picture: StagePicture
    mask: StagePicture | None
    faces: tuple[FaceOutcome, ...]
    applied: bool
    reason: SkipReason | None
    tone_matched: bool
    upscale_applied: int
    upscaler: str
    """Name of what enlarged the picture; empty if nothing was enlarged."""
    warnings: tuple[str, ...]
    stages: tuple[StageReport, ...]
    model_set: str


@dataclass(frozen=True)
class Detection:
    """The faces of a picture, the surest first, and its size in px after its orientation was applied."""

    faces: tuple[Face, ...]
    width: int
    height: int
    stages: tuple[StageReport, ...]


@dataclass(frozen=True)
class StageStatus:
    """What a stage says of itself. Device memory is None on a CPU."""

    version: str
    ready: bool
    model_set: str
    device: str
    device_name: str
    vram_free_bytes: int | None
    vram_total_bytes: int | None
    networks: Mapping[str, str] = field(default_factory=dict)
    """Role ("base", "refiner", "upscaler", "detector", "codeformer") -> the network's name."""
