"""Our use of RetinaFace against the reference: raw outputs, anchors, and which faces remain."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from facexlib.detection.retinaface import RetinaFace

from atelier_restorer.detect import FaceDetector, decode, make_anchors
from atelier_restorer.request import Face
from tests.parity import recipe

CPU = torch.device("cpu")
HEIGHT, WIDTH = 256, 320
RAW_TOLERANCE = 1e-4
PX_TOLERANCE = 0.5
# One seed of each network in make test: the seeds that detect faces, 3 and 220 of them.
CASES = [
    pytest.param("retinaface_resnet50", 1),
    pytest.param("retinaface_mobile025", 2),
    pytest.param("retinaface_resnet50", 2, marks=pytest.mark.slow),
    pytest.param("retinaface_mobile025", 1, marks=pytest.mark.slow),
]


def picture(network: str, seed: int) -> np.ndarray:
    pixels = recipe.image("retinaface", seed, HEIGHT, WIDTH)
    meta: dict[str, Any] = json.loads((recipe.FOLDER / "goldens" / f"meta_s{seed}.json").read_text("utf-8"))
    assert recipe.fingerprint(pixels) == meta[network]["image"], "numpy draws another stream"
    return pixels


def rows(faces: list[Face]) -> np.ndarray:
    """Return faces as the reference writes them (F, 15): box, score, landmarks."""
    return np.array([[*f.box, f.confidence, *np.ravel(f.landmarks)] for f in faces]).reshape(-1, 15)


def unmatched(expected: np.ndarray, found: np.ndarray) -> int:
    """Count the expected rows that do not have a row of their own among those found."""
    left = np.ones(len(found), bool)
    count = 0
    for row in expected:
        distance = np.abs(np.delete(found - row, 4, axis=1)).max(axis=1, initial=0)
        near = np.flatnonzero(left & (distance <= PX_TOLERANCE) & (np.abs(found[:, 4] - row[4]) <= 1e-4))
        if len(near):
            left[near[0]] = False
        else:
            count += 1
    return count


@pytest.mark.parametrize(("network", "seed"), CASES)
def test_outputs_anchors_and_faces_equal_the_reference(network: str, seed: int) -> None:
    golden = recipe.golden(f"{network}_s{seed}")
    pixels = picture(network, seed)
    detector = FaceDetector.from_state_dict(recipe.state_dict(network, seed), CPU)
    offsets, scores, landmarks = detector.raw(pixels[None])
    np.testing.assert_allclose(offsets[0], golden["loc"], rtol=0, atol=RAW_TOLERANCE)
    np.testing.assert_allclose(scores[0], golden["conf"], rtol=0, atol=RAW_TOLERANCE)
    np.testing.assert_allclose(landmarks[0], golden["landms"], rtol=0, atol=RAW_TOLERANCE)
    np.testing.assert_array_equal(make_anchors(HEIGHT, WIDTH), golden["priors"])
    assert (scores[0, :, 1] > 0.8).sum() == golden["n_above"]

    found = rows(detector.detect([pixels], size_px=0, min_confidence=0.8)[0])
    most_confident = golden["detections"]  # the first 200
    assert len(found) == golden["n_detections"]
    assert unmatched(most_confident, found) == 0
    if len(most_confident):
        clearly_included = found[found[:, 4] > most_confident[-1, 4] + 1e-5]
        assert unmatched(clearly_included, most_confident) == 0


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("network", ["retinaface_resnet50", "retinaface_mobile025"])
def test_the_references_own_outputs_lead_to_the_references_faces(network: str, seed: int) -> None:
    """Without the last bits in which the convolutions of two CPUs differ, so the result is exact."""
    golden = recipe.golden(f"{network}_s{seed}")
    offsets, scores, landmarks = (torch.from_numpy(golden[name]) for name in ("loc", "conf", "landms"))
    found = decode(offsets, scores, landmarks, HEIGHT, WIDTH, 0.8)
    assert len(found.scores) == golden["n_detections"]
    sides = np.array([WIDTH, HEIGHT])
    ours = np.hstack(
        [
            found.boxes * np.tile(sides, 2),
            found.scores[:, None],
            (found.landmarks * sides).reshape(-1, 10),
        ]
    )
    most_confident = golden["detections"]
    assert unmatched(most_confident, ours[: len(most_confident)]) == 0


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (97, 131)])
@pytest.mark.parametrize("seed", [4, 6])
def test_faces_equal_those_of_the_public_package(seed: int, height: int, width: int) -> None:
    """facexlib's own `detect_faces` on further seeds; odd sides need the pyramid's exact upsampling."""
    state = recipe.state_dict("retinaface_mobile025", seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about an argument that facexlib passes
        oracle = RetinaFace(network_name="mobile0.25", device=CPU)
    oracle.load_state_dict(state)
    pixels = recipe.image("retinaface", seed, height, width)
    with torch.inference_mode():
        expected = oracle.eval().detect_faces(np.ascontiguousarray(pixels[:, :, ::-1]), 0.8)
    found = rows(FaceDetector.from_state_dict(state, CPU).detect([pixels], size_px=0, min_confidence=0.8)[0])
    assert len(found) == len(expected) > 10
    assert unmatched(expected, found) == 0


@pytest.mark.parametrize("network", ["retinaface_resnet50", "retinaface_mobile025"])
def test_a_batch_equals_single_runs(network: str) -> None:
    detector = FaceDetector.from_state_dict(recipe.state_dict(network, 2), CPU)
    pictures = [recipe.image("retinaface", seed, 128, 160) for seed in (1, 2, 3)]
    for together, alone in zip(
        zip(*detector.raw(np.stack(pictures)), strict=True),
        (detector.raw(one[None]) for one in pictures),
        strict=True,
    ):
        for ours, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours, single[0], rtol=0, atol=RAW_TOLERANCE)
    batch = detector.detect(pictures, size_px=0, min_confidence=0.8)
    for one, faces in zip(pictures, batch, strict=True):
        alone_rows = rows(detector.detect([one], size_px=0, min_confidence=0.8)[0])
        assert len(alone_rows) == len(faces) > 0
        assert unmatched(alone_rows, rows(faces)) == 0
