"""Networks of face recognition: what is read, what is refused, and the cosine of two faces."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.identity import IdentityNetworkError, OnnxIdentifier
from atelier_runtime.images import RgbArray
from tests.tiny_identity import GRAY, map_network, mean_color_network


def plain(*rgb: int) -> RgbArray:
    return np.broadcast_to(np.array(rgb, np.uint8), (CROP_SIZE, CROP_SIZE, 3)).copy()


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_input_is_rgb_from_0_to_255(batch: int | str) -> None:
    identifier = OnnxIdentifier(mean_color_network(batch=batch))
    color = np.array([200.0, 30.0, 90.0])
    found = identifier.embed(plain(200, 30, 90))
    vector = color - GRAY
    assert identifier.dimensions == 6
    np.testing.assert_allclose(found.direction[:3], vector / np.linalg.norm(vector), atol=1e-4)
    np.testing.assert_allclose(found.direction[3:], 0, atol=1e-4)


def test_the_similarity_is_a_cosine() -> None:
    identifier = OnnxIdentifier(mean_color_network())
    red, same, opposite = (identifier.embed(plain(*c)) for c in ((255, 0, 0), (200, 55, 55), (0, 255, 255)))
    assert red.similarity(red) == pytest.approx(1) and red.similarity(red) <= 1
    assert red.similarity(same) == pytest.approx(1, abs=1e-3)
    assert red.similarity(opposite) == pytest.approx(-1, abs=1e-3)


def test_a_face_is_certain_as_far_as_its_ruin_is_another() -> None:
    identifier = OnnxIdentifier(mean_color_network())
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (64, 64, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    blurred = plain(200, 30, 90)
    certainties = [identifier.certainty(crop, identifier.embed(crop)) for crop in (blocks, blurred)]
    assert certainties[0] > 0.3 and certainties[1] == pytest.approx(0, abs=1e-4)


def test_threads_do_not_get_each_others_faces() -> None:
    identifier = OnnxIdentifier(mean_color_network())
    crops = [plain(level, 0, 255 - level) for level in range(0, 256, 16)]
    expected = [identifier.embed(crop).direction for crop in crops]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = [each.direction for each in pool.map(identifier.embed, crops)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"no ONNX at all", "cannot be read"),
        (mean_color_network()[:-20], "cannot be read"),
        (map_network(), r"shape \(1, 3, 112, 112\)"),
    ],
)
def test_what_is_no_such_network_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(IdentityNetworkError, match=reason):
        OnnxIdentifier(content)


def test_an_embedding_that_is_not_finite_or_zero_is_an_error() -> None:
    for scale in (float("nan"), 0.0):
        identifier = OnnxIdentifier(mean_color_network(scale))
        with pytest.raises(IdentityNetworkError, match="not finite"):
            identifier.embed(plain(200, 30, 90))
