"""What a request for a drawing means: txt2img and img2img as the spec that all dialects share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from atelier_gateway.api.automatic1111.fields import MOST_PICTURES
from atelier_gateway.api.automatic1111.loaded import Loaded, choose_upscaler
from atelier_gateway.api.automatic1111.options import MODEL, Choices
from atelier_gateway.api.automatic1111.request import Given
from atelier_gateway.core.values import GenerateSpec, HiresPass
from atelier_gateway.http.schemas import printable
from atelier_gateway.http.validation import refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.images import stored_size

_STRENGTH = 0.75
"""denoising_strength where a client leaves it out, of a second pass and of img2img."""
_MASK_BLUR = 4.0
_ORIGINAL, _COVER = 1, 1  # values of inpainting_fill and resize_mode
_LATENT = 3
_EMPTY_PROMPT = " "
"""What the text encoders take for an empty prompt: they drop it."""
_OFF = "none"

NAMES_IN_SPEC: Mapping[str, str] = {
    "hires_pass": "enable_hr",
    "hires_pass.width": "hr_resize_x",
    "hires_pass.width_px": "hr_resize_x",
    "hires_pass.height": "hr_resize_y",
    "hires_pass.height_px": "hr_resize_y",
    "hires_pass.strength": "denoising_strength",
    "hires_pass.num_inference_steps": "hr_second_pass_steps",
    "use_refiner": "refiner_checkpoint",
    "use_upscaler": "hr_upscaler",
    "fidelity": "override_settings.code_former_weight",
    "image": "init_images",
    "quality": "override_settings.jpeg_quality",
    "width_px": "width",
    "height_px": "height",
}
"""Fields of the spec that are no field of the table -> what stands for them here."""


@dataclass
class Drawing:
    """What is to be drawn; what `info` says of it beyond what the services return."""

    job: str
    spec: GenerateSpec
    given: Given
    choices: Choices
    restorer: str | None = None
    """The loaded face restorer, if faces were restored."""

    def name_restorer(self, name: str | None) -> None:
        """Note which face restorer is loaded, and tell the client if it asked for another."""
        self.restorer = name
        asked = self.choices.face_restoration_model.casefold()
        if asked and name and asked not in (name.casefold(), _OFF):
            self.given.tell("face_restoration_model")

    @property
    def send_images(self) -> bool:
        """Whether the client wants the pictures."""
        return self.given["send_images"] is not False


def needs_names(given: Given, choices: Choices) -> bool:
    """Return whether it depends on what is loaded what a request means."""
    if choices.model is not None or given["refiner_checkpoint"]:
        return True
    steps = given["steps"] or given["hr_second_pass_steps"]
    return bool(given["enable_hr"] and (given["hr_checkpoint_name"] or given["hr_upscaler"] or not steps))


def restores_faces(given: Given, choices: Choices) -> bool:
    """Return whether faces are to be restored: not with a mask, unless by mistake, which is refused."""
    asked: bool | None = given["restore_faces"]
    if asked is None:
        return choices.face_restoration and given["mask"] is None
    return asked


def drawing_of(job: str, given: Given, choices: Choices, loaded: Loaded | None) -> Drawing:
    """Return what to draw.

    `loaded` may be None unless `needs_names`. Raises `InvalidRequest` that names every field that is wrong.
    """
    for name in choices.told:
        given.tell(name)
    violations = [
        *_counts(given),
        *_scripts(given),
        *_models(given, choices, loaded),
    ]
    values: dict[str, Any] = {}
    for part in (_shared, _refiner, _faces, _second_pass if job == "txt2img" else _from_picture):
        try:
            values |= part(given, choices, loaded)
        except InvalidRequest as error:
            violations += error.fields
    if violations:
        raise refusal(violations)
    return Drawing(job, GenerateSpec(**values), given, choices)


def _shared(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    sampler = given["sampler_name"] or given["sampler_index"] or None
    if sampler is not None and sampler.strip().casefold().startswith("ddim") and given["eta"] is not None:
        given.told = [name for name in given.told if name != "eta"]
        if given["eta"] not in (0, "0"):
            given.tell("eta")
    scheduler = given["scheduler"] or None
    if scheduler is not None and scheduler.strip().casefold() == "automatic":
        scheduler = None
    seed = given["seed"]
    return {
        "prompt": given["prompt"] or _EMPTY_PROMPT,
        "negative_prompt": given["negative_prompt"],
        "prompt_syntax": "weighted",
        "width": given["width"],
        "height": given["height"],
        "num_inference_steps": given["steps"],
        "guidance_scale": given["cfg_scale"],
        "sampler": sampler,
        "schedule": scheduler,
        "seed": None if seed == -1 else seed,
        "num_images": (given["batch_size"] or 1) * (given["n_iter"] or 1),
        "output_format": choices.output_format,
        "quality": choices.quality,
        "preview_interval_steps": choices.preview_interval_steps,
        "on_restore_failure": "fail",  # a client of this dialect would not see that faces were not restored
    }


def _counts(given: Given) -> Iterator[FieldViolation]:
    size, times = given["batch_size"] or 1, given["n_iter"] or 1
    if size * times > MOST_PICTURES:
        message = (
            f"batch_size {size} x n_iter {times} = {size * times} pictures, the limit is {MOST_PICTURES}"
        )
        yield FieldViolation("n_iter" if times > 1 else "batch_size", message)


def _scripts(given: Given) -> Iterator[FieldViolation]:
    for name, script in (given["alwayson_scripts"] or {}).items():
        if not _is_off(script.get("args")):
            message = "is not installed: there are no scripts; with args [] or [false] it is ignored"
            yield FieldViolation(f"alwayson_scripts.{printable(name)}", message)


def _is_off(args: Any) -> bool:
    """Return whether a script's arguments say that it does nothing: none, a false first, or units off."""
    if not args:
        return True
    if not isinstance(args, list):
        return False
    if not isinstance(args[0], dict):
        return args[0] is False
    return all(not isinstance(unit, dict) or _is_unit_off(unit) for unit in args)


