"""Put restored crops back where they came from, with soft edges, touching nothing else."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE
from atelier_runtime.images import PixelArray

_MARGIN_PX = 2  # what linear interpolation may reach beyond the square's corners

# Classes of CelebAMask-HQ: 0 background, 1 skin, 2 nose, 3 glasses, 4 5 eyes, 6 7 brows, 8 9 ears, 10 mouth,
# 11 12 lips, 13 hair, 14 hat, 15 ear ring, 16 necklace, 17 neck, 18 cloth.
_KEPT_CLASSES = (0, 14, 16, 17, 18)
_BLUR_PX, _BLUR_SIGMA_PX = 101, 11.0
_RIM_PX = 10


def paste_face(
    picture: PixelArray,
    mask: NDArray[np.uint8],
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    visibility: float = 1.0,
    parts: NDArray[np.float32] | None = None,
) -> None:
    """Blend an aligned ``crop`` (512, 512, 3) into ``picture`` (H, W, 3) of 8 or 16 bits, in place.

    The blend uses the face's own 8-bit mask, ``visibility`` (0 to 1) times its soft square; a pixel whose
    mask is 0 keeps its value exactly. That mask is added to ``mask`` (H, W) as one more translucent layer.
    Work and memory grow with the face's rectangle, not with the picture. A face may lie half or wholly
    outside.

    Args:
        picture: The picture, enlarged ``scale`` times already.
        mask: What was changed so far.
        crop: The restored face.
        matrix: Crop to picture, from :func:`atelier_restorer.align.crop_to_picture`.
        scale: 1, 2 or 4; the rim that is cut off the square grows with it.
        visibility: Share of the restored face in the blend.
        parts: Where in the crop the blend may happen, from :func:`soften_parts`; None: everywhere.
    """
    area = _rectangle(matrix, picture.shape[1], picture.shape[0])
    if area is None:
        return
    left, top, right, bottom = area
    size = (right - left, bottom - top)
    local = matrix.copy()
    local[:, 2] -= (left, top)
    soft = _soft_square(local, size, scale, parts)
    alpha = np.rint(soft * (255.0 * visibility)).astype(np.uint8)
    face = cv2.warpAffine(crop, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    target = picture[top:bottom, left:right]
    target[...] = _blended(target, np.asarray(face, np.uint8), alpha)
    layer = mask[top:bottom, left:right]
    rest = (255 - layer.astype(np.uint16)) * (255 - alpha.astype(np.uint16)) // 255
    layer[...] = (255 - rest).astype(np.uint8)


def blend_aligned(
    picture: PixelArray,
    crop: NDArray[np.uint8],
    visibility: float = 1.0,
    parts: NDArray[np.float32] | None = None,
) -> tuple[PixelArray, NDArray[np.uint8]]:
    """Blend a restored face into the aligned picture it was made from, both (512, 512, 3).

    Returns the new picture and its 8-bit mask (512, 512). Arguments as in :func:`paste_face`, but there is
    no square to feather: without ``parts`` the mask is ``visibility`` all over.
    """
    everywhere = np.ones(crop.shape[:2], np.float32)
    alpha = np.rint((everywhere if parts is None else parts) * (255.0 * visibility)).astype(np.uint8)
    return _blended(picture, crop, alpha), alpha


def restored_parts(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which pixels of a parsed crop belong to the restored face, of ParseNet's classes (512, 512).

    Skin, features, glasses, ears, ear rings and hair do; background, hat, necklace, neck and clothes keep
    what the picture had.
    """
    return ~np.isin(classes, _KEPT_CLASSES)


def soften_parts(parts: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a crop's restored parts (512, 512) as a mask 0 to 1 with soft edges, 0 along the crop's rim.

    The widths are the reference's: two Gaussians of 11 px, cut off 10 px from the rim.
    """
    soft = parts.astype(np.float32)
    for _ in range(2):
        soft = np.asarray(cv2.GaussianBlur(soft, (_BLUR_PX, _BLUR_PX), _BLUR_SIGMA_PX), np.float32)
    for rim in (soft[:_RIM_PX], soft[-_RIM_PX:], soft[:, :_RIM_PX], soft[:, -_RIM_PX:]):
        rim[...] = 0.0
    return soft


def _blended(picture: PixelArray, face: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> PixelArray:
    """Return picture (H, W, 3) and face mixed by the mask (H, W), rounded to the picture's depth."""
    share = alpha[..., None].astype(np.float32) / 255.0
    levels = np.float32(np.iinfo(picture.dtype).max // 255)  # of the picture in one of the face: 1 or 257
    blended = picture + share * (face.astype(np.float32) * levels - picture)
    return np.rint(blended).astype(picture.dtype)


def _rectangle(matrix: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of the crop's square within the picture, None if it is outside."""
    end = CROP_SIZE - 1
    corners = matrix @ np.array([(0, end, end, 0), (0, 0, end, end), (1, 1, 1, 1)], dtype=np.float64)
    low = np.floor(corners.min(axis=1)) - _MARGIN_PX
    high = np.ceil(corners.max(axis=1)) + _MARGIN_PX + 1
    left, top = (int(max(0, value)) for value in low)
    right, bottom = int(min(width, high[0])), int(min(height, high[1]))
    if left >= right or top >= bottom:
        return None
    return left, top, right, bottom


def _soft_square(
    matrix: NDArray[np.float64], size: tuple[int, int], scale: int, parts: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return the crop's square as a mask 0 to 1 whose rim is cut and then feathered, within the parts.

    The widths are the reference's: 2 px an enlargement off the rim, then a feather of a twentieth of the
    square's visible side. Beyond the picture's edge nothing is cut: a face that runs out stays whole there.
    """
    ones = np.ones((CROP_SIZE, CROP_SIZE), np.float32)
    square = _eroded(_warped(ones, matrix, size), 2 * scale)
    edge = int(math.sqrt(float(square.sum(dtype=np.float64)))) // 20
    # A face of under 20 px has no room for a feather; 3 is what the reference comes to there.
    soft = _eroded(square, 2 * edge or 3)
    if edge:
        soft = np.asarray(cv2.GaussianBlur(soft, (2 * edge + 1, 2 * edge + 1), 0), np.float32)
    if parts is not None:
        soft = np.minimum(soft, _warped(parts, matrix, size))
    return np.asarray(soft * square, dtype=np.float32)


def _warped(
    mask: NDArray[np.float32], matrix: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    return np.asarray(cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR), dtype=np.float32)


def _eroded(mask: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.erode(mask, np.ones((side, side), np.uint8)), dtype=np.float32)
