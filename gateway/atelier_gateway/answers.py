"""What the gateway answers: the models of every JSON body, and how a finished picture is put into one."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from atelier_gateway.accept import MEDIA_TYPES
from atelier_gateway.work import StagePicture
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.metrics import StageReport

REPORT_HEADER = "X-Atelier-Report"
REPORT_LIMIT_BYTES = 6 * 1024
_WARNING_CHARS = 200


class FaceAnswer(BaseModel):
    """One face that the detector found."""

    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in px of the returned picture, origin top left."
    )
    confidence: float = Field(description="The detector's, 0 to 1.")
    restored: bool
    reason: SkipReason | None = Field(None, description="Why it was left as it was.")


class StageAnswer(BaseModel):
    """What one stage of the work cost."""

    stage: str
    seconds: float
    peak_vram_bytes: int | None = Field(None, description="Null on a CPU.")


class Report(BaseModel):
    """Everything about a drawn picture but the picture and the prompt; the JSON of `X-Atelier-Report`."""

    success: Literal[True] = True
    seed: int = Field(description="The noise seed that was used.")
    model: str = Field(description="The model set that drew; SDXL for the set sdxl.")
    request_id: str
    final_resolution: str = Field(
        description="Width x height of the returned picture.", examples=["1536x1536"]
    )
    generation_time_seconds: float = Field(description="Wall time of the request.")
    refiner_applied: bool
    refiner_reason: SkipReason | None = None
    hires_fix_applied: bool
    hires_fix_reason: SkipReason | None = None
    upscaler: str | None = Field(None, description="What enlarged the picture; null if nothing was enlarged.")
    upscale_applied: int
    face_restoration_applied: bool = Field(description="At least one face was restored.")
    face_restoration_reason: SkipReason | None = Field(None, description="Asked for and not done: why.")
    tone_matched: bool = Field(description="Restored faces were given the tone of their surroundings.")
    faces: list[FaceAnswer] = []
    warnings: list[str] = []
    stages: list[StageAnswer] = []


class GenerateAnswer(Report):
    """The answer of `POST /generate`."""

    image: str = Field(description="The picture as a data URI.", examples=["data:image/png;base64,..."])
    prompt: str
    image_base64: str | None = Field(
        None, description="The picture without the prefix. Only where the request used an older name."
    )


class FieldProblem(BaseModel):
    """One offending field, by the name that the client used."""

    field: str
    message: str


class ProblemDetail(BaseModel):
    """Why a request failed."""

    code: str = Field(examples=["invalid_request"])
    message: str
    fields: list[FieldProblem]


class Problem(BaseModel):
    """The body of every failure."""

    success: Literal[False] = False
    error: ProblemDetail
    detail: str = Field(description="The message once more, where older clients look for it.")
    request_id: str


class HealthAnswer(BaseModel):
    """What the two stages say of themselves now."""

    status: Literal["healthy", "degraded", "unhealthy"] = Field(
        description="degraded: pictures are drawn, but the restorer or one of its networks is missing."
    )
    model_loaded: bool = Field(description="The drawing network is loaded and warm.")
    models_loaded: bool = Field(description="The networks of both stages are loaded and warm.")
    cuda_available: bool
    codeformer_available: bool
    realesrgan_available: bool
    refiner_available: bool
    vram_available: str | None = Field(
        description="Free / total; null on a CPU.", examples=["12.5GB / 24.0GB"]
    )
    device: str | None
    gpu_info: str | None = Field(description="The graphics card's name; null on a CPU.")


class RootAnswer(BaseModel):
    """Who answers here; model and device are null while the generator loads or is away."""

    name: str
    version: str
    model: str | None
    device: str | None


def json_body(report: Report, picture: StagePicture, prompt: str, *, with_plain_base64: bool) -> bytes:
    """Put picture and report into one JSON body. Takes milliseconds a megabyte: call it in a thread."""
    encoded = base64.b64encode(picture.data).decode("ascii")
    media_type = MEDIA_TYPES[picture.format]
    body: dict[str, Any] = {
        "success": True,
        "image": f"data:{media_type};base64,{encoded}",
        "prompt": prompt,
        **report.model_dump(mode="json", exclude={"success"}),
    }
    if with_plain_base64:
        body["image_base64"] = encoded
    return orjson.dumps(body)


def stage_answer(report: StageReport) -> StageAnswer:
    """Return what is told of a stage."""
    return StageAnswer(
        stage=report.stage, seconds=round(report.seconds, 4), peak_vram_bytes=report.peak_vram_bytes
    )


def rounded_box(box: tuple[float, float, float, float], digits: int) -> tuple[float, float, float, float]:
    """Return a box with that many digits behind the point."""
    x1, y1, x2, y2 = (round(value, digits) for value in box)
    return x1, y1, x2, y2


def report_header(report: BaseModel) -> str:
    """Return a report, with its lists `faces` and `warnings`, as ASCII JSON of at most 6 KB.

    What does not fit goes in this order, and is counted under `left_out`: the ends of long warnings,
    the last faces, the last warnings.
    """
    content = report.model_dump(mode="json")
    header = _ascii_json(content)
    if len(header) <= REPORT_LIMIT_BYTES:
        return header
    content["warnings"] = [_shortened(warning) for warning in content["warnings"]]
    left_out = content["left_out"] = {"faces": 0, "warnings": 0}
    for name in ("faces", "warnings"):
        while len(header := _ascii_json(content)) > REPORT_LIMIT_BYTES and content[name]:
            content[name].pop()
            left_out[name] += 1
    return header


def _shortened(text: str) -> str:
    return text if len(text) <= _WARNING_CHARS else text[: _WARNING_CHARS - 3] + "..."


def _ascii_json(content: dict[str, Any]) -> str:
    # DEL is ASCII, but no header may hold it, and json leaves it as it is
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f")
