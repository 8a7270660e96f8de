"""The response of `POST /generate` with `dry_run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from atelier_gateway.api.native.generate_request import SDXL
from atelier_gateway.api.native.report import WarningCodes
from atelier_gateway.core.estimates import Estimate
from atelier_runtime.cost_model import Cost


class SecondsAnswer(BaseModel):
    """How long something is expected to take."""

    expected: float
    low: float = Field(description="One in ten takes less.")
    high: float = Field(description="One in ten takes more.")


class PassAnswer(BaseModel):
    """A denoising pass."""

    stage: str = Field(description="base, hires or refiner.")
    resolution: str = Field(description="Width x height at which it runs.", examples=["768x768"])
    steps: int


class EstimatedStageAnswer(BaseModel):
    """A stage of the generator, for all images."""

    stage: str
    seconds: SecondsAnswer


class GenerationEstimateAnswer(BaseModel):
    """What the generator is expected to take."""

    seconds: SecondsAnswer = Field(description="Less than the sum where stages run at the same time.")
    observations: int = Field(
        description="How often the least known of the larger stages has run at this size since the generator "
        "started, 5 at most; 0: its time is inferred from other sizes."
    )
    peak_vram_bytes: int | None = Field(None, description="Null on a CPU, and if too little is known.")
    stages: list[EstimatedStageAnswer]


class RestorationEstimateAnswer(BaseModel):
    """What restoring faces and upscaling are expected to take."""

    seconds: SecondsAnswer | None = Field(
        None, description="Null until this gateway has had an image restored; then it is in no sum."
    )
    observations: int = Field(description="How often that was done at this size, 5 at most.")


class EstimateAnswer(BaseModel):
    """The response of `POST /generate` with `dry_run`: nothing was generated."""

    success: Literal[True] = True
    dry_run: Literal[True] = True
    request_id: str
    model: str = Field(description="The model set that would generate; SDXL for the set sdxl.")
    sampler: str
    schedule: str
    num_inference_steps: int
    guidance_scale: float
    strength: float | None = Field(
        None,
        exclude_if=lambda strength: strength is None,
        description="Of requests that start from an image.",
    )
    num_images: int
    final_resolution: str = Field(description="Width x height of each image.", examples=["1536x1536"])
    passes: list[PassAnswer]
    seconds: SecondsAnswer = Field(description="Generation and restoration of all images.")
    queue_wait_seconds: float = Field(description="How long the request would wait now before that.")
    generation: GenerationEstimateAnswer
    restoration: RestorationEstimateAnswer | None = Field(None, description="Null if none was requested.")
    warnings: list[str] = []
    warning_codes: WarningCodes = []


def estimate_answer(estimate: Estimate, num_images: int, request_id: str) -> EstimateAnswer:
    """Return the response with an estimate."""
    generator, restoration = estimate.generator, estimate.restoration
    return EstimateAnswer(
        request_id=request_id,
        model=SDXL if generator.model_set.upper() == SDXL else generator.model_set,
        **asdict(generator.sampling),
        num_images=num_images,
        final_resolution=str(estimate.result),
        passes=[
            PassAnswer(stage=each.stage, resolution=str(each.size), steps=each.steps)
            for each in generator.passes
        ],
        seconds=_seconds(estimate.cost),
        queue_wait_seconds=round(generator.queue_wait_s, 3),
        generation=GenerationEstimateAnswer(
            seconds=_seconds(generator.cost),
            observations=generator.cost.observations,
            peak_vram_bytes=generator.cost.peak_bytes,
            stages=[
                EstimatedStageAnswer(stage=stage, seconds=_seconds(cost)) for stage, cost in generator.stages
            ],
        ),
        restoration=None
        if not estimate.restored
        else RestorationEstimateAnswer(
            seconds=None if restoration is None else _seconds(restoration),
            observations=0 if restoration is None else restoration.observations,
        ),
        warnings=[warning.message for warning in estimate.warnings],
        warning_codes=[warning.code for warning in estimate.warnings],
    )


def _seconds(cost: Cost) -> SecondsAnswer:
    return SecondsAnswer(
        expected=round(cost.seconds, 3), low=round(cost.low_s, 3), high=round(cost.high_s, 3)
    )
