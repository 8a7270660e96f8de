"""What a model set wants where a request leaves it open."""

from __future__ import annotations

from dataclasses import dataclass

from atelier_runtime import defaults


@dataclass(frozen=True)
class ModelDefaults:
    """The values of a manifest's `default_negative_prompt` and `sampling`, else those of `defaults`.

    `sampler` and `schedule`: names as in a request; None: those that the networks are stored with.
    """

    negative_prompt: str = ""
    num_inference_steps: int = defaults.NUM_INFERENCE_STEPS
    guidance_scale: float = defaults.GUIDANCE_SCALE
    sampler: str | None = None
    schedule: str | None = None
