"""Our CodeFormer against the reference's outputs for the same weights and image, at published shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, match_statistics
from tests.parity import recipe

LATENT_TOLERANCE = 1e-4
"""Of lq_feat, whose values reach from -4 to 4; 2e-5 was measured."""

LOGIT_TOLERANCE = 1e-4
"""Four times what was measured (2.4e-5, of logits from -7 to 8), for CPUs that add in another order."""

MARGIN_TOLERANCE = 2 * LOGIT_TOLERANCE
"""Two logits swap only if their errors together exceed their distance. The smallest
margin of either seed is 0.0006."""

OUTPUT_TOLERANCE = 1e-4
"""As a share of the output's range."""

MIXED_TOLERANCE = 1e-5
"""As a share of the output's range. 0 was measured on one thread, 1.2e-5 of a range of 8 on two."""

slow = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A seed's network, picture, goldens, and one encoder pass for all tests of the seed."""

    network: CodeFormer
    pixels: np.ndarray
    golden: Any
    features: dict[int, Tensor]
    lq_feature: Tensor
    logits: Tensor

    @property
    def codes(self) -> Tensor:
        """The reference's codes, where ours are allowed to differ within its margin."""
        return torch.from_numpy(self.golden["codes"].astype(np.int64)).view(1, 16, 16)

    def decode(self, fidelity: float, adain: bool = True) -> np.ndarray:
        quantized = self.network.lookup(self.codes)
        if adain:
            quantized = match_statistics(quantized, self.lq_feature)
        return np.asarray(self.network.decode(quantized, self.features, fidelity)[0])


def to_input(pixels: np.ndarray) -> Tensor:
    image = torch.from_numpy(pixels / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]
    return image.contiguous(memory_format=torch.channels_last)  # as the restorer's on a CPU


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=slow)], ids=lambda seed: f"seed{seed}")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    seed = request.param
    pixels = recipe.picture("codeformer", seed)
    network = CodeFormer.from_state_dict(recipe.state_dict("codeformer", seed)).prepare_for_cpu()
    network.eval().requires_grad_(False)
    with torch.inference_mode():
        features, lq_feature = network.encode(to_input(pixels))
        logits = network.predict_codes(lq_feature)
    golden = recipe.golden(f"codeformer_s{seed}")
    yield Case(network, pixels, golden, features, lq_feature, logits)


def test_the_keys_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        state = CodeFormer().state_dict()
    published = recipe.manifest("codeformer")
    assert len(published) == 515
    assert {key: list(tensor.shape) for key, tensor in state.items()} == {
        key: entry["shape"] for key, entry in published.items()
    }
    assert CodeFormerConfig.from_state_dict(state) == CodeFormerConfig()


def test_another_stream_of_numpy_is_reported_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    original = recipe._generator
    monkeypatch.setattr(recipe, "_generator", lambda key, seed: original(key, seed + 1))
    with pytest.raises(recipe.StreamChanged, match=r"the picture 'parsenet', seed 1.*numpy"):
        recipe.picture("parsenet", 1)
    with pytest.raises(recipe.StreamChanged, match="the weights of retinaface_mobile025, seed 2"):
        recipe.state_dict("retinaface_mobile025", 2)


def test_every_golden_has_its_fingerprints() -> None:
    for seed in (1, 2):
        meta = json.loads((recipe.FOLDER / "goldens" / f"meta_s{seed}.json").read_text("utf-8"))
        files = {path.stem for path in (recipe.FOLDER / "goldens").glob(f"*_s{seed}.npz")}
        assert files == {f"{network}_s{seed}" for network in meta}


def test_the_codes_are_the_references_wherever_its_margin_is_clear(case: Case) -> None:
    golden, logits = case.golden, case.logits[0].numpy()
    np.testing.assert_allclose(
        case.lq_feature[0, ::2, ::2, ::2], golden["lq_feat"], rtol=0, atol=LATENT_TOLERANCE
    )
    np.testing.assert_allclose(logits[::16, ::8], golden["logits"], rtol=0, atol=LOGIT_TOLERANCE)
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    np.testing.assert_allclose(first - second, golden["margin"], rtol=0, atol=MARGIN_TOLERANCE)

    codes = logits.argmax(axis=1)
    differing = codes != golden["codes"]
    assert (golden["margin"][differing] <= MARGIN_TOLERANCE).all()
    np.testing.assert_array_equal(codes[differing], golden["second"][differing])


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", ["w0.6", *(pytest.param(name, marks=slow) for name in ("w0", "w0.3", "w0.9", "w1"))]
)
def test_the_picture_of_the_references_codes_is_the_references(case: Case, name: str) -> None:
    golden = case.golden
    picture = case.decode(float(name[1:]))
    atol = OUTPUT_TOLERANCE * float(np.ptp(picture))
    np.testing.assert_allclose(picture[:, ::8, ::8], golden[name], rtol=0, atol=atol)
    # One pixel in 64 says little about the rest; these are computed from all pixels.
    np.testing.assert_allclose(picture.mean(dtype=np.float64), golden[f"{name}_mean"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(picture.std(dtype=np.float64), golden[f"{name}_std"], rtol=0, atol=1e-5)


@slow
@torch.inference_mode()
def test_the_picture_without_adain(case: Case) -> None:
    picture = case.decode(0.6, adain=False)
    atol = OUTPUT_TOLERANCE * float(np.ptp(picture))
    np.testing.assert_allclose(picture[:, ::16, ::16], case.golden["w0.6_noadain"], rtol=0, atol=atol)


@slow
@pytest.mark.parametrize("case", [1], ids=["seed1"], indirect=True)  # other weights take the same paths
@torch.inference_mode()
def test_a_batch_of_mixed_fidelities_is_what_single_runs_are(case: Case) -> None:
    other = recipe.image("other", 1, 512, 512)
    faces = torch.cat([to_input(case.pixels), to_input(other), to_input(case.pixels)])
    fidelities = [0.6, 0.0, 1.0]
    batch = case.network(faces, torch.tensor(fidelities))
    for face, fidelity, picture, codes in zip(faces, fidelities, batch.image, batch.codes, strict=True):
        alone = case.network(face[None], fidelity)
        assert torch.equal(alone.codes[0], codes)
        atol = MIXED_TOLERANCE * float(picture.max() - picture.min())
        torch.testing.assert_close(picture, alone.image[0], rtol=0, atol=atol)


@slow
def test_the_restorer_gives_the_references_levels(case: Case) -> None:
    restorer = FaceRestorer(case.network, torch.device("cpu"), torch.float32)
    for picture, name in zip(
        restorer.restore(case.pixels[None], [(0, 0.0), (0, 0.6)]), ("w0", "w0.6"), strict=True
    ):
        assert isinstance(picture, np.ndarray)
        expected = np.rint((case.golden[name].clip(-1, 1).transpose(1, 2, 0) + 1) * 127.5)
        difference = np.abs(picture[::8, ::8].astype(int) - expected)
        assert difference.max() <= 1  # a level that lies halfway between two
        assert (difference > 0).mean() < 0.001
