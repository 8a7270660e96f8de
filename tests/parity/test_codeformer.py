"""Our CodeFormer against the reference's answers for the same weights and picture."""

import numpy as np
import pytest
import torch

from atelier_restorer.nets.codeformer import CodeFormer, CodeFormerConfig, match_statistics
from tests.parity import recipe

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def network() -> CodeFormer:
    return CodeFormer.from_state_dict(recipe.state_dict("codeformer", 1)).eval()


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    pixels = recipe.image("codeformer", 1, 512, 512)
    assert recipe.fingerprint(pixels) == "d26f0b4476ddc7ea", (
        "numpy draws another stream than the goldens' did"
    )
    return torch.from_numpy(pixels / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]


def test_the_keys_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        state = CodeFormer().state_dict()
    published = recipe.manifest("codeformer")
    assert len(published) == 515
    assert {key: list(tensor.shape) for key, tensor in state.items()} == {
        key: entry["shape"] for key, entry in published.items()
    }
    assert CodeFormerConfig.from_state_dict(state) == CodeFormerConfig()


@torch.inference_mode()
def test_codes_and_pictures_equal_the_reference_in_one_batch(network: CodeFormer, face: torch.Tensor) -> None:
    golden = recipe.golden("codeformer_s1")
    features, lq_feature = network.encode(face)
    np.testing.assert_allclose(lq_feature[0, ::2, ::2, ::2], golden["lq_feat"], atol=TOLERANCE)
    logits = network.predict_codes(lq_feature)
    np.testing.assert_allclose(logits[0, ::16, ::8], golden["logits"], atol=TOLERANCE)
    codes = logits.argmax(dim=2)
    np.testing.assert_array_equal(codes[0], golden["codes"])

    quantized = match_statistics(network.lookup(codes.unflatten(1, (16, 16))), lq_feature)
    pictures = network.decode(
        quantized.expand(2, -1, -1, -1),
        {size: feature.expand(2, -1, -1, -1) for size, feature in features.items()},
        torch.tensor([0.0, 0.6]),
    )
    for picture, name in zip(pictures, ("w0", "w0.6"), strict=True):
        np.testing.assert_allclose(picture[:, ::8, ::8], golden[name], atol=TOLERANCE)
        np.testing.assert_allclose(picture.mean(), golden[f"{name}_mean"], atol=TOLERANCE)
        np.testing.assert_allclose(picture.std(), golden[f"{name}_std"], atol=TOLERANCE)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("name", ["w0.3", "w0.9", "w1"])
def test_pictures_at_other_fidelities(network: CodeFormer, face: torch.Tensor, name: str) -> None:
    golden = recipe.golden("codeformer_s1")
    picture = network(face, float(name[1:])).image[0]
    np.testing.assert_allclose(picture[:, ::8, ::8], golden[name], atol=TOLERANCE)


@pytest.mark.slow
@torch.inference_mode()
def test_a_picture_without_adain(network: CodeFormer, face: torch.Tensor) -> None:
    golden = recipe.golden("codeformer_s1")
    picture = network(face, 0.6, adain=False).image[0]
    np.testing.assert_allclose(picture[:, ::16, ::16], golden["w0.6_noadain"], atol=TOLERANCE)
