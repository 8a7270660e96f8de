"""The response to txt2img and img2img."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from atelier_gateway import __version__
from atelier_gateway.api.automatic1111.drawing import Drawing, echo
from atelier_gateway.api.automatic1111.loaded import HASH_CHARS, schedule_name
from atelier_gateway.api.automatic1111.running import timestamp
from atelier_gateway.core.values import Generation
from atelier_runtime.recipes.names import shown_sampler


class DrawingAnswer(BaseModel):
    """What txt2img and img2img return."""

    images: list[str] = Field(
        description="Files as base64. Empty if send_images is false, or the request was interrupted."
    )
    parameters: dict[str, Any] = Field(description="The fields of the request, without pictures.")
    info: str = Field(description="A JSON object as a string: prompts, seeds, sizes, infotexts.")


def drawing_body(drawing: Drawing, generations: Sequence[Generation]) -> bytes:
    """Return the response as JSON; without generations, that of a request that was interrupted.

    Takes milliseconds per megabyte: not for the event loop.
    """
    files = generations if drawing.send_images else ()
    return orjson.dumps(
        {
            "images": [base64.b64encode(generation.image.data).decode("ascii") for generation in files],
            "parameters": orjson.Fragment(echo(drawing)),
            "info": orjson.dumps(info(drawing, generations)).decode(),
        }
    )


def info(drawing: Drawing, generations: Sequence[Generation]) -> dict[str, Any]:
    """Return `info`, of which the first picture decides what is said once for all."""
    spec, given = drawing.spec, drawing.given
    count = len(generations)
    prompt, negative = given["prompt"] or "", given["negative_prompt"] or ""
    seeds = [generation.seed for generation in generations]
    first = generations[0] if generations else None
    sampling = first.sampling if first else None
    strength = _strength(drawing, first)
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * count,
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * count,
        "seed": seeds[0] if seeds else -1 if spec.seed is None else spec.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": first.image.width if first else spec.width,
        "height": first.image.height if first else spec.height,
        "sampler_name": shown_sampler(sampling.sampler) if sampling else spec.sampler,
        "scheduler": schedule_name(sampling.schedule) if sampling else spec.schedule,
        "cfg_scale": sampling.guidance_scale if sampling else spec.guidance_scale,
        "steps": sampling.num_inference_steps if sampling else spec.num_inference_steps,
        "batch_size": given["batch_size"] or 1,
        "n_iter": given["n_iter"] or 1,
        "restore_faces": spec.restore_faces,
        "face_restoration_model": drawing.restorer,
        "sd_model_name": first.model_set if first else None,
        "sd_model_hash": first.model_set_hash[:HASH_CHARS] if first else None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": strength,
        "extra_generation_params": _extra_parameters(drawing, first),
        "index_of_first_image": 0,
        "infotexts": [generation.infotext for generation in generations],
        "styles": [],
        "job_timestamp": timestamp(),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"atelier {__version__}",
        "interrupted": not generations,
        "faces": [_faces(generation) for generation in generations],
        "warnings": list(
            dict.fromkeys(drawing.words.warning(w.message) for each in generations for w in each.warnings)
        ),
    }


def _faces(generation: Generation) -> dict[str, int]:
    restored = sum(outcome.restored for outcome in generation.faces)
    return {"found": len(generation.faces), "restored": restored}


def _strength(drawing: Drawing, generation: Generation | None) -> float | None:
    """Return denoising_strength as it was in effect: that of a second pass, which a model set may limit."""
    spec = drawing.spec
    if spec.hires_pass is None:
        return spec.strength
    ran = None if generation is None else generation.hires_strength
    return spec.hires_pass.strength if ran is None else ran


def _extra_parameters(drawing: Drawing, generation: Generation | None) -> dict[str, Any]:
    """Return what only some requests have."""
    spec, extra = drawing.spec, dict[str, Any]()
    if spec.hires_pass is not None:
        hires = spec.hires_pass
        extra["Denoising strength"] = _strength(drawing, generation)
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
