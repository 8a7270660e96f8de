"""Segments a restored face with ParseNet, so that only skin, features and hair are pasted back.

The network class is facexlib's. Its 19 classes are those of CelebAMask-HQ (Lee et al., CVPR 2020,
arXiv:1907.11922) in ParseNet's own order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from facexlib.parsing.parsenet import ParseNet
from torch import Tensor

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.nets.checkpoint import load_exactly
from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray

_CLASSES = 19


class FaceParser:
    """ParseNet for aligned crops."""

    def __init__(self, network: ParseNet, device: torch.device) -> None:
        self._network = network
        self._device = device

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> FaceParser:
        """Build the network and load it; it runs in `dtype`.

        Raises:
            ValueError: the tensors do not match a ParseNet for 512 px; the first ten that differ are listed.
        """
        with torch.device("meta"):
            network = ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=_CLASSES)
        load_exactly(network, state)
        network.requires_grad_(False)
        # Convolutions run faster in this layout, on a CPU as on a GPU.
        network.to(device, dtype, memory_format=torch.channels_last)
        return cls(network.eval(), device)

    @torch.inference_mode()
    def logits(self, crops: RgbArray) -> Tensor:
        """Return class logits (N, 19, 512, 512) for aligned crops (N, 512, 512, 3)."""
        x = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2)
        dtype = next(self._network.parameters()).dtype
        logits: Tensor = self._network(((x.float() / 255.0 - 0.5) / 0.5).to(dtype))[0]
        return logits.float()

    def classify(self, crops: RgbArray) -> RgbArray:
        """Return each pixel's class (0 to 18), (N, 512, 512), for aligned crops (N, 512, 512, 3).

        Raises `BadImage` if the network's output has non-finite values.
        """
        logits = self.logits(crops)
        if not bool(torch.isfinite(logits).all()):
            raise BadImage("The output of the face parser has non-finite values.")
        return np.asarray(logits.argmax(dim=1).to(torch.uint8).cpu().numpy())
