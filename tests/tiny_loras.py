"""LoRAs with random weights for the base of tests/tiny_sdxl.py, with the names of each trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_sdxl import TEXT_WIDTH

ATTENTION = "transformer_blocks.0.attn2"
LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    # diffusers' name -> the original name, and the shape of its weight
    **{
        f"unet.{block}.{ATTENTION}.{name}": (f"{original}.{ATTENTION}.{name}", (32, width))
        for block, original in (
            ("down_blocks.1.attentions.0", "input_blocks.3.1"),
            ("mid_block.attentions.0", "middle_block.1"),
            ("up_blocks.0.attentions.1", "output_blocks.1.1"),
        )
        for name, width in (
            ("to_q", 32),
            ("to_k", 2 * TEXT_WIDTH),
            ("to_v", 2 * TEXT_WIDTH),
            ("to_out.0", 32),
        )
    },
    "unet.down_blocks.1.attentions.0.proj_in": ("input_blocks.3.1.proj_in", (32, 32)),
    "unet.down_blocks.0.resnets.0.conv1": ("input_blocks.1.0.in_layers.2", (16, 16, 3, 3)),
    "unet.down_blocks.0.downsamplers.0.conv": ("input_blocks.2.0.op", (16, 16, 3, 3)),
    "unet.up_blocks.0.resnets.0.conv_shortcut": ("output_blocks.0.0.skip_connection", (32, 64, 1, 1)),
    "unet.time_embedding.linear_1": ("time_embed.0", (64, 16)),
    "unet.conv_out": ("out.2", (4, 16, 3, 3)),
    **{
        f"{part}.text_model.encoder.layers.0.{name}": (f"text_model.encoder.layers.0.{name}", shape)
        for part in ("text_encoder", "text_encoder_2")
        for name, shape in (
            ("self_attn.q_proj", (TEXT_WIDTH, TEXT_WIDTH)),
            ("self_attn.out_proj", (TEXT_WIDTH, TEXT_WIDTH)),
            ("mlp.fc1", (37, TEXT_WIDTH)),
        )
    },
    "text_encoder_2.text_projection": ("text_projection", (TEXT_WIDTH, TEXT_WIDTH)),
}
STYLES = ("kohya", "peft", "comfy")
RANK = 4
ALPHA = 2.0


def pairs(seed: int = 1, *, part: str = "", strength: float = 0.3) -> dict[str, tuple[Tensor, Tensor]]:
    """Return down and up of each layer, by diffusers' names that begin with `part`."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (_, (rows, columns, *kernel)) in LAYERS.items():
        down = torch.randn(RANK, columns, *kernel, generator=generator) * strength
        up = torch.randn(rows, RANK, *(1 for _ in kernel), generator=generator) * strength
        if name.startswith(part):
            made[name] = (down, up)
    return made


def tensors(style: str, matrices: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return what a file of a style has; alpha is `ALPHA`, which peft's names have no place for."""
    stored: dict[str, Tensor] = {}
    for name, (down, up) in matrices.items():
        layer = _layer(style, name)
        names = ("lora_A", "lora_B") if style == "peft" else ("lora_down", "lora_up")
        stored[f"{layer}.{names[0]}.weight"] = down.clone()
        stored[f"{layer}.{names[1]}.weight"] = up.clone()
        if style != "peft":
            stored[f"{layer}.alpha"] = torch.tensor(ALPHA)
    return stored


def write(
    path: Path,
    style: str = "kohya",
    seed: int = 1,
    *,
    part: str = "",
    strength: float = 0.3,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a LoRA; the same seed gives the same LoRA in each style."""
    stated = dict(metadata or {})
    if style == "peft":
        parts = ("unet", "text_encoder", "text_encoder_2")
        stated["lora_adapter_metadata"] = json.dumps({f"{p}.lora_alpha": ALPHA for p in parts})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(style, pairs(seed, part=part, strength=strength)), path, stated)
    return path


def _layer(style: str, name: str) -> str:
    part, _, own = name.partition(".")
    original = LAYERS[name][0]
    if style == "peft":
        return name
    if style == "comfy":
        encoder = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
        return (
            f"diffusion_model.{original}"
            if part == "unet"
            else f"text_encoders.{encoder[part]}.transformer.{own}"
        )
    prefix = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}[part]
    return f"lora_{prefix}_{original.replace('.', '_')}"
