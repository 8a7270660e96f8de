"""Pastes restored crops back into the image with feathered masks; pixels outside a mask are not touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.neighbors import PastedFace, face_center, leave_to_neighbors
from atelier_runtime.images import PixelArray

# Classes of CelebAMask-HQ: 0 background, 1 skin, 2 nose, 3 glasses, 4 5 eyes, 6 7 brows, 8 9 ears, 10 mouth,
# 11 12 lips, 13 hair, 14 hat, 15 earring, 16 necklace, 17 neck, 18 clothes.
_ORIGINAL_CLASSES = (0, 14, 16, 17, 18)
_PARTS_SIGMA_PX = 11 * math.sqrt(2)  # the reference's two Gaussians of 11 px, combined
_BORDER_PX = 10

# Wide blurs run on a mask downscaled by these factors: their result has no finer detail.
_PARTS_DOWNSCALE = 4
_FEATHER_DOWNSCALE = 1 / 8  # per px of the feather

_FEATHERS_PER_SIDE = 20
_MIN_CROP_MASK_FEATHER_PX = 18  # below this, a mask computed in the crop ignores the image's pixel grid

_Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in the image; the last two are exclusive


class _WarpedFace(NamedTuple):
    """A face warped into the image: its rectangle, its pixels, uint8 (h, w, 3), and its mask (h, w)."""

    area: _Rectangle
    face: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def paste_face(
    image: PixelArray,
    mask: NDArray[np.uint8] | None,
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    visibility: float = 1.0,
    parts: NDArray[np.uint8] | None = None,
    neighbors: Sequence[PastedFace] = (),
) -> PastedFace | None:
    """Blend an aligned `crop` (512, 512, 3) into `image` (H, W, 3) of 8 or 16 bits, in place.

    Returns what it covers; None if no pixel has changed. If `visibility` is too low for that, `mask` stays as
    it is.

    The face's 8-bit mask is its feathered square times `visibility` (0 to 1); a pixel whose mask is 0 keeps
    its exact value. That mask is composited over `mask` (H, W). Time and memory grow with the face's
    rectangle, not with the image. A face may extend beyond the image or lie outside it.

    Args:
        image: The image, already upscaled `scale` times.
        mask: What has been changed so far; None: not needed.
        crop: The restored face.
        matrix: Crop to image, from `align.crop_to_picture`.
        scale: 1, 2 or 4; the border that is cut off the square grows with it.
        visibility: Opacity of the restored face.
        parts: Where in the crop the blend may happen, from `soften_parts`; None: everywhere.
        neighbors: Faces that are not to be covered: what they cover and is closer to one of them than to this
            face, each in the distance of its own eyes, is left to it.
    """
    square = _square_in_image(matrix)
    left, top, right, bottom = square
    height, width = image.shape[:2]
    contained = left >= 0 and top >= 0 and right <= width and bottom <= height
    feather = _feather_px(matrix, scale)
    if contained and feather >= _MIN_CROP_MASK_FEATHER_PX:
        warped = _warp_contained(crop, matrix, scale, feather, parts)
    else:
        area = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if area[0] >= area[2] or area[1] >= area[3]:
            return None
        warped = _warp_clipped(crop, matrix, area, image.shape, scale, parts)
    if warped is None:
        return None
    (left, top, right, bottom), face, alpha = warped
    center = face_center(matrix)
    leave_to_neighbors(alpha, (left, top), center, neighbors)
    alpha = _scale_mask(alpha, visibility)
    if not alpha.any():
        return None
    target = image[top:bottom, left:right]
    blended = _blend(target, face, alpha)
    if visibility < 1 and np.array_equal(blended, target):
        return None
    target[...] = blended
    pasted = PastedFace(center, (left, top), alpha)
    if mask is None:
        return pasted
    layer = mask[top:bottom, left:right]
    rest = (255 - layer.astype(np.uint16)) * (255 - alpha.astype(np.uint16)) // 255
    layer[...] = (255 - rest).astype(np.uint8)
    return pasted


def blend_aligned(
    image: PixelArray,
    crop: NDArray[np.uint8],
    visibility: float = 1.0,
    parts: NDArray[np.uint8] | None = None,
) -> tuple[PixelArray, NDArray[np.uint8]]:
    """Blend a restored face into the aligned image that it was made from, both (512, 512, 3).

    Returns the new image and its 8-bit mask (512, 512). Arguments as in `paste_face`, but there is no square
    to feather: without `parts` the mask is `visibility` everywhere. It is 0 if that is too
    low to change a pixel.
    """
    everywhere = np.full(crop.shape[:2], 255, np.uint8)
    alpha = _scale_mask(everywhere if parts is None else parts, visibility)
    blended = _blend(image, crop, alpha)
    unchanged = visibility < 1 and np.array_equal(blended, image)
    return blended, np.zeros_like(alpha) if unchanged else alpha


def restored_parts(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the mask of the pixels to replace, given ParseNet's classes (512, 512) of a crop.

    Skin, facial features, glasses, ears, earrings and hair are replaced; background, hat, necklace, neck and
    clothes keep the image's pixels.
    """
    restored = np.ones(256, np.uint8)
    restored[list(_ORIGINAL_CLASSES)] = 0
    return np.asarray(cv2.LUT(classes, restored)).view(np.bool_)


