"""Our use of RetinaFace against the reference's raw answers, anchors and detections."""

import numpy as np
import pytest
import torch

from atelier_restorer.detect import FaceDetector, make_anchors
from tests.parity import recipe

HEIGHT, WIDTH = 256, 320


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    pixels = recipe.image("retinaface", 1, HEIGHT, WIDTH)
    assert recipe.fingerprint(pixels) == "75c7dbee96a16b96", (
        "numpy draws another stream than the goldens' did"
    )
    return pixels


@pytest.mark.parametrize("network", ["retinaface_resnet50", "retinaface_mobile025"])
def test_answers_anchors_and_faces_equal_the_reference(network: str, picture: np.ndarray) -> None:
    golden = recipe.golden(f"{network}_s1")
    detector = FaceDetector.from_state_dict(recipe.state_dict(network, 1), torch.device("cpu"))
    offsets, scores, landmarks = detector.raw(picture[None])
    np.testing.assert_allclose(offsets[0], golden["loc"], atol=1e-3)
    np.testing.assert_allclose(scores[0], golden["conf"], atol=1e-4)
    np.testing.assert_allclose(landmarks[0], golden["landms"], atol=1e-3)
    np.testing.assert_allclose(make_anchors(HEIGHT, WIDTH), golden["priors"], atol=1e-6)

    faces = detector.detect([picture], size_px=0, min_confidence=0.8)[0]
    assert len(faces) == golden["n_detections"]
    for face, expected in zip(faces, golden["detections"], strict=True):
        found = np.array([*face.box, face.confidence, *np.ravel(face.landmarks)])
        np.testing.assert_allclose(found, expected, atol=1e-2)
