"""A base or refiner on disk, whatever its layout: a folder in diffusers' layout, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_generator.nets.published import Kind
from atelier_generator.nets.stored import StoredNetwork
from atelier_runtime.weights import CheckpointError

_SIZE_NUMBERS = {"base": 6, "refiner": 5}
"""What the UNet is told beside the prompt: two sizes and a corner; the refiner a score for one size."""


@dataclass(frozen=True)
class StoredPipeline:
    """One SDXL pipeline on disk.

    `networks` by part. `settings`: the pipeline's own, such as `force_zeros_for_empty_prompt`. `scheduler`
    and `tokenizer` read those, the latter by its part.
    """

    path: Path
    layout: str
    kind: Kind
    networks: Mapping[str, StoredNetwork]
    settings: Mapping[str, Any]
    scheduler: Callable[[], Any]
    tokenizer: Callable[[str], Any]

    def require(self, kind: Kind) -> None:
        """Raise `CheckpointError` if this is the other kind."""
        if self.kind != kind:
            raise CheckpointError(f"{self.path} is an SDXL {self.kind}, not a {kind}")

    def check(self, base: StoredPipeline | None = None) -> None:
        """Raise `CheckpointError` unless every network is whole, and the networks fit each other.

        `base`: whose VAE and second text encoder a refiner works with.
        """
        try:
            for network in self.networks.values():
                network.check()
            self._check_fit({**(base.networks if base else {}), "unet": self.networks["unet"]})
            if base is None:
                self._check_fit(self.networks)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def _check_fit(self, networks: Mapping[str, StoredNetwork]) -> None:
        configs = {part: network.empty().config for part, network in networks.items() if part != "unet"}
        unet = networks["unet"].empty().config
        if "vae" in configs and unet.in_channels != (channels := configs["vae"].latent_channels):
            # 9: the latents, a masked picture and the mask. 8: the latents and a picture to follow.
            known = {2 * channels + 1: "an inpainting network", 2 * channels: "a network that edits pictures"}
            what = known.get(unet.in_channels, "it does not fit the VAE")
            raise CheckpointError(
                f"unet: it reads {unet.in_channels} channels, the VAE has {channels}: {what}"
            )
        if "text_encoder_2" not in configs:
            return  # a refiner by itself: the base brings the encoder
        second = configs["text_encoder_2"]
        widths = [second.hidden_size]
        if self.kind == "base":
            widths.insert(0, configs["text_encoder"].hidden_size)
        if unet.cross_attention_dim != sum(widths):
            raise CheckpointError(
                f"unet: it reads words {unet.cross_attention_dim} numbers wide, "
                f"the text encoders write {' + '.join(map(str, widths))}"
            )
        beside = _SIZE_NUMBERS[self.kind] * unet.addition_time_embed_dim + second.projection_dim
        if unet.projection_class_embeddings_input_dim != beside:
            raise CheckpointError(
                f"unet: it reads {unet.projection_class_embeddings_input_dim} numbers beside the words; "
                f"as an SDXL {self.kind} with this text encoder it would read {beside}"
            )
