"""Gray and toned pictures stay so: what the networks imagine for them in colour is put into their tone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atelier_runtime.images import PixelArray, RgbArray

Recolouring = Callable[[RgbArray, RgbArray], RgbArray]
"""Puts a restored face into the tone of the crop it was made from, both (512, 512, 3)."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_TONED_VARIANCE = 10.0  # squared levels; the reference's
_SAMPLED_SIDE = 1024
_LEAST_DEVIATION = 1.0  # levels; below it a face has no contrast that could be scaled


def is_gray(rgb: PixelArray) -> bool:
    """Tell whether every pixel (H, W, 3) has three equal channels."""
    return bool(np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 1], rgb[..., 2]))


def recolouring(rgb: RgbArray, gray: bool) -> Recolouring | None:
    """Return what is to be done to the restored faces of a picture (H, W, 3); None: nothing, it has colours.

    A picture is gray if it is known to be (`gray`), and toned, such as a sepia print or a scan of a gray one,
    if the channels differ by nearly the same everywhere. That is seen in a sample of its pixels.
    """
    if gray:
        return gray_face
    rows, columns = (-(-side // _SAMPLED_SIDE) for side in rgb.shape[:2])
    red, green, blue = np.moveaxis(rgb[::rows, ::columns].astype(np.float32), 2, 0)
    variances = [(a - b).var() for a, b in ((red, green), (green, blue), (blue, red))]
    return toned_face if np.mean(variances) <= _TONED_VARIANCE else None


def to_gray(rgb: RgbArray) -> RgbArray:
    """Return the luma of a picture (H, W, 3) in each of three channels."""
    return _gray_pixels(_luma(rgb))


def gray_face(restored: RgbArray, crop: RgbArray) -> RgbArray:
    """Return a restored face in gray, with the brightness and the contrast of its crop.

    CodeFormer imagines colours for a gray face; their luma is a little off. What leaves the 8-bit range is
    cut off. (The reference lets it overflow.)
    """
    return _gray_pixels(_matched(_luma(restored), _luma(crop)))


def toned_face(restored: RgbArray, crop: RgbArray) -> RgbArray:
    """Return a restored face in gray, with the brightness and the contrast of its crop in each channel."""
    luma = _luma(restored)
    channels = [_matched(luma, crop[..., channel].astype(np.float32)) for channel in range(3)]
    return np.rint(np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8)


def _luma(rgb: RgbArray) -> np.ndarray:
    return np.asarray(rgb.astype(np.float32) @ _LUMA)


def _matched(luma: np.ndarray, source: np.ndarray) -> np.ndarray:
    spread = max(float(luma.std()), _LEAST_DEVIATION)
    return np.asarray((luma - luma.mean()) * (float(source.std()) / spread) + source.mean())


def _gray_pixels(luma: np.ndarray) -> RgbArray:
    return np.repeat(np.rint(luma).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
