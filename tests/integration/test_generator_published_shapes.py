"""Networks of the published sizes, with random weights, through the code that loads them.

The files are in the published layout, in fp16 like the downloads. Those of the UNets are sparse files of
zeros; they are mapped, not run: in float32 the base's alone would need 10 GB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from atelier_generator.autoencoder import Autoencoder
from atelier_generator.models import load_base, load_refiner
from atelier_generator.nets import published
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.nets.stored import empty_network
from bench.synthetic_sdxl import weights
from tests import narrow_sdxl

pytestmark = pytest.mark.slow

RANDOM = ("vae", "text_encoder", "text_encoder_2")
MEMORY_GB = 6  # the most that a test here may use, since others may run on the machine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Base and refiner, VAE and text encoders with weights."""
    root = tmp_path_factory.mktemp("published")
    for kind, parts in (("base", ("unet", *RANDOM)), ("refiner", ("unet",))):
        for part in parts:
            folder = root / kind / part
            folder.mkdir(parents=True)
            config = published.configuration(kind, part)
            (folder / "config.json").write_text(json.dumps(dict(config)))
            path = folder / narrow_sdxl.weight_name(part, "fp16")
            if part == "unet":
                narrow_sdxl.write_sparse(path, empty_network(part, config).state_dict())
            else:
                save_file(weights(part, config, dtype=torch.float16).state_dict(), path)
        for name in ("model_index.json", "scheduler/scheduler_config.json"):
            (root / kind / name).parent.mkdir(exist_ok=True)
            (root / kind / name).write_text((published.PUBLISHED / kind / name).read_text())
    for part in ("tokenizer", "tokenizer_2"):
        published.tokenizer(part).save_pretrained(root / "base" / part)
    yield root
    for path in root.rglob("*.safetensors"):
        path.unlink()  # two gigabytes


def test_the_complete_pipelines_are_built(folders: Path) -> None:
    """In float16, like the files: nothing is copied, whatever the size."""
    before = psutil.Process().memory_info().rss
    base, refiner = read_pipeline(folders / "base"), read_pipeline(folders / "refiner")
    base.check()
    refiner.check(base)
    pipeline = load_base(base, torch.device("meta"), torch.float16)
    again = load_refiner(refiner, pipeline, torch.device("meta"), torch.float16)
    assert psutil.Process().memory_info().rss - before < MEMORY_GB * 10**9
    parameters = {
        name: network.num_parameters()
        for name, network in pipeline.components.items()
        if hasattr(network, "num_parameters")
    }
    assert parameters == {
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "unet": 2_567_463_684,
    }
    assert again.unet.num_parameters() == 2_259_526_660
    assert pipeline.vae.dtype == torch.float32 and pipeline.unet.dtype == torch.float16
    assert (pipeline.default_sample_size, pipeline.vae_scale_factor) == (128, 8)


def test_the_real_vae_decodes_and_encodes(folders: Path) -> None:
    autoencoder = Autoencoder(read_pipeline(folders / "base").networks["vae"].load(torch.float32))
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        image = autoencoder.decode(latents, tiled=False)
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        assert image.std() > 1
        assert np.array_equal(image, autoencoder.decode(latents, tiled=False))
        encoded = autoencoder.encode(image, tiled=False)
    assert encoded.shape == (1, 4, 32, 32) and torch.isfinite(encoded).all()


@pytest.mark.parametrize(("part", "width"), [("text_encoder", 768), ("text_encoder_2", 1280)])
def test_the_real_text_encoders_encode_a_prompt(folders: Path, part: str, width: int) -> None:
    stored = read_pipeline(folders / "base")
    encoder = stored.networks[part].load(torch.float32)
    tokenizer = stored.tokenizer(part.replace("text_encoder", "tokenizer"))
    tokens = tokenizer(
        ["a photo of a cat", "a photo of a dog"], padding="max_length", return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        output = encoder(tokens, output_hidden_states=True)
    words = output.hidden_states[-2]  # what SDXL reads
    assert words.shape == (2, 77, width) and torch.isfinite(words).all()
    # Attention is causal: a word affects itself and what follows.
    torch.testing.assert_close(words[0, :5], words[1, :5])
    assert (words[0, 5:] != words[1, 5:]).any()
    if part == "text_encoder_2":
        # Pooled at the end token (the largest number), whatever pads the rest.
        assert output.text_embeds.shape == (2, 1280)
        with torch.inference_mode():
            alone = encoder(tokens[:1, :7]).text_embeds
        torch.testing.assert_close(output.text_embeds[:1], alone, rtol=1e-3, atol=1e-4)
