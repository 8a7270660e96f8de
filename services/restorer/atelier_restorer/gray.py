"""Keeps gray and toned images as they are: the colors that networks invent are converted to their tone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atelier_runtime.images import PixelArray, RgbArray

Recoloring = Callable[[RgbArray, RgbArray], RgbArray]
"""Converts a restored face to the tone of the crop that it was made from, both (512, 512, 3)."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_TONED_VARIANCE = 10.0  # squared levels, as in the reference
_SAMPLED_SIDE = 1024
_MIN_DEVIATION = 1.0  # levels; below this a face has no contrast to scale


def is_gray(rgb: PixelArray) -> bool:
    """Return whether every pixel (H, W, 3) has three equal channels."""
    return bool(np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 1], rgb[..., 2]))


def recoloring(rgb: RgbArray, gray: bool) -> Recoloring | None:
    """Return how to recolor the restored faces of an image (H, W, 3); None if it is in color.

    An image is gray if it is known to be (`gray`). It is toned, like a sepia print or a scan of a gray one,
    if its channels differ by nearly the same amount everywhere, which is judged by a sample of its pixels.
    """
    if gray:
        return gray_face
    rows, columns = (-(-side // _SAMPLED_SIDE) for side in rgb.shape[:2])
    red, green, blue = np.moveaxis(rgb[::rows, ::columns].astype(np.float32), 2, 0)
    variances = [(a - b).var() for a, b in ((red, green), (green, blue), (blue, red))]
    return toned_face if np.mean(variances) <= _TONED_VARIANCE else None


def to_gray(rgb: RgbArray) -> RgbArray:
    """Return the luma of an image (H, W, 3) in each of three channels."""
    return _gray_pixels(_luma(rgb))


def gray_face(restored: RgbArray, crop: RgbArray) -> RgbArray:
    """Return a restored face in gray, with the brightness and the contrast of its crop.

    CodeFormer invents colors for a gray face, whose luma is slightly off. Values outside the 8-bit range are
    clipped. (The reference lets them overflow.)
    """
    return _gray_pixels(_match_statistics(_luma(restored), _luma(crop)))


def toned_face(restored: RgbArray, crop: RgbArray) -> RgbArray:
    """Return a restored face in gray, with the brightness and the contrast of its crop in each channel."""
    luma = _luma(restored)
    channels = [_match_statistics(luma, crop[..., channel].astype(np.float32)) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8))


def _luma(rgb: RgbArray) -> np.ndarray:
    return np.asarray(rgb.astype(np.float32) @ _LUMA)


def _match_statistics(luma: np.ndarray, source: np.ndarray) -> np.ndarray:
    spread = max(float(luma.std()), _MIN_DEVIATION)
    return np.asarray((luma - luma.mean()) * (float(source.std()) / spread) + source.mean())


def _gray_pixels(luma: np.ndarray) -> RgbArray:
    return np.repeat(np.rint(luma).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
