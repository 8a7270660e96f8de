import cv2
import numpy as np
import pytest

from atelier_restorer.align import (
    CROP_SIZE,
    TEMPLATE,
    crop_to_picture,
    cut_crop,
    face_to_crop,
    sharpness,
)
from atelier_restorer.paste import blend_aligned, paste_face, restored_parts, soften_parts
from tests.parity import recipe


def landmarks_at(x: float, y: float, size: float, degrees: float = 0.0) -> list[tuple[float, float]]:
    """Return the landmarks of a face whose crop is `size` px wide around (x, y)."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (TEMPLATE - CROP_SIZE / 2) * (size / CROP_SIZE) @ rotation.T + (x, y)
    return [(float(a), float(b)) for a, b in points]


def paste(
    image: np.ndarray, landmarks: list[tuple[float, float]], scale: int = 1, visibility: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    result, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    crop = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
    paste_face(result, mask, crop, crop_to_picture(face_to_crop(landmarks), scale), scale, visibility)
    return result, mask


@pytest.mark.parametrize(
    "landmarks",
    [
        [(5.0, 5.0)] * 5,
        [(float("nan"), 0.0)] + [(1.0, 2.0)] * 4,
        [(float("inf"), 0.0)] + [(1.0, 2.0)] * 4,
        [(0.0, 0.0)] * 4,
    ],
)
def test_landmarks_that_are_not_a_face(landmarks: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError):
        face_to_crop(landmarks)


def test_one_landmark_that_is_off_does_not_turn_the_face() -> None:
    straight = landmarks_at(300, 200, 200)
    off = [*straight[:2], (straight[2][0] + 60, straight[2][1] - 40), *straight[3:]]
    np.testing.assert_allclose(face_to_crop(off), face_to_crop(straight), atol=1e-3)


def test_outside_the_image_a_crop_has_the_border_color() -> None:
    crop = cut_crop(np.zeros((100, 100, 3), np.uint8), face_to_crop(landmarks_at(0, 0, 100)))
    assert crop[10, 10].tolist() == [132, 133, 135]
    assert crop[500, 500].tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_pasting_what_was_cut_moves_nothing(scale: int) -> None:
    y, x = np.mgrid[0:50, 0:50]
    image = np.stack([5 * x, 5 * y, 245 - 5 * x], axis=2).astype(np.uint8)
    matrix = face_to_crop(landmarks_at(25, 25, 36))
    large = np.asarray(cv2.resize(image, None, fx=scale, fy=scale), np.uint8)  # linear
    result, mask = large.copy(), np.zeros(large.shape[:2], np.uint8)
    paste_face(result, mask, cut_crop(image, matrix), crop_to_picture(matrix, scale), scale)
    # The ramp rises by 5 / scale levels a px, so half a px of the upscaled image would show.
    shift_px = (result.astype(float) - large)[mask == 255].mean(axis=0) * scale / 5
    assert np.abs(shift_px).max() < 0.2


@pytest.mark.parametrize(
    ("x", "y", "size"),
    [(80, 60, 60), (0, 0, 80), (159, 119, 100), (80, 60, 6), (80, 60, 1500), (-30, 60, 90)],
)
@pytest.mark.parametrize("degrees", [0, 33])
def test_nothing_changes_outside_the_mask(x: float, y: float, size: float, degrees: float) -> None:
    image = recipe.image("scene", 1, 120, 160)
    result, mask = paste(image, landmarks_at(x, y, size, degrees))
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    assert mask.any()


def test_a_face_outside_the_image_changes_nothing() -> None:
    image = recipe.image("scene", 1, 120, 160)
    result, mask = paste(image, landmarks_at(-500, 60, 100))
    assert not mask.any()
    np.testing.assert_array_equal(result, image)


def test_a_face_that_covers_the_image_is_pasted_entirely() -> None:
    _, mask = paste(recipe.image("scene", 1, 120, 160), landmarks_at(80, 60, 1500))
    assert (mask == 255).all()


def test_visibility_scales_the_blend_and_its_mask() -> None:
    image = recipe.image("scene", 1, 120, 160)
    whole, mask = paste(image, landmarks_at(80, 60, 90))
    half, half_mask = paste(image, landmarks_at(80, 60, 90), visibility=0.5)
    np.testing.assert_allclose(half_mask, mask / 2, atol=0.6)
    np.testing.assert_allclose(half, (image.astype(float) + whole) / 2, atol=1.6)
    none, no_mask = paste(image, landmarks_at(80, 60, 90), visibility=0.0)
    assert not no_mask.any()
    np.testing.assert_array_equal(none, image)


def test_masks_of_overlapping_faces_are_combined() -> None:
    image = recipe.image("scene", 1, 120, 160)
    _, first = paste(image, landmarks_at(60, 60, 80))
    _, second = paste(image, landmarks_at(100, 60, 80))
    result, both = image.copy(), np.zeros(image.shape[:2], np.uint8)
    crop = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
    for x in (60, 100):
        matrix = crop_to_picture(face_to_crop(landmarks_at(x, 60, 80)), 1)
        paste_face(result, both, crop, matrix, 1)
    np.testing.assert_array_equal(both == 0, (first == 0) & (second == 0))
    assert (both >= np.maximum(first, second)).all()
    np.testing.assert_array_equal(result[both == 0], image[both == 0])


def test_the_blend_rounds_to_the_nearest_level() -> None:
    image = np.full((120, 160, 3), 100, np.uint8)
    result, mask = image.copy(), np.zeros((120, 160), np.uint8)
    crop = np.full((CROP_SIZE, CROP_SIZE, 3), 201, np.uint8)
    paste_face(result, mask, crop, crop_to_picture(face_to_crop(landmarks_at(80, 60, 90)), 1), 1)
    expected = np.rint(100 + mask.astype(np.float64)[..., None] / 255 * 101)
    np.testing.assert_array_equal(result, np.broadcast_to(expected, result.shape))


def test_pasting_does_not_change_the_matrix() -> None:
    matrix = crop_to_picture(face_to_crop(landmarks_at(80, 60, 90)), 2)
    before = matrix.copy()
    paste_face(
        np.zeros((240, 320, 3), np.uint8),
        np.zeros((240, 320), np.uint8),
        recipe.image("face", 1, CROP_SIZE, CROP_SIZE),
        matrix,
        2,
    )
    np.testing.assert_array_equal(matrix, before)


def face_classes() -> np.ndarray:
    """Return classes of a crop: hair around skin, a neck below, background elsewhere."""
    classes = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    classes[60:400, 100:412] = 13
    classes[150:400, 150:362] = 1
    classes[400:, 180:332] = 17
    return classes


def test_parts_of_the_face_and_its_hair_are_restored() -> None:
    parts = restored_parts(face_classes())
    assert parts[200, 256] and parts[100, 256]
    assert not parts[450, 256] and not parts[20, 20]
    every = restored_parts(np.arange(19, dtype=np.uint8)[None])[0]
    assert np.flatnonzero(~every).tolist() == [0, 14, 16, 17, 18]


def test_a_parts_mask_is_soft_and_0_along_the_border() -> None:
    soft = soften_parts(np.ones((CROP_SIZE, CROP_SIZE), bool))
    assert (soft[10:-10, 10:-10] == 255).all()
    for rim in (soft[:10], soft[-10:], soft[:, :10], soft[:, -10:]):
        assert (rim == 0).all()
    soft = soften_parts(restored_parts(face_classes()))
    assert soft[230, 256] > 252 and soft[500, 256] < 3
    assert 102 < soft[230, 100] < 153, "half where hair ends"
    assert np.abs(np.diff(soft[20:-20].astype(int), axis=0)).max() <= 12


@pytest.mark.parametrize("scale", [1, 2])
def test_a_parsed_face_changes_only_its_parts(scale: int) -> None:
    image = recipe.image("scene", 1, 120 * scale, 160 * scale)
    crop = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
    matrix = crop_to_picture(face_to_crop(landmarks_at(80, 60, 90, 20)), scale)
    masks = []
    for parts in (None, soften_parts(restored_parts(face_classes()))):
        result, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
        paste_face(result, mask, crop, matrix, scale, parts=parts)
        np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
        masks.append(mask)
    square, parsed = masks
    assert (parsed <= square).all()
    assert 0.3 < (parsed > 127).sum() / (square > 127).sum() < 0.6


def test_16_bits_keep_every_level_outside_and_blend_finer_inside() -> None:
    generator = np.random.default_rng(1)
    image = generator.integers(0, 65536, (120, 160, 3), dtype=np.uint16)
    result, mask = paste(image, landmarks_at(80, 60, 90))
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    eight, same_mask = paste((image // 257).astype(np.uint8), landmarks_at(80, 60, 90))
    np.testing.assert_array_equal(mask, same_mask)
    np.testing.assert_allclose(result / 257, eight, atol=1.6)


def test_an_aligned_face_is_blended_everywhere_or_in_its_parts() -> None:
    image = recipe.image("scene", 1, CROP_SIZE, CROP_SIZE)
    crop = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
    whole, mask = blend_aligned(image, crop)
    np.testing.assert_array_equal(whole, crop)
    assert (mask == 255).all()
    parts = soften_parts(restored_parts(face_classes()))
    part, mask = blend_aligned(image, crop, 0.5, parts)
    np.testing.assert_array_equal(part[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(mask, np.rint(parts / 2))  # to even, as OpenCV rounds
    assert not (part == crop).all(axis=2).all()


def test_a_face_of_a_few_px_has_a_mask_without_a_feather() -> None:
    image = recipe.image("scene", 1, 120, 160)
    result, mask = paste(image, landmarks_at(80, 60, 12))
    assert set(np.unique(mask)) >= {0, 255}
    assert (mask > 0).sum() < 12**2
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])


def test_sharpness_is_higher_for_a_sharp_crop_than_for_a_blurred_one() -> None:
    crop = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
    blurred = np.asarray(cv2.GaussianBlur(crop, (5, 5), 0), np.uint8)
    assert sharpness(crop) > 2 * sharpness(blurred) > 0


def test_a_blend_that_changes_no_pixel_is_not_in_the_mask() -> None:
    for depth, changed in ((np.uint8, False), (np.uint16, True)):
        image = np.full((600, 600, 3), 100 * (np.iinfo(depth).max // 255), depth)
        crop = np.full((512, 512, 3), 110, np.uint8)
        mask = np.zeros((600, 600), np.uint8)
        matrix = np.array([[1.0, 0, 40], [0, 1, 40]])
        pasted = paste_face(image, mask, crop, matrix, 1, 0.004)
        assert (pasted is not None) == changed == mask.any()
        assert blend_aligned(image[:512, :512], crop, 0.004)[1].any() == changed
