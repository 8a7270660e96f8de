"""The real networks of SDXL 1.0, without their memory: shapes, names, files, tokenizer, scheduler."""

import hashlib
import tomllib
from pathlib import Path

import pytest
import torch

from atelier_generator.nets import published, shapes
from atelier_generator.nets.original_names import BIG_G
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.nets.stored import CLASSES, empty_network
from tests import narrow_sdxl

CATALOG = Path(__file__).parents[3] / "tools/models/catalogue.toml"
PARAMETERS = {
    ("base", "unet"): 2_567_463_684,
    ("refiner", "unet"): 2_259_526_660,
    ("base", "vae"): 83_653_863,
    ("base", "text_encoder"): 123_060_480,
    ("base", "text_encoder_2"): 694_659_840,
}
# Number and SHA-256 of the lines "name shape" of the original layout, sorted. Taken not from our table of
# names but from the classes that wrote the published files: UNetModel, Encoder and Decoder of Stability AI's
# generative-models with its sd_xl_base.yaml and sd_xl_refiner.yaml, OpenCLIP's TextTransformer as ViT-bigG-14
ORIGINAL = {
    ("base", "unet"): (1680, "6eaa83ce0c2e59880fc69fb113ac60a185e66072a6a39b5216955d7744997946"),
    ("refiner", "unet"): (1220, "6c2910655a41a716a5b78f88f875702ae5b5f46b7496d0e88f58891cf2148a37"),
    ("base", "vae"): (248, "9190c3ec1cf5cd6d27fae778ce9297be3ae56d601c06edd389828a721d3e2fc2"),
    ("base", "text_encoder_2"): (389, "82d13d2aa8753c90421107fe9c6f49183e778b4666f781745145f404c92109dc"),
}


def real(kind: published.Kind, part: str) -> torch.nn.Module:
    network: torch.nn.Module = empty_network(part, published.configuration(kind, part))
    return network


def original_tensors(kind: published.Kind, *parts: str) -> dict[str, torch.Tensor]:
    return narrow_sdxl.original_layout(kind, {part: real(kind, part) for part in parts})


@pytest.mark.parametrize(("kind", "part"), PARAMETERS)
def test_parameters_are_as_many_as_published(kind, part):
    network = real(kind, part)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[kind, part]


@pytest.mark.parametrize(("kind", "part"), PARAMETERS)
def test_a_file_of_our_names_and_shapes_has_exactly_the_published_size(kind, part, tmp_path):
    """The header of a safetensors file holds every name and shape, so its length shows if one is wrong."""
    name = f"{part}/{narrow_sdxl.weight_name(part, 'fp16')}"
    with CATALOG.open("rb") as file:
        (entry,) = (f for f in tomllib.load(file)["components"][kind]["files"] if f.get("path") == name)
    prefix = "text_model." if part == "text_encoder" else ""
    tensors = {prefix + key: tensor for key, tensor in real(kind, part).state_dict().items()}
    assert narrow_sdxl.write_sparse(tmp_path / "weights.safetensors", tensors) == entry["bytes"]


@pytest.mark.parametrize(("kind", "part"), ORIGINAL)
def test_single_files_names_and_shapes_are_those_of_the_original_classes(kind, part):
    tensors = original_tensors(kind, part)
    lines = "\n".join(sorted(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items()))
    assert (len(tensors), hashlib.sha256(lines.encode()).hexdigest()) == ORIGINAL[kind, part]


@pytest.mark.parametrize("kind", ["base", "refiner"])
def test_the_real_configurations_are_read_from_the_shapes_of_a_single_file(kind):
    parts = [part for part in CLASSES if kind == "base" or part != "text_encoder"]
    tensors = original_tensors(kind, *parts)
    found = {
        "unet": shapes.unet_config(tensors, kind),
        "vae": shapes.vae_config(tensors),
        "text_encoder_2": shapes.big_g_config(tensors, BIG_G[kind]),
    }
    if kind == "base":
        found["text_encoder"] = shapes.clip_l_config(tensors)
    for part, config in found.items():
        assert config == published.configuration(kind, part), part


def test_single_files_of_the_real_size_are_identified_by_their_headers(tmp_path):
    """Files of the real size, sparse: nothing but the headers is read."""
    for kind in ("base", "refiner"):
        parts = [part for part in CLASSES if kind == "base" or part != "text_encoder"]
        narrow_sdxl.write_sparse(tmp_path / f"{kind}.safetensors", original_tensors(kind, *parts))
    base = read_pipeline(tmp_path / "base.safetensors")
    base.check()
    refiner = read_pipeline(tmp_path / "refiner.safetensors")
    refiner.check(base)
    assert (base.kind, refiner.kind) == ("base", "refiner")
    assert base.settings["force_zeros_for_empty_prompt"] and refiner.settings["requires_aesthetics_score"]


def test_the_tokenizer_is_the_published_one():
    first, second = published.tokenizer("tokenizer"), published.tokenizer("tokenizer_2")
    start, end = 49406, 49407
    for tokenizer, padding in ((first, end), (second, 0)):
        assert (len(tokenizer), tokenizer.model_max_length) == (49408, 77)
        cat = tokenizer("A photo of a  Cat", padding="max_length").input_ids
        assert cat == [start, 320, 1125, 539, 320, 2368, end, *[padding] * 70]
        # Without merges: the bytes themselves.
        assert (
            tokenizer.decode(tokenizer("naïve 漢字 😀").input_ids, skip_special_tokens=True)
            == "naïve 漢字 😀"
        )
    # The published tokenizer_2 pads with "!", so that it is a token of its own.
    assert first("!").input_ids == [start, 256, end]
    assert second("!").input_ids == [start, 0, end]


def test_the_scheduler_uses_the_published_timesteps(tmp_path):
    tensors = original_tensors("refiner", "unet", "vae", "text_encoder_2")
    narrow_sdxl.write_sparse(tmp_path / "refiner.safetensors", tensors)
    scheduler = read_pipeline(tmp_path / "refiner.safetensors").scheduler()
    scheduler.set_timesteps(30)
    assert type(scheduler).__name__ == "EulerDiscreteScheduler"
    assert scheduler.timesteps.tolist() == [
        float(33 * i + 1) for i in reversed(range(30))
    ]  # leading, offset 1
    assert scheduler.timesteps.dtype == scheduler.sigmas.dtype == torch.float32
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.betas, betas)
