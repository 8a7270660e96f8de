"""The command `inspect`: what a path contains, or why it cannot be used."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from atelier_generator.__main__ import main
from atelier_generator.nets import published
from atelier_generator.nets.stored import empty_network
from tests import narrow_sdxl
from tests.narrow_sdxl import change
from tests.tiny_sdxl import UPSCALER_NAME


def inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    code = main(["inspect", str(path)])
    captured = capsys.readouterr()
    return (json.loads(captured.out), captured.err) if code == 0 else (code, captured.err)


def test_a_set_is_described_file_by_file(full_models, capsys):
    folder = full_models.model_set.folder
    found, error = inspect(folder, capsys)
    assert error == ""
    assert (found["model_set"], found["base"]["pipeline"], found["refiner"]["pipeline"]) == (
        "tiny",
        "base",
        "refiner",
    )
    assert set(found["base"]["components"]) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert set(found["refiner"]["components"]) == {"unet"}
    unet = found["base"]["components"]["unet"]
    network = full_models.text_to_image.unet
    assert unet["class"] == "UNet2DConditionModel" and unet["dtype"] == "float32" and not unet["as_published"]
    assert unet["parameters"] == sum(p.numel() for p in network.parameters())
    assert unet["configuration"]["block_out_channels"] == [16, 32]
    path = folder / "base/unet/diffusion_pytorch_model.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert unet["files"] == [{"file": str(path), "bytes": path.stat().st_size, "sha256": sha256}]
    parameters = [part["parameters"] for part in found["base"]["components"].values()]
    assert found["base"]["parameters"] == sum(parameters)
    upscaler = found["upscaler"]
    assert (upscaler["name"], upscaler["scale"], upscaler["architecture"]) == (
        UPSCALER_NAME,
        2,
        "RealESRGAN Compact",
    )


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_a_base_by_itself_is_described(narrow_set, narrow_networks, tmp_path, capsys, layout):
    path = narrow_set / "base"
    if layout == "single file":
        path = tmp_path / "base.safetensors"
        tensors = narrow_sdxl.original_layout("base", narrow_networks["base"])
        save_file({key: tensor.bfloat16() for key, tensor in tensors.items()}, path)
    found, _ = inspect(path, capsys)
    assert (found["pipeline"], found["layout"]) == ("base", layout)
    parts = found["components"]
    assert {part["dtype"] for part in parts.values()} == {"float16" if layout == "folder" else "bfloat16"}
    assert parts["unet"]["configuration"]["transformer_layers_per_block"] == [1, 2, 3]
    assert parts["text_encoder_2"]["configuration"]["hidden_size"] == 128
    assert parts["vae"]["configuration"]["scaling_factor"] == 0.13025
    assert not any(part["as_published"] for part in parts.values())
    if layout == "single file":
        (file,) = found["files"]
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_published_network_is_recognized(narrow_set, tmp_path, capsys):
    """The real VAE in a sparse file; the published configuration has null for some values."""
    folder = shutil.copytree(narrow_set / "base", tmp_path / "base")
    config = dict(published.configuration("base", "vae")) | {"latents_mean": None}
    (folder / "vae/config.json").write_text(json.dumps(config))
    state = empty_network("vae", config).state_dict()
    narrow_sdxl.write_sparse(folder / "vae/diffusion_pytorch_model.fp16.safetensors", state)
    found, _ = inspect(folder, capsys)
    recognized = {part for part, found in found["components"].items() if found["as_published"]}
    assert recognized == {"vae"}
    assert found["components"]["vae"]["parameters"] == 83_653_863


def test_a_path_that_cannot_be_used_is_reported_with_exit_code_1(narrow_set, tmp_path, capsys):
    folder = shutil.copytree(narrow_set, tmp_path / "set")
    weights = folder / "base/unet/diffusion_pytorch_model.fp16.safetensors"
    change(weights, lambda state: state.update({"conv_in.bias": torch.ones(64).half()}))
    code, error = inspect(folder, capsys)
    assert code == 1 and f"{weights} has SHA-256" in error
    change(weights, lambda state: state.pop("conv_in.bias"))
    for path in (folder, folder / "base"):
        code, error = inspect(path, capsys)
        assert code == 1 and "conv_in.bias is missing" in error
    for path, problem in (
        (tmp_path, "neither a manifest.json"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        code, error = inspect(path, capsys)
        assert code == 1 and problem in error
