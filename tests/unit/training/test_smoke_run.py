"""The whole training in a minute, and the model set that it makes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from spandrel import ModelLoader
from transformers import CLIPTokenizer

from atelier_generator.models import load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.detect import FaceDetector
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_runtime.outcomes import WarningCode
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet, load_state_dict
from training.diffusion import TOKENIZER, load_trained
from training.loop import EXPORT, read_facts
from training.options import default_profile
from training.package_set import MAX_BYTES
from training.profile import PROFILES
from training.unpack_set import unpack_set

pytestmark = pytest.mark.slow  # the fixture takes most of a minute

ROOT = Path(__file__).parents[3]


def run_training(out: Path, *more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": "demo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training", "--out", str(out), "--smoke", *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run_training(runs)
    return runs


def test_the_set_is_complete_checked_and_small_enough(trained: Path) -> None:
    model_set = ModelSet.open(str(trained / "set"))
    model_set.verify(*(role for role in NetworkRole if role is not NetworkRole.FACE_PARSER))
    manifest = json.loads((trained / "set" / "manifest.json").read_text())
    on_disk = {p.relative_to(trained / "set").as_posix() for p in (trained / "set").rglob("*") if p.is_file()}
    assert set(manifest["files"]) | {"manifest.json"} == on_disk
    assert sum(entry["bytes"] for entry in manifest["files"].values()) < MAX_BYTES
    assert set(manifest["training"]) >= {"commit", "command", "seed", "steps", "device", "hours", "figures"}
    assert manifest["training"]["steps"]["diffusion"] == 3


def test_every_network_of_the_set_loads_with_the_code_that_serves_it(trained: Path) -> None:
    model_set = ModelSet.open(str(trained / "set"))

    def state(role: NetworkRole) -> dict[str, torch.Tensor]:
        return load_state_dict(model_set.require(role).path)

    upscaler = ModelLoader().load_from_state_dict(state(NetworkRole.UPSCALER))
    assert (upscaler.architecture.name, upscaler.scale) == ("RealESRGAN Compact", 4)
    FaceDetector.from_state_dict(state(NetworkRole.FACE_DETECTOR), torch.device("cpu"))
    codeformer = CodeFormer.from_state_dict(state(NetworkRole.FACE_RESTORER))
    assert codeformer.config.image_size == 512


def test_the_base_is_a_pipeline_that_diffusers_loads_without_arguments(trained: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(trained / "set" / "base")
    manifest = json.loads((trained / "set" / "manifest.json").read_text())
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    assert side == manifest["max_side"] and side % manifest["size_multiple"] == 0
    pipeline.set_progress_bar_config(disable=True)
    wide = pipeline(
        "a smiling man", height=side * 3 // 4, width=side, num_inference_steps=2, output_type="np"
    )
    assert wide.images[0].shape == (side * 3 // 4, side, 3)


def test_base_and_refiner_generate_together_as_the_generator_runs_them(trained: Path) -> None:
    side = PROFILES[default_profile()].refiner_side
    settings = GeneratorSettings.model_validate({"model_set": str(trained / "set"), "device": "cpu"})
    models = load_models(settings)
    request = GenerateRequest(
        prompt="a smiling man",
        negative_prompt="",
        width_px=2 * side,
        height_px=side * 3 // 2,
        num_inference_steps=1,
        guidance_scale=7.5,
        seed=1,
    )
    pipeline = Pipeline(models)
    generation = pipeline.generate(pipeline.complete(request))
    [warning] = generation.warnings
    assert generation.refiner_applied and warning.code is WarningCode.SIZE_LIMITED
    assert f"{side}x{side * 3 // 4}" in warning.message


def test_a_second_run_continues_the_first(trained: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(trained, tmp_path / "runs")
    before = read_facts(runs / "upscaler" / EXPORT)["step"]
    assert isinstance(before, int)
    output = run_training(runs, "--jobs", "2", "--to", str(tmp_path / "second"))
    assert "resumes at step 3" in (runs / "logs" / "upscaler.log").read_text()
    assert read_facts(runs / "upscaler" / EXPORT)["step"] == before + 3
    assert "'fusion': 0" in output and (tmp_path / "second" / "manifest.json").exists()


def test_training_continues_from_a_packaged_set(trained: Path, tmp_path: Path) -> None:
    written = unpack_set(trained / "set", tmp_path, PROFILES[default_profile()])
    networks = {"autoencoder", "decoder", "diffusion", "refiner", "upscaler", "detector"}
    assert set(written) == {*networks, "codebook", "codes", "fusion"}
    for stage in written:
        taken, whole = tmp_path / stage / EXPORT, trained / stage / EXPORT
        assert read_facts(taken)["step"] == read_facts(whole)["step"] == 3
    before, after = (
        load_trained(runs / "diffusion", len(CLIPTokenizer.from_pretrained(runs / "diffusion" / TOKENIZER)),
                     PROFILES[default_profile()]).state_dict()
        for runs in (trained, tmp_path)
    )  # fmt: skip
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert unpack_set(trained / "set", tmp_path, PROFILES[default_profile()]) == []


def test_a_set_of_other_shapes_is_left_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = next(profile for name, profile in PROFILES.items() if name != default_profile())
    assert set(unpack_set(trained / "set", tmp_path, other)) == {"upscaler", "detector"}
    assert "model does not have the shapes" in capsys.readouterr().out
