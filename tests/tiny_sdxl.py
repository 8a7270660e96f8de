"""A complete SDXL model set with random weights, small enough to generate in a fraction of a second.

Every class is the real one: diffusers' UNet, VAE and scheduler, transformers' text encoders and
tokenizer, a network that spandrel recognizes. Only the widths are tiny. The tokenizer knows no
merges, so each letter is one token, and 75 letters fill the text encoders.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 32
TIME_WIDTH = 8
UPSCALER_NAME = "tiny-compact-x2"


def build_set(
    folder: Path,
    *,
    refiner: bool = False,
    inpaint: bool = False,
    upscaler: bool = True,
    max_side: int | None = None,
    refiner_max_side: int | None = None,
    size_multiple: int = 16,
    latent_channels: int = 4,
    default_negative_prompt: str = "",
) -> Path:
    """Write a model set into `folder` and return it. The same arguments give the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = _base_pipeline(latent_channels)
        base.save_pretrained(folder / "base")
        components = {"base": {"path": "base", "name": "tiny-sdxl"}}
        if refiner:
            _save_refiner(base, folder / "refiner")
            components["refiner"] = {"path": "refiner", "name": "tiny-refiner"}
        if inpaint:
            base.unet = _unet(latent_channels, words_width=2 * TEXT_WIDTH, time_ids=6, mask=True)
            base.save_pretrained(folder / "inpaint")
            components["inpaint"] = {"path": "inpaint", "name": "tiny-inpaint"}
        if upscaler:
            components["upscaler"] = {"path": build_upscaler(folder).name, "name": UPSCALER_NAME}
    manifest = {
        "name": "tiny",
        "license": "Apache-2.0",
        "max_side": max_side,
        "refiner_max_side": refiner_max_side,
        "size_multiple": size_multiple,
        "default_negative_prompt": default_negative_prompt,
        "components": components,
        "files": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder)
    return folder


def build_upscaler(folder: Path) -> Path:
    """Write a x2 network of Real-ESRGAN's compact architecture into `folder` and return the file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2)
    for parameter in network.body[-1].parameters():
        parameter.data *= 0.05  # the network adds to the upscaled image: keep the image
    path = folder / "upscaler.safetensors"
    save_file(network.state_dict(), path)
    return path


def seal(folder: Path) -> None:
    """Write the checksums of a set's files into its manifest, after a test has changed one."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {
        file.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != path
    }
    path.write_text(json.dumps(manifest))


def _base_pipeline(latent_channels: int) -> Any:
    tokenizer = _tokenizer()
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=256,
            mid_block_add_attention=False,
        ),
        text_encoder=CLIPTextModel(_text_config(len(tokenizer))),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(len(tokenizer))),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(latent_channels, words_width=2 * TEXT_WIDTH, time_ids=6),
        scheduler=_scheduler(),
        add_watermarker=False,
    )


def _save_refiner(base: Any, folder: Path) -> None:
    # Like the published refiner: only the second text encoder, and an aesthetic score instead of one size.
    pipeline: Any = StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=_unet(base.vae.config.latent_channels, words_width=TEXT_WIDTH, time_ids=5),
        scheduler=_scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.unet.save_pretrained(folder / "unet")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)  # model_index.json: shared parts are not stored twice


def _unet(channels: int, words_width: int, time_ids: int, *, mask: bool = False) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=2 * channels + 1 if mask else channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 4),
        cross_attention_dim=words_width,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=time_ids * TIME_WIDTH + TEXT_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
    )


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )


def _text_config(vocabulary: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def _tokenizer() -> CLIPTokenizer:
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _byte_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes in byte-level BPE, in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
