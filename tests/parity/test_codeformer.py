"""Our CodeFormer against the reference's answers for the same weights and pictures, at published shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, match_statistics
from tests.parity import recipe

LOGIT_TOLERANCE = 3e-4
"""Logits reach from about -8 to 8. Two of them may each be off by this: a code is safe beyond twice that."""
RANGE_TOLERANCE = 1e-4
"""Of the picture's range, from its lowest to its highest value."""

SEEDS = [1, pytest.param(2, marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Encoded:
    """A network and what it made of the golden's picture up to the codes."""

    network: CodeFormer
    features: Mapping[int, torch.Tensor]
    lq_feature: torch.Tensor
    logits: torch.Tensor
    golden: Any

    def quantized(self, *, adain: bool = True) -> torch.Tensor:
        """The latent of the reference's codes: ours differ only where a rounding may decide."""
        codes = torch.from_numpy(self.golden["codes"]).long().view(1, 16, 16)
        looked_up = self.network.lookup(codes)
        return match_statistics(looked_up, self.lq_feature) if adain else looked_up

    def draw(self, fidelities: list[float], *, adain: bool = True) -> torch.Tensor:
        count = len(fidelities)
        features = {size: f.expand(count, -1, -1, -1) for size, f in self.features.items()}
        quantized = self.quantized(adain=adain).expand(count, -1, -1, -1)
        return self.network.decode(quantized, features, torch.tensor(fidelities))


@cache
@torch.inference_mode()
def encoded(seed: int) -> Encoded:
    network = CodeFormer.from_state_dict(recipe.state_dict("codeformer", seed)).eval()
    pixels = recipe.picture("codeformer", seed)
    face = torch.from_numpy(pixels / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]
    features, lq_feature = network.encode(face)
    logits = network.predict_codes(lq_feature)
    return Encoded(network, features, lq_feature, logits, recipe.golden(f"codeformer_s{seed}"))


def check_picture(picture: torch.Tensor, golden: Any, name: str) -> None:
    expected = golden[name]
    tolerance = RANGE_TOLERANCE * float(expected.max() - expected.min())
    step = picture.shape[1] // expected.shape[1]
    np.testing.assert_allclose(picture[:, ::step, ::step], expected, rtol=0, atol=tolerance)
    if f"{name}_mean" in golden:
        np.testing.assert_allclose(picture.mean(), golden[f"{name}_mean"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(picture.std(), golden[f"{name}_std"], rtol=0, atol=tolerance)


def test_the_keys_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        state = CodeFormer().state_dict()
    published = recipe.manifest("codeformer")
    assert len(published) == 515
    assert {key: list(tensor.shape) for key, tensor in state.items()} == {
        key: entry["shape"] for key, entry in published.items()
    }
    assert CodeFormerConfig.from_state_dict(state) == CodeFormerConfig()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_codes_are_the_references_wherever_rounding_does_not_decide(seed: int) -> None:
    found = encoded(seed)
    golden = found.golden
    np.testing.assert_allclose(found.lq_feature[0, ::2, ::2, ::2], golden["lq_feat"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.logits[0, ::16, ::8], golden["logits"], rtol=0, atol=LOGIT_TOLERANCE)
    codes = found.logits.argmax(dim=2)[0].numpy()
    safe = golden["margin"] > 2 * LOGIT_TOLERANCE
    assert safe.sum() >= 255, "nearly all codes are safe"
    np.testing.assert_array_equal(codes[safe], golden["codes"][safe])
    unsafe = codes[~safe]
    assert np.all((unsafe == golden["codes"][~safe]) | (unsafe == golden["second"][~safe]))


@pytest.mark.parametrize("seed", SEEDS)
@torch.inference_mode()
def test_pictures_at_the_fidelities_that_most_use(seed: int) -> None:
    for picture, name in zip(encoded(seed).draw([0.0, 0.6]), ("w0", "w0.6"), strict=True):
        check_picture(picture, encoded(seed).golden, name)


@pytest.mark.parametrize("seed", SEEDS)
@torch.inference_mode()
def test_a_picture_without_adain(seed: int) -> None:
    check_picture(encoded(seed).draw([0.6], adain=False)[0], encoded(seed).golden, "w0.6_noadain")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@torch.inference_mode()
def test_pictures_at_other_fidelities(seed: int) -> None:
    names = ("w0.3", "w0.9", "w1")
    pictures = encoded(seed).draw([float(name[1:]) for name in names])
    for picture, name in zip(pictures, names, strict=True):
        check_picture(picture, encoded(seed).golden, name)


@pytest.mark.slow
@torch.inference_mode()
def test_a_batch_of_mixed_fidelities_equals_single_runs() -> None:
    fidelities = [0.0, 0.6, 1.0]
    together = encoded(1).draw(fidelities)
    for fidelity, picture in zip(fidelities, together, strict=True):
        np.testing.assert_allclose(encoded(1).draw([fidelity])[0], picture, rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_one_forward_pass_is_its_parts(seed: int = 1) -> None:
    """The faces of a sweep are encoded once and drawn at several fidelities."""
    network = encoded(seed).network
    pixels = recipe.picture("codeformer", seed)
    face = torch.from_numpy(pixels / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]
    answer = network(face, torch.tensor([0.0, 0.6]), indices=[0, 0])
    assert answer.lq_feature.shape[0] == 1
    for picture, name in zip(answer.image, ("w0", "w0.6"), strict=True):
        check_picture(picture, encoded(seed).golden, name)
