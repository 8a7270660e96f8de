"""Gray pictures stay gray: what the networks give for them in colour is made gray again."""

from __future__ import annotations

import numpy as np

from atelier_runtime.images import PixelArray, RgbArray

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_LEAST_DEVIATION = 1.0  # levels; below it a crop has no contrast that a face could take over


def is_gray(rgb: PixelArray) -> bool:
    """Tell whether every pixel (H, W, 3) has three equal channels."""
    return bool(np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 1], rgb[..., 2]))


def to_gray(rgb: RgbArray) -> RgbArray:
    """Return the luma of a picture (H, W, 3) in each of three channels."""
    return _in_three_channels(rgb.astype(np.float32) @ _LUMA)


def gray_face(restored: RgbArray, crop: RgbArray) -> RgbArray:
    """Return a restored face in gray, with the brightness and the contrast of the crop it was made from.

    Both are (512, 512, 3). CodeFormer imagines colours for a gray face; their luma is a little off. What
    leaves the 8-bit range is cut off. (The reference lets it overflow.)
    """
    luma, source = restored.astype(np.float32) @ _LUMA, crop.astype(np.float32) @ _LUMA
    spread = float(luma.std())
    if spread < _LEAST_DEVIATION:
        return _in_three_channels(luma)
    return _in_three_channels((luma - luma.mean()) * (float(source.std()) / spread) + source.mean())


def _in_three_channels(luma: np.ndarray) -> RgbArray:
    return np.repeat(np.rint(luma).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
