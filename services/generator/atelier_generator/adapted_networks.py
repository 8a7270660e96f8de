"""Applies LoRAs to networks for as long as a request runs, by layers of peft that stand in for their own.

Afterwards a network has its own layers again, the very same objects: it computes what it did before, bit for
bit, it costs nothing, and what was compiled for it fits. docs/decisions/loras.md says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from atelier_generator.lora_store import LoadedLora, Weighted
from atelier_generator.nets.lora_layers import Layer

_NAME = "lora"  # of the only LoRA in each of peft's layers


class AdaptedNetworks:
    """Networks to which LoRAs can be applied, `networks` by their part."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self._networks = networks

    def prepare(self, loras: Sequence[Weighted]) -> None:
        """Make the layers that `applied` puts in place, which takes a while the first time; in any thread."""
        for lora, _ in loras:
            for layer in self._layers_of(lora):
                if layer not in lora.layers:  # or another thread's, if that is made meanwhile
                    lora.layers.setdefault(layer, _peft_layer(lora, layer, self._own(layer)))

    @contextmanager
    def applied(self, loras: Sequence[Weighted]) -> Iterator[None]:
        """Apply LoRAs, each with its weight, until the context ends; in one thread at a time."""
        self.prepare(loras)
        stacks: dict[Layer, list[Any]] = {}
        for lora, weight in loras:
            for layer in self._layers_of(lora):
                changed = lora.layers[layer]
                changed.set_scale(_NAME, weight)
                stacks.setdefault(layer, []).append(changed)
        own = {layer: self._own(layer) for layer in stacks}
        try:
            for layer, stack in stacks.items():
                below: nn.Module = own[layer]
                for changed in stack:
                    changed.base_layer = below
                    below = changed
                self._put(layer, below)
            yield
        finally:
            for layer, stack in stacks.items():
                self._put(layer, own[layer])
                for changed in stack:
                    changed.base_layer = own[layer]  # not another LoRA's, whose memory it would keep

    def _layers_of(self, lora: LoadedLora) -> Iterator[Layer]:
        # All but the first layer of an inpainting UNet, which takes in more channels than the base's.
        return (
            layer
            for layer in lora.deltas
            if layer.part in self._networks and tuple(self._own(layer).weight.shape) == layer.shape
        )

    def _own(self, layer: Layer) -> Any:
        return self._networks[layer.part].get_submodule(layer.name)

    def _put(self, layer: Layer, module: nn.Module) -> None:
        self._networks[layer.part].set_submodule(layer.name, module, strict=True)


def _peft_layer(lora: LoadedLora, layer: Layer, own: Any) -> Any:
    from peft.tuners.lora import Conv2d, Linear  # takes a second, and most services have no LoRAs

    delta = lora.deltas[layer]
    while hasattr(own, "base_layer"):  # of a request that is running
        own = own.base_layer
    kind: Any = Conv2d if len(layer.shape) == 4 else Linear  # annotated for whole alphas only
    # On no device, and of this thread alone, unlike accelerate's init_empty_weights. Not in inference mode:
    # parameters that are made in it cannot be moved later, see placement.py.
    with torch.inference_mode(False), torch.device("meta"):
        made = kind(own, _NAME, config=_config(), r=delta.rank, lora_alpha=delta.scale * delta.rank)
        made.lora_A[_NAME].weight = nn.Parameter(delta.down, requires_grad=False)
        made.lora_B[_NAME].weight = nn.Parameter(delta.up, requires_grad=False)
    return made


@cache
def _config() -> Any:
    from peft import LoraConfig

    return LoraConfig(init_lora_weights=False, inference_mode=True)
