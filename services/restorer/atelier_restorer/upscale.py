"""The final enlargement: by an upscaler network in tiles, or by Lanczos.

Pictures are uint8 RGB (H, W, 3). Between two applications of a network they are rounded to 8 bits, which
keeps the memory at one picture and one tile however large the result is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError

from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import Component, load_state_dict

LANCZOS = "lanczos"

_TILE_PX = 384
# What a tile sees beyond its own edge. RRDBNet could look 350 px far; what is beyond 16 px still moves levels
# by 0.004 at the seam, with weights 2.5 times as strong by 1.4; what is beyond 32 px by nothing but rounding
# (docs/parity.md).
_TILE_MARGIN_PX = 32
_TILE_GRID_PX = (
    16  # x2 networks fold 2x2 pixels into one, others look through windows: same phase in each tile
)
_LANCZOS_REACH_PX = 3
_BAND_PIXELS = 2**19


class Enlarged(NamedTuple):
    """A picture, and the name of what enlarged it; empty if nothing did."""

    picture: RgbArray
    upscaler: str


class Upscaler:
    """An upscaler network with its own factor (2, 4, ...), run in float32."""

    def __init__(self, name: str, network: ImageModelDescriptor) -> None:
        self.name = name
        self.factor = network.scale
        self._network = network
        self._tiled = network.tiling != ModelTiling.INTERNAL

    @classmethod
    def load(cls, component: Component, device: torch.device) -> Upscaler:
        """Load any file whose architecture spandrel knows.

        Raises `StartupError` naming the file for what is no RGB upscaler.
        """
        setting = component.setting
        try:
            network = ModelLoader().load_from_state_dict(load_state_dict(component.path, setting))
        except UnsupportedModelError as error:
            raise StartupError(f"{setting}: the upscaler {component.path} is of no known kind") from error
        except (RuntimeError, KeyError, ValueError) as error:  # of a known kind, but incomplete
            raise StartupError(f"{setting}: the upscaler {component.path}: {error}") from error
        if not isinstance(network, ImageModelDescriptor) or network.scale < 2:
            raise StartupError(f"{setting}: {component.path} does not enlarge pictures")
        if (network.input_channels, network.output_channels) != (3, 3):
            raise StartupError(f"{setting}: the upscaler {component.path} does not work on RGB")
        network.to(device, torch.float32)
        network.eval()
        # Convolutions run several times faster in this layout, on a CPU as on a GPU.
        network.model.to(memory_format=torch.channels_last)
        return cls(component.name, network)

    def enlarge(self, picture: RgbArray, check: Callable[[], None]) -> RgbArray:
        """Enlarge once by `factor`; `check` is called before each tile and may raise.

        Raises `BadImage` if the network's answer has non-finite values.
        """
        height, width = picture.shape[:2]
        f = self.factor
        result = np.empty((height * f, width * f, 3), np.uint8)
        step = _TILE_PX if self._tiled else max(height, width)
        for top, bottom in _spans(height, step):
            for left, right in _spans(width, step):
                check()
                # The tile with its margin, cut off at the picture's edges.
                y0, y1 = max(0, top - _TILE_MARGIN_PX), min(height, bottom + _TILE_MARGIN_PX)
                x0, x1 = max(0, left - _TILE_MARGIN_PX), min(width, right + _TILE_MARGIN_PX)
                tile = self._run(picture[y0:y1, x0:x1])
                inner = tile[(top - y0) * f : (bottom - y0) * f, (left - x0) * f : (right - x0) * f]
                result[top * f : bottom * f, left * f : right * f] = inner
        return result

    @torch.inference_mode()
    def _run(self, tile: RgbArray) -> RgbArray:
        pixels = torch.from_numpy(tile.copy()).to(self._network.device)
        # A permuted (H, W, C) picture already lies in memory as channels_last wants it.
        answer = self._network(pixels.permute(2, 0, 1).unsqueeze(0).float().div_(255))
        if not torch.isfinite(answer).all():
            raise BadImage(f"The upscaler {self.name} made non-finite values.")
        answer = answer.squeeze(0).clamp_(0, 1).mul_(255).round_()
        return answer.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def enlarge(picture: RgbArray, scale: int, upscaler: Upscaler | None, check: Callable[[], None]) -> Enlarged:
    """Return the picture enlarged `scale` (1, 2 or 4) times.

    The network is applied until the size is reached, and Lanczos shrinks what is too much (a x4 network asked
    for x2). Without a network Lanczos does it all.
    """
    if scale == 1:
        return Enlarged(picture, "")
    size = picture.shape[1] * scale, picture.shape[0] * scale
    if upscaler is None:
        return Enlarged(_resample(picture, size), LANCZOS)
    while picture.shape[1] < size[0]:
        picture = upscaler.enlarge(picture, check)
    return Enlarged(_resample(picture, size), upscaler.name)


def enlarge_plane(plane: RgbArray, scale: int) -> RgbArray:
    """Enlarge one channel (H, W), such as an alpha channel, by Lanczos."""
    return _resample(plane, (plane.shape[1] * scale, plane.shape[0] * scale))


def _resample(picture: RgbArray, size: tuple[int, int]) -> RgbArray:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    result = np.empty((size[1], size[0], *picture.shape[2:]), np.uint8)
    across, down = picture.shape[1] / size[0], picture.shape[0] / size[1]
    margin = math.ceil(_LANCZOS_REACH_PX * max(1.0, down))
    # By bands of rows: Pillow takes several copies of what it makes. Each band sees beyond its edges.
    for top, bottom in _spans(size[1], max(_TILE_GRID_PX, _BAND_PIXELS // size[0])):
        first = max(0, math.floor(top * down) - margin)
        last = min(picture.shape[0], math.ceil(bottom * down) + margin)
        box = (0, top * down - first, size[0] * across, bottom * down - first)
        band = Image.fromarray(picture[first:last])
        result[top:bottom] = band.resize((size[0], bottom - top), Image.Resampling.LANCZOS, box)
    return result


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut a length into the fewest parts of at most `step`, nearly of one size, that begin on the grid."""
    count, cells = -(-length // step), -(-length // _TILE_GRID_PX)
    edges = [min(length, cells * i // count * _TILE_GRID_PX) for i in range(count + 1)]
    yield from pairwise(edges)
