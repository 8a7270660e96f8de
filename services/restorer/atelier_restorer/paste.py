"""Put restored crops back where they came from, with soft edges, touching nothing else."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier_restorer.align import CROP_SIZE
from atelier_runtime.images import PixelArray

# Classes of CelebAMask-HQ: 0 background, 1 skin, 2 nose, 3 glasses, 4 5 eyes, 6 7 brows, 8 9 ears, 10 mouth,
# 11 12 lips, 13 hair, 14 hat, 15 ear ring, 16 necklace, 17 neck, 18 cloth.
_KEPT_CLASSES = (0, 14, 16, 17, 18)
_PARTS_SIGMA_PX = 11 * math.sqrt(2)  # the reference's two Gaussians of 11 px in one
_RIM_PX = 10

# Wide blurs are done on a mask that is shrunk by so many px: what they leave has no finer detail.
_PARTS_SHRINK = 4
_FEATHER_SHRINK = 1 / 8  # of the feather's px

_FEATHERS_A_SIDE = 20
_LEAST_SMOOTH_FEATHER_PX = 18  # a mask made in a crop that is shrunk much more knows nothing of the pixels

_Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in the picture; the last two are beyond it


class _Drawn(NamedTuple):
    """A face as the picture shows it, uint8 (h, w, 3), its mask (h, w), and where in the picture that is."""

    area: _Rectangle
    face: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def paste_face(
    picture: PixelArray,
    mask: NDArray[np.uint8] | None,
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    visibility: float = 1.0,
    parts: NDArray[np.uint8] | None = None,
) -> None:
    """Blend an aligned ``crop`` (512, 512, 3) into ``picture`` (H, W, 3) of 8 or 16 bits, in place.

    The blend uses the face's own 8-bit mask, ``visibility`` (0 to 1) times its soft square; a pixel whose
    mask is 0 keeps its value exactly. That mask is added to ``mask`` (H, W) as one more translucent layer.
    Work and memory grow with the face's rectangle, not with the picture. A face may lie half or wholly
    outside.

    Args:
        picture: The picture, enlarged ``scale`` times already.
        mask: What was changed so far; None if nobody wants to know.
        crop: The restored face.
        matrix: Crop to picture, from :func:`atelier_restorer.align.crop_to_picture`.
        scale: 1, 2 or 4; the rim that is cut off the square grows with it.
        visibility: Share of the restored face in the blend.
        parts: Where in the crop the blend may happen, from :func:`soften_parts`; None: everywhere.
    """
    square = _square_in_picture(matrix)
    left, top, right, bottom = square
    height, width = picture.shape[:2]
    whole = left >= 0 and top >= 0 and right <= width and bottom <= height
    feather = _feather_px(matrix, scale)
    if whole and feather >= _LEAST_SMOOTH_FEATHER_PX:
        drawn = _drawn_whole(crop, matrix, scale, feather, parts)
    else:
        area = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if area[0] >= area[2] or area[1] >= area[3]:
            return
        drawn = _drawn_cut(crop, matrix, area, picture.shape, scale, parts)
    if drawn is None:
        return
    (left, top, right, bottom), face, alpha = drawn
    alpha = _dimmed(alpha, visibility)
    target = picture[top:bottom, left:right]
    target[...] = _blended(target, face, alpha)
    if mask is None:
        return
    layer = mask[top:bottom, left:right]
    rest = (255 - layer.astype(np.uint16)) * (255 - alpha.astype(np.uint16)) // 255
    layer[...] = (255 - rest).astype(np.uint8)


def blend_aligned(
    picture: PixelArray,
    crop: NDArray[np.uint8],
    visibility: float = 1.0,
    parts: NDArray[np.uint8] | None = None,
) -> tuple[PixelArray, NDArray[np.uint8]]:
    """Blend a restored face into the aligned picture it was made from, both (512, 512, 3).

    Returns the new picture and its 8-bit mask (512, 512). Arguments as in :func:`paste_face`, but there is
    no square to feather: without ``parts`` the mask is ``visibility`` all over.
    """
    everywhere = np.full(crop.shape[:2], 255, np.uint8)
    alpha = _dimmed(everywhere if parts is None else parts, visibility)
    return _blended(picture, crop, alpha), alpha


def restored_parts(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which pixels of a parsed crop belong to the restored face, of ParseNet's classes (512, 512).

    Skin, features, glasses, ears, ear rings and hair do; background, hat, necklace, neck and clothes keep
    what the picture had.
    """
    restored = np.ones(256, np.uint8)
    restored[list(_KEPT_CLASSES)] = 0
    return np.asarray(cv2.LUT(classes, restored)).view(np.bool_)


