"""How much a UNet computes for latents of a size, from its layers: how its time grows with the image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.")
_OF_A_ROW = re.compile(r"(^|\.)(time_\w+|add_\w+|class_\w+)(\.|$)")
"""Layers that work on the timestep and on sizes: nothing beside the others."""


@dataclass(frozen=True)
class UnetOperations:
    """Floating-point operations of a forward pass for one row, of latents of some positions (H/8 * W/8).

    `per_row` for the text, `per_position` for convolutions and linear layers, `per_pair` of positions for
    self-attention.
    """

    per_row: float
    per_position: float
    per_pair: float

    def count(self, positions: int) -> float:
        """Return the operations of a forward pass for one row."""
        return self.per_row + self.per_position * positions + self.per_pair * positions**2


def count_operations(unet: Any, tokens: int = 77) -> UnetOperations:
    """Count those of a `UNet2DConditionModel` whose prompts have some tokens.

    A multiplication and an addition are two operations, as PyTorch counts them. Only layers that multiply by
    weights and attention count.
    """
    levels = len(unet.down_blocks)
    per_row, per_position, per_pair = 0.0, 0.0, 0.0
    for name, module in unet.named_modules():
        # Each level has half the height and width of the one before.
        positions = 0.25 ** _level(name, levels)
        weight = getattr(module, "weight", None)
        if type(module).__name__.startswith("Attention"):
            width = module.inner_dim
            if name.endswith("attn2"):
                per_position += 4 * width * tokens * positions
            else:
                per_pair += 4 * width * positions**2
        elif weight is None or weight.ndim < 2 or _OF_A_ROW.search(name):
            continue
        elif name.endswith(("attn2.to_k", "attn2.to_v")):
            per_row += 2 * weight.numel() * tokens
        else:
            per_position += 2 * weight.numel() * positions
    return UnetOperations(per_row, per_position, per_pair)


def _level(name: str, levels: int) -> int:
    """Return how often the latents have been halved where a module works."""
    if match := _LEVEL.match(name):
        number = int(match[2])
        if match[1] == "down":
            return number + ("downsamplers" in name)
        return levels - 1 - number - ("upsamplers" in name)
    return levels - 1 if name.startswith("mid_block.") else 0
