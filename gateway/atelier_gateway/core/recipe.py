"""What a drawing says of itself: its recipe and infotext, from what was asked and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from atelier_gateway.core.signing import Claim, Signer, restored_boxes
from atelier_gateway.core.values import FaceOutcome, GenerateSpec, Generation, Restoration
from atelier_runtime import defaults
from atelier_runtime.errors import InternalError
from atelier_runtime.recipes import mark
from atelier_runtime.recipes.drawing import Drawing


def started_from(spec: GenerateSpec) -> dict[str, str]:
    """Return the SHA-256 of the files that a spec starts from. Large ones take a while."""
    files = {"image_sha256": spec.image, "mask_sha256": spec.mask}
    return {name: hashlib.sha256(file).hexdigest() for name, file in files.items() if file is not None}


def drawing_of(
    spec: GenerateSpec,
    generation: Generation,
    number: int,
    *,
    restoration: Restoration | None = None,
    hashes: Mapping[str, str] | None = None,
) -> Drawing:
    """Return how an image was drawn. `number`: from 0. `restoration`: what the restorer returned.

    `hashes`: see `started_from`.
    """
    return Drawing(
        request=_request(spec, generation, number),
        seed=generation.seed,
        number=number + 1,
        images=spec.image_count,
        model_set=generation.model_set,
        model_set_hash=generation.model_set_hash,
        device=generation.device,
        size=(generation.image.width, generation.image.height),
        refiner_applied=generation.refiner_applied,
        hires_fix_applied=generation.hires_fix_applied,
        hires_strength=generation.hires_strength,
        upscalers=generation.upscalers,
        upscale_applied=generation.upscale_applied,
        started_from=hashes,
        restoration=_restoration(generation, restoration) if spec.restored else None,
        warnings=[warning.code for warning in generation.warnings],
    )


WriteRecipe = Callable[[Generation, int, Restoration | None], Awaitable[Generation]]
"""Takes a result, its number and what the restorer returned; returns the result with its recipe."""


async def recipe_writer(spec: GenerateSpec, signer: Signer | None) -> WriteRecipe:
    """Return what writes the recipe into the files of a spec's results and signs them, if it wants that."""
    hashes: dict[str, str] = {}
    if spec.image is not None and spec.metadata != "none":
        hashes = await asyncio.to_thread(started_from, spec)

    async def write(generation: Generation, number: int, restoration: Restoration | None) -> Generation:
        if spec.metadata == "none":
            return generation
        drawing = drawing_of(spec, generation, number, restoration=restoration, hashes=hashes)
        written = await asyncio.to_thread(with_recipe, generation, drawing)
        if signer is None or (image := written.image).format == "raw":
            return written
        claim = _claim(spec, written, drawing, restoration)
        signed = await asyncio.to_thread(signer.signed, image.data, image.format, claim)
        warnings = signed.warnings(written.warnings)
        return replace(written, image=replace(image, data=signed.file), warnings=warnings)

    return write


def as_drawn(spec: GenerateSpec) -> GenerateSpec:
    """Return the spec of an image before its faces are restored and it is enlarged, as a PNG file."""
    return replace(
        spec,
        restore_faces=False,
        fidelity=None,
        match_tone=None,
        face_detector=None,
        upscale=defaults.UPSCALE,
        on_restore_failure=defaults.ON_RESTORE_FAILURE,
        output_format="png",
        quality=None,
    )


def _claim(
    spec: GenerateSpec, generation: Generation, drawing: Drawing, restoration: Restoration | None
) -> Claim:
    sets = [(generation.model_set, generation.model_set_hash)]
    if restoration is not None:
        sets.append((restoration.model_set, restoration.model_set_hash))
    return Claim(
        source_type=drawing.source_type,
        opened=spec.image,
        faces=restored_boxes(generation.faces),
        model_sets=tuple(dict.fromkeys(sets)),
        redrawn=spec.image is not None,
    )


