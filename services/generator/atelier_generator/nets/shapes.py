"""The configurations of SDXL's networks, inferred from the tensor shapes of a single file.

What shapes do not determine (activations, norms, the VAE's scaling factor) is as published. Attention heads
are 64 wide in every SDXL network. Each function takes the tensors of the whole file and returns a
configuration with diffusers' or transformers' names. Raises `KeyError` if a tensor that it needs is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atelier_generator.nets.original_names import CLIP_L, UNET, VAE
from atelier_generator.nets.published import Kind, configuration

_HEAD_WIDTH = 64


def unet_config(tensors: Mapping[str, Tensor], kind: Kind) -> dict[str, Any]:
    """Return the configuration of a UNet of any width and depth."""
    published = configuration(kind, "unet")
    widths, depths, layers = _unet_levels(tensors)
    attends = [depth > 0 for depth in depths]
    middle = _count(tensors, f"{UNET}middle_block.1.transformer_blocks.")
    # diffusers takes the middle block's depth from the last level, even if that has no attention.
    depths = [depth or 1 for depth in depths[:-1]] + [middle]
    found: dict[str, Any] = {
        "in_channels": tensors[f"{UNET}input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors[f"{UNET}out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "transformer_layers_per_block": depths,
        "attention_head_dim": [width // _HEAD_WIDTH for width in widths],
        "cross_attention_dim": tensors[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[
            1
        ],
        "projection_class_embeddings_input_dim": tensors[f"{UNET}label_emb.0.0.weight"].shape[1],
    }
    if isinstance(published["transformer_layers_per_block"], int) and len({*depths[1:]}) == 1:
        found["transformer_layers_per_block"] = middle  # one number for all levels, as in the refiner's file
    return {**published, **found}


def _unet_levels(tensors: Mapping[str, Tensor]) -> tuple[list[int], list[int], int]:
    """Return the width and the transformer depth of each level, and the number of layers per level."""
    widths, depths, layers, block = [], [], 0, 0
    width = depth = 0
    while True:
        block += 1
        prefix = f"{UNET}input_blocks.{block}."
        end = f"{prefix}0.op.weight" in tensors
        convolution = tensors.get(f"{prefix}0.out_layers.3.weight")
        if end or convolution is None:  # a downsampler ends each level but the last
            widths.append(width)
            depths.append(depth)
            layers = layers or block - 1
            if not end:
                return widths, depths, layers
        else:
            width, depth = convolution.shape[0], _count(tensors, f"{prefix}1.transformer_blocks.")


def vae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of a VAE of any width."""
    published = configuration("base", "vae")
    levels = _count(tensors, f"{VAE}encoder.down.")
    widths = [tensors[f"{VAE}encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
    return {
        **published,
        "latent_channels": tensors[f"{VAE}decoder.conv_in.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, f"{VAE}encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def clip_l_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of the first text encoder."""
    prefix = f"{CLIP_L}text_model."
    vocabulary, width = tensors[f"{prefix}embeddings.token_embedding.weight"].shape
    return {
        **configuration("base", "text_encoder"),
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": width,  # CLIP-L has no projection
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": tensors[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(tensors, f"{prefix}encoder.layers."),
    }


def big_g_config(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return the configuration of the second text encoder, whose names begin with `prefix`."""
    vocabulary, width = tensors[f"{prefix}token_embedding.weight"].shape
    return {
        **configuration("base", "text_encoder_2"),
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": tensors[f"{prefix}text_projection"].shape[1],
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _count(tensors, f"{prefix}transformer.resblocks."),
    }


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Count the distinct numbers that follow a prefix."""
    return len({key[len(prefix) :].partition(".")[0] for key in tensors if key.startswith(prefix)})