def soften_parts(parts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a crop's restored parts (512, 512) as an 8-bit mask with soft edges, 0 along the crop's rim.

    The widths are the reference's: two Gaussians of 11 px, cut off 10 px from the rim.
    """
    levels = np.multiply(parts.view(np.uint8), np.uint8(255))
    half = cv2.resize(levels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # Halved twice: that takes OpenCV a sixth of the time of a quarter at once.
    small = cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    # In 32 bits: in 8 OpenCV cuts the Gaussian off earlier and rounds twice.
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), _small_sigma(_PARTS_SIGMA_PX, _PARTS_SHRINK))
    soft = cv2.resize(cv2.convertScaleAbs(small), parts.shape, interpolation=cv2.INTER_LINEAR)
    for rim in (soft[:_RIM_PX], soft[-_RIM_PX:], soft[:, :_RIM_PX], soft[:, -_RIM_PX:]):
        rim[...] = 0
    return np.asarray(soft, np.uint8)


def _blended(picture: PixelArray, face: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> PixelArray:
    """Return picture (H, W, 3) and face mixed by the mask (H, W), rounded to the picture's depth."""
    if picture.dtype == np.uint8:
        share = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
        total = np.multiply(face, share, dtype=np.uint16)
        total += np.multiply(picture, cv2.bitwise_not(share), dtype=np.uint16)
        return np.asarray(cv2.convertScaleAbs(total, alpha=1 / 255), np.uint8)
    share = alpha.astype(np.float32)  # 0 to 255: beside such sums the 1e-5 that OpenCV adds is nothing
    levels = np.float32(np.iinfo(picture.dtype).max // 255)  # of the picture in one of the face: 257
    wide = face.astype(np.float32) * levels
    return np.rint(cv2.blendLinear(wide, picture.astype(np.float32), share, 255 - share)).astype(
        picture.dtype
    )


def _levels(soft: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a mask 0 to 1 in 8 bits, rounded."""
    return np.asarray(cv2.convertScaleAbs(soft, alpha=255.0), np.uint8)


def _dimmed(mask: NDArray[np.uint8], visibility: float) -> NDArray[np.uint8]:
    """Return an 8-bit mask times a visibility (0 to 1), rounded."""
    return mask if visibility == 1 else np.asarray(cv2.convertScaleAbs(mask, alpha=visibility), np.uint8)


def _square_in_picture(
    matrix: NDArray[np.float64], width: int = CROP_SIZE, height: int = CROP_SIZE
) -> _Rectangle:
    """Return what a crop of a size reaches in the picture, and beyond its edges.

    Linear interpolation draws it one pixel of the crop larger than its corners.
    """
    margin = 1 + math.ceil(math.hypot(matrix[0, 0], matrix[1, 0]))
    right, bottom = width - 1, height - 1
    corners = matrix @ np.array([(0, right, right, 0), (0, 0, bottom, bottom), (1, 1, 1, 1)], np.float64)
    low = np.floor(corners.min(axis=1)) - margin
    high = np.ceil(corners.max(axis=1)) + margin + 1
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _drawn_whole(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    scale: int,
    feather: int,
    parts: NDArray[np.uint8] | None,
) -> _Drawn | None:
    """Draw a face that lies in the picture with all of its square; None if nothing of it shows.

    Nothing cuts such a square, so its mask is made in the crop, which costs the same however large the face
    is in the picture, and both are drawn at once.
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
    mask = _levels(np.multiply.outer(down[top:bottom], across[left:right]))
    # Where parts end before the square does, the lower of the two is theirs; no need to draw both.
    if parts is not None and (parts <= mask).all():
        mask, parts = parts, None
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (left, top)
    area = _square_in_picture(shifted, right - left, bottom - top)
    both = cv2.insertChannel(mask, _four_channels(crop[top:bottom, left:right]), 3)
    drawn = _drawn(np.asarray(both), shifted, area)
    alpha = cv2.extractChannel(drawn, 3)
    if parts is not None:  # the lower of the two has a crease, which is drawn less well
        alpha = cv2.min(alpha, _drawn(parts, shifted, area))
    return _Drawn(area, _three_channels(drawn), np.asarray(alpha, np.uint8))


def _drawn_cut(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    area: _Rectangle,
    shape: tuple[int, ...],
    scale: int,
    parts: NDArray[np.uint8] | None,
) -> _Drawn | None:
    """Draw a face in that part of the picture, cut off at its edges; None if nothing of it shows."""
    alpha = _levels(_soft_square(matrix, area, scale))
    if parts is not None:
        alpha = np.asarray(cv2.min(alpha, _drawn(parts, matrix, area)), np.uint8)
    x, y, width, height = cv2.boundingRect(alpha)
    if width == 0:
        return None
    left, top = area[0] + x, area[1] + y
    area = (left, top, left + width, top + height)
    face = _drawn_face(crop, matrix, area, shape, scale)
    return _Drawn(area, face, alpha[y : y + height, x : x + width])


def _drawn(
    pixels: NDArray[Any], matrix: NDArray[np.float64], area: _Rectangle, inset_px: int = 0
) -> NDArray[Any]:
    """Return a part of the picture with a crop drawn in it, 0 beyond; of the crop so many px are border."""
    left, top, right, bottom = area
    local = matrix.copy()
    local[:, 2] -= matrix[:, :2].sum(axis=1) * inset_px + (left, top)
    return np.asarray(cv2.warpAffine(pixels, local, (right - left, bottom - top), flags=cv2.INTER_LINEAR))


def _four_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB with a fourth channel: OpenCV draws four in half of the time that it takes for three."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), np.uint8)


def _three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)


def _drawn_face(
    crop: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    area: _Rectangle,
    shape: tuple[int, ...],
    scale: int,
) -> NDArray[np.uint8]:
    """Return the face's pixels in its part of the picture, good ones out to the picture's edge.

    Beyond the centres of the picture's outermost pixels a crop holds what fills the outside, and
    interpolation mixes that in one pixel of the crop further: a face that runs out would end in a gray line.
    The last good pixels are repeated there.
    """
    # The border is what the rim of the square is interpolated with: warpAffine's own takes twice the time.
    bordered = cv2.copyMakeBorder(_four_channels(crop), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    face = _three_channels(_drawn(np.asarray(bordered), matrix, area, inset_px=1))
    left, top, right, bottom = area
    bad = math.ceil((scale - 1) / 2 + abs(matrix[0, 0]) + abs(matrix[0, 1]))
    x0, x1 = (bad if left == 0 else 0), (bad if right == shape[1] else 0)
    y0, y1 = (bad if top == 0 else 0), (bad if bottom == shape[0] else 0)
    good = face[y0 : face.shape[0] - y1, x0 : face.shape[1] - x1]
    if good.shape == face.shape or good.size == 0:
        return face
    return np.asarray(cv2.copyMakeBorder(good, y0, y1, x0, x1, cv2.BORDER_REPLICATE), np.uint8)


def _soft_square(matrix: NDArray[np.float64], area: _Rectangle, scale: int) -> NDArray[np.float32]:
    """Return the crop's square as a mask 0 to 1 whose rim is cut and then feathered.

    The widths are the reference's: 2 px an enlargement off the rim, then a feather of a twentieth of the
    square's visible side. Beyond the picture's edge nothing is cut: a face that runs out stays whole there.
    """
    ones = np.ones((CROP_SIZE, CROP_SIZE), np.float32)
    square = _eroded(_drawn(ones, matrix, area), 2 * scale)
    feather = int(math.sqrt(cv2.sumElems(square)[0])) // _FEATHERS_A_SIDE
    # A face of under 20 px has no room for a feather; 3 is what the reference comes to there.
    inner = _eroded(square, 2 * feather or 3)
    soft = _feathered(inner, feather) if feather else inner
    return np.asarray(cv2.multiply(soft, square), np.float32)


def _feather_px(matrix: NDArray[np.float64], scale: int) -> int:
    """Return the feather of a square that nothing cuts off: a twentieth of its side less its cut rim."""
    turned = abs(matrix[0, 0]) + abs(matrix[1, 0])
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    return int(CROP_SIZE * zoom - (2 * scale - 1) * turned / zoom) // _FEATHERS_A_SIDE


def _profiles(
    matrix: NDArray[np.float64], scale: int, feather: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return profiles across and down the crop (512,) whose product is its `_soft_square` if nothing cuts it.

    Eroding a turned square by an upright one moves its sides inwards, and a Gaussian is the same whichever
    way it is turned.
    """
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    reach = max(1, round(feather / zoom))
    sigma = (0.3 * (feather - 1) + 0.8) / zoom  # what OpenCV would take in the picture
    profiles = []
    for x, y in matrix[:, :2].T / zoom**2:
        cut, inner = np.zeros(2), np.zeros(2)
        for number, side in enumerate((2 * scale, 2 * feather)):
            back, forth = side // 2, side - 1 - side // 2  # an even side reaches further back
            low = sum(back * step if step > 0 else forth * -step for step in (x, y))
            high = sum(forth * step if step > 0 else back * -step for step in (x, y))
            inner += (low, high)
            if number == 0:
                cut += (low, high)
        blurred = cv2.GaussianBlur(_ramps(*inner), (2 * reach + 1, 1), sigma)
        profiles.append(np.asarray(blurred[0] * _ramps(*cut)[0], np.float32))
    return profiles[0], profiles[1]


def _ramps(low_px: float, high_px: float) -> NDArray[np.float32]:
    """Return a profile (1, 512) across the crop: 1, and linearly 0 where so many px are cut off its ends."""
    place = np.arange(CROP_SIZE, dtype=np.float32)
    ends = np.minimum(place + 1 - low_px, CROP_SIZE - place - high_px)
    return np.asarray(np.clip(ends, 0, 1)[None], np.float32)


def _feathered(mask: NDArray[np.float32], feather: int) -> NDArray[np.float32]:
    shrink = int(feather * _FEATHER_SHRINK)
    if shrink < 2:
        return np.asarray(cv2.GaussianBlur(mask, (2 * feather + 1, 2 * feather + 1), 0), np.float32)
    return _blurred_small(mask, 0.3 * (feather - 1) + 0.8, shrink)  # the sigma that OpenCV would take


def _blurred_small(mask: NDArray[np.float32], sigma_px: float, shrink: int) -> NDArray[np.float32]:
    """Return a mask blurred by a Gaussian on a copy `shrink` times smaller."""
    height, width = mask.shape
    size = (-(-width // shrink), -(-height // shrink))
    small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), _small_sigma(sigma_px, shrink))
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _small_sigma(sigma_px: float, shrink: int) -> float:
    """Return the Gaussian's sigma in px of a copy `shrink` times smaller.

    Shrinking and enlarging blur by half a pixel of that copy, which the Gaussian does without.
    """
    return math.sqrt((sigma_px / shrink) ** 2 - 0.25)


def _eroded(mask: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.erode(mask, np.ones((side, side), np.uint8)), np.float32)