def soften_parts(parts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the parts of a crop (512, 512) as an 8-bit mask with soft edges, 0 along the crop's border.

    The widths are the reference's: two Gaussians of 11 px, and a border of 10 px.
    """
    levels = np.multiply(parts.view(np.uint8), np.uint8(255))
    half = cv2.resize(levels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # Halved twice, which takes OpenCV a sixth of the time of quartering once.
    small = cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # In 32 bits: in 8 OpenCV truncates the Gaussian earlier and rounds twice.
    small = cv2.GaussianBlur(
        small.astype(np.float32), (0, 0), _downscaled_sigma(_PARTS_SIGMA_PX, _PARTS_DOWNSCALE)
    )
    soft = cv2.resize(cv2.convertScaleAbs(small), parts.shape, interpolation=cv2.INTER_LINEAR)
    for border in (
        soft[:_BORDER_PX],
        soft[-_BORDER_PX:],
        soft[:, :_BORDER_PX],
        soft[:, -_BORDER_PX:],
    ):
        border[...] = 0
    return np.asarray(soft, np.uint8)


def _blend(image: PixelArray, face: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> PixelArray:
    """Blend image and face (H, W, 3) by the 8-bit mask (H, W), rounded to the image's depth."""
    if image.dtype == np.uint8:
        weight = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
        total = np.multiply(face, weight, dtype=np.uint16)
        total += np.multiply(image, cv2.bitwise_not(weight), dtype=np.uint16)
        return np.asarray(cv2.convertScaleAbs(total, alpha=1 / 255), np.uint8)
    weight = alpha.astype(np.float32)  # 0 to 255: against such sums the 1e-5 that OpenCV adds is negligible
    levels = np.float32(np.iinfo(image.dtype).max // 255)  # of the image per level of the face: 257
    deep = face.astype(np.float32) * levels
    return np.rint(cv2.blendLinear(deep, image.astype(np.float32), weight, 255 - weight)).astype(image.dtype)


def _to_8_bit(soft: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a mask of 0 to 1 in 8 bits, rounded."""
    return np.asarray(cv2.convertScaleAbs(soft, alpha=255.0), np.uint8)


def _scale_mask(mask: NDArray[np.uint8], visibility: float) -> NDArray[np.uint8]:
    """Return an 8-bit mask times a visibility (0 to 1), rounded."""
    return mask if visibility == 1 else np.asarray(cv2.convertScaleAbs(mask, alpha=visibility), np.uint8)


def _square_in_image(
    matrix: NDArray[np.float64], width: int = CROP_SIZE, height: int = CROP_SIZE
) -> _Rectangle:
    """Return the rectangle of the image that a crop of a size covers; it may extend beyond the image.

    Linear interpolation makes it one pixel of the crop larger than its corners.
    """
    margin = 1 + math.ceil(math.hypot(matrix[0, 0], matrix[1, 0]))
    right, bottom = width - 1, height - 1
    corners = matrix @ np.array([(0, right, right, 0), (0, 0, bottom, bottom), (1, 1, 1, 1)], np.float64)
    low = np.floor(corners.min(axis=1)) - margin
    high = np.ceil(corners.max(axis=1)) + margin + 1
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _warp_contained(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    feather: int,
    parts: NDArray[np.uint8] | None,
) -> _WarpedFace | None:
    """Warp a face whose square lies entirely inside the image; None if nothing of it is visible.

    Such a square is not clipped, so its mask is computed in the crop, at a cost that does not depend on the
    face's size in the image, and both are warped at once.
    """
    left, top, right, bottom = 0, 0, CROP_SIZE, CROP_SIZE
    if parts is not None:  # they fill half of the crop
        x, y, width, height = cv2.boundingRect(parts)
        if width == 0:
            return None
        left, top = max(x - 1, 0), max(y - 1, 0)
        right, bottom = min(x + width + 1, CROP_SIZE), min(y + height + 1, CROP_SIZE)
        parts = parts[top:bottom, left:right]
    across, down = _profiles(matrix, scale, feather)
    mask = _to_8_bit(np.multiply.outer(down[top:bottom], across[left:right]))
    # If the parts are nowhere above the square's mask, they are the minimum of the two: one warp is enough.
    if parts is not None and (parts <= mask).all():
        mask, parts = parts, None
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (left, top)
    area = _square_in_image(shifted, right - left, bottom - top)
    both = cv2.insertChannel(mask, _to_rgba(crop[top:bottom, left:right]), 3)
    warped = _warp(np.asarray(both), shifted, area)
    alpha = cv2.extractChannel(warped, 3)
    if parts is not None:  # the minimum of the two has a crease, which would be warped less accurately
        alpha = cv2.min(alpha, _warp(parts, shifted, area))
    return _WarpedFace(area, _to_rgb(warped), np.asarray(alpha, np.uint8))


def _warp_clipped(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    area: _Rectangle,
    shape: tuple[int, ...],
    scale: int,
    parts: NDArray[np.uint8] | None,
) -> _WarpedFace | None:
    """Warp a face into `area`, clipped at the image's edges; None if nothing of it is visible."""
    alpha = _to_8_bit(_feathered_square(matrix, area, scale))
    if parts is not None:
        alpha = np.asarray(cv2.min(alpha, _warp(parts, matrix, area)), np.uint8)
    x, y, width, height = cv2.boundingRect(alpha)
    if width == 0:
        return None
    left, top = area[0] + x, area[1] + y
    area = (left, top, left + width, top + height)
    face = _warp_face(crop, matrix, area, shape, scale)
    return _WarpedFace(area, face, alpha[y : y + height, x : x + width])


def _warp(
    pixels: NDArray[Any], matrix: NDArray[np.float64], area: _Rectangle, inset_px: int = 0
) -> NDArray[Any]:
    """Return `area` of the image with a crop warped into it, 0 elsewhere; `inset_px`: the crop's border."""
    left, top, right, bottom = area
    local = matrix.copy()
    local[:, 2] -= matrix[:, :2].sum(axis=1) * inset_px + (left, top)
    return np.asarray(cv2.warpAffine(pixels, local, (right - left, bottom - top), flags=cv2.INTER_LINEAR))


def _to_rgba(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB with a fourth channel: OpenCV warps four in half of the time that it takes for three."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), np.uint8)


def _to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)


def _warp_face(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    area: _Rectangle,
    shape: tuple[int, ...],
    scale: int,
) -> NDArray[np.uint8]:
    """Return the face's pixels in `area`, valid ones up to the image's edge.

    Beyond the centers of the image's outermost pixels a crop contains filling, and interpolation blends it in
    for one more pixel of the crop: a face that extends beyond the image would end in a gray line. The last
    valid pixels are repeated there.
    """
    # The square's edge is interpolated with this border; warpAffine's own border takes twice the time.
    bordered = cv2.copyMakeBorder(_to_rgba(crop), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    face = _to_rgb(_warp(np.asarray(bordered), matrix, area, inset_px=1))
    left, top, right, bottom = area
    invalid = math.ceil((scale - 1) / 2 + abs(matrix[0, 0]) + abs(matrix[0, 1]))
    x0, x1 = (invalid if left == 0 else 0), (invalid if right == shape[1] else 0)
    y0, y1 = (invalid if top == 0 else 0), (invalid if bottom == shape[0] else 0)
    valid = face[y0 : face.shape[0] - y1, x0 : face.shape[1] - x1]
    if valid.shape == face.shape or valid.size == 0:
        return face
    return np.asarray(cv2.copyMakeBorder(valid, y0, y1, x0, x1, cv2.BORDER_REPLICATE), np.uint8)


def _feathered_square(matrix: NDArray[np.float64], area: _Rectangle, scale: int) -> NDArray[np.float32]:
    """Return the mask (0 to 1) of the crop's square, its border cut off and then feathered.

    The widths are the reference's: a border of 2 px times `scale`, then a feather of a twentieth of the
    square's visible side. Nothing is cut off at the image's own edge: a face that extends beyond it is kept.
    """
    ones = np.ones((CROP_SIZE, CROP_SIZE), np.float32)
    square = _erode(_warp(ones, matrix, area), 2 * scale)
    feather = int(math.sqrt(cv2.sumElems(square)[0])) // _FEATHERS_PER_SIDE
    # A face of under 20 px has no room for a feather; there the reference ends up with 3.
    inner = _erode(square, 2 * feather or 3)
    soft = _feather(inner, feather) if feather else inner
    return np.asarray(cv2.multiply(soft, square), np.float32)


def _feather_px(matrix: NDArray[np.float64], scale: int) -> int:
    """Return the feather of a square that is not clipped: a twentieth of its side without the border."""
    extent = abs(matrix[0, 0]) + abs(matrix[1, 0])
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    return int(CROP_SIZE * zoom - (2 * scale - 1) * extent / zoom) // _FEATHERS_PER_SIDE


def _profiles(
    matrix: NDArray[np.float64], scale: int, feather: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return profiles across and down the crop (512,); their product is its unclipped `_feathered_square`.

    Eroding a rotated square by an upright one moves its sides inward, and a Gaussian is rotation-invariant.
    """
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    reach = max(1, round(feather / zoom))
    sigma = (0.3 * (feather - 1) + 0.8) / zoom  # what OpenCV would use in the image
    profiles = []
    for x, y in matrix[:, :2].T / zoom**2:
        outer, inner = np.zeros(2), np.zeros(2)
        for number, side in enumerate((2 * scale, 2 * feather)):
            before, after = side // 2, side - 1 - side // 2  # an even side reaches one pixel further back
            low = sum(before * step if step > 0 else after * -step for step in (x, y))
            high = sum(after * step if step > 0 else before * -step for step in (x, y))
            inner += (low, high)
            if number == 0:
                outer += (low, high)
        blurred = cv2.GaussianBlur(_ramps(*inner), (2 * reach + 1, 1), sigma)
        profiles.append(np.asarray(blurred[0] * _ramps(*outer)[0], np.float32))
    return profiles[0], profiles[1]


def _ramps(low_px: float, high_px: float) -> NDArray[np.float32]:
    """Return a profile (1, 512) across the crop: 1, and a linear ramp to 0 where its ends are cut off."""
    position = np.arange(CROP_SIZE, dtype=np.float32)
    ends = np.minimum(position + 1 - low_px, CROP_SIZE - position - high_px)
    return np.asarray(np.clip(ends, 0, 1)[None], np.float32)


def _feather(mask: NDArray[np.float32], feather: int) -> NDArray[np.float32]:
    factor = int(feather * _FEATHER_DOWNSCALE)
    if factor < 2:
        return np.asarray(cv2.GaussianBlur(mask, (2 * feather + 1, 2 * feather + 1), 0), np.float32)
    return _blur_downscaled(mask, 0.3 * (feather - 1) + 0.8, factor)  # the sigma that OpenCV would use


def _blur_downscaled(mask: NDArray[np.float32], sigma_px: float, factor: int) -> NDArray[np.float32]:
    """Blur a mask with a Gaussian on a copy that is `factor` times smaller."""
    height, width = mask.shape
    size = (-(-width // factor), -(-height // factor))
    small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), _downscaled_sigma(sigma_px, factor))
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _downscaled_sigma(sigma_px: float, factor: int) -> float:
    """Return the Gaussian's sigma in px of a copy that is `factor` times smaller.

    Downscaling and upscaling blur by half a pixel of that copy, so the Gaussian blurs that much less.
    """
    return math.sqrt((sigma_px / factor) ** 2 - 0.25)


def _erode(mask: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.erode(mask, np.ones((side, side), np.uint8)), np.float32)
