"""Maps diffusers' names of SDXL's tensors to those of the original layout, which single files have.

    model.diffusion_model.     the UNet; its blocks are numbered throughout: input_, middle_, output_blocks
    first_stage_model.         the VAE; the decoder's blocks are numbered from full resolution down
    conditioner.embedders.N.   the text encoders: CLIP-L with transformers' names, bigG with OpenCLIP's

Written from the published names; the tests compare it with diffusers' own conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from atelier_generator.nets.stored import Origin

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_L = "conditioner.embedders.0.transformer."
BIG_G = {"base": "conditioner.embedders.1.model.", "refiner": "conditioner.embedders.0.model."}

_UNET_OUTER_LAYERS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_BIG_G_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_BIG_G_OUTER_LAYERS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def unet_origins(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Origin]:
    """Return the origin of each tensor of a UNet; `config` is diffusers'."""
    return {name: Origin(UNET + _unet_name(name, config)) for name in names}


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _UNET_OUTER_LAYERS:
        return f"{_UNET_OUTER_LAYERS[stem]}.{kind}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        block = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{block}.{_inner(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    assert match is not None, f"{name} is not a tensor of a UNet2DConditionModel"
    level, module, layer, rest = int(match[2]), match[3], int(match[4]), match[5]
    layers = config["layers_per_block"]
    if match[1] == "down":
        first = 1 + level * (layers + 1)
        if module == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{kind}"
        return f"input_blocks.{first + layer}.{int(module == 'attentions')}.{_inner(module, rest)}"
    first = level * (layers + 1)
    if module == "upsamplers":
        # After the last resnet, and after its attention where there is one.
        index = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{first + layers}.{index}.conv.{kind}"
    return f"output_blocks.{first + layer}.{int(module == 'attentions')}.{_inner(module, rest)}"


def _inner(module: str, rest: str) -> str:
    if module == "attentions":
        return rest  # the same in both layouts
    stem, _, kind = rest.rpartition(".")
    return f"{_UNET_RESNET[stem]}.{kind}"


def vae_origins(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Origin]:
    """Return the origin of each tensor of a VAE; `config` is diffusers'."""
    last = len(config["block_out_channels"]) - 1
    return {name: _vae_origin(name, last) for name in names}


def _vae_origin(name: str, last_level: int) -> Origin:
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        key = f"{VAE}{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
        linear = match[3] == "weight" and match[2] != "group_norm"
        return Origin(key, _to_linear) if linear else Origin(key)
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last_level - int(m[1])}", name)
    name = name.replace(".resnets.", ".block.")
    return Origin(VAE + re.sub(r"(down|up)samplers\.0", r"\1sample", name))


def clip_l_origins(names: Iterable[str]) -> dict[str, Origin]:
    """Return the origin of each tensor of the first text encoder."""
    # transformers 5.6 dropped the prefix text_model.
    return {name: Origin(f"{CLIP_L}text_model.{name.removeprefix('text_model.')}") for name in names}


def big_g_origins(names: Iterable[str], prefix: str) -> dict[str, Origin]:
    """Return the origin of each tensor of the second text encoder; `prefix`: one of `BIG_G`."""
    return {name: _big_g_origin(name, prefix) for name in names}


def _big_g_origin(name: str, prefix: str) -> Origin:
    if name == "text_projection.weight":
        return Origin(f"{prefix}text_projection", Tensor.t)  # OpenCLIP multiplies from the right
    if name in _BIG_G_OUTER_LAYERS:
        return Origin(prefix + _BIG_G_OUTER_LAYERS[name])
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match is not None, f"{name} is not a tensor of a CLIPTextModelWithProjection"
    layer, module, kind = f"{prefix}transformer.resblocks.{match[1]}", match[2], match[3]
    if module in _BIG_G_LAYER:
        return Origin(f"{layer}.{_BIG_G_LAYER[module]}.{kind}")
    index = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(module)
    return Origin(f"{layer}.attn.in_proj_{kind}", partial(_third, index))


def _third(index: int, tensor: Tensor) -> Tensor:
    """Return one third (0, 1 or 2) of the rows: OpenCLIP stacks query, key and value in one matrix."""
    rows = tensor.shape[0] // 3
    return tensor[index * rows : (index + 1) * rows]


def _to_linear(tensor: Tensor) -> Tensor:
    """Return a 1x1 convolution's weight (O, I, 1, 1) as a linear layer's (O, I)."""
    return tensor.flatten(1)
