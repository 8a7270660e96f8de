"""One step of the base network, as a request that draws nothing else takes it."""

from __future__ import annotations

from typing import Any

from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest


def seconds_of_a_step(pipeline: Pipeline, side: int, steps: int, **options: Any) -> float:
    """Draw a square image of `side` px, and return the seconds of the base's pass for each of its steps.

    `options`: further fields of the request.
    """
    request = GenerateRequest(
        "a woman with long red hair",
        width_px=side,
        height_px=side,
        num_inference_steps=steps,
        seed=1,
        use_refiner=False,
        use_upscaler=False,
        **options,
    )
    stages = pipeline.generate(pipeline.complete(request)).stages
    return sum(report.seconds for report in stages if report.stage == "base") / steps
