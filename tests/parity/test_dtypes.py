"""What CodeFormer loses in bfloat16 and float16.

Why it predicts codes in float32: docs/parity.md, "Precision". The demo set's network restores a degraded
drawing in bfloat16, only one: a processor without AVX512 takes half a minute for it, and every processor
takes that long in float16, in which the tiny network runs instead.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet, load_state_dict
from tests.tiny_restorer import codeformer_state
from training.data import draw_face
from training.degrade import degrade_photo

CPU = torch.device("cpu")
FACES = 2
LOW = [torch.bfloat16, torch.float16]


def demo_state() -> dict[str, Tensor]:
    return load_state_dict(ModelSet.open("demo").require(NetworkRole.FACE_RESTORER).path)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    rng = np.random.default_rng(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        faces = [torch.from_numpy(draw_face(rng)).permute(2, 0, 1)[None] / 255 for _ in range(FACES)]
        degraded = torch.cat([degrade_photo(face) for face in faces])
    return np.asarray((degraded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())


@pytest.fixture(scope="module")
def exact() -> FaceRestorer:
    return FaceRestorer(CodeFormer.from_state_dict(demo_state()), CPU, torch.float32)


def to_input(crops: np.ndarray) -> Tensor:
    return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def to_levels(image: Tensor) -> Tensor:
    return (image.float().clamp(-1, 1) + 1).mul(127.5).round()


@torch.inference_mode()
def codes(network: CodeFormer, crops: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    _, lq_feature = network.encode(to_input(crops).to(dtype))
    return network.predict_codes(lq_feature).argmax(dim=2)


def levels(restorer: FaceRestorer, crops: np.ndarray, fidelity: float) -> np.ndarray:
    answers = restorer.restore(crops, [(index, fidelity) for index in range(len(crops))])
    return np.stack([answer for answer in answers if isinstance(answer, np.ndarray)]).astype(int)


def formats(network: CodeFormer) -> dict[str, set[torch.dtype]]:
    return {name: {p.dtype for p in part.parameters()} for name, part in network.named_children()}


@pytest.mark.parametrize("stored", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_only_generator_and_fusion_have_a_lower_precision(
    stored: torch.dtype, dtype: torch.dtype, crops: np.ndarray
) -> None:
    state = {key: tensor.to(stored) for key, tensor in codeformer_state().items()}
    exact = FaceRestorer(CodeFormer.from_state_dict(dict(state)), CPU, torch.float32)
    restorer = FaceRestorer(CodeFormer.from_state_dict(dict(state)), CPU, dtype)
    converted = {"generator", "fuse_convs_dict"}
    assert formats(restorer.network) == {
        name: {dtype} if name in converted else {torch.float32} for name in formats(exact.network)
    }
    assert torch.equal(codes(restorer.network, crops), codes(exact.network, crops))
    difference = np.abs(levels(restorer, crops[:1], 0.6) - levels(exact, crops[:1], 0.6))
    assert 0 < difference.mean() < 1  # untrained norms over two channels blow up single pixels


def test_in_bfloat16_the_demo_network_predicts_the_same_codes_and_nearly_the_same_levels(
    exact: FaceRestorer, crops: np.ndarray
) -> None:
    restorer = FaceRestorer(CodeFormer.from_state_dict(demo_state()), CPU, torch.bfloat16)
    x = to_input(crops[:1])
    with torch.inference_mode():
        low, full = restorer.network(x, 0.6), exact.network(x, 0.6)
    assert torch.equal(low.codes, full.codes)
    difference = (to_levels(low.image) - to_levels(full.image)).abs()
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) <= 2
    assert 0 < difference.max() <= 8


@pytest.mark.slow  # on a CPU without AVX512
def test_a_network_entirely_in_bfloat16_would_predict_other_codes(
    exact: FaceRestorer, crops: np.ndarray
) -> None:
    converted = CodeFormer.from_state_dict(demo_state()).to(torch.bfloat16).eval()
    differing = codes(converted, crops, torch.bfloat16) != codes(exact.network, crops)
    assert 0 < differing.float().mean() < 0.1


@pytest.mark.parametrize("stored", LOW, ids=str)
def test_a_file_of_a_lower_precision_runs_in_float32(crops: np.ndarray, stored: torch.dtype) -> None:
    """Its weights are rounded once, and nothing after that."""
    rounded = {key: tensor.to(stored) for key, tensor in demo_state().items()}
    expected = CodeFormer.from_state_dict({key: tensor.float() for key, tensor in rounded.items()})
    restorer = FaceRestorer(CodeFormer.from_state_dict(rounded), CPU, torch.float32)
    assert {p.dtype for p in restorer.network.parameters()} == {torch.float32}
    actual, expected_levels = (
        levels(r, crops[:1], 0.6) for r in (restorer, FaceRestorer(expected, CPU, torch.float32))
    )
    np.testing.assert_array_equal(actual, expected_levels)
