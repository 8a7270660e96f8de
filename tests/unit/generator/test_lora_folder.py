"""The folder of LoRAs: what is offered, and what the other files are said to be."""

import json
import re
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from atelier_generator.__main__ import main
from atelier_generator.lora_folder import LoraFolder
from atelier_generator.nets.lora_layers import PARTS, layers_by_name
from atelier_runtime.settings import StartupError
from tests import tiny_loras, tiny_sdxl
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import load

LAYER = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_q"


@pytest.fixture(scope="module")
def layers(plain_models):
    return layers_by_name({part: getattr(plain_models.text_to_image, part) for part in PARTS})


@pytest.fixture
def listing(plain_models, layers, tmp_path):
    def listed(most_bytes: int = sys.maxsize) -> LoraFolder:
        return LoraFolder.open(str(tmp_path), plain_models.model_set, layers, most_bytes, torch.float32)

    return listed


def test_every_name_of_every_layer_is_known(layers):
    """And those of each style lead to the layer that diffusers names."""
    for style in tiny_loras.STYLES:
        for name in tiny_loras.LAYERS:
            [down, *_] = tiny_loras.tensors(style, {name: tiny_loras.pairs()[name]})
            layer = layers[down.removesuffix(".lora_down.weight").removesuffix(".lora_A.weight")]
            part, _, own = name.partition(".")
            assert layer.part == part
            assert layer.name.removeprefix("text_model.") == own.removeprefix("text_model.")
            assert layer.shape == tiny_loras.LAYERS[name][1]


@pytest.mark.parametrize("style", tiny_loras.STYLES)
@pytest.mark.parametrize("part", ["", "unet", "text_encoder_2"])
def test_loras_of_each_trainer_are_offered(style, part, listing, tmp_path):
    tiny_loras.write(tmp_path / "ink.v2.safetensors", style, part=part)
    found = listing()
    assert list(found.offered) == ["ink.v2"] and not found.refused
    expected = sum(down.numel() + up.numel() for down, up in tiny_loras.pairs(part=part).values())
    assert found.offered["ink.v2"].bytes_in(torch.bfloat16) == 2 * expected


def test_names_of_older_versions_of_diffusers_are_known(listing, tmp_path):
    down, up = torch.zeros(2, 32), torch.zeros(32, 2)
    block = f"unet.down_blocks.1.attentions.0.{tiny_loras.ATTENTION}"
    text = "text_encoder.text_model.encoder.layers.0"
    stored = {
        f"{block}.processor.to_q_lora": down,
        f"{block}.processor.to_out_lora": down,
        f"{text}.self_attn.to_out_lora": down,
        f"{text}.self_attn.q_proj.lora_linear_layer": down,
    }
    tensors = {f"{name}.down.weight": value.clone() for name, value in stored.items()}
    tensors |= {f"{name}.up.weight": up.clone() for name in stored}
    save_file(tensors, tmp_path / "old.safetensors")
    [file] = listing().offered.values()
    assert {layer.name.removeprefix("text_model.").rpartition(".")[2] for layer in file.pairs} == {
        *("to_q", "0", "out_proj", "q_proj")
    }


def test_trigger_words_are_those_of_the_metadata_and_few(listing, tmp_path):
    metadata = {"modelspec.trigger_phrase": "inkstyle, , " + "x" * 101 + ", black ink\x00, " + "a, " * 50}
    tiny_loras.write(tmp_path / "ink.safetensors", metadata=metadata)
    [file] = listing().offered.values()
    assert file.trigger_words == ("inkstyle", *"a" * 19)


