"""The parameters of a picture as AUTOMATIC1111's web UI writes them: the prompts, then one line of "
"settings."""

from __future__ import annotations

import json
from typing import Any

from atelier_gateway.api.automatic1111.drawing import Drawing
from atelier_gateway.api.automatic1111.loaded import HASH_CHARS, SCHEDULE_LABELS, sampler_label
from atelier_gateway.core.values import Generation

_QUOTED = (",", ":", "\n")


def infotext_of(drawing: Drawing, generation: Generation) -> str:
    """Return the infotext of a picture."""
    sampling, prompt = generation.sampling, drawing.given["prompt"] or ""
    negative = drawing.given["negative_prompt"]
    width = drawing.spec.width or generation.image.width
    height = drawing.spec.height or generation.image.height
    settings: dict[str, Any] = {
        "Steps": sampling.num_inference_steps,
        "Sampler": sampler_label(sampling.sampler),
        "Schedule type": SCHEDULE_LABELS.get(sampling.schedule, ("", sampling.schedule))[1],
        "CFG scale": f"{sampling.guidance_scale:g}",
        "Seed": generation.seed,
        "Face restoration": drawing.restorer if drawing.spec.restore_faces else None,
        "Size": f"{width}x{height}",
        "Model hash": generation.model_set_hash[:HASH_CHARS] or None,
        "Model": generation.model_set,
        **extra_parameters(drawing, generation),
        "Version": "atelier",
    }
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None)
    return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def extra_parameters(drawing: Drawing, generation: Generation | None) -> dict[str, Any]:
    """Return what only some requests have."""
    spec, extra = drawing.spec, dict[str, Any]()
    if spec.hires_pass is not None:
        hires = spec.hires_pass
        extra["Denoising strength"] = hires.strength
        extra["Hires resize"] = f"{hires.width}x{hires.height}"
        extra["Hires steps"] = hires.num_inference_steps
        extra["Hires upscaler"] = generation.upscalers[0] if generation and generation.upscalers else None
    elif spec.strength is not None:
        extra["Denoising strength"] = spec.strength
    if spec.mask is not None:
        extra["Mask blur"] = spec.mask_blur_px
    if spec.restore_faces:
        extra["Face restoration weight"] = spec.fidelity
    return extra


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in _QUOTED) else text
