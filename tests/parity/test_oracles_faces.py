"""Our detection, alignment and paste-back compared with facexlib's own helpers, on faces from a seed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from facexlib.detection.retinaface_utils import PriorBox
from facexlib.detection.retinaface_utils import decode as decode_boxes
from facexlib.detection.retinaface_utils import decode_landm as decode_points

from atelier_restorer.align import TEMPLATE, crop_to_picture, cut_crop, face_to_crop
from atelier_restorer.detect import decode, make_anchors
from atelier_restorer.paste import paste_face, restored_parts, soften_parts
from tests.parity import oracles, recipe

pytestmark = pytest.mark.oracle

SEED = 3
LEVELS = 2
VARIANCES = [0.1, 0.2]
HEIGHT, WIDTH = 600, 720
ANCHORS = {
    "min_sizes": [[16, 32], [64, 128], [256, 512]],
    "steps": [8, 16, 32],
    "clip": False,
}
# Center (x, y) of a face, its crop's side in px, its rotation in degrees.
PLACES = {
    "upright": [(330.4, 290.7, 300, 0)],
    "turned": [(360.2, 310.9, 260, 140)],
    "crop of its own size": [(350.0, 300.0, 512, -12)],
    "half outside": [(15.3, 590.1, 280, 35)],
    "overlapping": [(300.5, 280.5, 240, 10), (380.2, 330.8, 200, -25)],
    "small": [(600.6, 500.3, 110, 5)],
    "nose far off": [(280.5, 320.2, 280, 20)],
}


def faces_at(name: str) -> list[np.ndarray]:
    """Return the landmarks (5, 2) of faces, each point slightly off, as real ones are."""
    draw = np.random.default_rng(SEED)
    found = []
    for x, y, side, degrees in PLACES[name]:
        turn = np.deg2rad(degrees)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (TEMPLATE - 256 + draw.normal(0, 4, TEMPLATE.shape)) * (side / 512)
        if name == "nose far off":  # as in a profile; what fits all five points would turn the face
            points[2] += (0.2 * side, 0)
        found.append(points @ rotation.T + (x, y))
    return found


def background() -> np.ndarray:
    return recipe.image("background", SEED, HEIGHT, WIDTH, noise=3)


def restored(number: int) -> np.ndarray:
    return recipe.image(f"restored{number}", SEED, 512, 512, noise=3)


def oval() -> np.ndarray:
    """Return classes (512, 512): skin and hair amid clothes, away from where the square is feathered."""
    classes = np.full((512, 512), 18, np.uint8)
    cv2.ellipse(classes, (256, 256), (110, 125), 0, 0, 360, 1, -1)
    cv2.ellipse(classes, (256, 180), (70, 40), 0, 0, 360, 13, -1)
    return classes


def raw_output(anchors: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return synthetic outputs of a detector: box offsets, distinct probabilities, and landmark offsets."""
    draw = torch.Generator().manual_seed(SEED)
    sure = torch.randperm(anchors, generator=draw) / anchors
    scores = torch.stack((1 - sure, sure), dim=1)
    offsets, landmarks = (torch.randn(anchors, count, generator=draw) for count in (4, 10))
    return offsets, scores, landmarks


@pytest.mark.parametrize(("height", "width"), [(640, 853), (97, 131), (33, 1), (480, 512)])
def test_anchors_are_those_of_prior_box(height: int, width: int) -> None:
    assert torch.equal(make_anchors(height, width), PriorBox(ANCHORS, (height, width)).forward())


