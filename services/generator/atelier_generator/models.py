"""The networks of a model set, loaded into the memory of one device.

    text_to_image   the base: UNet, text encoders, tokenizers, scheduler, VAE
    refiner         its own UNet and scheduler; VAE and second text encoder of the base
    inpaint         likewise, with both text encoders of the base
    autoencoder     the VAE in its own dtype, with checks of its output
    upscaler        any network that spandrel loads
    loras           changes of the base's UNet and text encoders, applied to the requests that name them

Base and refiner are folders in diffusers' layout or single files (nets/). Nothing is downloaded: startup
fails if a file is missing or not in the manifest, or if a network is incomplete.

Precision. `dtype` (setting DTYPE; auto: bfloat16 on a device that computes in it, else float16 on a GPU and
float32 on a CPU) is that of the UNets, text encoders and upscaler. What stays in float32, and why:

    VAE                with float16, if its configuration has `force_upcast`, as SDXL's does: its activations
                       exceed 65504. A VAE made for float16 turns it off and stays in float16. bfloat16 has
                       the range of float32.
    noise              sampled in float32 on the CPU: one seed means one image on every device and dtype.
    timesteps, sigmas  the scheduler's; a step adds in float32, then rounds the latents to `dtype`.
    a failed decode    is retried once with the VAE in float32, see `Autoencoder.decode_in_float32`.
    pixels             from the VAE's output on.

docs/precision.md has the figures.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from atelier_generator.adapted_networks import AdaptedNetworks
from atelier_generator.autoencoder import Autoencoder
from atelier_generator.lora_folder import LoraFolder
from atelier_generator.lora_store import LoraStore
from atelier_generator.nets.lora_layers import PARTS, layers_by_name
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.nets.stored_pipeline import Role, StoredPipeline
from atelier_generator.placement import Placement
from atelier_generator.plan import refiner_schedule_steps
from atelier_generator.prompt_syntax import PROMPT_SYNTAXES
from atelier_generator.request import GenerateRequest
from atelier_generator.samplers import name_problems, read_choice
from atelier_generator.scheduling import Schedulers, trained_as
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.device import choose_device, choose_dtype
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.latent_colors import SDXL_COLORS, LatentColors
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.threads import set_network_threads
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import CheckpointError, Component, ModelSet

logger = logging.getLogger(__name__)

ROLES = (NetworkRole.BASE, NetworkRole.REFINER, NetworkRole.INPAINT, NetworkRole.UPSCALER)
"""The networks that the generator runs."""


@dataclass(frozen=True)
class Models:
    """Everything that a request may run.

    diffusers' classes hide their attributes from the type checker, hence `Any`: `text_to_image` is a
    `StableDiffusionXLPipeline`, and so is `inpaint`, `refiner` a `StableDiffusionXLImg2ImgPipeline`. They are
    used for their networks, their configuration and their text encoding.
    """

    model_set: ModelSet
    device: torch.device
    dtype: torch.dtype
    text_to_image: Any
    refiner: Any | None
    autoencoder: Autoencoder
    upscaler: Upscaler | None
    placement: Placement
    loras: LoraStore = dataclasses.field(default_factory=LoraStore)
    inpaint: Any | None = None

    @cached_property
    def adapted_inpaint_unet(self) -> AdaptedNetworks:
        """The inpainting UNet, likewise."""
        assert self.inpaint is not None, "checked by the caller"
        return AdaptedNetworks({"unet": self.inpaint.unet})

    @cached_property
    def adapted_unet(self) -> AdaptedNetworks:
        """The base's UNet, to apply LoRAs to it; on the device thread."""
        return AdaptedNetworks({"unet": self.text_to_image.unet})

    @cached_property
    def adapted_text_encoders(self) -> AdaptedNetworks:
        """The text encoders, to apply LoRAs to them; by whoever encodes prompts."""
        parts = [part for part in PARTS if part != "unet"]
        return AdaptedNetworks({part: getattr(self.text_to_image, part) for part in parts})

    @property
    def preview_colors(self) -> LatentColors | None:
        """The colors that the channels of the latents stand for, None if they are unknown."""
        own, channels = self.model_set.preview_colors, self.text_to_image.vae.config.latent_channels
        return own or (SDXL_COLORS if channels == len(SDXL_COLORS.factors) else None)

    @property
    def native_side(self) -> int:
        """Side in px of the images that the base network was trained on, within `max_side`."""
        side = int(self.text_to_image.default_sample_size * self.text_to_image.vae_scale_factor)
        return min(side, self.model_set.max_side or side)


