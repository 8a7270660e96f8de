"""SDXL checkpoints in a single file, in the original layout, as most fine-tuned models are published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from atelier_runtime.snapshot import Reader, take
from atelier_runtime.weights import CheckpointError, read_checkpoint, read_metadata

_OTHER_KINDS = {
    "cond_stage_model.transformer.": "a Stable Diffusion 1 checkpoint",
    "cond_stage_model.model.": "a Stable Diffusion 2 checkpoint",
    "control_model.": "a ControlNet",
    "controlnet_": "a ControlNet, in diffusers' layout",
    "lora_": "a LoRA",
    "lycoris_": "a LoRA (LyCORIS)",
    "ip_adapter.": "an IP-Adapter",
    "image_proj.": "an IP-Adapter",
    "joint_blocks.": "a Stable Diffusion 3 network",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "double_blocks.": "a Flux network",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "down_blocks.": "a UNet alone, in diffusers' layout",
    "text_model.": "a text encoder alone",
    "vision_model.": "an image encoder alone",
    "encoder.down_blocks.": "a VAE alone, in diffusers' layout",
    "encoder.down.": "a VAE alone",
    "encoder.block.": "a T5 text encoder alone",
}
_LORA_SUFFIXES = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight")
_PARTS = {
    "a UNet": (names.UNET,),
    "text encoders": (names.CLIP_L, *names.BIG_G.values()),
    "a VAE": (names.VAE,),
}
"""The parts of a complete checkpoint, by the prefixes of their tensors."""
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
_V_PREDICTION, _ZERO_TERMINAL_SNR = "v_pred", "ztsnr"
"""Empty tensors by which checkpoints say how they were trained (NoobAI-XL began it, ComfyUI reads them)."""
# CLIP-L has a projection, which SDXL does not use: it takes the layer before. Merging programs keep it.
_UNUSED_PROJECTIONS = tuple(
    f"{names.CLIP_L}{module}text_projection{kind}"
    for module in ("", "text_model.")
    for kind in ("", ".weight")
)


def read_single_file(path: Path, read: Reader = take) -> StoredPipeline:
    """Read a checkpoint's header. Raises `CheckpointError` for anything but SDXL, saying what it is."""
    tensors = read_checkpoint(path, shapes_only=True, read=read)
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
        networks[part] = StoredNetwork(part, config, (path,), own, origins, _is_leftover, read)
    scheduler_class: Any = diffusers.EulerDiscreteScheduler  # diffusers is not fully annotated
    scheduler = {**published.configuration(kind, "scheduler"), **_training(tensors, read_metadata(path))}
    return StoredPipeline(
        path=path,
        layout="single file",
        kind=kind,
        networks=networks,
        settings={n: value for n, value in published.pipeline_index(kind).items() if isinstance(value, bool)},
        scheduler=lambda: scheduler_class.from_config(scheduler),
        tokenizer=published.tokenizer,
    )


def _training(tensors: Iterable[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a checkpoint says of its training, as options of its scheduler.

    In metadata: `modelspec.prediction_type` (Stability AI's ModelSpec) and kohya's `ss_` entries.
    """
    known: dict[str, Any] = {}
    predicts = metadata.get("modelspec.prediction_type", "").lower()
    if (
        _V_PREDICTION in tensors
        or predicts in ("v", "v_prediction", "v-prediction")
        or metadata.get("ss_v_parameterization") == "True"
    ):
        known["prediction_type"] = "v_prediction"
    if _ZERO_TERMINAL_SNR in tensors or metadata.get("ss_zero_terminal_snr") == "True":
        known |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return known


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
    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in tensors)

    lora = any(key.endswith(_LORA_SUFFIXES) for key in tensors)
    other = "a LoRA" if lora else next((what for prefix, what in _OTHER_KINDS.items() if has(prefix)), None)
    found = [part for part, prefixes in _PARTS.items() if has(*prefixes)]
    if len(found) == len(_PARTS) and other is None:
        return "base" if has(names.CLIP_L, names.BIG_G["base"]) else "refiner"
    if other is None and found:
        other = _some_parts(found)
    if other:
        raise CheckpointError(f"{path} is {other}, not a complete SDXL checkpoint")
    examples = ", ".join(list(tensors)[:3])
    raise CheckpointError(
        f"{path} is not an SDXL checkpoint; its {len(tensors)} tensors begin with {examples}"
    )


def _some_parts(found: Sequence[str]) -> str:
    """Name what a file has and what it lacks, such as "a UNet and a VAE, without text encoders"."""
    lost = [part for part in _PARTS if part not in found]
    missing = lost[0] if len(lost) == 1 else " and ".join(part.removeprefix("a ") for part in lost)
    alone = " alone" if len(found) == 1 else ""
    return f"{' and '.join(found)}{alone}, without {missing}"


def _is_leftover(key: str) -> bool:
    return (
        key.startswith(_LEFTOVER_PREFIXES)
        or key.endswith(_LEFTOVER_SUFFIXES)
        or key in (*_UNUSED_PROJECTIONS, _V_PREDICTION, _ZERO_TERMINAL_SNR)
    )
