"""The layers that a LoRA can change, and the names that trainers and user interfaces give them.

    unet                  kohya: lora_unet_input_blocks_4_1_..., with the original or with diffusers' names
                          diffusers, peft: unet.down_blocks.1...., base_model.model.down_blocks.1....
                          ComfyUI: diffusion_model.input_blocks.4.1....
    text_encoder (_2)     kohya: lora_te1_text_model_..., lora_te2_text_model_...
                          diffusers, peft: text_encoder.text_model...., text_encoder_2.text_model....
                          ComfyUI: text_encoders.clip_l.transformer.text_model...., ...clip_g...

Names are looked up, not converted: the table is made from the layers of the network that is loaded, so a
name that is not in it is one that this network does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from atelier_generator.nets.original_names import UNET, unet_origins

Kind = Literal["down", "up", "alpha"]

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""The networks that a LoRA can change, as diffusers' pipelines name them."""

_SUFFIXES: dict[str, Kind] = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
_COMFY_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_KOHYA_ENCODERS = {"text_encoder": "te1", "text_encoder_2": "te2"}


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution: its network, its name there, and the shape of its weight."""

    part: str
    name: str
    shape: tuple[int, ...]


def split_key(key: str) -> tuple[str, Kind] | None:
    """Return the name of the layer that a file's tensor belongs to, and what it is; None if it is neither."""
    for suffix, kind in _SUFFIXES.items():
        if key.endswith(suffix):
            return _without_processors(key.removesuffix(suffix)), kind
    return None


def layers_by_name(networks: Mapping[str, Any]) -> dict[str, Layer]:
    """Return the layers of some `PARTS` by each of their names; the networks may be on the meta device."""
    table: dict[str, Layer] = {}
    for part, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                layer = Layer(part, name, tuple(module.weight.shape))
                for alias in _names(layer, network.config):
                    table.setdefault(alias, layer)
    return table


def _names(layer: Layer, config: Any) -> Iterator[str]:
    if layer.part == "unet":
        origin = unet_origins([f"{layer.name}.weight"], config)[f"{layer.name}.weight"]
        original = origin.key.removeprefix(UNET).removesuffix(".weight")
        yield from (f"{prefix}{layer.name}" for prefix in ("unet.", "base_model.model.", ""))
        yield f"diffusion_model.{original}"
        yield from (f"lora_unet_{name.replace('.', '_')}" for name in (original, layer.name))
        return
    # transformers 5.6 dropped the prefix text_model. of some encoders.
    stem = layer.name.removeprefix("text_model.")
    outer = stem == "text_projection"
    for name in (layer.name, stem, stem if outer else f"text_model.{stem}"):
        yield f"{layer.part}.{name}"
    full = stem if outer else f"text_model.{stem}"
    yield f"text_encoders.{_COMFY_ENCODERS[layer.part]}.transformer.{full}"
    yield f"lora_{_KOHYA_ENCODERS[layer.part]}_{full.replace('.', '_')}"


def _without_processors(name: str) -> str:
    """Return the name of a layer where older versions of diffusers named an attention processor's copy."""
    if match := re.fullmatch(r"(.+)\.processor\.to_([qkv]|out)", name):
        return f"{match[1]}.to_out.0" if match[2] == "out" else f"{match[1]}.to_{match[2]}"
    if match := re.fullmatch(r"(.+\.self_attn)\.to_([qkv]|out)", name):
        return f"{match[1]}.{match[2]}_proj"
    return name
