"""Enlarging a finished picture: by an upscaler network in tiles, or by Lanczos.

Pictures are uint8 RGB (H, W, 3). Between two applications of a network they are rounded to 8 bits,
which keeps the memory at one picture and one tile however large the result is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError

from atelier_generator.plan import Size, centred_crop, covering_box
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
_WORTH_ANOTHER_PASS = 1.25  # below this factor Lanczos does as well as a network that is then shrunk


class Upscaler:
    """An upscaler network with its own factor (2, 4, ...) and the name of its architecture."""

    def __init__(self, name: str, network: ImageModelDescriptor) -> None:
        self.name = name
        self.factor = network.scale
        self.architecture = str(network.architecture.name)
        self._network = network
        self._tiled = network.tiling != ModelTiling.INTERNAL

    @classmethod
    def load(cls, component: Component, device: torch.device, dtype: torch.dtype) -> Upscaler:
        """Load any file whose architecture spandrel knows.

        Runs in `dtype` if the architecture is known to stand it, else in float32.
        Raises `StartupError` naming the component for what is no RGB upscaler.
        """
        try:
            network = ModelLoader().load_from_state_dict(load_state_dict(component.path))
        except UnsupportedModelError as error:
            raise StartupError(f"MODEL_SET: the upscaler {component.path} is of no known kind") from error
        except (RuntimeError, KeyError, ValueError) as error:  # of a known kind, but incomplete
            raise StartupError(f"MODEL_SET: the upscaler {component.path}: {error}") from error
        if not isinstance(network, ImageModelDescriptor) or network.scale < 2:
            raise StartupError(f"MODEL_SET: {component.path} does not enlarge pictures")
        if (network.input_channels, network.output_channels) != (3, 3):
            raise StartupError(f"MODEL_SET: the upscaler {component.path} does not work on RGB")
        stands_it = {
            torch.bfloat16: network.supports_bfloat16,
            torch.float16: network.supports_half,
        }.get(dtype, True)
        network.to(device, dtype if stands_it else torch.float32)
        network.eval()
        # Convolutions run several times faster in this layout, on a CPU as on a GPU.
        network.model.to(memory_format=torch.channels_last)
        return cls(component.name, network)

    @torch.inference_mode()
    def enlarge(self, picture: RgbArray, check: Callable[[], None]) -> RgbArray:
        """Enlarge once by `factor`; `check` is called before each tile and may raise.

        Raises `BadImage` if the network's answer has non-finite values.
        """
        height, width = picture.shape[:2]
        result = np.empty((height * self.factor, width * self.factor, 3), np.uint8)
        step = _TILE_PX if self._tiled else max(height, width)
        for top, bottom in _spans(height, step):
            for left, right in _spans(width, step):
                check()
                # The tile with its margin, cut off at the picture's edges.
                y0, y1 = max(0, top - _TILE_MARGIN_PX), min(height, bottom + _TILE_MARGIN_PX)
                x0, x1 = max(0, left - _TILE_MARGIN_PX), min(width, right + _TILE_MARGIN_PX)
                tile = self._run(picture[y0:y1, x0:x1])
                f = self.factor
                inner = tile[(top - y0) * f : (bottom - y0) * f, (left - x0) * f : (right - x0) * f]
                result[top * f : bottom * f, left * f : right * f] = inner
        return result

    def _run(self, tile: RgbArray) -> RgbArray:
        network = self._network
        pixels = torch.from_numpy(tile.copy()).to(network.device)
        # A permuted (H, W, C) picture already lies in memory as channels_last wants it.
        batch = pixels.permute(2, 0, 1).unsqueeze(0).to(network.dtype).div_(255)
        answer = network(batch).float()
        if not torch.isfinite(answer).all():
            raise BadImage(f"The upscaler {self.name} made non-finite values.")
        answer = answer.squeeze(0).clamp_(0, 1).mul_(255).round_()
        return answer.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def cropped(picture: RgbArray, wanted: Size) -> RgbArray:
    """Return the middle of a picture that contains the wanted size, its pixels untouched."""
    left, top, right, bottom = centred_crop(Size(picture.shape[1], picture.shape[0]), wanted)
    return np.ascontiguousarray(picture[top:bottom, left:right])


def enlarge_to(
    picture: RgbArray, wanted: Size, upscaler: Upscaler | None, check: Callable[[], None]
) -> RgbArray:
    """Return a picture of exactly the wanted size, enlarged to cover it and cropped in the middle.

    By the network as often as needed and the rest by Lanczos; without a network by Lanczos alone.
    """
    if upscaler is not None:
        size = Size(picture.shape[1], picture.shape[0])
        for _ in range(network_passes(size, wanted, upscaler.factor)):
            picture = upscaler.enlarge(picture, check)
    check()
    return _resample(picture, wanted)


def network_passes(size: Size, wanted: Size, factor: int) -> int:
    """Return how often a network is applied: at least once, and until little is left to Lanczos."""
    passes, reached = 1, float(factor)
    needed = max(wanted.width / size.width, wanted.height / size.height)
    while needed / reached > _WORTH_ANOTHER_PASS:
        passes, reached = passes + 1, reached * factor
    return passes


def _resample(picture: RgbArray, wanted: Size) -> RgbArray:
    box = covering_box(Size(picture.shape[1], picture.shape[0]), wanted)
    image = Image.fromarray(picture)
    if box == (0, 0, *image.size) and image.size == wanted:
        return picture
    return np.asarray(image.resize(wanted, Image.Resampling.LANCZOS, box=box))


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut a length into the fewest parts of at most `step`, nearly of one size, that begin on the grid."""
    count, cells = -(-length // step), -(-length // _TILE_GRID_PX)
    edges = [min(length, cells * i // count * _TILE_GRID_PX) for i in range(count + 1)]
    yield from itertools.pairwise(edges)
