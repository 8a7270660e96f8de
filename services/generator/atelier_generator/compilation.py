"""Compiles UNets and the VAE's decoder, and warms them up at the sizes of the setting WARM_SIZES.

    blocks   the transformer and residual blocks that the networks repeat: each compiles once per shape
    max      whole networks, with kernels tuned by trial

Callers do not change. A hook brings each network's inputs into one form, so that a variant fits every call of
its shape: whatever the scheduler, the strides of the latents, or the thread that encoded the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.pixels import TILED_PIXELS
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings, read_sizes
from atelier_runtime.compilation import INDUCTOR, Backend, Pass, compile_part, warm_up
from atelier_runtime.settings import StartupError
from atelier_runtime.sizes import Size

_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
_UNET_INPUTS = ("sample", "timestep", "encoder_hidden_states")


def compile_networks(
    models: Models,
    settings: GeneratorSettings,
    *,
    batch_sizes: Sequence[int] = (1,),
    backend: Backend = INDUCTOR,
) -> None:
    """Compile the networks, if the settings say so, and warm them up; on the device thread.

    `batch_sizes`: how many images are denoised together. Afterwards nothing is compiled: what was not warmed
    runs eagerly. Raises `StartupError`.
    """
    if settings.compile == "off":
        return
    sizes = read_sizes(settings.warm_sizes)
    for size in sizes:
        if size.pixels > settings.max_pixels:
            raise StartupError(f"WARM_SIZES: no request may have {size}, MAX_PIXELS is {settings.max_pixels}")
    for network, canonical in _networks(models):
        network.register_forward_pre_hook(canonical, with_kwargs=True)
        parts = [network] if settings.compile == "max" else _blocks(network)
        for part in parts:
            compile_part(part, settings.compile, backend)
    warm_up(settings, list(_passes(models, sizes, batch_sizes)))


def _networks(models: Models) -> Iterator[tuple[Any, Any]]:
    yield models.text_to_image.unet, _canonical_unet
    if models.refiner is not None:
        yield models.refiner.unet, _canonical_unet
    if models.inpaint is not None:
        yield models.inpaint.unet, _canonical_unet
    yield models.text_to_image.vae.decoder, _canonical_decoder


def _blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in network.modules() if type(module).__name__ in _BLOCKS]


# --- one form for the inputs ---


def _canonical_unet(
    unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copy the inputs: fresh tensors have the strides of their shape alone, and are tensors of this mode.

    They are small. The timestep is converted to float32, one for each row, as the UNet would do anyway.
    """
    given = dict(zip(_UNET_INPUTS, args, strict=False)) | kwargs
    sample = given["sample"].clone(memory_format=torch.channels_last)
    timestep = torch.as_tensor(given["timestep"], dtype=torch.float32, device=sample.device)
    given["encoder_hidden_states"] = _copy(given["encoder_hidden_states"])
    if given.get("timestep_cond") is not None:
        given["timestep_cond"] = _copy(given["timestep_cond"])
    conditions = given.get("added_cond_kwargs") or {}
    given["added_cond_kwargs"] = {name: _copy(conditions[name]) for name in sorted(conditions)}
    rest = {
        name: given[name] for name in sorted(given.keys() - {"sample", "timestep"}) if given[name] is not None
    }
    return (sample, timestep.expand(len(sample)).clone()), rest


def _canonical_decoder(
    decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    sample = args[0] if args else kwargs["sample"]
    return (sample.clone(memory_format=torch.channels_last),), {}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


# --- warming up ---


def _passes(models: Models, sizes: Iterable[Size], batch_sizes: Sequence[int]) -> Iterator[Pass]:
    base_sizes, refiner_sizes = _pass_sizes(models, sizes)
    for name, unet, unet_sizes in (
        ("base", models.text_to_image.unet, base_sizes),
        ("refiner", models.refiner and models.refiner.unet, refiner_sizes),
        ("inpaint", models.inpaint and models.inpaint.unet, base_sizes if models.inpaint else []),
    ):
        # Guidance doubles the rows, but for networks that have the guidance scale as an input.
        factors = (1,) if unet is not None and unet.config.time_cond_proj_dim else (1, 2)
        rows = sorted({count * factor for count in batch_sizes for factor in factors})
        for size in unet_sizes:
            for count in rows:
                yield f"{name}, {size}, {count} rows", partial(_denoise, models, name, unet, size, count)
    for size in dict.fromkeys([*base_sizes, *refiner_sizes]):
        yield f"decoder, {size}", partial(_decode, models, size)


def _pass_sizes(models: Models, sizes: Iterable[Size]) -> tuple[list[Size], list[Size]]:
    """Return the sizes at which the base's UNet and the refiner's run for requests of some sizes."""
    pipeline = Pipeline(models)
    base: dict[Size, None] = {}
    refiner: dict[Size, None] = {}
    for size in sizes:
        for hires_fix in (False, True):
            request = GenerateRequest(
                prompt="-", width_px=size.width, height_px=size.height, hires_fix=hires_fix, use_refiner=True
            )
            plan = pipeline.plan(request)
            base[plan.base] = None
            if plan.second is not None:
                (base if models.refiner is None else refiner)[plan.second] = None
    return list(base), list(refiner)


def _latents(models: Models, size: Size, rows: int, channels: int) -> torch.Tensor:
    factor = models.text_to_image.vae_scale_factor
    return torch.zeros((rows, channels, size.height // factor, size.width // factor), device=models.device)


@torch.inference_mode()
def _denoise(models: Models, name: str, unet: Any, size: Size, rows: int) -> None:
    """Run a UNet as the pipeline does, on zeros."""
    models.placement.use(name)
    config = unet.config
    text_width = models.text_to_image.text_encoder_2.config.projection_dim
    time_ids = (config.projection_class_embeddings_input_dim - text_width) // config.addition_time_embed_dim
    tokens = models.text_to_image.tokenizer_2.model_max_length
    zeros = partial(torch.zeros, device=models.device, dtype=models.dtype)
    unet(
        _latents(models, size, rows, config.in_channels).to(models.dtype),
        torch.zeros((), device=models.device),
        encoder_hidden_states=zeros(rows, tokens, config.cross_attention_dim),
        timestep_cond=zeros(rows, config.time_cond_proj_dim) if config.time_cond_proj_dim else None,
        added_cond_kwargs={"text_embeds": zeros(rows, text_width), "time_ids": zeros(rows, time_ids)},
        return_dict=False,
    )


@torch.inference_mode()
def _decode(models: Models, size: Size) -> None:
    """Run the decoder on zeros, in tiles where requests of this size would."""
    models.placement.use("vae")
    vae = models.text_to_image.vae
    latents = _latents(models, size, 1, vae.config.latent_channels).to(vae.dtype)
    models.autoencoder.set_tiling(models.device.type == "cuda" and size.pixels > TILED_PIXELS)
    vae.decode(latents)
