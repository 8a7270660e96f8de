"""Files of LoRAs that turn out to be broken, changed, missing or unknown when a request names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from atelier_generator.lora_folder import LoraFolder
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.errors import InvalidRequest
from tests import tiny_loras, tiny_sdxl
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import generate, load, request_for


def pixels(models: Models, *names: str) -> np.ndarray:
    return generate(models, loras=tuple(map(Lora, names))).pixels


def levels(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    folder = build_set(tmp_path / "set", upscaler=False, max_side=128)
    tiny_loras.write(folder / "loras/good.safetensors")
    return folder


def test_a_name_that_there_is_not_is_refused_with_the_list(own_set):
    models = load(own_set)
    for request, field in (
        (request_for(loras=(Lora("nope"),)), "loras"),
        (request_for(loras=(Lora("nope", 0.0),)), "loras"),
        (request_for(prompt="a <lora:nope>"), "prompt"),
        (request_for(loras=(Lora("../good"),)), "loras"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            Pipeline(models).complete(request)
        [violation] = caught.value.fields
        assert violation.field == field and violation.message.endswith("there are 'good'")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [".lora_up.weight", ".alpha"])
def test_values_that_are_not_finite_fail_their_request_and_no_other(own_set, key, value):
    path = own_set / "loras/bad.safetensors"
    tensors = tiny_loras.tensors("kohya", tiny_loras.pairs())
    tensors[next(name for name in tensors if name.endswith(key))].fill_(value)
    save_file(tensors, path)
    models = load(own_set)
    before = pixels(models)
    with pytest.raises(InvalidRequest, match="loras: 'bad' cannot be used: its file has values that are not"):
        pixels(models, "bad")
    assert list(models.loras.folder.offered) == ["good"] and models.loras.bytes == 0
    with pytest.raises(InvalidRequest, match="loras: 'bad' cannot be used"):
        Pipeline(models).complete(request_for(loras=(Lora("bad"),)))
    pixels(models, "good")
    assert np.array_equal(pixels(models), before)


@pytest.mark.parametrize("change", ["replaced", "removed", "cut"])
def test_a_file_that_changes_after_the_start_is_not_read(own_set, change):
    models = load(own_set)
    path = own_set / "loras/good.safetensors"
    if change == "replaced":
        tiny_loras.write(own_set / "loras/new", seed=2).replace(path)
    elif change == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InvalidRequest) as caught:
        pixels(models, "good")
    assert caught.value.message.startswith("loras: 'good' cannot be used: its file ")
    assert str(own_set) not in caught.value.message


def test_one_in_memory_is_used_on_when_its_file_is_gone(own_set):
    models = load(own_set)
    image = pixels(models, "good")
    (own_set / "loras/good.safetensors").unlink()
    assert np.array_equal(pixels(models, "good"), image)


def test_one_that_the_manifest_lists_is_the_one_listed(own_set):
    tiny_sdxl.seal(own_set)
    tiny_loras.write(own_set / "loras/dropped.safetensors", seed=2)
    models = load(own_set)
    assert levels(pixels(models, "good"), pixels(models)) > 0
    assert levels(pixels(models, "dropped"), pixels(models)) > 0
    tiny_loras.write(own_set / "loras/good.safetensors", seed=3)
    with pytest.raises(InvalidRequest, match=r"'good' cannot be used: its file .*has SHA-256"):
        pixels(load(own_set), "good")


def test_a_folder_elsewhere_is_read_in_place_of_the_sets(own_set, tmp_path):
    tiny_loras.write(tmp_path / "mine/own.safetensors")
    settings = GeneratorSettings(
        device="cpu", dtype="float32", model_set=str(own_set), cpu_threads=1, loras=str(tmp_path / "mine")
    )
    models = load_models(settings)
    assert list(models.loras.folder.offered) == ["own"]
    assert np.array_equal(pixels(models, "own"), pixels(load(own_set), "good"))


class RefusedMeanwhile(dict[str, Any]):
    """What a folder offers, until another thread refuses a LoRA right after it has been looked up."""

    def __init__(self, folder: LoraFolder) -> None:
        super().__init__(folder.offered)
        self._folder, self._looked_up = folder, False

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None

    def get(self, name: Any, default: Any = None) -> Any:
        found = super().get(name, default)
        if not self._looked_up:
            self._looked_up = True
            self._folder.refuse(name, "has changed")
        return found


def test_one_that_another_thread_refuses_meanwhile_is_refused_here_too(own_set):
    models = load(own_set)
    folder = models.loras.folder
    folder.offered = RefusedMeanwhile(folder)
    with pytest.raises(InvalidRequest, match="'good' cannot be used: its file has changed"):
        models.loras.get([Lora("good", 0.5)])
