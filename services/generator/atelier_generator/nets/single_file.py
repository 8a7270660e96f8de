"""SDXL checkpoints in a single file, in the original layout, as most fine-tuned models are published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor

from atelier_generator.nets import original_names as names
from atelier_generator.nets import published, shapes
from atelier_generator.nets.published import Kind
from atelier_generator.nets.stored import Origin, StoredNetwork
from atelier_generator.nets.stored_pipeline import StoredPipeline
from atelier_runtime.weights import CheckpointError, read_checkpoint

_OTHER_KINDS = {
    "cond_stage_model.transformer.": "a Stable Diffusion 1 checkpoint",
    "cond_stage_model.model.": "a Stable Diffusion 2 checkpoint",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA",
    "joint_blocks.": "a Stable Diffusion 3 network",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "double_blocks.": "a Flux network",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "down_blocks.": "a UNet alone, in diffusers' layout",
    "text_model.": "a text encoder alone",
    "encoder.down_blocks.": "a VAE alone, in diffusers' layout",
    "encoder.down.": "a VAE alone",
}
_SINGLE_PARTS = {names.UNET: "a UNet alone, without text encoders and VAE", names.VAE: "a VAE alone"}
# Left over from training: noise schedules, the weights' moving average, position IDs, CLIP's logit scale.
_LEFTOVER_PREFIXES = (
    "model_ema.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_",
    "posterior_",
    "denoiser.",
    "loss.",
)
_LEFTOVER_SUFFIXES = ("position_ids", "logit_scale", "attn_mask")


def read_single_file(path: Path) -> StoredPipeline:
    """Read a checkpoint's header. Raises `CheckpointError` for anything but SDXL, saying what it is."""
    tensors = read_checkpoint(path, shapes_only=True)
    kind = _kind(path, tensors)
    prefixes = {"unet": names.UNET, "vae": names.VAE, "text_encoder_2": names.BIG_G[kind]}
    if kind == "base":
        prefixes["text_encoder"] = names.CLIP_L
    unexpected = [
        key for key in tensors if not key.startswith(tuple(prefixes.values())) and not _is_leftover(key)
    ]
    if unexpected:
        examples = ", ".join(unexpected[:10])
        raise CheckpointError(
            f"{path}: {len(unexpected)} tensors do not belong to an SDXL {kind}: {examples}"
        )
    networks = {}
    for part, prefix in prefixes.items():
        config, origins = _read_part(path, part, tensors, kind)
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        networks[part] = StoredNetwork(part, config, (path,), own, origins, _is_leftover)
    scheduler_class: Any = diffusers.EulerDiscreteScheduler  # diffusers is not fully annotated
    scheduler = dict(published.configuration(kind, "scheduler"))
    return StoredPipeline(
        path=path,
        layout="single file",
        kind=kind,
        networks=networks,
        settings={n: value for n, value in published.pipeline_index(kind).items() if isinstance(value, bool)},
        scheduler=lambda: scheduler_class.from_config(scheduler),
        tokenizer=published.tokenizer,
    )


def _read_part(
    path: Path, part: str, tensors: Mapping[str, Tensor], kind: Kind
) -> tuple[dict[str, Any], Callable[[Iterable[str]], dict[str, Origin]]]:
    """Return a network's configuration, and the function that maps names to origins."""
    try:
        if part == "unet":
            config = shapes.unet_config(tensors, kind)
            return config, partial(names.unet_origins, config=config)
        if part == "vae":
            config = shapes.vae_config(tensors)
            return config, partial(names.vae_origins, config=config)
        if part == "text_encoder":
            return shapes.clip_l_config(tensors), names.clip_l_origins
        prefix = names.BIG_G[kind]
        return shapes.big_g_config(tensors, prefix), partial(names.big_g_origins, prefix=prefix)
    except KeyError as error:
        raise CheckpointError(f"{path}: {part}: {error.args[0]} is missing") from error
    except (ValueError, IndexError) as error:  # a tensor with another number of dimensions
        raise CheckpointError(f"{path}: {part}: the shapes are not SDXL's: {error}") from error


def _kind(path: Path, tensors: Mapping[str, Tensor]) -> Kind:
    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in tensors)

    if has(names.UNET) and has(names.VAE):
        if has(names.CLIP_L) or has(names.BIG_G["base"]):
            return "base"
        if has(names.BIG_G["refiner"]):
            return "refiner"
    for prefix, what in (_OTHER_KINDS | _SINGLE_PARTS).items():
        if has(prefix):
            raise CheckpointError(f"{path} is {what}, not a complete SDXL checkpoint")
    examples = ", ".join(list(tensors)[:3])
    raise CheckpointError(
        f"{path} is not an SDXL checkpoint; its {len(tensors)} tensors begin with {examples}"
    )


def _is_leftover(key: str) -> bool:
    return key.startswith(_LEFTOVER_PREFIXES) or key.endswith(_LEFTOVER_SUFFIXES)
