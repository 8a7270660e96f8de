"""Upscaling: by an upscaler network in tiles, or by Lanczos.

Images are uint8 RGB (H, W, 3). Between two passes of a network they are rounded to 8 bits, so that memory
stays at one image and one tile however large the result is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError

from atelier_runtime.errors import BadImage
from atelier_runtime.images import RgbArray
from atelier_runtime.settings import StartupError
from atelier_runtime.sizes import Size
from atelier_runtime.weights import Component

LANCZOS = "lanczos"

_TILE_PX = 384
# What a tile sees beyond its own edge. RRDBNet's receptive field reaches 350 px; what is beyond 16 px still
# moves levels by 0.004 at the seam, with weights 2.5 times as strong by 1.4; what is beyond 32 px by nothing
# but rounding (docs/parity.md).
_TILE_MARGIN_PX = 32
# x2 networks fold 2x2 pixels into one, others attend to windows: every tile starts at the same phase.
_TILE_GRID_PX = 16
_WORTH_ANOTHER_PASS = 1.25  # below this factor Lanczos does as well as a network whose output is then shrunk
_LANCZOS_REACH_PX = 3
_BAND_PIXELS = 2**19


class Upscaler:
    """An upscaler network with its own factor (2, 4, ...) and the name of its architecture."""

    def __init__(self, name: str, network: ImageModelDescriptor) -> None:
        self.name = name
        self.factor = network.scale
        self.architecture = str(network.architecture.name)
        self._network = network
        self._tiled = network.tiling != ModelTiling.INTERNAL

    @classmethod
    def load(cls, component: Component, device: torch.device, dtype: torch.dtype = torch.float32) -> Upscaler:
        """Load any file whose architecture spandrel knows.

        Runs in `dtype` if the architecture supports it, else in float32. Raises `StartupError` naming the
        component's setting and file if it is not an upscaler of RGB images.
        """
        where = f"{component.setting}: the upscaler {component.path}"
        try:
            network = ModelLoader().load_from_state_dict(component.state_dict())
        except UnsupportedModelError as error:
            raise StartupError(f"{where} has an unknown architecture") from error
        except (RuntimeError, KeyError, ValueError) as error:  # a known architecture, but incomplete
            raise StartupError(f"{where}: {error}") from error
        if not isinstance(network, ImageModelDescriptor) or network.scale < 2:
            raise StartupError(f"{where} does not upscale images")
        if (network.input_channels, network.output_channels) != (3, 3):
            raise StartupError(f"{where} does not work on RGB")
        supported = {
            torch.bfloat16: network.supports_bfloat16,
            torch.float16: network.supports_half,
        }.get(dtype, True)
        network.to(device, dtype if supported else torch.float32)
        network.eval()
        # Convolutions run several times faster in this layout, on a CPU as on a GPU.
        network.model.to(memory_format=torch.channels_last)
        return cls(component.name, network)

    def upscale(self, image: RgbArray, check: Callable[[], None]) -> RgbArray:
        """Upscale once by `factor`; `check` is called before each tile and may raise.

        Raises `BadImage` if the network's output has non-finite values.
        """
        height, width = image.shape[:2]
        f = self.factor
        result = np.empty((height * f, width * f, 3), np.uint8)
        step = _TILE_PX if self._tiled else max(height, width)
        for top, bottom in _spans(height, step):
            for left, right in _spans(width, step):
                check()
                # The tile with its margin, cut off at the image's edges.
                y0, y1 = max(0, top - _TILE_MARGIN_PX), min(height, bottom + _TILE_MARGIN_PX)
                x0, x1 = max(0, left - _TILE_MARGIN_PX), min(width, right + _TILE_MARGIN_PX)
                tile = self._run(image[y0:y1, x0:x1])
                inner = tile[(top - y0) * f : (bottom - y0) * f, (left - x0) * f : (right - x0) * f]
                result[top * f : bottom * f, left * f : right * f] = inner
        return result

    @torch.inference_mode()
    def _run(self, tile: RgbArray) -> RgbArray:
        network = self._network
        pixels = torch.from_numpy(tile.copy()).to(network.device)
        # A permuted (H, W, C) image already has the memory layout of channels_last.
        batch = pixels.permute(2, 0, 1).unsqueeze(0).to(network.dtype).div_(255)
        output = network(batch).float()
        if not torch.isfinite(output).all():
            raise BadImage(f"The output of the upscaler {self.name} has non-finite values.")
        output = output.squeeze(0).clamp_(0, 1).mul_(255).round_()
        return np.asarray(output.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def upscale_to(image: RgbArray, size: Size, upscaler: Upscaler | None, check: Callable[[], None]) -> RgbArray:
    """Return an image of exactly the given size: upscaled to cover it and cropped in the middle.

    The network is applied as often as needed, and Lanczos does the rest; without a network, all of it.
    """
    if upscaler is not None:
        own = Size(image.shape[1], image.shape[0])
        for _ in range(network_passes(own, size, upscaler.factor)):
            image = upscaler.upscale(image, check)
    check()
    return resample(image, size)


def network_passes(size: Size, target: Size, factor: int) -> int:
    """Return how often a network is applied: at least once, and until little is left to Lanczos."""
    passes, reached = 1, float(factor)
    needed = max(target.width / size.width, target.height / size.height)
    while needed / reached > _WORTH_ANOTHER_PASS:
        passes, reached = passes + 1, reached * factor
    return passes


def resample(image: RgbArray, size: Size) -> RgbArray:
    """Resize an image (H, W, 3), or a plane (H, W), by Lanczos to cover the size, cropped in the middle.

    Works in bands: Pillow makes several copies of what it resizes.
    """
    own = Size(image.shape[1], image.shape[0])
    if own == size:
        return image
    left, top, right, bottom = covering_box(own, size)
    result = np.empty((size.height, size.width, *image.shape[2:]), np.uint8)
    down = (bottom - top) / size.height
    margin = math.ceil(_LANCZOS_REACH_PX * max(1.0, down))
    for first, last in _spans(size.height, max(_TILE_GRID_PX, _BAND_PIXELS // size.width)):
        # The band, and the rows beyond its edges that Lanczos needs.
        start, end = top + first * down, top + last * down
        y0, y1 = max(0, math.floor(start) - margin), min(own.height, math.ceil(end) + margin)
        band = Image.fromarray(image[y0:y1])
        box = (left, start - y0, right, min(end - y0, y1 - y0))
        result[first:last] = band.resize((size.width, last - first), Image.Resampling.LANCZOS, box)
    return result


def center_crop(size: Size, crop: Size) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of `crop` in the middle of `size`, which contains it."""
    left, top = (size.width - crop.width) // 2, (size.height - crop.height) // 2
    return left, top, left + crop.width, top + crop.height


def crop_to(image: RgbArray, size: Size) -> RgbArray:
    """Return the center of an image that contains the size, its pixels unchanged."""
    left, top, right, bottom = center_crop(Size(image.shape[1], image.shape[0]), size)
    return np.ascontiguousarray(image[top:bottom, left:right])


def covering_box(size: Size, target: Size) -> tuple[float, float, float, float]:
    """Return the centered (left, top, right, bottom) of `size` that has the aspect ratio of `target`."""
    scale = max(target.width / size.width, target.height / size.height)
    width = min(size.width, target.width / scale)
    height = min(size.height, target.height / scale)
    left, top = (size.width - width) / 2, (size.height - height) / 2
    return left, top, left + width, top + height


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut a length into the fewest, nearly equal parts of at most `step` that start on the grid."""
    count, cells = -(-length // step), -(-length // _TILE_GRID_PX)
    edges = [min(length, cells * i // count * _TILE_GRID_PX) for i in range(count + 1)]
    yield from itertools.pairwise(edges)