def load_models(settings: GeneratorSettings) -> Models:
    """Load and check the generator's part of the model set in the settings.

    Raises `StartupError` naming the setting or the file.
    """
    _silence_libraries()
    set_network_threads(settings.cpu_threads)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    if device.type == "cpu" and dtype == torch.float16:
        raise StartupError("DTYPE: on a CPU the networks run in float32 or bfloat16, not in float16")
    offload = settings.memory == "offload"
    if device.type == "cpu" and offload:
        raise StartupError("MEMORY=offload: there is nothing to offload from a CPU")
    home = torch.device("cpu") if offload else device
    model_set = ModelSet.open(settings.model_set)
    base = model_set.require(NetworkRole.BASE)
    _check_negative_prompt(model_set)
    model_set.check_files(*ROLES)

    refiner, inpaint, upscaler = (model_set.component(role) for role in ROLES[1:])
    with _named_errors(model_set, base):
        stored_base = _read(base, "base")
    with _named_errors(model_set, refiner or base):
        stored_refiner = _read(refiner, "refiner", stored_base) if refiner else None
    with _named_errors(model_set, inpaint or base):
        stored_inpaint = _read(inpaint, "inpaint", stored_base) if inpaint else None
    with _named_errors(model_set, base):
        text_to_image = load_base(stored_base, home, dtype)
    text_to_image.scheduler = _trained_scheduler(model_set, text_to_image.scheduler)
    _check_preview_colors(model_set, text_to_image.vae.config.latent_channels)
    with _named_errors(model_set, refiner or base):
        refining = load_refiner(stored_refiner, text_to_image, home, dtype) if stored_refiner else None
    if refining is not None:
        steps = refiner_schedule_steps(model_set.defaults.num_inference_steps)
        _check_sampling(model_set, refining.scheduler, steps, ", of the refiner")
    with _named_errors(model_set, inpaint or base):
        inpainting = load_inpaint(stored_inpaint, text_to_image, home, dtype) if stored_inpaint else None
    if inpainting is not None:
        steps = model_set.defaults.num_inference_steps
        _check_sampling(model_set, inpainting.scheduler, steps, ", of the inpainting network")
    models = Models(
        model_set=model_set,
        device=device,
        dtype=dtype,
        text_to_image=text_to_image,
        refiner=refining,
        autoencoder=Autoencoder(text_to_image.vae),
        upscaler=Upscaler.load(upscaler, device, dtype) if upscaler else None,
        placement=place(text_to_image, refining, device, inpainting, offload=offload),
        loras=list_loras(settings, model_set, text_to_image, home, dtype),
        inpaint=inpainting,
    )
    model_set.verify(*ROLES)  # the files that no network needed
    for role in ROLES:
        component = model_set.component(role)
        if component is not None:
            logger.info("network loaded", extra={"role": role, "network": component.name})
    return models


def list_loras(
    settings: GeneratorSettings, model_set: ModelSet, base: Any, device: torch.device, dtype: torch.dtype
) -> LoraStore:
    """Return the LoRAs for a base, none of them loaded. Raises `StartupError`."""
    layers = layers_by_name({part: getattr(base, part) for part in PARTS})
    most_bytes = settings.lora_memory_mb << 20
    folder = LoraFolder.open(settings.loras, model_set, layers, most_bytes, dtype)
    return LoraStore(folder, device, dtype, most_bytes)


def choose_max_batch(setting: int, device: torch.device) -> int:
    """Return how many requests may be denoised together: the setting, or by the device's memory.

    One image of SDXL with guidance fills the cores of a large GPU, and those of a CPU.
    """
    if setting:
        return setting
    if device.type == "cpu":
        return 1
    total = torch.cuda.get_device_properties(device).total_memory
    return 4 if total >= 40 * 10**9 else 2 if total >= 20 * 10**9 else 1


