"""What CodeFormer's blocks do differently from torch's own layers, and that it is the same to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.nets.codeformer_blocks import GroupNorm, Upsample
from tests.tiny_restorer import codeformer_state

CHANNELS = 64


def feature_map(count: int = 1, side: int = 256) -> Tensor:
    """Return a map in channels_last whose channels have means and scales of their own, as real ones have."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        scale, mean = torch.rand(count, CHANNELS, 1, 1) * 2, torch.randn(count, CHANNELS, 1, 1) * 3
        x = torch.randn(count, CHANNELS, side, side + 3) * scale + mean
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def norm() -> GroupNorm:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        norm = GroupNorm(32, CHANNELS, eps=1e-6).requires_grad_(False)
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


def exact(norm: GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x.double().contiguous(), 32, norm.weight.double(), norm.bias.double(), norm.eps)


def error(y: Tensor, expected: Tensor) -> float:
    return float((y.double() - expected).abs().max())


@pytest.mark.parametrize("count", [1, 3])
def test_group_norm_is_exact_in_channels_last(norm: GroupNorm, count: int) -> None:
    x = feature_map(count)
    y = norm(x)
    assert error(y, exact(norm, x)) < 1e-5
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_torchs_own_group_norm_would_not_be(norm: GroupNorm) -> None:
    """If this fails, torch sums up as exactly, and ours can go."""
    x = feature_map(side=512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread's share of the pixels is summed up by itself
    try:
        theirs = F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)
    finally:
        torch.set_num_threads(threads)
    assert error(theirs, exact(norm, x)) > 10 * error(norm(x), exact(norm, x))


@pytest.mark.parametrize("case", ["contiguous", "bfloat16", "training"])
def test_elsewhere_group_norm_is_torchs(norm: GroupNorm, case: str) -> None:
    x = feature_map(side=16)
    if case == "contiguous":
        x = x.contiguous()
    if case == "bfloat16":
        norm, x = norm.to(torch.bfloat16), x.to(torch.bfloat16)
    x.requires_grad_(case == "training")
    assert torch.equal(norm(x), F.group_norm(x, 32, norm.weight, norm.bias, norm.eps))


@pytest.mark.parametrize("count", [1, 2])
def test_a_folded_upsampling_is_the_plain_one(count: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        upsample = Upsample(CHANNELS).requires_grad_(False)
    x = feature_map(count, side=15)
    plain = upsample(x)
    upsample.fold()
    folded = upsample(x)
    assert folded.shape == plain.shape and error(folded, plain.double()) < 1e-5
    assert upsample.state_dict().keys() == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_a_prepared_network_is_the_same_network(stored: torch.dtype) -> None:
    """Of weights that are stored in 16 bits the sums must not be rounded to 16 bits."""
    state = {key: tensor.to(stored) for key, tensor in codeformer_state().items()}
    plain = CodeFormer.from_state_dict(dict(state)).set_dtypes(torch.float32).eval()
    prepared = CodeFormer.from_state_dict(dict(state)).prepare_for_cpu().set_dtypes(torch.float32).eval()
    size = plain.config.image_size
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.inference_mode():
        expected = plain(x, torch.tensor([0.0, 0.7]))
        output = prepared(x.contiguous(memory_format=torch.channels_last), torch.tensor([0.0, 0.7]))
    assert torch.equal(output.codes, expected.codes)
    assert error(output.image, expected.image.double()) < 1e-4
    assert prepared.state_dict().keys() == plain.state_dict().keys()


def test_the_encoders_dtype_leaves_the_generator_as_it_is() -> None:
    network = CodeFormer.from_state_dict(codeformer_state()).prepare_for_cpu()
    before = {key: tensor.clone() for key, tensor in network.generator.state_dict().items()}
    network.set_dtypes(torch.float32, encoder=torch.bfloat16)
    after = network.generator.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert network.position_emb.dtype == network.encoder.blocks[0].weight.dtype == torch.bfloat16


def test_the_encoder_has_a_dtype_of_its_own() -> None:
    network = CodeFormer.from_state_dict(codeformer_state()).prepare_for_cpu()
    network.set_dtypes(torch.bfloat16, encoder=torch.bfloat16).eval()
    size = network.config.image_size
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, size, size), 0.5)
    assert output.lq_feature.dtype == output.code_logits.dtype == torch.bfloat16
    assert bool(torch.isfinite(output.image.float()).all())