def with_recipe(generation: Generation, drawing: Drawing) -> Generation:
    """Return a result whose file carries its recipe. Copies the file once: not for the event loop.

    Raises `InternalError` if it is no file of its format.
    """
    image = generation.image
    if image.format == "raw":
        return generation
    marks = drawing.marks()
    try:
        data = mark(image.data, image.format, marks)
    except ValueError as error:
        raise InternalError(f"The image of a service is {error}.") from error
    return replace(generation, image=replace(image, data=data), infotext=marks.infotext or "")


def _request(spec: GenerateSpec, generation: Generation, number: int) -> dict[str, Any]:
    """Return the request by the names of `POST /generate`, with what was used where it left something open.

    A negative prompt, and whether the tone of faces is matched, stay open where they are the model set's.
    """
    sampling = generation.sampling
    request: dict[str, Any] = {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "prompt_syntax": spec.prompt_syntax or defaults.PROMPT_SYNTAX,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "sampler": sampling.sampler,
        "schedule": sampling.schedule,
        "seed": generation.seed - number,
        "use_refiner": _or(spec.use_refiner, defaults.USE_REFINER),
        "refiner_strength": _or(spec.refiner_strength, defaults.REFINER_STRENGTH),
        "hires_fix": _or(spec.hires_fix, defaults.HIRES_FIX),
        "use_realesrgan": _or(spec.use_upscaler, defaults.USE_UPSCALER),
        "use_face_restoration": spec.restore_faces,
        "face_restoration_weight": _or(spec.fidelity, defaults.FIDELITY) if spec.restore_faces else None,
        "match_tone": spec.match_tone,
        "det_model": spec.face_detector,
        "upscale": spec.upscale,
        "on_restore_failure": spec.on_restore_failure,
        "output_format": spec.output_format,
        "quality": None if spec.output_format == "png" else _or(spec.quality, defaults.QUALITY),
        "num_images": spec.num_images,
        "mask_kind": _or(spec.mask_kind, defaults.MASK_KIND) if spec.mask is not None else None,
        "mask_blur_px": _or(spec.mask_blur_px, defaults.MASK_BLUR_PX) if spec.mask is not None else None,
        "strength": sampling.strength,
    }
    if not spec.own_size:
        request["width"] = _or(spec.width, defaults.SIDE_PX)
        request["height"] = _or(spec.height, defaults.SIDE_PX)
    if spec.lanczos_scale is not None:
        request |= {"hires_fix_simple": True, "hires_scale": spec.lanczos_scale}
    if spec.loras:
        weights = ((lora.name, _or(lora.weight, defaults.LORA_WEIGHT)) for lora in spec.loras)
        request["loras"] = [{"name": name, "weight": weight} for name, weight in weights]
    if (hires := spec.hires_pass) is not None:
        request["hires_pass"] = {
            "width": hires.width,
            "height": hires.height,
            "strength": _or(hires.strength, defaults.HIRES_STRENGTH),
            "num_inference_steps": _or(hires.num_inference_steps, defaults.HIRES_STEPS),
        }
    return {name: value for name, value in request.items() if value is not None}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _restoration(generation: Generation, restoration: Restoration | None) -> dict[str, Any]:
    """Return what was done to the faces; what the restorer says of itself, if it did anything."""
    said: dict[str, Any] = {
        "applied": generation.face_restoration_applied,
        "tone_matched": generation.tone_matched,
        "faces": [_face(outcome) for outcome in generation.faces],
    }
    if generation.face_restoration_reason is not None:
        said["reason"] = generation.face_restoration_reason
    if restoration is not None:
        said["model_set"] = {"name": restoration.model_set, "hash": restoration.model_set_hash}
        said["device"] = restoration.device
    return said


def _face(outcome: FaceOutcome) -> dict[str, Any]:
    face: dict[str, Any] = {
        "box": [round(value, 2) for value in outcome.face.box],
        "restored": outcome.restored,
        "fidelity": outcome.fidelity,
        "visibility": outcome.visibility,
        "reason": outcome.reason,
    }
    return {name: value for name, value in face.items() if value is not None}
