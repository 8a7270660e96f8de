"""SDXL as it is published, but narrow: configurations, file names and tensor names are the real ones.

Only widths and depths are smaller, so that a set with base and refiner takes 0.2 GB. The text encoders have
the published vocabulary, which the published tokenizer needs. `original_layout` converts a pipeline to the
tensors of a single file; `write_sparse` writes files of the real size without disk space, to read headers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atelier_generator.nets import original_names as names
from atelier_generator.nets import published
from atelier_generator.nets.stored import Origin
from bench.synthetic_sdxl import narrow as configuration
from bench.synthetic_sdxl import weights
from tests.tiny_sdxl import seal

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}  # text encoders: "model"
_SAFETENSORS_FORMATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def networks(kind: published.Kind) -> dict[str, nn.Module]:
    """Return the narrow networks of a pipeline. A refiner has the base's VAE and second text encoder."""
    parts = ["unet", "vae", "text_encoder_2", *(["text_encoder"] if kind == "base" else [])]
    return {part: weights(part, configuration(kind, part), seed=len(part)) for part in parts}


def save_folder(
    folder: Path,
    kind: published.Kind,
    parts: Mapping[str, nn.Module],
    *,
    variant: str = "fp16",
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a pipeline in the published layout; of a refiner, its UNet and scheduler only."""
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    shutil.copy(published.PUBLISHED / kind / "model_index.json", folder)
    shutil.copy(published.PUBLISHED / kind / "scheduler/scheduler_config.json", folder / "scheduler")
    for part in parts if kind == "base" else ["unet"]:
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(configuration(kind, part)))
        # The first text encoder was published with a prefix that transformers has since dropped.
        prefix = "text_model." if part == "text_encoder" else ""
        state = {prefix + k: v.to(dtype).contiguous() for k, v in parts[part].state_dict().items()}
        save_file(state, folder / part / weight_name(part, variant), metadata={"format": "pt"})
    if kind == "base":
        for part in ("tokenizer", "tokenizer_2"):
            published.tokenizer(part).save_pretrained(folder / part)
    return folder


def change(path: Path, corrupt: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite a file of weights after `corrupt` has changed its dictionary of tensors."""
    state = dict(load_file(path))
    corrupt(state)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)


def weight_name(part: str, variant: str = "") -> str:
    """Return the published name of a network's file."""
    return f"{STEMS.get(part, 'model')}{f'.{variant}' if variant else ''}.safetensors"


def original_layout(kind: published.Kind, parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the networks' tensors as a single file has them."""
    tensors: dict[str, Tensor] = {}
    for part, network in parts.items():
        state = network.state_dict()
        for name, origin in origins(kind, part, state, network.config).items():
            value = state[name]
            if ".attn.in_proj_" in origin.key:
                three = [
                    state[name.replace("q_proj", p)]
                    for p in ("q_proj", "k_proj", "v_proj")
                    if "q_proj" in name
                ]
                if three:
                    tensors[origin.key] = torch.cat(three)
                continue
            if name == "text_projection.weight":
                value = value.t()
            elif part == "vae" and ".attentions.0.to_" in name and value.ndim == 2:
                value = value[:, :, None, None]
            tensors[origin.key] = value.contiguous()
    return tensors


def origins(kind: published.Kind, part: str, state: Mapping[str, Any], config: Any) -> dict[str, Origin]:
    """Return where the tensors of a part are in a single file."""
    find: dict[str, Callable[[Iterable[str]], dict[str, Origin]]] = {
        "unet": partial(names.unet_origins, config=config),
        "vae": partial(names.vae_origins, config=config),
        "text_encoder": names.clip_l_origins,
        "text_encoder_2": partial(names.big_g_origins, prefix=names.BIG_G[kind]),
    }
    return find[part](state)


def write_set(folder: Path, components: Mapping[str, str], **options: Any) -> Path:
    """Write the manifest of a set whose components are in its folder."""
    manifest = {
        "name": "narrow",
        "license": "Apache-2.0",
        "size_multiple": 8,
        "components": {role: {"path": path, "name": f"narrow-{role}"} for role, path in components.items()},
        "files": {},
        **options,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder)
    return folder


def write_sparse(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> int:
    """Write a safetensors file of zeros that takes no disk space; return its size in bytes.

    `tensors` may be on the meta device. Names are in the order of safetensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].numel() * dtype.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_FORMATS[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size