def _is_unit_off(unit: Mapping[str, Any]) -> bool:
    return unit.get("enabled", unit.get("enable")) is False or unit.get("ad_model") == "None"


def _models(given: Given, choices: Choices, loaded: Loaded | None) -> Iterator[FieldViolation]:
    names = {f"override_settings.{MODEL}": choices.model}
    hires = given["hr_checkpoint_name"]
    if given["enable_hr"] and hires and hires.casefold() != "use same checkpoint":
        names["hr_checkpoint_name"] = hires
    for field, name in names.items():
        if name is not None and loaded is not None and not loaded.is_model(name):
            yield FieldViolation(field, f"is not loaded; {loaded.title} is")


def _refiner(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    name, switch_at = given["refiner_checkpoint"], given["refiner_switch_at"]
    if not name:
        if switch_at is not None and 0 < switch_at < 1:
            given.tell("refiner_switch_at")
        return {}
    if name.casefold() == _OFF or switch_at == 1:
        return {"use_refiner": False}
    refiner = loaded.refiner if loaded is not None else None
    known = loaded is not None and (loaded.is_model(name) or name.casefold() == (refiner or "").casefold())
    if refiner is None or not known:
        message = f"is not loaded; {refiner} is" if refiner else "is not loaded; the model set has no refiner"
        raise InvalidRequest.of("refiner_checkpoint", f'{message}. "None" draws without')
    if switch_at is None:
        return {"use_refiner": True}
    strength, least = 1 - switch_at, defaults.REFINER_STRENGTH_RANGE[0]
    if strength < least:
        raise InvalidRequest.of(
            "refiner_switch_at", f"must be at most {1 - least:g}, or 1, not {switch_at:g}"
        )
    return {"use_refiner": True, "refiner_strength": round(strength, 6)}


def _faces(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    wanted = restores_faces(given, choices)
    if not wanted:
        if choices.face_restoration and given["restore_faces"] is None:
            given.tell("options.face_restoration")  # with a mask
        return {"restore_faces": False}
    if given["mask"] is not None:
        message = "cannot be used with a mask, outside of which nothing changes"
        raise InvalidRequest.of("restore_faces", message)
    return {"restore_faces": True, "fidelity": choices.code_former_weight}


def _second_pass(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    if not given["enable_hr"]:
        return {}
    violations = list(_other_second_pass(given))
    size = _second_size(given)
    low, high = defaults.HIRES_SIDE_PX_RANGE
    for field, side in zip(("hr_resize_x", "hr_resize_y"), size, strict=True):
        if not low <= side <= high:
            field = field if given["hr_resize_x"] or given["hr_resize_y"] else "hr_scale"
            message = f"the second pass would have {size[0]} x {size[1]} px; a side has {low} to {high}"
            violations.append(FieldViolation(field, message))
    use_upscaler: bool | None = None
    try:
        choice = choose_upscaler(given["hr_upscaler"], loaded.upscaler if loaded is not None else None)
        use_upscaler = choice.use_network
        if choice.differs:
            given.tell("hr_upscaler")
    except ValueError as error:
        violations.append(FieldViolation("hr_upscaler", str(error)))
    if violations:
        raise InvalidRequest(violations)
    strength = _STRENGTH if given["denoising_strength"] is None else given["denoising_strength"]
    steps = given["hr_second_pass_steps"] or given["steps"] or _own_steps(loaded)
    return {"hires_pass": HiresPass(*size, strength, steps), "use_upscaler": use_upscaler}


def _own_steps(loaded: Loaded | None) -> int:
    """Return how many steps the loaded model set takes."""
    offer = loaded.offer if loaded is not None else None
    known = offer.defaults if offer is not None else None
    return defaults.NUM_INFERENCE_STEPS if known is None else known.num_inference_steps


def _second_size(given: Given) -> tuple[int, int]:
    width, height = given["width"] or defaults.SIDE_PX, given["height"] or defaults.SIDE_PX
    x, y = given["hr_resize_x"] or 0, given["hr_resize_y"] or 0
    scale = 2.0 if given["hr_scale"] is None else given["hr_scale"]
    if x == y == 0:
        x, y = width * scale, height * scale
    elif x == 0:
        x = y * width / height
    elif y == 0:
        y = x * height / width
    multiple = defaults.SIDE_PX_MULTIPLE
    # the addend: 360 * 1.4 is 503.99999999999994
    return math.floor(x / multiple + 1e-9) * multiple, math.floor(y / multiple + 1e-9) * multiple


def _other_second_pass(given: Given) -> Iterator[FieldViolation]:
    """Yield what would make the second pass draw something else than the first."""
    sampler = given["sampler_name"] or given["sampler_index"]
    same: dict[str, tuple[Any, ...]] = {
        "hr_sampler_name": (sampler, "use same sampler"),
        "hr_scheduler": (given["scheduler"], "use same scheduler"),
        "hr_prompt": (given["prompt"],),
        "hr_negative_prompt": (given["negative_prompt"],),
    }
    for field, values in same.items():
        asked = given[field]
        if asked and asked.strip().casefold() not in {
            str(v).strip().casefold() for v in values if v is not None
        }:
            yield FieldViolation(field, "must be that of the first pass, or empty")


def _from_picture(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    [image] = given["init_images"]
    strength = _STRENGTH if given["denoising_strength"] is None else given["denoising_strength"]
    sides = given["width"], given["height"]
    if (sides[0] is None) is not (sides[1] is None):
        missing, other = ("width", "height") if sides[0] is None else ("height", "width")
        raise InvalidRequest.of(missing, f"is required with {other}; without both, the picture's own size")
    _tell_resize_mode(given, image)
    values = {"image": image, "strength": strength}
    if given["mask"] is None:
        return values
    blur_x, blur_y = (
        _MASK_BLUR if given[name] is None else given[name] for name in ("mask_blur_x", "mask_blur_y")
    )
    if given["mask_blur"] is not None:
        blur_x = blur_y = given["mask_blur"]
    if blur_x != blur_y:
        raise InvalidRequest.of("mask_blur_x", f"must be the same as mask_blur_y, {blur_y:g}, not {blur_x:g}")
    if given["inpainting_fill"] not in (None, _ORIGINAL):
        given.tell("inpainting_fill")
    if given["inpaint_full_res"]:
        given.tell("inpaint_full_res")
    kind = "black" if given["inpainting_mask_invert"] else "white"
    return values | {"mask": given["mask"], "mask_kind": kind, "mask_blur_px": blur_x}


def _tell_resize_mode(given: Given, image: bytes) -> None:
    """Name resize_mode where it makes a difference: pictures of another shape are always cropped."""
    mode, width, height = given["resize_mode"], given["width"], given["height"]
    stored = stored_size(image)
    if mode is None or mode == _COVER or width is None or stored is None or stored == (width, height):
        return
    if mode == _LATENT or stored.width * height != stored.height * width:
        given.tell("resize_mode")


def without_sampler_alone(error: InvalidRequest) -> bool:
    """Return whether the sampler is all that is wrong, which 1.10 answers with 400."""
    return {violation.field for violation in error.fields} == {"sampler_name"}


def echo(drawing: Drawing) -> str:
    """Return `parameters`, as JSON."""
    shown = {**drawing.given.echo, "init_images": None, "mask": None}
    if drawing.job == "txt2img":
        del shown["init_images"], shown["mask"]
    return json.dumps(shown)
