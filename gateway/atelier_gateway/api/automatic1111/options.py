"""The options of `/sdapi/v1/options`: each caller has its own, in memory; nobody changes another's.

AUTOMATIC1111's web UI keeps them in a file, for all. Clients post them before a picture, or post everything
back that they got. Those that are not in the table are kept and returned, and have no effect.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from atelier_gateway.api.automatic1111.kinds import (
    Anything,
    Flag,
    Integer,
    Kind,
    Number,
    Only,
    Text,
    is_one_of,
)
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest

MOST_CALLERS = 1000
"""Whose options are kept; then those of the caller that has been away longest are forgotten."""
MOST_BYTES = 32 * 1024
"""Of a caller's options, as JSON."""
MOST_BYTES_OF_ALL = 8 * 2**20
"""Of all callers' options; then those of the caller that has been away longest are forgotten."""

MODEL = "sd_model_checkpoint"
MODEL_HASH = "sd_checkpoint_hash"
_OF_THE_MODEL = (MODEL, MODEL_HASH)
"""Options that follow from what is loaded: they are read, and come back, but are not kept."""
FORMATS: Mapping[str, Literal["png", "jpeg", "webp"]] = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
}


@dataclass(frozen=True)
class Option:
    """An option: `harmless` are the values at which one without effect would have none there either."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    has_effect: bool = True
    harmless: tuple[str | float | bool, ...] = ()


def _without(name: str, default: Any, meaning: str, *harmless: str | float | bool) -> Option:
    return Option(name, Anything(), default, meaning, has_effect=False, harmless=harmless or (default,))


_TABLE = (
    Option(MODEL, Text(300), None, "The loaded model set, by name, title or hash; another one is refused."),
    Option(
        "samples_format",
        Only(tuple(FORMATS), "other formats cannot be written"),
        "png",
        "The format of what is returned.",
    ),
    Option("jpeg_quality", Integer(*defaults.QUALITY_RANGE), 80, "Of jpg and webp."),
    Option("face_restoration", Flag(), False, "restore_faces of requests that leave it out."),
    Option(
        "face_restoration_model",
        Text(200),
        "CodeFormer",
        "The loaded restorer is used; another name is told in the header.",
    ),
    Option(
        "code_former_weight",
        Number(*defaults.FIDELITY_RANGE),
        0.5,
        "0: best looking, 1: closest to the picture.",
    ),
    Option(
        "show_progress_every_n_steps",
        Integer(-1, defaults.NUM_INFERENCE_STEPS_RANGE[1]),
        10,
        "How often current_image changes; 0 and -1: there is none.",
    ),
    _without(
        "CLIP_stop_at_last_layers",
        1,
        "SDXL's text encoders always stop where they were trained to; in AUTOMATIC1111's web UI, too, "
        "unless sdxl_clip_l_skip is set.",
    ),
    _without("sd_vae", "Automatic", "The model set's own.", "Automatic", "None", ""),
    _without("sd_hypernetwork", "None", "There are no hypernetworks.", "None", ""),
    _without("sd_lora", "None", "LoRAs stand in the prompt.", "None", ""),
    _without("eta_noise_seed_delta", 0, "Seeds are taken as they are."),
    _without("img2img_color_correction", False, "Colors are left as they are drawn."),
    _without("inpainting_mask_weight", 1.0, "Masks are taken whole."),
    _without("initial_noise_multiplier", 1.0, "The noise that is added cannot be changed."),
    _without("sdxl_clip_l_skip", False, "See CLIP_stop_at_last_layers."),
)
OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}


@dataclass(frozen=True)
class Choices:
    """The options in effect for a request."""

    output_format: Literal["png", "jpeg", "webp"]
    quality: int
    face_restoration: bool
    face_restoration_model: str
    code_former_weight: float
    preview_interval_steps: int | None
    model: str | None
    """The model set that the request names."""
    told: tuple[str, ...]
    """Options that would have mattered in AUTOMATIC1111's web UI."""


class Options:
    """The options of all callers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        """As JSON: as objects, options of 32 KiB can take 600."""
        self._bytes = 0

    def of(self, caller: str) -> Mapping[str, Any]:
        """Return what a caller has set."""
        kept = self._kept.get(caller)
        if kept is None:
            return {}
        self._kept.move_to_end(caller)
        options: dict[str, Any] = json.loads(kept)
        return options

    def set(self, caller: str, values: Mapping[str, Any]) -> None:
        """Set options of a caller; null returns to the default. Raises `InvalidRequest`."""
        read = _read(values, prefix="")
        kept = {**self.of(caller), **values, **read}
        kept = {
            name: value for name, value in kept.items() if value is not None and name not in _OF_THE_MODEL
        }
        text = json.dumps(kept, separators=(",", ":")).encode()
        if len(text) > MOST_BYTES:
            raise InvalidRequest.of("options", f"would have {len(text)} bytes, the limit is {MOST_BYTES}")
        self._bytes -= len(self._kept.pop(caller, b""))
        if not kept:
            return
        self._kept[caller] = text
        self._bytes += len(text)
        while len(self._kept) > MOST_CALLERS or self._bytes > MOST_BYTES_OF_ALL:
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= len(forgotten)

    def choices(self, caller: str, override: Mapping[str, Any]) -> Choices:
        """Return what is in effect for a request that overrides some. Raises `InvalidRequest`."""
        own = self.of(caller)
        overriding = _read(override, prefix="override_settings.")
        values = {option.name: option.default for option in _TABLE} | dict(own) | overriding
        interval = values["show_progress_every_n_steps"]
        return Choices(
            output_format=FORMATS[values["samples_format"]],
            quality=values["jpeg_quality"],
            face_restoration=values["face_restoration"],
            face_restoration_model=values["face_restoration_model"],
            code_former_weight=values["code_former_weight"],
            preview_interval_steps=interval if interval > 0 else None,
            model=overriding.get(MODEL) or None,
            told=(
                *(f"override_settings.{name}" for name in _without_effect(override, unknown=True)),
                *(f"options.{name}" for name in _without_effect(own) if override.get(name) is None),
            ),
        )


def ignored_options(values: Mapping[str, Any]) -> list[str]:
    """Return those of some options that have no effect here, and would have one there."""
    return [name for name in _without_effect(values, unknown=True) if name != MODEL_HASH]


def _without_effect(values: Mapping[str, Any], *, unknown: bool = False) -> list[str]:
    names = []
    for name, value in values.items():
        option = OPTIONS.get(name)
        if value is None or (option is None and not unknown) or (option is not None and option.has_effect):
            continue
        if option is None or not is_one_of(value, option.harmless):
            names.append(name)
    return names


def _read(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the options that have an effect, as they are read; null is left out."""
    read: dict[str, Any] = {}
    violations: list[FieldViolation] = []
    for name, value in values.items():
        option = OPTIONS.get(name)
        if option is None or not option.has_effect or value is None:
            continue
        try:
            read[name] = option.kind.read(value)
        except ValueError as error:
            violations.append(FieldViolation(f"{prefix}{name}", str(error)))
    if violations:
        raise InvalidRequest(violations)
    return read
