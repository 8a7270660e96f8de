"""Folders in diffusers' layout whose JSON is made to do harm: each is a clear error that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier_generator.__main__ import main
from atelier_generator.nets.reading import read_pipeline
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import Snapshot, take
from atelier_runtime.weights import CheckpointError
from tests import narrow_sdxl
from tests.unit.generator.conftest import load

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def base(narrow_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(narrow_set / "base", tmp_path / "base"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model_index.json", "[" * 200_000),
        ("model_index.json", '{"_class_name":' * 100_000),
        ("unet/config.json", "[" * 200_000),
        ("unet/config.json", "[]"),
        ("unet/config.json", " " * (17 << 20)),
        ("vae/config.json", '{"a": ' + "1" * 5000 + "}"),
    ],
)
def test_json_that_cannot_be_read_is_named(base: Path, name: str, content: str) -> None:
    (base / name).write_text(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_pipeline(base)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("model_index.json", {"unet": 7}, "unet must be a list"),
        ("model_index.json", {"unet": ["diffusers"]}, "unet must be a list"),
        ("model_index.json", {"text_encoder": "x"}, "text_encoder must be a list"),
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000, at most"),
        ("unet/config.json", {"transformer_layers_per_block": [[10**9]]}, "transformer_layers_per_block"),
        ("unet/config.json", {"block_out_channels": [64] * 10_000}, "block_out_channels has 10000 entries"),
        ("unet/config.json", {"block_out_channels": "x"}, "unet: cannot build"),
        ("unet/config.json", {"act_fn": {"a": 1}}, "unet: cannot build"),
        ("text_encoder/config.json", {"max_position_embeddings": 10**15}, "max_position_embeddings"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("vae/config.json", {"norm_num_groups": 0}, "vae: cannot build"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(
    base: Path, name: str, changes: dict[str, Any], problem: str
) -> None:
    edit(base / name, **changes)
    with pytest.raises(CheckpointError, match=problem):
        read_pipeline(base).check()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"num_train_timesteps": 10**12}, "num_train_timesteps"), ({"beta_schedule": "no"}, "cannot build")],
)
def test_a_scheduler_that_makes_no_sense_is_named(base: Path, changes: dict[str, Any], problem: str) -> None:
    edit(base / "scheduler/scheduler_config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: .*{problem}"):
        read_pipeline(base).scheduler()


def test_a_scheduler_that_is_a_module_is_named(base: Path) -> None:
    edit(base / "model_index.json", scheduler=["diffusers", "utils"])
    with pytest.raises(CheckpointError, match=r"utils in its model_index\.json is not a scheduler"):
        read_pipeline(base).scheduler()


@pytest.mark.parametrize("name", ["tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json"])
def test_a_tokenizer_that_makes_no_sense_is_named(base: Path, name: str) -> None:
    (base / name).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read") as caught:
        read_pipeline(base).tokenizer("tokenizer")
    assert "/atelier-" not in str(caught.value), "the temporary folder"


@pytest.mark.parametrize(
    "shard", ["../../outside.safetensors", "/etc/passwd", "inner/x.safetensors", "..", "", 7, ["x"], None]
)
def test_shards_are_files_next_to_their_index(base: Path, shard: Any) -> None:
    index = base / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"index\.json: .* is not the name of a file next to it"):
        read_pipeline(base)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(CheckpointError, match="weight_map must be"):
        read_pipeline(base)


def test_weights_that_changed_after_the_header_was_read_are_not_loaded(base: Path) -> None:
    stored = read_pipeline(base)
    stored.check()
    narrow_sdxl.change(base / UNET, lambda state: state.update({"conv_in.bias": torch.ones(7).half()}))
    with pytest.raises(CheckpointError, match=r"unet: conv_in\.bias changed while the files were read"):
        stored.networks["unet"].load(torch.float16)


def write_a_set(folder: Path) -> Path:
    narrow_sdxl.write_set(folder, {"base": "base"})
    return folder


@pytest.mark.parametrize("name", [UNET, "unet/config.json", "tokenizer/tokenizer.json", "model_index.json"])
def test_every_file_is_compared_as_it_is_read_and_none_twice(base: Path, name: str) -> None:
    """Whatever is swapped once its name was checked: what the manifest lists runs, or nothing."""
    write_a_set(base.parent)
    counted: dict[Path, int] = {}

    def counting(read: Callable[[Path], Snapshot]) -> Callable[[Path], Snapshot]:
        def count(path: Path) -> Snapshot:
            counted[path] = counted.get(path, 0) + 1
            return read(path)

        return count

    stored = read_pipeline(base, counting(take))
    stored.load(dict.fromkeys(stored.networks, torch.float16))
    stored.scheduler(), stored.tokenizer("tokenizer"), stored.tokenizer("tokenizer_2")
    assert set(counted.values()) == {1} and base / name in counted
    if name == UNET:
        narrow_sdxl.change(base / name, lambda state: state["conv_in.bias"].add_(1))
    else:
        (base / name).write_bytes((base / name).read_bytes() + b"\n")
    with pytest.raises(StartupError, match=rf"^MODEL_SET: .*base/{name} in .* has SHA-256"):
        load(base.parent)


def test_a_folder_in_place_of_the_files_is_no_way_around_the_manifest(base: Path, tmp_path: Path) -> None:
    """A linked folder was neither followed nor refused, and what is in it was loaded."""
    write_a_set(base.parent)
    shutil.move(base / "unet", tmp_path / "elsewhere")
    (base / "unet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match=r"base/unet in .* is a link"):
        load(base.parent)


def test_inspect_says_so_and_ends_with_1(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "unet/config.json").write_text("[" * 200_000)
    assert main(["inspect", str(base)]) == 1
    assert "unet/config.json cannot be read" in capsys.readouterr().err
    write_a_set(base.parent)
    (base.parent / "manifest.json").write_text("[" * 200_000)
    assert main(["inspect", str(base.parent)]) == 1
    assert "manifest.json is invalid" in capsys.readouterr().err
