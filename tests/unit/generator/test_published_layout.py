"""Narrow sets in the published layout: which files are read, that they are complete, and equal images."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from atelier_generator.models import load_base, load_models, vae_dtype
from atelier_generator.nets.inspection import inspect
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import CheckpointError
from tests import narrow_sdxl
from tests.narrow_sdxl import change
from tests.unit.generator.conftest import generate, load


@pytest.fixture
def base(narrow_set, tmp_path):
    """A copy of the base folder that a test may corrupt."""
    return shutil.copytree(narrow_set / "base", tmp_path / "base")


def unet(folder: Path) -> Path:
    return folder / "unet/diffusion_pytorch_model.fp16.safetensors"


def test_the_set_generates_with_base_hires_and_refiner(narrow_set):
    models = load(narrow_set)
    assert models.refiner is not None
    assert models.text_to_image.unet.dtype == models.refiner.unet.dtype == torch.float32
    assert models.refiner.config.requires_aesthetics_score
    assert not models.refiner.config.force_zeros_for_empty_prompt
    assert generate(models).refiner_applied
    generation = generate(models, hires_fix=True)
    assert generation.pixels.shape == (384, 384, 3)
    assert generation.warnings == ()


def test_the_image_is_that_of_diffusers_own_loader(narrow_set):
    ours = load(narrow_set).text_to_image
    theirs = StableDiffusionXLPipeline.from_pretrained(
        narrow_set / "base", variant="fp16", dtype=torch.float32, local_files_only=True, add_watermarker=False
    )
    for network in (theirs.unet, theirs.vae):
        network.to(memory_format=torch.channels_last)  # like ours; otherwise sums are rounded differently
    theirs.set_progress_bar_config(disable=True)
    images = []
    for pipeline in (ours, theirs):
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
        output = pipeline(
            "a cat!", latents=noise, width=256, height=256, num_inference_steps=2, output_type="np"
        )
        images.append(output.images[0])
    assert images[0].std() > 0.01
    np.testing.assert_array_equal(*images)


def test_of_several_variants_the_most_precise_is_read(base, narrow_networks):
    exact = narrow_networks["base"]["unet"].state_dict()
    save_file(exact, base / "unet/diffusion_pytorch_model.safetensors")
    stored = read_pipeline(base)
    assert [path.name for path in stored.networks["unet"].files] == ["diffusion_pytorch_model.safetensors"]
    assert [path.name for path in stored.networks["vae"].files] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    loaded = stored.networks["unet"].load(torch.float32).state_dict()
    assert all(torch.equal(loaded[key], exact[key]) for key in exact)


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bf16.safetensors"]
)
def test_bfloat16_files_load(base, name):
    state = {key: tensor.bfloat16() for key, tensor in load_file(unet(base)).items()}
    unet(base).unlink()
    save_file(state, base / "unet" / name)
    network = read_pipeline(base).networks["unet"]
    assert network.load(torch.bfloat16).dtype == torch.bfloat16
    loaded = network.load(torch.float32).state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in state.items())


def test_weights_in_several_files_load(base):
    state = load_file(unet(base))
    parts = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    where: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file(part, base / "unet" / name)
        where |= dict.fromkeys(part, name)
    unet(base).unlink()
    index = base / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    network = read_pipeline(base).networks["unet"]
    loaded = network.load(torch.float16).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_tensor_names_of_older_libraries_are_accepted(base):
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state):
        for key in [key for key in state if ".mid_block.attentions.0.to_" in key]:
            new = key
            for current, old in old_names.items():
                new = new.replace(f".{current}.", f".{old}.")
            state[new] = state.pop(key)

    change(base / "vae/diffusion_pytorch_model.fp16.safetensors", rename)
    change(
        base / "text_encoder/model.fp16.safetensors",
        lambda state: state.update({"text_model.embeddings.position_ids": torch.arange(77)[None]}),
    )
    read_pipeline(base).check()


def corrupted_unets() -> Iterator[tuple[str, Callable[[dict[str, Tensor]], object], str]]:
    def lose(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if key.startswith("mid_block.resnets.")]:
            del state[key]

    def widen(state: dict[str, Tensor]) -> None:
        state["conv_in.weight"] = torch.zeros(64, 4, 5, 5).half()

    yield "lost", lose, r"mid_block\.resnets\.0\.norm1\.weight is missing;.*; and 10 more$"
    yield "wide", widen, r"conv_in\.weight has shape \(64, 4, 5, 5\), not \(64, 4, 3, 3\)$"
    yield "extra", lambda state: state.update(stray=torch.zeros(1)), "stray is unexpected$"


@pytest.mark.parametrize(
    ("corrupt", "problem"), [case[1:] for case in corrupted_unets()], ids=["lost", "wide", "extra"]
)
def test_an_incomplete_network_stops_the_start_and_is_named(base, corrupt, problem):
    change(unet(base), corrupt)
    folder = narrow_sdxl.write_set(base.parent, {"base": "base"})
    with pytest.raises(StartupError, match=rf"MODEL_SET: the base.*unet: .*{problem}"):
        load_models(GeneratorSettings(device="cpu", dtype="float32", model_set=str(folder), cpu_threads=1))


def test_an_inpainting_network_is_named(base):
    config = base / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    change(unet(base), lambda state: state.update({"conv_in.weight": torch.zeros(64, 9, 3, 3).half()}))
    index = base / "model_index.json"
    for name in ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"):
        index.write_text(re.sub(r"StableDiffusionXL\w*Pipeline", name, index.read_text()))
        stored = read_pipeline(base)
        stored.check_for("inpaint")
        assert inspect(base)["pipeline"] == "inpaint"
        with pytest.raises(CheckpointError, match=r"an inpainting network, which goes into the role inpaint"):
            stored.check_for("base")
        with pytest.raises(CheckpointError, match=r"is an SDXL base, not a refiner"):
            stored.check_for("refiner")
    index.write_text(index.read_text().replace("Inpaint", "ControlNet"))
    with pytest.raises(CheckpointError, match="is a StableDiffusionXLControlNetPipeline"):
        read_pipeline(base)


def test_an_inpainting_folder_may_have_no_more_than_its_unet_and_its_scheduler(base):
    config = base / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    change(unet(base), lambda state: state.update({"conv_in.weight": torch.zeros(64, 9, 3, 3).half()}))
    whole = read_pipeline(base)
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.rmtree(base / part)
    stored = read_pipeline(base)
    assert list(stored.networks) == ["unet"]
    stored.check_for("inpaint", whole)


def test_a_network_that_takes_no_mask_does_not_inpaint(base):
    with pytest.raises(CheckpointError, match=r"is not an inpainting network"):
        read_pipeline(base).check_for("inpaint")


def test_swapped_base_and_refiner_are_named(narrow_set, tmp_path):
    folder = shutil.copytree(narrow_set, tmp_path / "set")
    narrow_sdxl.write_set(folder, {"base": "refiner"})
    with pytest.raises(StartupError, match="is an SDXL refiner, not a base"):
        load(folder)
    narrow_sdxl.write_set(folder, {"base": "base", "refiner": "base"})
    with pytest.raises(StartupError, match="is an SDXL base, not a refiner"):
        load(folder)


def test_pickled_weights_are_not_read(base):
    unet(base).rename(base / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"no safetensors weights in .*unet; it has diffusion_pytorch_model"
    ):
        read_pipeline(base)


@pytest.mark.parametrize(
    ("dtype", "upcast", "expected"),
    [
        (torch.float16, True, torch.float32),
        (torch.float16, False, torch.float16),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float32, True, torch.float32),
    ],
)
def test_the_vae_stays_in_float32_only_where_float16_is_too_narrow(base, dtype, upcast, expected):
    config = base / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    stored = read_pipeline(base)
    assert vae_dtype(dtype, stored.networks["vae"].config) == expected
    pipeline = load_base(stored, torch.device("cpu"), dtype)
    networks = (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {p.dtype for network in networks for p in network.parameters()} == {dtype}
    assert {p.dtype for p in pipeline.vae.parameters()} == {expected}
    pipeline.scheduler.set_timesteps(5)
    assert pipeline.scheduler.sigmas.dtype == pipeline.scheduler.timesteps.dtype == torch.float32