@pytest.mark.parametrize(("height", "width"), [(200, 300), (97, 131)])
def test_the_same_faces_remain_of_the_same_output(height: int, width: int) -> None:
    anchors = make_anchors(height, width)
    offsets, scores, landmarks = raw_output(len(anchors))
    expected = oracles.retinaface(offsets, scores, landmarks).detect_faces(
        np.zeros((height, width, 3), np.uint8), conf_threshold=0.8
    )
    found = decode(offsets, scores, landmarks, height, width, 0.8)
    assert 10 < len(found.scores) < (scores[:, 1] > 0.8).sum(), "some are duplicates, some are not"
    np.testing.assert_array_equal(found.scores, expected[:, 4])
    sides = np.array([width, height])
    np.testing.assert_allclose(found.boxes * np.tile(sides, 2), expected[:, :4], rtol=0, atol=1e-3)
    points = (found.landmarks * sides).reshape(-1, 10)
    np.testing.assert_allclose(points, expected[:, 5:], rtol=0, atol=1e-3)


def test_boxes_and_landmarks_of_single_anchors() -> None:
    """One confident anchor at a time, so that nothing is a duplicate."""
    height, width = 97, 131
    priors = PriorBox(ANCHORS, (height, width)).forward()
    offsets, _, landmarks = raw_output(len(priors))
    boxes = decode_boxes(offsets, priors, VARIANCES)
    points = decode_points(landmarks, priors, VARIANCES).view(-1, 5, 2)
    for number in range(0, len(priors), 7):
        scores = torch.tensor([1.0, 0.0]).repeat(len(priors), 1)
        scores[number] = torch.tensor([0.1, 0.9])
        found = decode(offsets, scores, landmarks, height, width, 0.8)
        np.testing.assert_allclose(found.boxes, boxes[number][None], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.landmarks, points[number][None], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PLACES)
def test_alignment_is_that_of_the_helper(name: str) -> None:
    picture, landmarks = background(), faces_at(name)
    for scale, half_pixel in ((1, 0.0), (2, 0.5)):  # at scale 2 it stores no offset, see docs/parity.md
        helper = oracles.restore_helper(picture, landmarks, scale)
        helper.align_warp_face()
        helper.get_inverse_affine()
        for number, face in enumerate(landmarks):
            matrix = face_to_crop(face.tolist())
            np.testing.assert_allclose(matrix, helper.affine_matrices[number], rtol=0, atol=1e-6)
            crop = cut_crop(picture, matrix).astype(int)
            assert np.abs(crop - helper.cropped_faces[number][..., ::-1]).max() <= LEVELS
            inverse = crop_to_picture(matrix, scale)
            inverse[:, 2] -= half_pixel
            np.testing.assert_allclose(inverse, helper.inverse_affine_matrices[number], rtol=0, atol=1e-6)


@pytest.mark.parametrize("parsed", [False, True], ids=["feathered", "parsed"])
@pytest.mark.parametrize("name", PLACES)
def test_pasted_faces_are_those_of_the_helper(name: str, parsed: bool) -> None:
    before, landmarks = background(), faces_at(name)
    helper = oracles.restore_helper(before, landmarks, 1, oval() if parsed else None)
    helper.align_warp_face()
    helper.get_inverse_affine()
    picture, mask = before.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
    parts = soften_parts(restored_parts(oval())) if parsed else None
    for number, face in enumerate(landmarks):
        helper.add_restored_face(np.ascontiguousarray(restored(number)[..., ::-1]))
        paste_face(
            picture, mask, restored(number), crop_to_picture(face_to_crop(face.tolist()), 1), 1, parts=parts
        )
    expected = helper.paste_faces_to_input_image()[..., ::-1]
    np.testing.assert_array_equal(picture[mask == 0], before[mask == 0])
    apart = np.abs(picture.astype(int) - expected).max(axis=2)
    assert apart[mask == 0].max() <= LEVELS  # the helper's cut levels and black rim, see docs/parity.md
    inside = mask > 0
    assert np.abs(picture[inside].astype(int) - before[inside]).mean() > 10, "the faces can be seen"
    inside[[0, -1]] = inside[:, [0, -1]] = False  # the gray edge, see docs/parity.md
    assert (apart[inside] <= LEVELS).mean() >= 0.999
