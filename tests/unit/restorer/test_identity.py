"""Networks of face recognition: what is read, what is refused, and the cosine of two faces."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.identity import IdentityNetworkError, OnnxIdentifier
from atelier_restorer.nets.onnx_file import has_external_data
from atelier_runtime.images import RgbArray
from tests.tiny_identity import GRAY, in_other_files, map_network, mean_color_network


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


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    """OpenCV reads them from wherever the file says: no manifest lists them."""
    with pytest.raises(IdentityNetworkError, match="weights in other files"):
        OnnxIdentifier(in_other_files(mean_color_network(), tmp_path))


def test_tensors_are_found_wherever_a_network_may_have_them() -> None:
    outside = helper.make_tensor("a", TensorProto.FLOAT, [1], [1.0])
    outside.data_location = TensorProto.EXTERNAL
    named = helper.make_tensor("a", TensorProto.FLOAT, [1], [1.0])
    named.external_data.add(key="location", value="/etc/passwd")
    for tensor in (outside, named):
        constant = helper.make_node("Constant", [], ["a"], value=tensor)
        several = helper.make_node("Own", [], ["a"], several=[tensor])
        inner = helper.make_graph([constant], "inner", [], [])
        branch = helper.make_node("If", ["a"], ["b"], then_branch=inner)
        of_nodes = [model_of([constant]), model_of([several]), model_of([branch])]
        own = helper.make_function("d", "f", [], ["a"], [constant], [])
        of_functions = helper.make_model(helper.make_graph([], "g", [], []), functions=[own])
        for model in (*of_nodes, of_functions, model_of([], [tensor])):
            assert has_external_data(model.SerializeToString())
    assert not has_external_data(mean_color_network())


@pytest.mark.parametrize(
    "content",
    [b"\x3a", b"\x3a\xff", b"\x3a\x05\0", b"\x3b\x01", b"\xff" * 12, b"\x38\x01", b"\0\0", b"\x3d\0\0"],
)
def test_what_no_program_would_write_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        has_external_data(content)


def test_a_network_in_itself_without_end_is_refused() -> None:
    content = b""
    for _ in range(400):  # a node of a graph, an attribute of it, a graph of that
        for key in (b"\x32", b"\x2a", b"\x0a"):
            content = key + varint(len(content)) + content
    with pytest.raises(ValueError, match="nested too deeply"):
        has_external_data(b"\x3a" + varint(len(content)) + content)


def varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([low])


def model_of(nodes: list[Any], tensors: Sequence[Any] = ()) -> Any:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], list(tensors)))


def test_an_embedding_that_is_not_finite_or_zero_is_an_error() -> None:
    for scale in (float("nan"), 0.0):
        identifier = OnnxIdentifier(mean_color_network(scale))
        with pytest.raises(IdentityNetworkError, match="not finite"):
            identifier.embed(plain(200, 30, 90))
