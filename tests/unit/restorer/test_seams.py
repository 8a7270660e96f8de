"""A pasted face is where it was, and no seam shows where its square ends.

Crops are cut from an image and pasted back, unchanged or changed in a known way, so that every difference is
the paste's own.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.registration import phase_cross_correlation

from atelier_restorer.align import CROP_SIZE, crop_to_picture
from atelier_restorer.paste import restored_parts, soften_parts
from tests.unit.restorer.pasting import (
    ACROSS_THE_EDGE,
    FLAT_COLORS,
    INSIDE,
    SCALES,
    Pasted,
    Place,
    flat,
    matrix_of,
    paste_back,
    portrait,
    ring,
)

TONE_LEVELS = 24


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return portrait()


def shift_px(pasted: Pasted) -> np.ndarray:
    """Return how far right and down the paste is shifted, by registration of the square inside the mask."""
    rows, columns = np.nonzero(pasted.mask == 255)
    # The largest upright square in the middle of a square turned by any angle.
    half = int(0.34 * (columns.max() - columns.min()) / np.sqrt(2))
    y, x = int(rows.mean()), int(columns.mean())
    part = np.s_[y - half : y + half, x - half : x + half]
    assert (pasted.mask[part] == 255).all()
    window = np.outer(np.hanning(2 * half), np.hanning(2 * half))

    def prepared(pixels: np.ndarray) -> np.ndarray:
        gray = cv2.cvtColor(pixels[part], cv2.COLOR_RGB2GRAY).astype(np.float64)
        windowed: np.ndarray = (gray - gray.mean()) * window
        return windowed

    shift: np.ndarray
    shift, _, _ = phase_cross_correlation(
        prepared(pasted.before), prepared(pasted.after), upsample_factor=100, normalization=None
    )
    return -shift[::-1]


def mean_shift_px(image: np.ndarray, place: Place, scale: int, offset_px: float = 0.0) -> np.ndarray:
    """Return the mean shift over the image and its mirror images.

    A crop is a little blurred, and a blurred image registers nearer to its heavy side. Mirrored, that pulls
    the other way, while a shift stays one.
    """
    last = image.shape[0] - 1
    mirrored = [
        (image, place),
        (image[:, ::-1], place._replace(x=last - place.x, roll=-place.roll)),
        (image[::-1], place._replace(y=last - place.y, roll=-place.roll)),
        (image[::-1, ::-1], place._replace(x=last - place.x, y=last - place.y)),
    ]
    pasted = (paste_back(np.ascontiguousarray(p), at, scale, offset_px=offset_px) for p, at in mirrored)
    mean: np.ndarray = np.mean([shift_px(one) for one in pasted], axis=0)
    return mean


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_shifted(photo: np.ndarray, scale: int, place: Place) -> None:
    assert np.abs(mean_shift_px(photo, place, scale)).max() < 0.05


@pytest.mark.parametrize("side", [400, 800])  # in the image with all of its square; larger than the crop
@pytest.mark.parametrize("scale", [1, 2])
def test_a_large_face_is_not_shifted(scale: int, side: int) -> None:
    assert np.abs(mean_shift_px(data.astronaut(), Place(256, 256, side, 12), scale)).max() < 0.05


@pytest.mark.parametrize("scale", SCALES)
def test_the_registration_sees_a_tenth_of_a_pixel(photo: np.ndarray, scale: int) -> None:
    for place in INSIDE:
        found = mean_shift_px(photo, place, scale, offset_px=0.1)
        assert found.min() > 0.05 and found.max() < 0.15


@pytest.mark.parametrize("place", INSIDE + ACROSS_THE_EDGE)
@pytest.mark.parametrize("scale", SCALES)
def test_an_unchanged_crop_leaves_a_flat_image_flat(scale: int, place: Place) -> None:
    for color in FLAT_COLORS:
        pasted = paste_back(flat(color), place, scale)
        assert pasted.mask.any()
        assert np.abs(pasted.change).max() <= 1, color


@pytest.mark.parametrize("roll", [0, 4, 180])
@pytest.mark.parametrize("x", [480, 120])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_mask_of_a_large_face_fades_to_0(scale: int, x: int, roll: int) -> None:
    pasted = paste_back(np.full((960, 960, 3), 90, np.uint8), Place(x, 480.25, 840, roll), scale)
    rows, columns = (np.nonzero(pasted.mask.any(axis=axis))[0] for axis in (1, 0))
    outermost = [pasted.mask[rows[0]], pasted.mask[rows[-1]], pasted.mask[:, columns[-1]]]
    if columns[0] > 0:
        outermost.append(pasted.mask[:, columns[0]])
    assert max(line.max() for line in outermost) <= 2


def another_middle(crop: np.ndarray) -> np.ndarray:
    """Return a crop with another face in its middle; the border is what it was."""
    changed = crop.copy()
    cv2.ellipse(changed, (256, 270), (130, 160), 0, 0, 360, (225, 60, 20), cv2.FILLED)
    return changed


def another_tone(crop: np.ndarray) -> np.ndarray:
    """Return a crop that is lighter all over, as restorers make them."""
    return np.clip(crop.astype(np.int16) + TONE_LEVELS, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize("scale", SCALES)
def test_the_ring_around_the_face_keeps_its_mean_color(photo: np.ndarray, scale: int, place: Place) -> None:
    for image in [photo, *map(flat, FLAT_COLORS)]:
        for change in (np.copy, another_middle):
            pasted = paste_back(image, place, scale, change)
            around = ring(pasted.mask, scale)
            assert np.abs(pasted.change[around].mean(axis=0)).max() < 1
        assert np.abs(pasted.change[pasted.mask == 255]).max() > 30, "the middle is another one"


@pytest.mark.parametrize("place", INSIDE[2:] + ACROSS_THE_EDGE)
@pytest.mark.parametrize("scale", SCALES)
def test_another_tone_leaves_no_rectangle(scale: int, place: Place) -> None:
    pasted = paste_back(flat((90, 120, 60)), place, scale, another_tone)
    steps = [np.abs(np.diff(pasted.change, axis=axis)).max() for axis in (0, 1)]
    # A Gaussian as wide as the feather, a twentieth of the visible side, is nowhere steeper than this.
    feather_px = int(np.sqrt(np.count_nonzero(pasted.mask))) // 20
    sigma = 0.3 * (feather_px - 1) + 0.8
    if feather_px > 1:  # else the square has under 40 px and no room for a slope
        assert max(steps) <= TONE_LEVELS * 0.4 / sigma + 1
    assert pasted.change.max() == TONE_LEVELS


def strands() -> np.ndarray:
    """Return thin dark strands of hair on skin, from the center outwards, so that all cross the border."""
    image = flat((205, 170, 150))
    generator = np.random.default_rng(0)
    along = np.linspace(0, 170, 30)
    for _ in range(70):
        angle = generator.uniform(0, 2 * np.pi) + generator.uniform(-0.004, 0.004) * along
        points = np.stack([120 + along * np.cos(angle), 115 + along * np.sin(angle)], axis=1)
        cv2.polylines(image, [np.rint(points * 16).astype(np.int32)], False, (40, 25, 20), 1, cv2.LINE_AA, 4)
    return image


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize("scale", SCALES)
def test_hair_continues_across_the_border(scale: int, place: Place) -> None:
    pasted = paste_back(strands(), place, scale, another_middle)
    feather = (pasted.mask > 0) & (pasted.mask < 255)
    before, after = (pixels[feather].mean(axis=1) for pixels in (pasted.before, pasted.after))
    # Half a pixel off gives 0.92 to 0.98 at scales 1 and 2; what is left is the blur of two interpolations.
    assert np.corrcoef(before, after)[0, 1] > 0.985
    assert after.std() > 0.9 * before.std()


@pytest.mark.parametrize("place", INSIDE + ACROSS_THE_EDGE)
@pytest.mark.parametrize("scale", SCALES)
def test_every_pixel_outside_the_mask_is_unchanged(photo: np.ndarray, scale: int, place: Place) -> None:
    pasted = paste_back(photo, place, scale, another_tone)
    np.testing.assert_array_equal(pasted.after[pasted.mask == 0], pasted.before[pasted.mask == 0])
    assert np.abs(pasted.change).max() > 0


@pytest.mark.parametrize("place", [INSIDE[1], INSIDE[3], ACROSS_THE_EDGE[2]])
@pytest.mark.parametrize("scale", SCALES)
def test_half_visibility_is_half_way(photo: np.ndarray, scale: int, place: Place) -> None:
    whole = paste_back(photo, place, scale, another_tone)
    half = paste_back(photo, place, scale, another_tone, visibility=0.5)
    np.testing.assert_allclose(half.change, whole.change / 2, atol=1)
    np.testing.assert_allclose(half.mask, whole.mask / 2, atol=1)


def test_the_later_of_two_faces_that_overlap_has_no_seam_in_the_first() -> None:
    image = flat((90, 120, 60))
    first = paste_back(image, Place(90, 120, 100), 1, another_tone).after
    second = paste_back(first, Place(140, 130, 100, 25), 1)
    assert np.abs(second.change).max() <= 4  # the feather of the first, interpolated twice


SKIN, HAIR, NECK = 1, 13, 17  # of a parser's classes


def parsed_face(hair_beyond_the_crop: bool) -> np.ndarray:
    """Return the soft mask of a face with hair above it, which may extend beyond the crop, and a neck."""
    classes = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    cv2.rectangle(classes, (190, 350), (330, CROP_SIZE), NECK, cv2.FILLED)
    cv2.ellipse(classes, (256, 240), (150, 300 if hair_beyond_the_crop else 160), 0, 0, 360, HAIR, cv2.FILLED)
    cv2.ellipse(classes, (256, 290), (125, 145), 0, 0, 360, SKIN, cv2.FILLED)
    return soften_parts(restored_parts(classes))


@pytest.mark.parametrize("hair_beyond_the_crop", [False, True])
@pytest.mark.parametrize("place", [Place(256, 256, 400, 12), Place(256, 256, 90, 12), Place(60, 256, 400)])
def test_a_parsed_mask_is_the_lower_of_its_square_and_its_parts(
    place: Place, hair_beyond_the_crop: bool
) -> None:
    image, parts = data.astronaut(), parsed_face(hair_beyond_the_crop)
    square = paste_back(image, place, 1).mask
    drawn = cv2.warpAffine(parts, crop_to_picture(matrix_of(place), 1), (512, 512))
    pasted = paste_back(image, place, 1, another_tone, parts=parts)
    np.testing.assert_allclose(pasted.mask, np.minimum(square, drawn).astype(int), atol=1)
    if hair_beyond_the_crop:
        assert (square < drawn - 100).any(), "here the square ends first"


@pytest.mark.parametrize("place", INSIDE[2:] + ACROSS_THE_EDGE)
@pytest.mark.parametrize("scale", SCALES)
def test_a_parsed_face_has_no_outline(scale: int, place: Place) -> None:
    image = flat((90, 120, 60))
    for hair in (False, True):
        parts = parsed_face(hair)
        unchanged = paste_back(image, place, scale, parts=parts)
        assert np.abs(unchanged.change).max() <= 1
        lighter = paste_back(image, place, scale, another_tone, parts=parts)
        square = paste_back(image, place, scale, another_tone)
        # But for a level of rounding: of a parsed crop only the part that shows is drawn.
        assert (lighter.mask <= square.mask.astype(int) + 1).all(), "it stays within the square"
        assert (lighter.after[lighter.mask == 0] == lighter.before[lighter.mask == 0]).all()
        if not hair:  # else it ends as the square does
            steps = [np.abs(np.diff(lighter.change, axis=axis)).max() for axis in (0, 1)]
            sigma = 11 * np.sqrt(2) * place.side * scale / CROP_SIZE
            assert max(steps) <= TONE_LEVELS * 0.4 / sigma + 1


@pytest.mark.parametrize("scale", SCALES)
def test_a_parsed_face_leaves_the_ring_and_continues_in_its_hair(photo: np.ndarray, scale: int) -> None:
    place = Place(120, 115, 150, -33)
    parts = parsed_face(hair_beyond_the_crop=True)
    pasted = paste_back(photo, place, scale, another_middle, parts=parts)
    square = paste_back(photo, place, scale).mask
    assert np.abs(pasted.change[ring(square, scale)].mean(axis=0)).max() < 1
    assert np.abs(pasted.change[pasted.mask == 255]).max() > 30
    hairy = paste_back(strands(), place, scale, another_middle, parts=parts)
    feather = (square > 0) & (square < 255)
    before, after = (pixels[feather].mean(axis=1) for pixels in (hairy.before, hairy.after))
    assert np.corrcoef(before, after)[0, 1] > 0.985
