"""ArcFace against facexlib's own network, with weights of a seed at the published shapes."""

from __future__ import annotations

import numpy as np
import torch
from facexlib.recognition.arcface_arch import Backbone
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

from atelier_restorer.identify import identify
from atelier_restorer.identity_arcface import ArcFaceIdentifier
from atelier_restorer.nets.arcface import ArcFace, ArcFaceConfig
from atelier_restorer.recognition_crop import recognition_crop
from tests.parity import recipe

PUBLISHED_BYTES = 175_367_323
CPU = torch.device("cpu")


def facexlibs() -> Backbone:
    """Return facexlib's network with the arguments of its `init_recognition_model`, on the current device."""
    return Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").eval()


def weights(seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        entries = {
            key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for key, value in facexlibs().state_dict().items()
        }
    state = {key: torch.from_numpy(np.asarray(array)) for key, array in recipe.weights(entries, seed).items()}
    for key, value in state.items():
        if key.endswith(("input_layer.2.weight", "res_layer.2.weight")):  # slopes of the PReLUs, about 1
            value -= 0.75
    return state


def test_the_published_checkpoint_has_the_tensors_of_our_network() -> None:
    """Names and the rest of the format take less than 0.1 % of the published file."""
    with torch.device("meta"):
        theirs, ours = facexlibs().state_dict(), ArcFace(ArcFaceConfig()).state_dict()
    assert {key: (value.shape, value.dtype) for key, value in ours.items()} == {
        key: (value.shape, value.dtype) for key, value in theirs.items()
    }
    found = identify(theirs)
    assert (found.network, found.role, found.parameters) == ("arcface", "identity", 43_797_696)
    assert found.config == {"image_size": 112, "dimensions": 512, "units": 24}
    stored = sum(value.numel() * value.element_size() for value in theirs.values())
    assert 0 < PUBLISHED_BYTES - stored < 1e-3 * PUBLISHED_BYTES


@torch.inference_mode()
def test_arcface_equals_facexlibs_call() -> None:
    """A crop's way through the reading of the file, the recognition crop, and the network."""
    state = weights(3)
    network = facexlibs()
    network.load_state_dict(state)
    identifier = ArcFaceIdentifier(state, CPU)
    found, expected = [], []
    for seed in (3, 4):
        crop = recipe.image("codeformer", seed, 512, 512)
        bgr = np.ascontiguousarray(recognition_crop(crop)[..., ::-1])
        x = normalize(to_tensor(bgr), [0.5] * 3, [0.5] * 3)
        expected.append(network(x[None])[0].numpy())
        found.append(identifier.embed(crop).direction)
        other = identifier.embed(np.ascontiguousarray(crop[..., ::-1])).direction
        assert np.abs(other - expected[-1]).max() > 1e-3, "red and blue must not be interchangeable"
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "equal embeddings would prove little"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
