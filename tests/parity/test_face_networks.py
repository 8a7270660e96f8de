"""GFPGAN, RestoreFormer and BiSeNet against spandrel's and facexlib's own calls, with weights of a seed.

The network classes are theirs, so what is compared is how a file is read, what the network is fed, and how
its output is read. Its published tensors are checked by their number and size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from facexlib.parsing.bisenet import BiSeNet
from spandrel import ImageModelDescriptor, ModelLoader
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from atelier_restorer.identify import identify
from atelier_restorer.models import load_models
from atelier_restorer.parse import FaceParser
from atelier_restorer.paste import restored_parts
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.single_restorer import SingleRestorer
from atelier_runtime.errors import BadImage
from atelier_runtime.service_status import NetworkRole
from tests.parity import recipe
from tests.tiny_restorer import build_set, restoreformer_state

CPU = torch.device("cpu")
ROUNDING = 0.5

# Of face-parsing.PyTorch: the names of the classes, and whether a restored face replaces them.
BISENET_CLASSES = {
    **{"background": False, "skin": True, "l_brow": True, "r_brow": True, "l_eye": True, "r_eye": True},
    **{"eye_g": True, "l_ear": True, "r_ear": True, "ear_r": True, "nose": True, "mouth": True},
    **{"u_lip": True, "l_lip": True, "neck": False, "neck_l": False, "cloth": False, "hair": True},
    **{"hat": False},
}
# The same of ParseNet, numbered as in `paste.restored_parts`.
PARSENET_CLASSES = (
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)


def entries_of(network: nn.Module) -> dict[str, dict[str, object]]:
    """Return key -> shape and dtype, as `recipe.manifest` has them for the other networks."""
    return {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in network.state_dict().items()
    }


def weights_of(network: nn.Module, seed: int) -> dict[str, Tensor]:
    arrays = recipe.weights(entries_of(network), seed)
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def bytes_of(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())


@pytest.mark.parametrize(
    ("network", "counted", "name", "role", "parameters", "published"),
    [
        (GFPGAN, 0, "gfpgan", "codeformer", 86_444_252, 348_632_874),
        # the published file also counts how often each of its 1,024 codes was used
        (RestoreFormer, 4 * 1024, "restoreformer", "codeformer", 72_680_003, 290_861_237),
        (lambda: BiSeNet(19), 0, "bisenet", "parser", 13_300_416, 53_289_463),
    ],
)
def test_the_classes_have_the_published_networks_tensors(
    network: type[nn.Module], counted: int, name: str, role: str, parameters: int, published: int
) -> None:
    """Names and the rest of the format take less than 0.1 % of the published file."""
    with torch.device("meta"):
        state = network().state_dict()
    found = identify(state)
    assert (found.network, found.role, found.parameters) == (name, role, parameters)
    assert 0 < published - bytes_of(state) - counted < 1e-3 * published


@torch.inference_mode()
def test_restoreformer_equals_spandrels_call() -> None:
    state = restoreformer_state(seed=2)
    pixels = recipe.image("codeformer", 3, 512, 512)
    named = {key.removeprefix("vqvae."): value for key, value in state.items()}
    del named["quantize.utility_counter"]
    descriptor = ModelLoader().load_from_state_dict(dict(named))
    assert isinstance(descriptor, ImageModelDescriptor) and descriptor.purpose == "FaceSR"
    expected = descriptor(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    assert expected.std() > 0.05, "a nearly uniform face would prove little"
    [face] = SingleRestorer(state, CPU).restore(pixels[None], [(0, 0.5)])
    assert np.abs(np.asarray(face) - expected.numpy() * 255).max() <= ROUNDING + 0.02


@pytest.mark.slow  # spandrel loads it only at the published size: a forward pass takes 20 s on two cores
@torch.inference_mode()
def test_gfpgan_equals_spandrels_network() -> None:
    """On -1 to 1, as GFPGAN's own program feeds it, with the stored noise; spandrel's call feeds 0 to 1."""
    with torch.device("meta"):
        state = weights_of(GFPGAN(), 3)
    pixels = recipe.image("codeformer", 3, 512, 512)
    face_in = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    network = ModelLoader().load_from_state_dict(dict(state)).model.eval()
    expected = network(normalize(face_in, [0.5] * 3, [0.5] * 3), randomize_noise=False)[0][0]
    # Most of it may lie outside -1 to 1 and would be clipped. It is a sum of what these layers return.
    reach = float(expected.abs().max())
    expected /= reach
    for key, value in state.items():
        if ".to_rgb" in key and (key.endswith("modulated_conv.weight") or key.endswith(".bias")):
            value /= 1 if "modulation" in key else reach
    assert expected.std() > 0.1, "a nearly uniform face would prove little"
    [face] = SingleRestorer(state, CPU).restore(pixels[None], [(0, 0.5)])
    levels = (expected.clamp(-1, 1) + 1).permute(1, 2, 0).numpy() * 127.5
    assert np.abs(np.asarray(face) - levels).max() <= ROUNDING + 0.02


@torch.inference_mode()
def test_bisenet_equals_facexlibs_call() -> None:
    with torch.device("meta"):
        state = weights_of(BiSeNet(19), 3)
    pixels = recipe.image("parsenet", 3, 512, 512)
    network = BiSeNet(19)
    network.load_state_dict(state)
    # As facexlib's inference_parsing.py does.
    x = torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)
    x = normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = network.eval()(x[None])[0][0]
    parser = FaceParser.from_state_dict(state, CPU, torch.bfloat16)
    logits = parser.logits(pixels[None])[0]
    reach = float(expected.max() - expected.min())
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * reach)

    theirs = expected.argmax(dim=0)
    assert len(theirs.unique()) > 4, "an image of one class would prove little"
    names = list(BISENET_CLASSES)
    first, second = expected.topk(2, dim=0).values
    sure = (first - second > 2e-4 * reach).numpy()
    assert sure.mean() > 0.9
    ours = parser.classify(pixels[None])[0]
    assert ours.dtype == np.uint8
    for number in theirs.unique().tolist():
        found = ours[(theirs == number).numpy() & sure]
        assert {PARSENET_CLASSES[c] for c in np.unique(found)} == {names[number]}
        assert restored_parts(found[None]).all() == BISENET_CLASSES[names[number]]


@torch.inference_mode()
def test_every_class_of_bisenet_is_mapped_to_the_one_of_the_same_name() -> None:
    """The network's output is replaced by one in which each class fills some rows."""
    with torch.device("meta"):
        state = weights_of(BiSeNet(19), 3)
    parser = FaceParser.from_state_dict(state, CPU)
    rows = torch.arange(512) % 19
    stripes = nn.functional.one_hot(rows, 19).T[None, :, :, None].expand(1, 19, 512, 512).float()
    parser._network.register_forward_hook(lambda *_: (stripes,))
    classes = parser.classify(np.zeros((1, 512, 512, 3), np.uint8))[0]
    assert (classes == classes[:, :1]).all()
    assert [PARSENET_CLASSES[number] for number in classes[:19, 0]] == list(BISENET_CLASSES)
    assert restored_parts(classes)[:19, 0].tolist() == list(BISENET_CLASSES.values())


@torch.inference_mode()
def test_logits_of_bisenet_that_are_not_finite_are_refused() -> None:
    with torch.device("meta"):
        state = weights_of(BiSeNet(19), 3)
    state["ffm.convblk.bn.bias"][0] = torch.nan
    with pytest.raises(BadImage):
        FaceParser.from_state_dict(state, CPU).classify(np.zeros((1, 512, 512, 3), np.uint8))


def test_a_bisenet_takes_the_place_of_a_sets_parser_and_runs_in_float32(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = weights_of(BiSeNet(19), 3)
    torch.save(state, tmp_path / "parsing_bisenet.pth")
    chosen = RestorerSettings(
        model_set=str(build_set(tmp_path / "set")),
        parser=str(tmp_path / "parsing_bisenet.pth"),
        device="cpu",
        dtype="bfloat16",
        cpu_threads=1,
    )
    models = load_models(chosen, (NetworkRole.FACE_PARSER,))
    assert models.components[NetworkRole.FACE_PARSER].name == "parsing_bisenet"
    assert models.parser is not None
    network = models.parser()._network
    assert isinstance(network, BiSeNet)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
