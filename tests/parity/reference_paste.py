"""The reference's way of pasting faces, from its published facts; each of its faults can be switched off.

Works on whole pictures in float64, as the reference does. With all faults on it reproduces the goldens; with
all of them off it is what ours must equal; with one of them on it shows what that one costs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from atelier_restorer.align import TEMPLATE
from tests.parity import recipe

SETS: dict[str, Any] = json.loads((recipe.FOLDER / "goldens" / "geometry.json").read_text("utf-8"))["sets"]


@dataclass(frozen=True)
class Faults:
    """What the reference does wrong when it pastes."""

    half_pixel: bool = False
    """At scales above 1 a face lies half a pixel too far right and down."""
    dark_rim: bool = False
    """The rim cut off a face is black: the image behind it does not contribute to it."""
    truncated: bool = False
    """Levels are truncated instead of rounded."""
    gray_edge: bool = False
    """What a crop contains outside of the image is blended into the image's outermost pixels."""


ALL = Faults(half_pixel=True, dark_rim=True, truncated=True, gray_edge=True)


@dataclass(frozen=True)
class Golden:
    """One of the goldens: the landmark sets of the pasted faces, in the order of pasting."""

    faces: tuple[str, ...]
    scale: int = 1
    parsed: bool = False


GOLDENS = {
    "frontal_up1": Golden(("frontal",)),
    "frontal_up1_parse": Golden(("frontal",), parsed=True),
    "large_up1_parse": Golden(("large",), parsed=True),
    "small_up1": Golden(("small",)),
    "out_tl_up1": Golden(("rotm40_out_tl",)),
    "overlap2_up1": Golden(("frontal", "rot40")),
    "overlap2_up1_parse": Golden(("frontal", "rot40"), parsed=True),
    "frontal_up2": Golden(("frontal",), 2),
    "rot40_up2_parse": Golden(("rot40",), 2, parsed=True),
    "out_br_up2": Golden(("profile_out_br",), 2),
    "three_up2": Golden(("frontal", "small", "rot40"), 2),
}
STEP = {1: 3, 2: 6}
"""The goldens of a scale have one of so many pixels."""


def background() -> np.ndarray:
    """Return the image that all goldens were pasted into, RGB."""
    return recipe.image("background", 1, 480, 640, noise=3)


def restored(number: int) -> np.ndarray:
    """Return what stands in for the number-th restored face, RGB."""
    return recipe.image(f"restored{number}", 1, 512, 512, noise=3)


def upscaled(picture: np.ndarray, factor: float) -> np.ndarray:
    """Return the picture as the reference upscales it: linear."""
    if factor == 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR))


def paste(
    picture: np.ndarray,
    faces: Sequence[tuple[np.ndarray, str]],
    scale: int,
    classes: Sequence[np.ndarray] | None,
    faults: Faults,
) -> np.ndarray:
    """Return the picture with faces (crop, name of its landmarks) pasted, before the cast to 8 bits."""
    result = upscaled(picture, scale).astype(np.float64)
    for number, (crop, name) in enumerate(faces):
        affine, _ = cv2.estimateAffinePartial2D(np.array(SETS[name]["landmarks"]), TEMPLATE, method=cv2.LMEDS)
        matrix = np.asarray(cv2.invertAffineTransform(affine), float) * scale
        if scale > 1:
            matrix[:, 2] += 0.5 * scale if faults.half_pixel else 0.5 * (scale - 1)
        soft, square = masks(
            matrix, result.shape[:2], scale, classes[number] if classes is not None else None
        )
        face = _warped(crop, matrix, result.shape[:2]).astype(np.float64)
        if not faults.gray_edge:
            face = continued_to_the_edge(face, matrix, scale)
        rest = 1 - (soft if faults.dark_rim else soft * square)
        result = (soft * square)[..., None] * face + rest[..., None] * result
    return np.floor(result) if faults.truncated else np.rint(result)


def continued_to_the_edge(face: np.ndarray, matrix: np.ndarray, scale: int) -> np.ndarray:
    """Return a face in the whole image; its last pixels that do not mix with the outside repeat outward."""
    corners = matrix @ np.array([(0, 511, 511, 0), (0, 0, 511, 511), (1, 1, 1, 1)])
    reach = int(np.ceil((scale - 1) / 2 + np.abs(matrix[0, :2]).sum()))  # of the outside, px
    for axis, (low, high) in (
        (1, (corners[0].min(), corners[0].max())),
        (0, (corners[1].min(), corners[1].max())),
    ):
        last = face.shape[axis] - 1
        first_good = reach if low < 0 else 0
        last_good = last - reach if high > last else last
        face = np.take(face, np.clip(np.arange(last + 1), first_good, last_good), axis=axis)
    return face


def masks(
    matrix: np.ndarray, shape: tuple[int, ...], scale: int, classes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of the blend and the once eroded square, both (H, W)."""
    square = cv2.erode(
        _warped(np.ones((512, 512), np.float32), matrix, shape), np.ones((2 * scale, 2 * scale))
    )
    edge = int(np.sqrt(square.sum())) // 20
    inner = cv2.erode(square, np.ones((2 * edge, 2 * edge)))
    soft = np.asarray(cv2.GaussianBlur(inner, (2 * edge + 1, 2 * edge + 1), 0))
    if classes is not None:
        parts = np.where(np.isin(classes, (0, 14, 16, 17, 18)), 0.0, 255.0)
        for _ in range(2):
            parts = np.asarray(cv2.GaussianBlur(parts, (101, 101), 11))
        parts[:10] = parts[-10:] = parts[:, :10] = parts[:, -10:] = 0
        soft = np.minimum(soft, _warped(parts / 255, matrix, shape))
    return soft, np.asarray(square)


def _warped(crop: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(cv2.warpAffine(crop, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR))


def adain_gray(face: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Return a restored face in gray with the crop's statistics, float64 and not clipped, as it is pasted."""
    gray = np.repeat((face @ np.array([0.2989, 0.5870, 0.1140]))[..., None], 3, axis=2)
    mean, deviation = gray.mean(axis=(0, 1)), np.sqrt(gray.var(axis=(0, 1)) + 1e-5)
    style = crop.astype(np.float64)
    style_deviation = np.sqrt(style.var(axis=(0, 1)) + 1e-5)
    return np.asarray((gray - mean) / deviation * style_deviation + style.mean(axis=(0, 1)))
