"""Narrow single-file checkpoints: read offline, equal to the folders, identified if they are not SDXL."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from atelier_generator.nets import original_names
from atelier_generator.nets.reading import read_pipeline
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import Snapshot, take
from atelier_runtime.weights import CheckpointError
from tests import narrow_sdxl
from tests.narrow_sdxl import change
from tests.unit.generator.conftest import generate, load


@pytest.fixture(scope="session")
def single_files(narrow_networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    for kind, networks in narrow_networks.items():
        tensors = narrow_sdxl.original_layout(kind, networks)
        # Tensors that training leaves in such files.
        tensors |= {
            "alphas_cumprod": torch.ones(1000),
            f"{original_names.BIG_G[kind]}logit_scale": torch.ones(()),
        }
        save_file({key: tensor.half() for key, tensor in tensors.items()}, folder / f"{kind}.safetensors")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments: object, **options: Any) -> None:
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_set_of_single_files_generates_the_images_of_the_folders(
    single_files, narrow_set, tmp_path, no_network
):
    for kind in ("base", "refiner"):
        shutil.copy(single_files / f"{kind}.safetensors", tmp_path)
    narrow_sdxl.write_set(tmp_path, {"base": "base.safetensors", "refiner": "refiner.safetensors"})
    single, folders = load(tmp_path), load(narrow_set)
    assert (
        single.text_to_image.tokenizer_2("hi!").input_ids
        == folders.text_to_image.tokenizer_2("hi!").input_ids
    )
    assert single.refiner is not None and folders.refiner is not None
    assert dict(single.refiner.scheduler.config) == dict(folders.refiner.scheduler.config)
    generation = generate(single, prompt="a cat, naïve!")
    assert generation.refiner_applied
    assert (generation.pixels == generate(folders, prompt="a cat, naïve!").pixels).all()


def test_diffusers_own_conversion_agrees(single_files, narrow_set):
    for kind in ("base", "refiner"):
        path = single_files / f"{kind}.safetensors"
        options = {"config": str(narrow_set / kind), "local_files_only": True}
        if kind == "base":
            pipeline = StableDiffusionXLPipeline.from_single_file(str(path), **options)
            theirs = {
                part: getattr(pipeline, part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")
            }
        else:
            theirs = {"unet": UNet2DConditionModel.from_single_file(str(path), subfolder="unet", **options)}
        networks = read_pipeline(path).networks
        for part, network in theirs.items():
            ours, expected = networks[part].load(torch.float32).state_dict(), network.state_dict()
            assert ours.keys() == expected.keys()
            assert all(torch.equal(ours[key], expected[key].float()) for key in expected), part


@pytest.mark.parametrize(
    "key", ["text_projection.weight", "text_projection", "text_model.text_projection.weight"]
)
def test_a_projection_of_the_first_encoder_which_merging_leaves_behind_is_harmless(
    single_files, tmp_path, key
):
    path = Path(shutil.copy(single_files / "base.safetensors", tmp_path))
    change(path, lambda state: state.update({original_names.CLIP_L + key: torch.ones(2, 2).half()}))
    stored = read_pipeline(path)
    stored.check()
    assert "text_projection" not in str(
        list(stored.networks["text_encoder"].load(torch.float32).state_dict())
    )


def test_a_single_file_is_read_once_and_no_longer_kept_than_needed(single_files):
    reads = []

    def read(path: Path) -> Snapshot:
        reads.append(path)
        return take(path)

    path = single_files / "base.safetensors"
    stored = read_pipeline(path, read)
    networks = stored.load(dict.fromkeys(stored.networks, torch.float16))
    assert set(networks) == {"unet", "vae", "text_encoder", "text_encoder_2"} and reads == [path]


def test_bfloat16_and_data_parallel_prefixes_load(single_files, tmp_path):
    state = load_file(single_files / "base.safetensors")
    path = tmp_path / "base.safetensors"
    save_file({f"module.{key}": tensor.bfloat16() for key, tensor in state.items()}, path)
    stored = read_pipeline(path)
    stored.check()
    assert stored.networks["unet"].load(torch.bfloat16).dtype == torch.bfloat16


def put_nine_channels(state):
    state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(64, 9, 3, 3)


def lose_a_block(state):
    for key in [key for key in state if ".output_blocks.4.0." in key]:
        del state[key]


@pytest.mark.parametrize(
    ("corrupt", "problem"),
    [
        (put_nine_channels, "inpainting network, which goes into the role inpaint"),
        (lose_a_block, r"unet: .*output_blocks\.4\.0\.in_layers\.0\.weight is missing;.*and \d+ more$"),
        (
            lambda s: s.pop("first_stage_model.encoder.down.0.block.0.conv2.weight"),
            r"vae: .*conv2\.weight is missing",
        ),
        (lambda s: s.update(edm_mean=torch.zeros(4)), r"1 tensors? .*SDXL base: edm_mean"),
        (
            lambda s: s.update({"first_stage_model.quant_conv.bias": torch.zeros(7)}),
            r"quant_conv\.bias has shape \(7,\), not \(8,\)",
        ),
    ],
    ids=["inpainting", "lost", "configuration", "extra", "shape"],
)
def test_a_file_that_is_not_a_complete_base_is_refused(single_files, tmp_path, corrupt, problem):
    path = Path(shutil.copy(single_files / "base.safetensors", tmp_path))
    change(path, corrupt)
    with pytest.raises(CheckpointError, match=problem):
        read_pipeline(path).check_for("base")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (
            [
                "model.diffusion_model.input_blocks.0.0.weight",
                "first_stage_model.quant_conv.weight",
                "cond_stage_model.transformer.text_model.embeddings.position_ids",
            ],
            "a Stable Diffusion 1 checkpoint",
        ),
        (["lora_unet_down_blocks_1.alpha"], "a LoRA"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a UNet alone"),
        (["model.diffusion_model.out.2.weight"], "a UNet alone, without text encoders and VAE"),
        (
            ["model.diffusion_model.out.2.weight", "first_stage_model.quant_conv.weight"],
            "a UNet and a VAE, without text encoders",
        ),
        (
            ["model.diffusion_model.out.2.weight", "conditioner.embedders.1.model.ln_final.weight"],
            "a UNet and text encoders, without a VAE",
        ),
        (
            ["model.diffusion_model.out.2.weight", "conditioner.embedders.0.model.ln_final.weight"],
            "a UNet and text encoders, without a VAE",
        ),
        (
            ["conditioner.embedders.1.model.ln_final.weight", "first_stage_model.quant_conv.weight"],
            "text encoders and a VAE, without a UNet",
        ),
        (["conditioner.embedders.1.model.ln_final.weight"], "text encoders alone, without UNet and VAE"),
        (["first_stage_model.quant_conv.weight"], "a VAE alone, without UNet and text encoders"),
        (["controlnet_down_blocks.0.weight", "down_blocks.0.resnets.0.conv1.weight"], "a ControlNet"),
        (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "a LoRA"),
        (["double_blocks.0.img_mod.lin.weight"], "a Flux network"),
        (["conv_first.weight"], "not an SDXL checkpoint; its 1 tensors begin with conv_first.weight"),
    ],
)
def test_other_checkpoints_are_identified(tmp_path, keys, what):
    path = tmp_path / "some.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, path)
    with pytest.raises(CheckpointError, match=f"is {what}"):
        read_pipeline(path)


def test_swapped_base_and_refiner_are_named(single_files, tmp_path):
    shutil.copy(single_files / "refiner.safetensors", tmp_path / "base.safetensors")
    narrow_sdxl.write_set(tmp_path, {"base": "base.safetensors"})
    with pytest.raises(StartupError, match="is an SDXL refiner, not a base"):
        load(tmp_path)
