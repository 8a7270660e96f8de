"""Which network a checkpoint is, and the error for one that is not ours."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from torch import Tensor

from atelier_restorer.__main__ import main
from atelier_restorer.identify import UnknownNetworkError, identify
from atelier_restorer.nets.codeformer import CodeFormer
from tests.parity import recipe
from tests.tiny_identity import ARCFACE_CONFIG, arcface_state, map_network, mean_color_network
from tests.tiny_restorer import (
    CONFIG,
    codeformer_state,
    detector_state,
    gfpgan_state,
    restoreformer_state,
)

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    def run(*paths: Path) -> tuple[int, str, str]:
        code = main(["inspect", *map(str, paths)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def published(network: str) -> dict[str, Tensor]:
    """Return a checkpoint of the published names, shapes and dtypes, filled with zeros."""
    return {
        key: torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
        for key, entry in recipe.manifest(network).items()
    }


@pytest.mark.parametrize(
    ("network", "name", "role", "config", "parameters"),
    [
        (
            "codeformer",
            "codeformer",
            "codeformer",
            {"codebook_size": 1024, "image_size": 512, "heads": 8},
            94_112_707,
        ),
        ("retinaface_resnet50", "retinaface_resnet50", "detector", {"pyramid_channels": 256}, 27_293_600),
        ("retinaface_mobile025", "retinaface_mobile0.25", "detector", {"pyramid_channels": 64}, 426_608),
        ("parsenet", "parsenet", "parser", {"classes": 19, "image_size": 512}, 21_303_254),
        ("realesrgan_x2plus", "upscaler", "upscaler", {"architecture": "ESRGAN", "scale": 2}, 16_703_171),
        ("realesrgan_x4plus", "upscaler", "upscaler", {"architecture": "ESRGAN", "scale": 4}, 16_697_987),
    ],
)
def test_the_published_networks_are_identified_by_their_shapes(
    network: str, name: str, role: str, config: dict[str, object], parameters: int
) -> None:
    found = identify(published(network))
    assert (found.network, found.role, found.parameters) == (name, role, parameters)
    assert found.config.items() >= config.items()


def test_the_output_is_one_json_object_per_file(inspect: Inspect, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in detector_state().items()}
    torch.save({"params_ema": codeformer_state()}, tmp_path / "c.pth")
    save_file({f"module.{key}": tensor for key, tensor in half.items()}, tmp_path / "d.safetensors")
    code, out, err = inspect(tmp_path / "c.pth", tmp_path / "d.safetensors")
    assert (code, err) == (0, "")
    codeformer, detector = (json.loads(line) for line in out.splitlines())
    assert codeformer["config"]["base_width"] == CONFIG.base_width
    assert codeformer["config"]["channel_multipliers"] == list(CONFIG.channel_multipliers)
    assert detector == {
        "network": "retinaface_mobile0.25",
        "role": "detector",
        "config": {"backbone": "mobile0.25", "pyramid_channels": 64},
        "file": str(tmp_path / "d.safetensors"),
        "bytes": (tmp_path / "d.safetensors").stat().st_size,
        "sha256": hashlib.sha256((tmp_path / "d.safetensors").read_bytes()).hexdigest(),
        "tensors": 300,
        "parameters": 426_608,
        "dtype": "float16",
    }


def test_a_file_without_counters_is_complete() -> None:
    state = {key: tensor for key, tensor in detector_state().items() if "num_batches_tracked" not in key}
    assert identify(state).network == "retinaface_mobile0.25"


def differences(error: pytest.ExceptionInfo[UnknownNetworkError]) -> list[str]:
    """Return the differences that an error lists."""
    return str(error.value).rpartition(": ")[2].split("; ")


def test_the_first_ten_differences_are_named_and_the_rest_counted() -> None:
    state = published("parsenet")
    keys = list(state)
    for key in keys[:20]:
        del state[key]
    state[keys[30]] = torch.zeros(1, 2, 3)
    state["unexpected"] = torch.zeros(1)
    with pytest.raises(UnknownNetworkError, match="parsenet, with 91%") as caught:
        identify(state)
    listed = differences(caught)
    assert listed[0] == f"{keys[30]} has shape (1, 2, 3), not {tuple(published('parsenet')[keys[30]].shape)}"
    assert sum(text.endswith(" is missing") for text in listed) == 9
    assert listed[-1] == "and 12 more"  # 11 more are missing, one is unexpected


def without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    "prefix",
    ["ft_layers.8.", "ft_layers.3.", "fuse_convs_dict.128.", "fuse_convs_dict.", "encoder.blocks.12."],
)
def test_a_published_codeformer_that_lacks_a_part_is_not_a_smaller_one(prefix: str) -> None:
    """Its shapes fit a network with a layer or a fusion less, which would give another image."""
    whole = published("codeformer")
    state = without(whole, prefix)
    with pytest.raises(UnknownNetworkError, match="closest is codeformer,") as caught:
        identify(state)
    listed = differences(caught)
    lost = [key for key in whole if key not in state]
    assert all(text.removesuffix(" is missing") in lost for text in listed[:10] if text[:4] != "and ")
    assert len(listed) == min(len(lost), 11)
    assert len(lost) <= 10 or listed[-1] == f"and {len(lost) - 10} more"
    with pytest.raises(ValueError, match=prefix.replace(".", r"\.").rstrip("\\.")):
        CodeFormer.from_state_dict(state)


@pytest.mark.parametrize("shape", [(100, 512), (7,), (0, 512), (256, 0)])
def test_sizes_that_no_codeformer_can_have_are_reported_by_shape(shape: tuple[int, ...]) -> None:
    state = published("codeformer") | {"position_emb": torch.zeros(shape)}
    with pytest.raises(UnknownNetworkError, match=r"position_emb has shape \(.*not \(256, 512\)"):
        identify(state)


@pytest.mark.parametrize("network", ["realesrgan_x2plus", "realesrgan_x4plus"])
def test_a_corrupt_real_esrgan_is_reported_by_its_own_names(network: str) -> None:
    """spandrel renames the tensors, and ignores unexpected ones."""
    whole = published(network)
    first, last = tuple(whole["conv_first.weight"].shape), (3, 64, 3, 3)
    state = without(whole, "body.5.") | {"conv_last.weight": torch.zeros(5), "unexpected": torch.zeros(1)}
    with pytest.raises(UnknownNetworkError, match="closest is Real-ESRGAN's RRDBNet") as caught:
        identify(state)
    listed = differences(caught)
    assert listed[0] == f"conv_last.weight has shape (5,), not {last}"
    assert all(text.startswith("body.5.rdb") and text.endswith(" is missing") for text in listed[1:10])
    assert listed[10] == "and 22 more"  # 21 of 30, and the unexpected one
    for state, difference in (
        (without(whole, "conv_first.weight"), "conv_first.weight is missing"),
        (whole | {"surplus": torch.zeros(1)}, "surplus is unexpected"),
        (whole | {"conv_hr.weight": torch.zeros(first)}, "conv_hr.weight has shape"),
    ):
        with pytest.raises(UnknownNetworkError) as caught:
            identify(state)
        assert difference in str(caught.value) and len(differences(caught)) == 1


def test_another_size_of_a_known_network_is_reported_by_shape() -> None:
    state = detector_state()
    state["fpn.output1.0.weight"] = torch.zeros(32, 64, 1, 1)
    with pytest.raises(
        UnknownNetworkError, match=r"mobile0\.25.*fpn\.output1\.0\.weight has shape \(32, 64, 1, 1\)"
    ):
        identify(state)


def test_an_incomplete_upscaler_is_reported_tensor_by_tensor() -> None:
    state = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=16, upscale=2).state_dict()
    for number in range(4, 30, 2):
        del state[f"body.{number}.bias"]
    state["body.2.weight"] = torch.zeros(8, 8, 5, 5)
    with pytest.raises(UnknownNetworkError, match="like an upscaler") as caught:
        identify(state)
    listed = differences(caught)
    assert listed[0] == "body.2.weight has shape (8, 8, 5, 5), not (8, 8, 3, 3)"
    assert listed[1] == "body.4.bias is missing" and len(listed) == 11 and listed[-1] == "and 4 more"


def test_an_upscaler_of_gray_images_is_refused() -> None:
    state = Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2).state_dict()
    with pytest.raises(UnknownNetworkError, match="does not work on RGB"):
        identify(state)


def test_face_restorers_without_a_fidelity_are_identified(inspect: Inspect, tmp_path: Path) -> None:
    torch.save({"params_ema": gfpgan_state()}, tmp_path / "g.pth")
    torch.save({"state_dict": restoreformer_state()}, tmp_path / "r.ckpt")
    code, out, err = inspect(tmp_path / "g.pth", tmp_path / "r.ckpt")
    assert (code, err) == (0, "")
    gfpgan, restoreformer = (json.loads(line) for line in out.splitlines())
    assert (gfpgan["network"], gfpgan["role"]) == ("gfpgan", "codeformer")
    assert gfpgan["config"].items() >= {"image_size": 512, "fidelity": False, "narrow": 1 / 16}.items()
    assert (restoreformer["network"], restoreformer["role"]) == ("restoreformer", "codeformer")
    assert restoreformer["config"].items() >= {"n_embed": 32, "ch": 32, "num_res_blocks": 1}.items()


@pytest.mark.parametrize(
    ("state", "name"), [(gfpgan_state, "gfpgan"), (restoreformer_state, "restoreformer")]
)
def test_an_incomplete_face_restorer_is_reported_tensor_by_tensor(
    state: Callable[[], dict[str, Tensor]], name: str
) -> None:
    whole = state()
    lost = list(whole)[40]
    broken = {key: tensor for key, tensor in whole.items() if key != lost}
    with pytest.raises(UnknownNetworkError, match=f"closest is {name}, ") as caught:
        identify(broken)
    assert differences(caught) == [f"{lost.removeprefix('vqvae.')} is missing"]


def test_identity_networks_of_both_kinds_are_identified(inspect: Inspect, tmp_path: Path) -> None:
    torch.save(arcface_state(), tmp_path / "a.pth")
    (tmp_path / "i.onnx").write_bytes(mean_color_network())
    code, out, err = inspect(tmp_path / "a.pth", tmp_path / "i.onnx")
    assert (code, err) == (0, "")
    arcface, onnx = (json.loads(line) for line in out.splitlines())
    assert (arcface["network"], arcface["role"], arcface["dtype"]) == ("arcface", "identity", "float32")
    sizes = {"image_size": 112, "dimensions": ARCFACE_CONFIG.dimensions, "units": len(ARCFACE_CONFIG.widths)}
    assert arcface["config"] == sizes
    content = (tmp_path / "i.onnx").read_bytes()
    assert onnx == {
        "network": "identity",
        "role": "identity",
        "config": {"format": "onnx", "image_size": 112, "dimensions": 6},
        "file": str(tmp_path / "i.onnx"),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_an_incomplete_arcface_is_reported_tensor_by_tensor() -> None:
    state = arcface_state()
    del state["body.2.res_layer.5.fc2.weight"]
    with pytest.raises(UnknownNetworkError, match="closest is arcface, ") as caught:
        identify(state)
    assert differences(caught) == ["body.2.res_layer.5.fc2.weight is missing"]


def test_an_onnx_file_that_is_no_identity_network_is_refused(inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "map.onnx").write_bytes(map_network())
    code, out, err = inspect(tmp_path / "map.onnx")
    assert (code, out) == (1, "")
    assert "not a network of the restorer: as an identity network it returns an array of shape" in err


def test_a_file_that_is_not_ours_fails_and_the_others_are_reported(inspect: Inspect, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    torch.save(DnCNN(nc=8, nb=4).state_dict(), tmp_path / "denoiser.pth")
    torch.save(detector_state(), tmp_path / "d.pth")
    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"a": Trap()}, protocol=2))
    names = ("other.pth", "denoiser.pth", "d.pth", "trap.pth", "nowhere.pth")
    code, out, err = inspect(*(tmp_path / name for name in names))
    assert code == 1
    assert [json.loads(line)["network"] for line in out.splitlines()] == ["retinaface_mobile0.25"]
    other, denoiser, trap, nowhere = err.splitlines()
    assert "other.pth" in other and "closest is" in other and "with 0%" in other
    assert "denoiser.pth" in denoiser and "is a DnCNN" in denoiser
    assert "trap.pth" in trap and "arbitrary code" in trap
    assert "nowhere.pth" in nowhere and "no such file" in nowhere


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("the trap has closed",))


def test_what_a_terminal_would_act_on_is_not_printed(inspect: Inspect, tmp_path: Path) -> None:
    for content in (b"not a checkpoint", b""):
        path = tmp_path / "evil\x1b[31m\n.pth"
        path.write_bytes(content)
        code, _, err = inspect(path)
        assert code == 1 and "\x1b" not in err and err.count("\n") == 1
        assert "evil\\x1b[31m\\n.pth" in err
