"""A base or refiner on disk, in either layout: a folder in diffusers' layout, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from atelier_generator.nets.published import Kind
from atelier_generator.nets.stored import StoredNetwork
from atelier_runtime.weights import CheckpointError, read_checkpoint

Role = Literal["base", "refiner", "inpaint"]
"""What a pipeline on disk is to be used for; for inpaint it is a base whose UNet takes in a mask."""

_TIME_IDS = {"base": 6, "refiner": 5}
"""Numbers of micro-conditioning: original size, crop corner, and target size or the refiner's score."""


@dataclass(frozen=True)
class StoredPipeline:
    """One SDXL pipeline on disk.

    `networks`: by part. `settings`: the pipeline's own, such as `force_zeros_for_empty_prompt`. `scheduler`
    builds the scheduler, `tokenizer` the tokenizer of a part.
    """

    path: Path
    layout: str
    kind: Kind
    networks: Mapping[str, StoredNetwork]
    settings: Mapping[str, Any]
    scheduler: Callable[[], Any]
    tokenizer: Callable[[str], Any]

    def load(self, dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
        """Return these parts on the CPU, each in its dtype. Raises `CheckpointError`.

        Each file is read once, and its content kept no longer than the parts after it need it.
        """
        contents: dict[Path, Mapping[str, Tensor]] = {}
        loaded = {}
        for number, (part, dtype) in enumerate(dtypes.items(), start=1):
            network = self.networks[part]
            for path in network.files:
                if path not in contents:
                    contents[path] = read_checkpoint(path, read=network.read)
            loaded[part] = network.load(dtype, contents)
            later = {path for part in list(dtypes)[number:] for path in self.networks[part].files}
            contents = {path: tensors for path, tensors in contents.items() if path in later}
        return loaded

    @property
    def inpaints(self) -> bool:
        """Whether its UNet takes in a mask and a masked image."""
        unet = self.networks["unet"].empty().config
        return bool(unet.in_channels == 2 * unet.out_channels + 1)

    def check_for(self, role: Role, base: StoredPipeline | None = None) -> None:
        """Raise `CheckpointError` unless it is what the role needs and fits `base`; see `check`."""
        kind: Kind = "base" if role == "inpaint" else role
        if self.kind != kind:
            raise CheckpointError(f"{self.path} is an SDXL {self.kind}, not a {kind}")
        if role == "base" and self.inpaints:
            raise CheckpointError(
                f"{self.path}: unet: it is an inpainting network, which goes into the role inpaint, beside "
                "a base"
            )
        if role == "inpaint" and not self.inpaints:
            raise CheckpointError(
                f"{self.path}: unet: it is not an inpainting network, which takes in a mask too"
            )
        self.check(base)

    def check(self, base: StoredPipeline | None = None) -> None:
        """Raise `CheckpointError` unless every network is complete and the networks fit each other.

        `base`: the pipeline whose VAE and text encoders it works with.
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
        if "vae" in configs and unet.in_channels not in _inputs(channels := configs["vae"].latent_channels):
            # 8: latents and those of a source image.
            edits = unet.in_channels == 2 * channels
            what = "an image-editing network" if edits else "it does not fit the VAE"
            raise CheckpointError(
                f"unet: it takes {unet.in_channels} channels, the VAE has {channels}: {what}"
            )
        if "text_encoder_2" not in configs:
            return  # a refiner by itself: the encoder is the base's
        second = configs["text_encoder_2"]
        widths = [second.hidden_size]
        if self.kind == "base":
            widths.insert(0, configs["text_encoder"].hidden_size)
        if unet.cross_attention_dim != sum(widths):
            raise CheckpointError(
                f"unet: its cross-attention takes text embeddings of width {unet.cross_attention_dim}, "
                f"but the text encoders output {' + '.join(map(str, widths))}"
            )
        expected = _TIME_IDS[self.kind] * unet.addition_time_embed_dim + second.projection_dim
        if unet.projection_class_embeddings_input_dim != expected:
            raise CheckpointError(
                f"unet: its added conditioning is {unet.projection_class_embeddings_input_dim} wide; "
                f"for an SDXL {self.kind} with this text encoder it must be {expected}"
            )


def _inputs(channels: int) -> tuple[int, int]:
    """Return how many channels a UNet takes in: latents, or latents, a mask and those of a masked image."""
    return channels, 2 * channels + 1
