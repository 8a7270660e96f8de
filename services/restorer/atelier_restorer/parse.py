"""Segments a restored face, so that only skin, features and hair are pasted back.

    ParseNet   in the dtype of the settings
    BiSeNet    Yu et al., ECCV 2018, arXiv:1808.00897, as of zllrunning's face-parsing.PyTorch; float32

The network classes are facexlib's. Both find the 19 classes of CelebAMask-HQ (Lee et al., CVPR 2020,
arXiv:1907.11922), each in an order of its own; ours is ParseNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from facexlib.parsing.bisenet import BiSeNet
from facexlib.parsing.parsenet import ParseNet
from torch import Tensor, nn

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.nets.checkpoint import load_exactly
from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray

_CLASSES = 19
_BISENET_TENSOR = "cp.resnet.conv1.weight"

_RGB = tuple[float, float, float]


@dataclass(frozen=True)
class _Kind:
    """What a network takes: RGB of 0 to 1 minus `mean` over `deviation`; and its classes in our order.

    `exact`: it runs in float32, whatever the settings say.
    """

    mean: _RGB
    deviation: _RGB
    classes: tuple[int, ...]
    exact: bool


_PARSENET = _Kind((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), tuple(range(_CLASSES)), exact=False)
_BISENET = _Kind(
    (0.485, 0.456, 0.406),  # of ImageNet
    (0.229, 0.224, 0.225),
    # Of background, skin, brows (left, right), eyes, glasses, ears, earring, nose, mouth, lips, neck,
    # necklace, clothes, hair and hat, the order of face-parsing.PyTorch.
    (0, 1, 6, 7, 4, 5, 3, 8, 9, 15, 2, 10, 11, 12, 17, 16, 18, 13, 14),
    exact=True,
)


class FaceParser:
    """ParseNet or BiSeNet for aligned crops."""

    def __init__(self, network: nn.Module, kind: _Kind, device: torch.device) -> None:
        self._network = network
        self._kind = kind
        self._device = device
        self._classes = torch.tensor(kind.classes, dtype=torch.uint8, device=device)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> FaceParser:
        """Build the network that the tensors are of and load it; ParseNet runs in `dtype`.

        Raises:
            ValueError: the tensors do not match a ParseNet for 512 px, or a BiSeNet if they have its first
                convolution; the first ten that differ are listed.
        """
        kind = _BISENET if _BISENET_TENSOR in state else _PARSENET
        network: nn.Module
        with torch.device("meta"):
            if kind is _BISENET:
                network = BiSeNet(_CLASSES)
            else:
                network = ParseNet(in_size=CROP_SIZE, out_size=CROP_SIZE, parsing_ch=_CLASSES)
        load_exactly(network, state)
        network.requires_grad_(False)
        # Convolutions run faster in this layout, on a CPU as on a GPU.
        dtype = torch.float32 if kind.exact else dtype
        network.to(device, dtype).to(memory_format=torch.channels_last)
        return cls(network.eval(), kind, device)

    @torch.inference_mode()
    def logits(self, crops: RgbArray) -> Tensor:
        """Return logits (N, 19, 512, 512) of the network's classes for aligned crops (N, 512, 512, 3)."""
        x = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2)
        dtype = next(self._network.parameters()).dtype
        mean, deviation = (
            torch.tensor(values, device=self._device)[:, None, None]
            for values in (self._kind.mean, self._kind.deviation)
        )
        outputs: tuple[Any, ...] = self._network(((x.float() / 255.0 - mean) / deviation).to(dtype))
        logits: Tensor = outputs[0]
        return logits.float()

    def classify(self, crops: RgbArray) -> RgbArray:
        """Return each pixel's class (0 to 18), (N, 512, 512), for aligned crops (N, 512, 512, 3).

        The classes are numbered as ParseNet's. Raises `BadImage` if the network's output has non-finite
        values.
        """
        logits = self.logits(crops)
        if not bool(torch.isfinite(logits).all()):
            raise BadImage("The output of the face parser has non-finite values.")
        return np.asarray(self._classes[logits.argmax(dim=1)].cpu().numpy())
