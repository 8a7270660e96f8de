import json
import shutil

import numpy as np
import pytest
import torch

from atelier_generator.autoencoder import Autoencoder, checked_picture
from atelier_generator.models import load_models
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.errors import BadImage
from atelier_runtime.settings import StartupError
from tests.tiny_sdxl import build_set, seal
from tests.unit.generator.conftest import load


@pytest.fixture
def set_folder(full_models, tmp_path):
    """A copy of the full set that a test may corrupt."""
    return shutil.copytree(full_models.model_set.folder, tmp_path / "set")


def test_pipelines_share_one_copy_of_the_networks(full_models):
    base, refiner = full_models.text_to_image, full_models.refiner
    assert refiner.vae is base.vae
    assert refiner.text_encoder_2 is base.text_encoder_2
    assert refiner.unet is not base.unet
    assert refiner.tokenizer is None and refiner.text_encoder is None
    assert refiner.config.requires_aesthetics_score and "requires_aesthetics_score" not in base.config


def test_no_watermark_is_added(full_models):
    for pipeline in (full_models.text_to_image, full_models.refiner):
        assert pipeline.watermark is None


def test_half_precision_files_run_in_float32_on_a_cpu(set_folder):
    from safetensors.torch import load_file, save_file

    for path in set_folder.rglob("*.safetensors"):
        save_file({name: value.half() for name, value in load_file(path).items()}, path)
    seal(set_folder)
    models = load(set_folder)
    assert models.refiner is not None
    networks = (models.text_to_image.unet, models.text_to_image.vae, models.text_to_image.text_encoder)
    assert {network.dtype for network in (*networks, models.refiner.unet)} == {torch.float32}


def test_the_native_side_is_limited_by_max_side(plain_models, small_models):
    assert plain_models.native_side == 256
    assert small_models.native_side == 128


def test_a_changed_file_stops_the_start_and_is_named(set_folder):
    path = set_folder / "base/unet/diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StartupError, match=r"base/unet/diffusion_pytorch_model\.safetensors"):
        load(set_folder)


def test_a_missing_network_stops_the_start(set_folder):
    shutil.rmtree(set_folder / "base/vae")
    seal(set_folder)
    with pytest.raises(StartupError, match=r"MODEL_SET: the base"):
        load(set_folder)


def test_a_set_without_a_base_stops_the_start(set_folder):
    manifest = json.loads((set_folder / "manifest.json").read_text())
    del manifest["components"]["base"]
    (set_folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StartupError, match="base"):
        load(set_folder)


def test_half_precision_on_a_cpu_is_refused_naming_the_setting(full_models):
    settings = GeneratorSettings(device="cpu", dtype="float16", model_set=str(full_models.model_set.folder))
    with pytest.raises(StartupError, match="DTYPE"):
        load_models(settings)


def test_bfloat16_may_be_asked_for_on_any_cpu(full_models):
    folder = str(full_models.model_set.folder)
    models = load_models(GeneratorSettings(device="cpu", dtype="bfloat16", model_set=folder, cpu_threads=1))
    base = models.text_to_image
    networks = (base.unet, base.vae, base.text_encoder, base.text_encoder_2)
    assert {network.dtype for network in networks} == {models.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(("setting", "expected"), [(0, 1), (3, 3)])
def test_threads_follow_the_usable_processors_and_the_setting(full_models, monkeypatch, setting, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    folder = str(full_models.model_set.folder)
    try:
        load_models(GeneratorSettings(device="cpu", model_set=folder, cpu_threads=setting))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_folders_with_fp16_variants_load(tmp_path):
    folder = build_set(tmp_path, upscaler=False)
    for path in (folder / "base").rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    seal(folder)
    assert load(folder).text_to_image.unet.dtype == torch.float32


def test_an_image_survives_encoding_and_decoding(full_models):
    """The scaling of `encode` is undone by `decode`, also with per-channel statistics."""
    autoencoder = full_models.autoencoder
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        vae = full_models.text_to_image.vae
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = autoencoder.encode(image, tiled=False)
        assert latents.shape == (1, 4, 8, 12)
        mean = vae.encode(batch).latent_dist.mode()
        torch.testing.assert_close(latents, mean * vae.config.scaling_factor)
        decoded = autoencoder.decode(latents, tiled=False)
        expected = checked_picture(vae.decode(mean).sample)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_pixels_and_latents_are_an_error(full_models, value):
    pixels = torch.rand(1, 3, 16, 16)
    pixels[0, 1, 3, 3] = value
    with pytest.raises(BadImage, match="non-finite"):
        checked_picture(pixels)
    latents = torch.randn(1, 4, 8, 8)
    latents[0, 0, 0, 0] = value
    with pytest.raises(BadImage, match="non-finite"), torch.inference_mode():
        full_models.autoencoder.decode(latents, tiled=False)


def test_a_single_color_is_an_error():
    pixels = torch.tensor([0.9, -0.5, 0.1]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with pytest.raises(BadImage, match="single color"):
        checked_picture(pixels + torch.rand(1, 3, 32, 32) * 0.002)  # a quarter of a level
    half = pixels.clone()
    half[..., :16] = -0.9
    assert checked_picture(half).shape == (32, 32, 3)


def test_pixels_are_rounded_and_clipped():
    pixels = torch.linspace(-1.5, 1.5, 48).view(1, 3, 4, 4)
    image = checked_picture(pixels)
    expected = np.clip(np.rint((pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5), 0, 255)
    assert np.array_equal(image, expected)


def test_a_vae_in_half_precision_decodes_in_float32_and_is_restored(set_folder):
    models = load(set_folder)
    models.text_to_image.vae.to(torch.bfloat16)
    autoencoder = Autoencoder(models.text_to_image.vae)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        half = autoencoder.decode(latents, tiled=False)
        full = autoencoder.decode_in_float32(latents, tiled=False)
        assert np.array_equal(autoencoder.decode(latents, tiled=False), half)
    assert autoencoder.half_precision
    assert 0 < np.abs(half.astype(int) - full).max() < 20
