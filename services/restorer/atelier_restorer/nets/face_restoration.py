"""Face restoration networks without a fidelity, as spandrel has them: GFPGAN and RestoreFormer.

    GFPGAN          Wang et al., CVPR 2021, arXiv:2101.04061; the "clean" networks, v1.2 to v1.4
    RestoreFormer   Wang et al., CVPR 2022, arXiv:2201.06374

Both map the same aligned crop, RGB of -1 to 1 (N, 3, 512, 512), to a restored one. The network classes are
spandrel's, but they are called directly: its own call of GFPGAN feeds 0 to 1 (version 0.4.2), and clamps,
which would hide infinite values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import Tensor, nn

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.nets.checkpoint import load_exactly

_PREFIX = "vqvae."  # of RestoreFormer's training program, which holds the network in an attribute
_COUNTER = "quantize.utility_counter"  # counts how often training used each code; inference does not
_LATENTS = 16  # styles that GFPGAN's decoder takes at 512 px


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    `keys`: tensors that only it has. `read_sizes`: the arguments of the network class, from a checkpoint's
    shapes. `restore`: aligned crops (N, 3, 512, 512) of -1 to 1 to restored ones.
    """

    name: str
    keys: frozenset[str]
    read_sizes: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    network: Callable[..., nn.Module]
    restore: Callable[[nn.Module, Tensor], Tensor]

    def sizes_of(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of the network class that a checkpoint's shapes imply.

        Raises `ValueError` for shapes that no such network has.
        """
        try:
            if any(0 in tensor.shape for tensor in state.values()):
                raise ValueError("there is a tensor without elements")
            sizes = self.read_sizes(state)
            with torch.device("meta"):
                self.network(**sizes)
        except (KeyError, IndexError, ArithmeticError, RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"the tensors do not have the shapes of a {self.name}") from error
        return sizes


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """Return which of the networks a checkpoint is, by its tensors' names; None if it is none of them.

    `state`: from `canonical`. A CodeFormer is none, although it was derived from the same networks.
    """
    return next((known for known in ARCHITECTURES if known.keys <= state.keys()), None)


def canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names that the network classes use."""
    named = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    is_quantizer = f"{_PREFIX}{_COUNTER}" in state or "quantize.embedding.weight" in named
    return {key: value for key, value in named.items() if not (is_quantizer and key == _COUNTER)}


def load(state: Mapping[str, Tensor]) -> tuple[Architecture, nn.Module]:
    """Build the network of a checkpoint, of any dtype, and load it in float32.

    Raises:
        ValueError: the tensors are of none of the networks, or do not match it; the first ten that differ
            are listed.
    """
    state = {k: v.float() if v.is_floating_point() else v for k, v in canonical(state).items()}
    architecture = architecture_of(state)
    if architecture is None:
        names = " or ".join(known.name for known in ARCHITECTURES)
        raise ValueError(f"the tensors are not those of a {names}")
    sizes = architecture.sizes_of(state)
    with torch.device("meta"):
        network = architecture.network(**sizes)
    load_exactly(network, state)
    return architecture, network.requires_grad_(False).eval()


def _gfpgan_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The published networks have `narrow` 1 and a multiplier of 2."""
    first, last = state["conv_body_first.weight"].shape[0], state["final_conv.weight"].shape[0]
    narrow = last / 256
    return {
        "out_size": CROP_SIZE,
        "num_style_feat": state["final_linear.weight"].shape[0] // _LATENTS,
        "channel_multiplier": round(first / (16 * narrow)),
        "narrow": narrow,
    }


def _restoreformer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of attention heads, which no shape shows, is the published network's."""
    width = state["encoder.conv_in.weight"].shape[0]
    levels = _count(state, "encoder.down.{}.block.0.conv1.weight")
    codes, code_size = state["quantize.embedding.weight"].shape
    return {
        "n_embed": codes,
        "embed_dim": code_size,
        "z_channels": state["quant_conv.weight"].shape[1],
        "ch": width,
        "ch_mult": tuple(
            state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // width for level in range(levels)
        ),
        "num_res_blocks": _count(state, "encoder.down.0.block.{}.conv1.weight"),
    }


def _count(state: Mapping[str, Tensor], key: str) -> int:
    """Return how many numbers, from 0 on, make `key` the name of a tensor."""
    number = 0
    while key.format(number) in state:
        number += 1
    return number


def _gfpgan(network: nn.Module, crops: Tensor) -> Tensor:
    """Run GFPGAN with the noise that its checkpoint stores instead of noise drawn anew in every call.

    The same crop then gives the same face, in whatever batch it runs.
    """
    image: Tensor = network(crops, return_rgb=False, randomize_noise=False)[0]
    return image


def _restoreformer(network: nn.Module, crops: Tensor) -> Tensor:
    image: Tensor = network(crops)[0]
    return image


ARCHITECTURES = (
    Architecture(
        "GFPGAN",
        frozenset({"toRGB.0.weight", "stylegan_decoder.style_mlp.1.weight", "final_linear.weight"}),
        _gfpgan_sizes,
        GFPGAN,
        _gfpgan,
    ),
    Architecture(
        "RestoreFormer",
        frozenset({"quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight"}),
        _restoreformer_sizes,
        RestoreFormer,
        _restoreformer,
    ),
)