def load_base(stored: StoredPipeline, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the text-to-image pipeline of a checked base on a device."""
    dtypes = dict.fromkeys(stored.networks, dtype) | {"vae": vae_dtype(dtype, stored.networks["vae"].config)}
    networks = stored.load(dtypes)
    pipeline_class: Any = StableDiffusionXLPipeline  # diffusers' constructors are not annotated
    pipeline = pipeline_class(
        **networks,
        tokenizer=stored.tokenizer("tokenizer"),
        tokenizer_2=stored.tokenizer("tokenizer_2"),
        scheduler=stored.scheduler(),
        force_zeros_for_empty_prompt=stored.settings.get("force_zeros_for_empty_prompt", True),
        add_watermarker=False,
    )
    for network in (pipeline.text_encoder, pipeline.text_encoder_2):
        network.to(device)
    for network in (pipeline.unet, pipeline.vae):
        # Convolutions run up to several times faster in this layout, on a CPU as on a GPU.
        network.to(device, memory_format=torch.channels_last)
    return pipeline


def load_refiner(stored: StoredPipeline, base: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a checked refiner with the VAE and the second text encoder of `base`, a pipeline.

    It was trained with that text encoder alone.
    """
    pipeline_class: Any = StableDiffusionXLImg2ImgPipeline  # diffusers' constructors are not annotated
    refiner = pipeline_class(
        unet=stored.networks["unet"].load(dtype).to(device, memory_format=torch.channels_last),
        scheduler=stored.scheduler(),
        tokenizer=None,
        text_encoder=None,
        tokenizer_2=base.tokenizer_2,
        text_encoder_2=base.text_encoder_2,
        vae=base.vae,
        force_zeros_for_empty_prompt=stored.settings.get("force_zeros_for_empty_prompt", True),
        requires_aesthetics_score=stored.settings.get("requires_aesthetics_score", False),
        add_watermarker=False,
    )
    return refiner


def load_inpaint(stored: StoredPipeline, base: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a checked inpainting UNet, with its scheduler, in a pipeline that is otherwise `base`."""
    unet = stored.networks["unet"].load(dtype).to(device, memory_format=torch.channels_last)
    changed = {"unet": unet, "scheduler": stored.scheduler()}
    pipeline_class: Any = StableDiffusionXLPipeline  # diffusers' constructors are not annotated
    return pipeline_class(**base.components | changed, add_watermarker=False)


def place(
    base: Any,
    refiner: Any | None,
    device: torch.device,
    inpaint: Any | None = None,
    *,
    offload: bool = False,
) -> Placement:
    """Return where the networks of the pipelines are; the upscaler is small and always stays."""
    groups = {
        "text": [base.text_encoder, base.text_encoder_2],
        "base": [base.unet],
        "refiner": [refiner.unet] if refiner is not None else [],
        "inpaint": [inpaint.unet] if inpaint is not None else [],
        "vae": [base.vae],
    }
    return Placement(device, groups, offload=offload)


def vae_dtype(dtype: torch.dtype, config: Mapping[str, Any]) -> torch.dtype:
    """Return the VAE's dtype where the other networks run in `dtype`."""
    upcast = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if upcast else dtype


def _check_negative_prompt(model_set: ModelSet) -> None:
    """Raise `StartupError` if the set's negative prompt would spoil requests that leave it open."""
    for syntax in PROMPT_SYNTAXES:
        try:
            GenerateRequest("a", negative_prompt=model_set.defaults.negative_prompt, prompt_syntax=syntax)
        except InvalidRequest as error:
            problem = error.fields[0].message
            raise StartupError(
                f"MODEL_SET: the manifest of '{model_set.name}': default_negative_prompt, in the {syntax} "
                f"syntax: {problem}"
            ) from error


def _check_preview_colors(model_set: ModelSet, channels: int) -> None:
    """Raise `StartupError` if the manifest's are not those of the VAE's channels."""
    colors = model_set.preview_colors
    if colors is not None and len(colors.factors) != channels:
        raise StartupError(
            f"MODEL_SET: the manifest of '{model_set.name}': preview.factors must have {channels} rows, one "
            f"for each channel of the latents, has {len(colors.factors)}"
        )


def _trained_scheduler(model_set: ModelSet, own: Any) -> Any:
    """Return the base's scheduler as the manifest wants it; raise `StartupError` if that is impossible."""
    try:
        scheduler = trained_as(own, model_set.prediction_type, model_set.zero_terminal_snr)
    except ValueError as error:
        raise StartupError(f"MODEL_SET: the manifest of '{model_set.name}': {error}") from error
    default = model_set.defaults
    for field, message in name_problems(default.sampler, default.schedule):
        raise StartupError(f"MODEL_SET: the manifest of '{model_set.name}': sampling.{field} {message}")
    _check_sampling(model_set, scheduler, default.num_inference_steps)
    return scheduler


def _check_sampling(model_set: ModelSet, scheduler: Any, steps: int, network: str = "") -> None:
    """Raise `StartupError` if a network with this scheduler cannot do what the manifest wants by default.

    `steps`: of the schedule. `network`: names it in the message.
    """
    choice = read_choice(model_set.defaults.sampler, model_set.defaults.schedule)
    if (problem := Schedulers(scheduler).problem(choice, steps)) is not None:
        field, message = problem
        raise StartupError(
            f"MODEL_SET: the manifest of '{model_set.name}': sampling.{field} {message}{network}"
        )


def _read(component: Component, role: Role, base: StoredPipeline | None = None) -> StoredPipeline:
    stored = read_pipeline(component.path, component.read)
    stored.check_for(role, base)
    return stored


@contextmanager
def _named_errors(model_set: ModelSet, component: Component) -> Iterator[None]:
    """Turn a `CheckpointError` into a `StartupError` that names the setting and the component.

    If its files are not those that the manifest lists, that is the error.
    """
    try:
        yield
    except CheckpointError as error:
        model_set.verify(component.role)
        raise StartupError(f"{component.setting}: the {component.role}: {error}") from error


def _silence_libraries() -> None:
    # Warnings of theirs about long prompts quote them, and prompts do not belong in logs.
    modules: list[Any] = [diffusers.utils.logging, transformers.logging]  # their functions are not annotated
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
