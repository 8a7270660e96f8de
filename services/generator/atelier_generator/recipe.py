"""What a drawing says of itself where nobody else writes its recipe: its callers name `metadata`."""

from __future__ import annotations

from typing import Any

from atelier_generator.generation import Generation
from atelier_generator.request import CompletedRequest
from atelier_runtime import defaults
from atelier_runtime.images import OutputFormat
from atelier_runtime.recipes import mark
from atelier_runtime.recipes.drawing import Drawing
from atelier_runtime.service import LoadedModels

_SAME_NAME = (
    *("prompt", "negative_prompt", "prompt_syntax", "num_inference_steps", "guidance_scale", "seed"),
    *("use_refiner", "hires_fix", "mask_kind", "mask_blur_px", "strength"),
)


def with_recipe(
    file: bytes, request: CompletedRequest, generation: Generation, loaded: LoadedModels
) -> bytes:
    """Return the file of an image with its recipe, if the request wants one. Copies it once."""
    file_format: OutputFormat = request.output_format
    if file_format == "raw" or not request.writes_recipe:
        return file
    height, width = generation.pixels.shape[:2]
    drawing = Drawing(
        request=_request(request, generation),
        seed=generation.seed,
        number=generation.seed - request.seed + 1,
        images=request.num_images,
        model_set=loaded.model_set,
        model_set_hash=loaded.model_set_hash,
        device=loaded.works_on,
        size=(width, height),
        refiner_applied=generation.refiner_applied,
        hires_fix_applied=generation.hires_fix_applied,
        hires_strength=generation.hires_strength,
        upscalers=[generation.upscaler] if generation.upscaler else [],
        started_from=None if request.source is None else request.source.hashes,
        warnings=[warning.code for warning in generation.warnings],
    )
    return mark(file, file_format, drawing.marks())


def _request(request: CompletedRequest, generation: Generation) -> dict[str, Any]:
    """Return the request by the names of `POST /generate`; its prompt's tags are in `loras`."""
    written = {name: getattr(request, name) for name in _SAME_NAME}
    if not request.own_size:
        written |= {"width": request.size.width, "height": request.size.height}
    written |= {
        "use_realesrgan": request.use_upscaler,
        "refiner_strength": request.refiner_strength or defaults.REFINER_STRENGTH,
        "sampler": generation.sampler,
        "schedule": generation.schedule,
        "use_face_restoration": False,
        "output_format": request.output_format,
        "quality": None if request.output_format == "png" else request.quality,
    }
    if request.masked:
        written["mask_kind"] = request.mask_kind or defaults.MASK_KIND
        written["mask_blur_px"] = request.mask_blur_px or defaults.MASK_BLUR_PX
    if request.num_images > 1:
        written["num_images"] = request.num_images
    if request.lanczos_scale is not None:
        written |= {"hires_fix_simple": True, "hires_scale": request.lanczos_scale}
    if request.loras:
        written["loras"] = [{"name": lora.name, "weight": lora.weight} for lora in request.loras]
    if (hires := request.hires_pass) is not None:
        written["hires_pass"] = {
            "width": hires.width_px,
            "height": hires.height_px,
            "strength": hires.strength,
            "num_inference_steps": hires.num_inference_steps,
        }
    return {name: value for name, value in written.items() if value is not None}