KINDS: dict[str, dict[str, tuple[int, ...]]] = {
    "is a LoHa": {f"{LAYER}.hada_w1_a": (4, 4)},
    "is a LoKr": {f"{LAYER}.lokr_w1": (4, 4)},
    "is a DoRA": {f"{LAYER}.lora_down.weight": (4, 32), f"{LAYER}.dora_scale": (32,)},
    "is a LoCon with a Tucker": {f"{LAYER}.lora_mid.weight": (4, 4, 3, 3)},
    "has whole differences": {f"{LAYER}.diff": (32, 32)},
    "is a textual inversion": {"clip_l": (4, 768), "clip_g": (4, 1280)},
    "is a whole checkpoint": {"model.diffusion_model.out.2.weight": (4, 320, 3, 3)},
    "is a UNet": {"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)},
    "is a VAE": {"decoder.conv_in.weight": (4, 4, 3, 3)},
    "is an IP-Adapter": {"image_proj.proj.weight": (4, 4)},
    "is a ControlNet": {"control_model.input_hint_block.0.weight": (4, 4)},
    "is a LoRA for FLUX": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 4)},
    "is a LoRA for Stable Diffusion 1, not": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 4),
    },
    "is a LoRA for SDXL's refiner": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 1280)
    },
    "is a LoRA for SDXL, and this base is another": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 2048)
    },
    "is a LoRA for Stable Diffusion 1 or 2": {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 32)
    },
    "is a LoRA for another network: this base does not have 'lora_unet_input_blocks_99": {
        "lora_unet_input_blocks_99_1_proj_in.lora_down.weight": (4, 32)
    },
    "is not a LoRA: it has 1 tensors": {"weight": (4, 4)},
    "is incomplete: .* has no up matrix": {f"{LAYER}.lora_down.weight": (4, 32)},
    "is incomplete: .* has no down matrix": {
        f"{LAYER}.lora_down.weight": (4, 32),
        f"{LAYER}.lora_up.weight": (32, 4),
        f"{LAYER.replace('to_q', 'to_v')}.lora_up.weight": (32, 4),
    },
    "has tensors that are not a LoRA's: 'extra'": {
        f"{LAYER}.lora_down.weight": (4, 32),
        f"{LAYER}.lora_up.weight": (32, 4),
        "extra": (1,),
    },
    "does not fit this base: down of .* has shape 4x64; for this layer it must be 4x32": {
        f"{LAYER}.lora_down.weight": (4, 64),
        f"{LAYER}.lora_up.weight": (32, 4),
    },
    "does not fit this base: up of .* has shape 32x8; for this layer it must be 32x4": {
        f"{LAYER}.lora_down.weight": (4, 32),
        f"{LAYER}.lora_up.weight": (32, 8),
    },
    "does not fit this base: down of .* has shape 0x32": {
        f"{LAYER}.lora_down.weight": (0, 32),
        f"{LAYER}.lora_up.weight": (32, 0),
    },
    "does not fit this base: down of .* has shape none": {
        f"{LAYER}.lora_down.weight": (),
        f"{LAYER}.lora_up.weight": (32, 4),
    },
    "has an alpha that is not one number": {
        f"{LAYER}.lora_down.weight": (4, 32),
        f"{LAYER}.lora_up.weight": (32, 4),
        f"{LAYER}.alpha": (2,),
    },
    "has two tensors for one": {
        f"{LAYER}.lora_down.weight": (4, 32),
        f"{LAYER}.lora_A.weight": (4, 32),
        f"{LAYER}.lora_up.weight": (32, 4),
    },
    "has two names for one layer": {
        f"{layer}.{name}.weight": shape
        for layer in (LAYER, LAYER.replace("input_blocks_3_1", "down_blocks_1_attentions_0"))
        for name, shape in (("lora_down", (4, 32)), ("lora_up", (32, 4)))
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_lora_for_this_base_is_named(kind, listing, tmp_path):
    save_file({key: torch.zeros(shape) for key, shape in KINDS[kind].items()}, tmp_path / "x.safetensors")
    found = listing()
    assert not found.offered
    assert re.match(kind, found.refused["x.safetensors"])
    assert f"'x' cannot be used: its file {found.refused['x.safetensors']}" == found.find("x")


def test_integers_and_broken_metadata_are_refused(listing, tmp_path):
    tensors = tiny_loras.tensors("kohya", tiny_loras.pairs(part="unet"))
    save_file({key: value.to(torch.int32) for key, value in tensors.items()}, tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "b.safetensors", {"lora_adapter_metadata": "[" * 100_000})
    save_file(tensors, tmp_path / "c.safetensors", {"lora_adapter_metadata": '{"unet.use_dora": true}'})
    save_file(tensors, tmp_path / "d.safetensors", {"lora_adapter_metadata": '{"unet.lora_alpha": "x"}'})
    refused = listing().refused
    assert "not floating point" in refused["a.safetensors"]
    assert "not a JSON object" in refused["b.safetensors"]
    assert "is a DoRA" in refused["c.safetensors"]
    assert "alpha that is not a number" in refused["d.safetensors"]


def with_header(length: int, header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + header + rest


def test_files_that_are_damaged_or_something_else_are_named(listing, tmp_path):
    good = tiny_loras.write(tmp_path / "good.safetensors").read_bytes()
    entry = json.dumps({"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}).encode()
    contents = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "longer": good + b"x",
        "page": b"<!DOCTYPE html><html></html>",
        "pickle": b"\x80\x02c__builtin__\nexec\n(X\x04\x00\x00\x00passtR.",
        "huge": with_header(99_000_000, b"{" + b" " * 100),
        "overflow": with_header(2**64 - 1, b"{}"),
        "damaged": with_header(20, b"{" * 20),
        "sizes": with_header(len(entry), entry, b"1234"),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    found = listing()
    assert list(found.offered) == ["good"]
    assert found.refused.keys() == {f"{name}.safetensors" for name in contents}
    assert all(str(tmp_path) not in reason and len(reason) < 300 for reason in found.refused.values())
    assert "HTML page" in found.refused["page.safetensors"]
    assert "although its name ends with .safetensors" in found.refused["pickle.safetensors"]


def test_links_folders_and_other_formats_are_not_read(listing, tmp_path):
    folder = tmp_path
    tiny_loras.write(folder / "ink.safetensors")
    (folder / "link.safetensors").symlink_to(folder / "ink.safetensors")
    tiny_loras.write(folder / "inner/b.safetensors")
    (folder / "old.pt").write_bytes(b"\x80\x02.")
    tiny_loras.write(folder / "ink.SAFETENSORS")
    tiny_loras.write(folder / "a\nb.safetensors")
    tiny_loras.write(folder / f"{'n' * 201}.safetensors")
    for ignored in (".hidden.safetensors", "ink.png", "ink.txt", "readme"):
        (folder / ignored).write_text("x")
    found = listing()
    # The upper case comes first.
    assert list(found.offered) == ["ink"] and found.offered["ink"].path.name == "ink.SAFETENSORS"
    assert {
        name[:8]: reason.partition(";")[0].partition(",")[0] for name, reason in found.refused.items()
    } == {
        "ink.safe": "has the name of another",
        "link.saf": "is a link",
        "inner": "is a folder",
        "old.pt": "is not a safetensors file",
        "a\nb.safe": "has a name that no request can have: 200 printable characters at most",
        "nnnnnnnn": "has a name that no request can have: 200 printable characters at most",
    }


def test_one_that_does_not_fit_into_the_memory_is_not_offered(listing, tmp_path):
    tiny_loras.write(tmp_path / "ink.safetensors")
    assert "LORA_MEMORY_MB" in listing(most_bytes=1000).refused["ink.safetensors"]


def test_messages_about_unknown_names_are_short(listing, tmp_path):
    assert listing().find("x" * 200) == f"there is no '{'x' * 40}...': this service has no LoRAs"
    file = tiny_loras.write(tmp_path / "0.safetensors", part="text_encoder_2")
    for number in range(1, 25):
        (tmp_path / f"{number}{'x' * 150}.safetensors").write_bytes(file.read_bytes())
    problem = listing().find("none")
    assert problem.startswith("there is no 'none'; there are '0', '10xxx") and problem.endswith("and 5 more")
    assert len(problem) < 1200


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    return build_set(tmp_path / "set", upscaler=False)


def test_a_file_that_is_dropped_into_the_sets_folder_is_offered(own_set):
    tiny_loras.write(own_set / "loras/ink.safetensors")
    assert list(load(own_set).loras.folder.offered) == ["ink"]


def test_what_the_manifest_lists_is_missed(own_set):
    tiny_loras.write(own_set / "loras/ink.safetensors")
    tiny_sdxl.seal(own_set)
    (own_set / "loras/ink.safetensors").unlink()
    assert "is listed in the manifest, and missing" in str(load(own_set).loras.folder.find("ink"))
    (own_set / "loras").rmdir()
    assert "is listed in the manifest, and missing" in str(load(own_set).loras.folder.find("ink"))


def test_a_linked_folder_of_the_set_and_a_folder_that_is_none_are_startup_errors(own_set, tmp_path, layers):
    (tmp_path / "elsewhere").mkdir()
    (own_set / "loras").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match=r"MODEL_SET: loras in .* is a link"):
        load(own_set)
    (own_set / "loras").unlink()
    (own_set / "loras").write_text("x")
    with pytest.raises(StartupError, match=r"MODEL_SET: .*not a folder"):
        load(own_set)
    model_set = load(build_set(tmp_path / "other", upscaler=False)).model_set
    for setting in (tmp_path / "missing", "a\0b"):
        with pytest.raises(StartupError, match=r"^LORAS: "):
            LoraFolder.open(str(setting), model_set, layers, sys.maxsize, torch.float32)


def test_inspect_lists_them(own_set, capsys):
    tiny_loras.write(own_set / "loras/ink.safetensors", metadata={"modelspec.trigger_phrase": "inkstyle"})
    tiny_sdxl.seal(own_set)
    tiny_loras.write(own_set / "loras/dropped.safetensors", part="unet")
    (own_set / "loras/page.safetensors").write_text("<html>")
    assert main(["inspect", str(own_set)]) == 0
    loras = json.loads(capsys.readouterr().out)["loras"]
    assert [(lora["name"], lora["trigger_words"], len(lora["files"])) for lora in loras["offered"]] == [
        ("dropped", [], 0),
        ("ink", ["inkstyle"], 1),
    ]
    assert loras["offered"][1]["layers"] == len(tiny_loras.LAYERS)
    assert "HTML page" in loras["not_offered"]["page.safetensors"]
    tensors = load_file(own_set / "loras/ink.safetensors")
    save_file(tensors, own_set / "loras/ink.safetensors")
    assert main(["inspect", str(own_set)]) == 1
    assert "loras/ink.safetensors has SHA-256" in capsys.readouterr().err
