"""What a successful call reports besides its result: what was skipped, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Metadata = Literal["recipe", "none"]
"""What a file says of how it was made."""


class SkipReason(StrEnum):
    """Why something that was requested was skipped; the names of `atelier.common.v1.SkipReason`."""

    NO_FACE = "no_face"
    NOT_LOADED = "not_loaded"
    TOO_SMALL = "too_small"
    LOW_CONFIDENCE = "low_confidence"
    OVER_LIMIT = "over_limit"
    SKIPPED = "skipped"
    NOT_FINITE = "not_finite"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    RESTORER_UNAVAILABLE = "restorer_unavailable"
    RESTORER_BUSY = "restorer_busy"
    NOT_VISIBLE = "not_visible"
    IDENTITY_CHANGED = "identity_changed"
    ORIENTATION_UNCLEAR = "orientation_unclear"


class WarningCode(StrEnum):
    """What a warning is about; the names of `atelier.common.v1.WarningCode`, which documents each."""

    UNSPECIFIED = "unspecified"
    """A newer service sent a code that this version does not know."""
    PROMPT_TRUNCATED = "prompt_truncated"
    OPTION_HAS_NO_EFFECT = "option_has_no_effect"
    SIZE_LIMITED = "size_limited"
    MEMORY_FALLBACK = "memory_fallback"
    PRECISION_FALLBACK = "precision_fallback"
    NOT_LOADED = "not_loaded"
    UPSCALER_FALLBACK = "upscaler_fallback"
    BIT_DEPTH_REDUCED = "bit_depth_reduced"
    LOSSY_OUTPUT = "lossy_output"
    ALPHA_DROPPED = "alpha_dropped"
    METADATA_DROPPED = "metadata_dropped"
    NOT_CHECKED = "not_checked"
    RESTORER_FAILED = "restorer_failed"
    FACES_OMITTED = "faces_omitted"
    IMAGE_DAMAGED = "image_damaged"
    FIDELITY_IGNORED = "fidelity_ignored"
    DETECT_SIZE_LIMITED = "detect_size_limited"
    IDENTITY_NOT_MEASURED = "identity_not_measured"
    OPTION_LIMITED = "option_limited"


@dataclass(frozen=True)
class ResponseWarning:
    """Something that the caller should know about a call that succeeded."""

    code: WarningCode
    message: str
    """A sentence, with names and figures."""
