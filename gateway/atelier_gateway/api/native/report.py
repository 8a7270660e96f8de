"""What the contract's responses share: stages, warnings, images, and the report next to an image file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from atelier_gateway.http.negotiation import MEDIA_TYPES
from atelier_runtime.images import EncodedImage
from atelier_runtime.metrics import StageReport
from atelier_runtime.outcomes import ResponseWarning, WarningCode

# The names of response models are component names of the OpenAPI document: generated clients have them.

REPORT_HEADER = "X-Atelier-Report"
REPORT_LIMIT_BYTES = 6 * 1024
_WARNING_CHARS = 200


class StageAnswer(BaseModel):
    """The cost of one stage."""

    stage: str
    seconds: float
    peak_vram_bytes: int | None = Field(None, description="Null on a CPU.")


WarningCodes = Annotated[
    list[WarningCode], Field(description="What each of the warnings is about, in the same order.")
]


def warnings_and_stages(warnings: Iterable[ResponseWarning], stages: Iterable[StageReport]) -> dict[str, Any]:
    """Return the fields `warnings`, `warning_codes` and `stages` of a response."""
    warnings = tuple(warnings)
    return {
        "warnings": [warning.message for warning in warnings],
        "warning_codes": [warning.code for warning in warnings],
        "stages": stage_answers(stages),
    }


def stage_answers(stages: Iterable[StageReport]) -> list[StageAnswer]:
    """Return the cost of each stage."""
    return [
        StageAnswer(stage=s.stage, seconds=round(s.seconds, 4), peak_vram_bytes=s.peak_vram_bytes)
        for s in stages
    ]


def rounded_box(box: tuple[float, float, float, float], digits: int) -> tuple[float, float, float, float]:
    """Return a box rounded to that many digits after the decimal point."""
    x1, y1, x2, y2 = (round(value, digits) for value in box)
    return x1, y1, x2, y2


def to_base64(image: EncodedImage) -> str:
    """Return an image's file as base64. Takes milliseconds per megabyte: not for the event loop."""
    return base64.b64encode(image.data).decode("ascii")


def to_data_uri(image: EncodedImage, encoded: str | None = None) -> str:
    """Return an image's file as a data URI; `encoded` saves its base64 from being computed again."""
    return f"data:{MEDIA_TYPES[image.format]};base64,{to_base64(image) if encoded is None else encoded}"


def report_header(report: BaseModel) -> str:
    """Return a report with `faces`, `warnings` and `warning_codes` as ASCII JSON of at most 6 KB.

    What does not fit is dropped in this order and counted under `left_out`: the ends of long warnings, the
    last faces, the last warnings with their codes.
    """
    content = report.model_dump(mode="json")
    header = _ascii_json(content)
    if len(header) <= REPORT_LIMIT_BYTES:
        return header
    content["warnings"] = [_shortened(warning) for warning in content["warnings"]]
    left_out = content["left_out"] = {"faces": 0, "warnings": 0}
    for name, dropped in (("faces", ("faces",)), ("warnings", ("warnings", "warning_codes"))):
        while len(header := _ascii_json(content)) > REPORT_LIMIT_BYTES and content[name]:
            for items in dropped:
                content[items].pop()
            left_out[name] += 1
    return header


def _shortened(text: str) -> str:
    return text if len(text) <= _WARNING_CHARS else text[: _WARNING_CHARS - 3] + "..."


def _ascii_json(content: dict[str, Any]) -> str:
    # DEL is ASCII and json leaves it as it is, but a header must not contain it
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f")
