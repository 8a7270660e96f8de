"""IR-SE50, the network of face recognition that facexlib publishes as ArcFace.

    ArcFace   Deng et al., CVPR 2019, arXiv:1801.07698: how it was trained, and the layers behind the last
              features (section 3.1: batch norm, dropout, fully connected, batch norm)
    SE        Hu et al., CVPR 2018, arXiv:1709.01507: squeeze and excitation, here at the end of each unit

Units, names and shapes are those of `recognition_arcface_ir_se50.pth` of facexlib's release v0.1.0, which is
`model_ir_se50.pth` of TreB1eN/InsightFace_Pytorch, byte for byte.

The input is one aligned face of 112 px, (x / 255 - 0.5) / 0.5, with the channels blue, green, red. facexlib
only builds and loads the network (`facexlib/recognition/__init__.py`) and feeds it nowhere, so this order is
that of its training: `data/data_pipe.py` of InsightFace_Pytorch stores what OpenCV decodes, which is BGR, as
if it were RGB (`load_mx_rec`), converts its validation faces to BGR (`load_bin`), and normalizes with mean
and deviation 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from atelier_restorer.nets.checkpoint import load_exactly
from atelier_restorer.recognition_crop import SIDE

_STAGES = 4
_GRID = SIDE // 2**_STAGES  # side of the last features
_STEM = "input_layer.0.weight"
_EMBEDDING = "output_layer.3.weight"


@dataclass(frozen=True)
class ArcFaceConfig:
    """Sizes of a network; the defaults are the published ones.

    `widths`: channels of each residual unit. The first unit, and each of another width than the one before,
    begins a stage, which halves the sides. `squeezed`: channels between the two layers of squeeze and
    excitation, for each unit.
    """

    stem_width: int = 64
    widths: tuple[int, ...] = (64,) * 3 + (128,) * 4 + (256,) * 14 + (512,) * 3
    squeezed: tuple[int, ...] = (4,) * 3 + (8,) * 4 + (16,) * 14 + (32,) * 3
    dimensions: int = 512

    def __post_init__(self) -> None:
        """Raise `ValueError` for sizes that no such network has."""
        sizes = (self.stem_width, self.dimensions, *self.widths, *self.squeezed)
        if not self.widths or len(self.widths) != len(self.squeezed) or min(sizes) < 1:
            raise ValueError("an IR-SE network has at least one unit, and all of its sizes are positive")
        if (stages := sum(self.strides) - len(self.widths)) != _STAGES:
            raise ValueError(f"an IR-SE network has {_STAGES} stages of different widths, not {stages}")

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each unit: 2 where a stage begins."""
        return (2, *(2 if width != before else 1 for before, width in pairwise(self.widths)))


def sizes_of(state: Mapping[str, Tensor]) -> ArcFaceConfig:
    """Return the sizes that a checkpoint's shapes imply.

    Raises `ValueError` for tensors that no such network has.
    """
    widths: list[int] = []
    squeezed: list[int] = []
    try:
        while (key := f"body.{len(widths)}.res_layer.3.weight") in state:
            squeezed.append(state[f"body.{len(widths)}.res_layer.5.fc1.weight"].shape[0])
            widths.append(state[key].shape[0])
        return ArcFaceConfig(
            stem_width=state[_STEM].shape[0],
            widths=tuple(widths),
            squeezed=tuple(squeezed),
            dimensions=state[_EMBEDDING].shape[0],
        )
    except (KeyError, IndexError) as error:
        raise ValueError("the tensors do not have the names and shapes of an IR-SE network") from error


class ArcFace(nn.Module):
    """IR-SE50, or a network of the same kind with other sizes.

    Normalized faces (N, 3, 112, 112), BGR, to embeddings (N, dimensions), which are not of unit length.
    """

    def __init__(self, config: ArcFaceConfig) -> None:
        """Build a network for inference: without dropout."""
        super().__init__()
        self.config = config
        stem = config.stem_width
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        inputs = (stem, *config.widths[:-1])
        units = zip(inputs, config.widths, config.squeezed, config.strides, strict=True)
        self.body = nn.Sequential(*(_Unit(*sizes) for sizes in units))
        last = config.widths[-1]
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Identity(),  # where training has its dropout
            nn.Flatten(),
            nn.Linear(last * _GRID**2, config.dimensions),
            nn.BatchNorm1d(config.dimensions),
        )

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> ArcFace:
        """Load a checkpoint, of any dtype, in float32, for inference.

        Raises `ValueError` if the tensors are not those of such a network; it names the first that differ.
        """
        state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        with torch.device("meta"):
            network = cls(sizes_of(state))
        load_exactly(network, state)
        return network.requires_grad_(False).eval()

    def forward(self, faces: Tensor) -> Tensor:
        """Embed normalized faces."""
        embeddings: Tensor = self.output_layer(self.body(self.input_layer(faces)))
        return embeddings


class _Unit(nn.Module):
    """A residual unit: batch norm, convolution, PReLU, convolution, batch norm, squeeze and excitation."""

    def __init__(self, inputs: int, width: int, squeezed: int, stride: int) -> None:
        super().__init__()
        self._stride = stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            _Excitation(width, squeezed),
        )
        self.shortcut_layer = (
            nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if inputs != width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is None:  # every second pixel, where the sides are halved
            shortcut = x[..., :: self._stride, :: self._stride]
        else:
            shortcut = self.shortcut_layer(x)
        output: Tensor = shortcut + self.res_layer(x)
        return output


class _Excitation(nn.Module):
    """Squeeze and excitation: weights each channel by what the means of all channels say."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1, bias=False)
        self.fc2 = nn.Conv2d(squeezed, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        weights: Tensor = self.fc2(self.fc1(means).relu()).sigmoid()
        return x * weights
