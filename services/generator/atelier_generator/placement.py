"""Where the networks are: all in the device's memory, or in turn.

A card of 8 to 12 GB cannot hold SDXL's base, refiner, text encoders and VAE together with what they compute.
With `offload` only those that are at work are on the card. Their weights never change, so the host keeps them
all, in page-locked memory, and a network is copied to the card when its turn comes and dropped afterwards.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import nn

from atelier_runtime.device import is_out_of_memory


class Placement:
    """Groups of networks, of which one at a time is in use."""

    def __init__(
        self, device: torch.device, groups: Mapping[str, Sequence[nn.Module]], *, offload: bool = False
    ) -> None:
        """`groups`: by name; with `offload` on the host, else on the device already."""
        self.offload = offload
        self._device = device
        self._groups = groups
        self._used: str | None = None
        self._on_host: list[tuple[torch.Tensor, torch.Tensor]] = []
        if offload and device.type == "cuda":
            for tensor in chain.from_iterable(map(_tensors, chain.from_iterable(groups.values()))):
                tensor.data = tensor.data.pin_memory()

    def use(self, name: str) -> None:
        """See to it that the networks of a group are on the device; on the device thread.

        Raises what the device raises if its memory runs out, after one retry.
        """
        if not self.offload or self._used == name:
            return
        self.release()
        try:
            self._copy(name)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        self.release()  # outside the handler, whose traceback keeps the copies alive
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._copy(name)

    def _copy(self, name: str) -> None:
        with torch.inference_mode(False):  # tensors that are made in inference mode cannot be assigned
            for network in self._groups[name]:
                for tensor in _tensors(network):
                    on_host = tensor.data
                    self._on_host.append((tensor, on_host))
                    tensor.data = on_host.to(self._device, non_blocking=True, copy=True)
        self._used = name

    def release(self) -> None:
        """With `offload`, drop the networks in use from the device."""
        with torch.inference_mode(False):
            for tensor, on_host in self._on_host:
                tensor.data = on_host
        self._on_host.clear()
        self._used = None


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
