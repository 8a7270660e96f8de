"""SDXL with synthetic weights: at its real size, or narrow, which takes 0.1 GB and runs on a CPU.

Narrow means small widths and depths; every other value of a configuration is the published one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from atelier_generator.nets import published
from atelier_generator.nets.stored import empty_network

FIRST_WIDTH, SECOND_WIDTH = 64, 128
_WIDTHS = {"base": [64, 128, 256], "refiner": [64, 128, 192, 192]}


def narrow(kind: published.Kind, part: str) -> dict[str, Any]:
    """Return a published configuration with small widths and depths."""
    config = dict(published.configuration(kind, part))
    if part == "unet":
        widths = _WIDTHS[kind]
        base = kind == "base"
        config |= {
            "block_out_channels": widths,
            "attention_head_dim": [width // 64 for width in widths],
            "transformer_layers_per_block": [1, 2, 3] if base else 2,
            "cross_attention_dim": FIRST_WIDTH + SECOND_WIDTH if base else SECOND_WIDTH,
            "projection_class_embeddings_input_dim": (6 if base else 5) * 256 + SECOND_WIDTH,
            "sample_size": 32,
        }
    elif part == "vae":
        config |= {"block_out_channels": [32, 64, 64, 64]}
    else:
        width = FIRST_WIDTH if part == "text_encoder" else SECOND_WIDTH
        config |= {
            "hidden_size": width,
            "projection_dim": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": width // 64,
            "num_hidden_layers": 2 if part == "text_encoder" else 3,
        }
    return config


def weights(
    part: str,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """Return a network with random weights, sampled on a device, the same for the same seed.

    Each layer preserves the scale of its input, so values grow and shrink no more than in a trained network.
    """
    network = empty_network(part, config)
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:  # norms: one; biases: zero
            state[name] = torch.full(tensor.shape, float(name.endswith("weight")), dtype=dtype, device=device)
            continue
        is_embedding = name.endswith("_embedding.weight")
        scale = 0.02 if is_embedding else 1 / math.sqrt(tensor[0].numel())
        values = torch.randn(tensor.shape, generator=generator, dtype=dtype, device=device)
        state[name] = values.mul_(scale)
    network.load_state_dict(state, assign=True)
    for name, buffer in network.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(network.get_submodule(owner), last, buffer.to(device))
    network.requires_grad_(False)
    return network.eval()
