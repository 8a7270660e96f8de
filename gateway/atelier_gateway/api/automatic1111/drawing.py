"""What a request for a drawing means: txt2img and img2img as the spec that all dialects share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atelier_gateway.api.automatic1111.fields import IMG2IMG, MOST_PICTURES, TXT2IMG
from atelier_gateway.api.automatic1111.from_picture import from_picture
from atelier_gateway.api.automatic1111.kinds import is_one_of
from atelier_gateway.api.automatic1111.loaded import Loaded
from atelier_gateway.api.automatic1111.options import MODEL, Choices
from atelier_gateway.api.automatic1111.request import Given
from atelier_gateway.api.automatic1111.second_pass import second_pass
from atelier_gateway.api.automatic1111.words import Words
from atelier_gateway.core.values import GenerateSpec, Generation
from atelier_gateway.http.schemas import printable
from atelier_gateway.http.validation import refusal
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest

_EMPTY_PROMPT = " "
"""What the text encoders take for an empty prompt: they drop it."""
_OFF = "none"

_NAMES_IN_SPEC: Mapping[str, str] = {
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
    words: Words
    """How the client calls what errors and warnings name."""
    restorer: str | None = None
    """The loaded face restorer, if faces were restored."""

    def name_restorer(self, name: str | None) -> None:
        """Note which face restorer is loaded, and tell the client if it asked for another."""
        self.restorer = name
        asked = self.choices.face_restoration_model.casefold()
        if asked and name and asked not in (name.casefold(), _OFF):
            self.given.tell("face_restoration_model")

    def tell_refiner(self, generations: Sequence[Generation]) -> None:
        """Tell a client that names no refiner if the model set's own was used: there, none is."""
        if self.spec.use_refiner is None and any(generation.refiner_applied for generation in generations):
            self.given.tell("refiner_checkpoint")

    @property
    def send_images(self) -> bool:
        """Whether the client wants the pictures."""
        return self.given["send_images"] is not False


def needs_names(job: str, given: Given, choices: Choices) -> bool:
    """Return whether it depends on what is loaded what a request means."""
    if choices.model is not None or given["refiner_checkpoint"]:
        return True
    if job == "img2img":
        return not given["steps"] and given["denoising_strength"] not in (0, 1)
    if not given["enable_hr"]:
        return False
    named = ("hr_checkpoint_name", "hr_upscaler", "hr_sampler_name", "hr_scheduler")
    return any(given[name] for name in named) or not (given["steps"] or given["hr_second_pass_steps"])


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
    for part in (_shared, _refiner, _faces, second_pass if job == "txt2img" else from_picture):
        try:
            values |= part(given, choices, loaded)
        except InvalidRequest as error:
            violations += error.fields
    if violations:
        raise refusal(violations)
    return Drawing(job, GenerateSpec(**values), given, choices, _words(job, given))


def _words(job: str, given: Given) -> Words:
    names = dict(_NAMES_IN_SPEC)
    if given["sampler_index"] and not given["sampler_name"]:
        names["sampler"] = "sampler_index"
    return Words(TXT2IMG if job == "txt2img" else IMG2IMG, names)


def _shared(given: Given, choices: Choices, loaded: Loaded | None) -> dict[str, Any]:
    sampler = given["sampler_name"] or given["sampler_index"] or None
    if sampler is not None and sampler.strip().casefold().startswith("ddim") and given["eta"] is not None:
        given.told = [name for name in given.told if name != "eta"]
        if not is_one_of(given["eta"], (0,)):
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
        return args[0] is not None and is_one_of(args[0], (False,))
    return all(not isinstance(unit, dict) or _is_unit_off(unit) for unit in args)


def _is_unit_off(unit: Mapping[str, Any]) -> bool:
    enabled = unit.get("enabled", unit.get("enable"))
    return (enabled is not None and is_one_of(enabled, (False,))) or unit.get("ad_model") == "None"


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
    if switch_at == 1 or (name is not None and name.strip().casefold() in ("", _OFF)):
        return {"use_refiner": False}
    if name is None:
        if switch_at:
            given.tell("refiner_switch_at")
        return {}
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


def without_sampler_alone(error: InvalidRequest) -> bool:
    """Return whether the sampler is all that is wrong, which 1.10 answers with 400."""
    return all(violation.field in ("sampler_name", "sampler_index") for violation in error.fields)


def echo(drawing: Drawing) -> str:
    """Return `parameters`, as JSON."""
    shown = {**drawing.given.echo, "init_images": None, "mask": None}
    if drawing.job == "txt2img":
        del shown["init_images"], shown["mask"]
    return json.dumps(shown)
