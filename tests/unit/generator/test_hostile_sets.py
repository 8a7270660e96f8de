"""Weights of the generator that somebody damaged, linked or made to do harm: it does not start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier_generator.__main__ import main
from atelier_generator.models import Models
from atelier_runtime.settings import StartupError
from tests.narrow_sdxl import write_set
from tests.tiny_sdxl import seal
from tests.unit.generator.conftest import load

FILES = [
    "base/model_index.json",
    "base/scheduler/scheduler_config.json",
    "base/text_encoder/config.json",
    "base/text_encoder/model.safetensors",
    "base/text_encoder_2/model.safetensors",
    "base/tokenizer/tokenizer.json",
    "base/tokenizer_2/tokenizer_config.json",
    "base/unet/diffusion_pytorch_model.safetensors",
    "base/vae/diffusion_pytorch_model.safetensors",
    "inpaint/unet/diffusion_pytorch_model.safetensors",
    "refiner/unet/config.json",
    "refiner/unet/diffusion_pytorch_model.safetensors",
    "upscaler.safetensors",
]


@pytest.fixture(scope="module")
def shared(inpaint_models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with a file of each kind; tests put back what they change."""
    return Path(shutil.copytree(inpaint_models.model_set.folder, tmp_path_factory.mktemp("hostile") / "set"))


@pytest.mark.parametrize(
    ("name", "place"), [*((name, -1) for name in FILES), *((n, 20) for n in FILES if "base/unet" in n)]
)
def test_a_flipped_bit_in_any_file_stops_the_start(shared: Path, name: str, place: int) -> None:
    whole = (shared / name).read_bytes()
    changed = bytearray(whole)
    changed[place] ^= 0x10
    (shared / name).write_bytes(changed)
    try:
        with pytest.raises(StartupError, match=rf"^MODEL_SET: .*{name} in .* has SHA-256"):
            load(shared)
    finally:
        (shared / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["base/vae/diffusion_pytorch_model.safetensors", "upscaler.safetensors"])
def test_a_link_out_of_the_set_stops_the_start(shared: Path, tmp_path: Path, name: str) -> None:
    shutil.move(shared / name, tmp_path / "outside")
    (shared / name).symlink_to(tmp_path / "outside")
    try:
        with pytest.raises(StartupError, match=rf"^MODEL_SET.*{Path(name).name}"):
            load(shared)
    finally:
        (shared / name).unlink()
        shutil.move(tmp_path / "outside", shared / name)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._made),)


@pytest.mark.parametrize("role", ["base", "upscaler"])
def test_a_pickle_that_calls_something_stops_the_start_and_calls_nothing(
    tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    torch.save({"state_dict": {"a": Harm(tmp_path / "made")}}, folder / "harm.ckpt")
    write_set(folder, {role: "harm.ckpt"})
    for name, value in (("MODEL_SET", folder), ("PORT", 0), ("METRICS_PORT", 0), ("DEVICE", "cpu")):
        monkeypatch.setenv(f"ATELIER_GENERATOR_{name}", str(value))
    assert main(["serve"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ATELIER_GENERATOR_MODEL_SET: ")
    if role == "base":
        assert "harm.ckpt would run arbitrary code when loaded (posix.mkdir)" in message
    assert not (tmp_path / "made").exists()


def test_weights_that_are_a_pickle_under_the_name_of_another_format_are_refused(
    shared: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shared, tmp_path / "set"))
    torch.save({"a": Harm(tmp_path / "made")}, folder / "base/unet/diffusion_pytorch_model.safetensors")
    seal(folder)
    with pytest.raises(StartupError, match=r"diffusion_pytorch_model\.safetensors is a file of torch\.save"):
        load(folder)
    assert not (tmp_path / "made").exists()
