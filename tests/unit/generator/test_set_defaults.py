"""What a model set says about how it wants to be run: in its manifest, or in the files of its base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from atelier_generator.generation import Generation, Progress
from atelier_generator.nets.inspection import inspect
from atelier_generator.nets.reading import read_pipeline
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.warm_up import warm_up
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.settings import StartupError
from tests import narrow_sdxl
from tests.tiny_sdxl import build_set, seal
from tests.unit.generator.conftest import load


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), refiner=True)


@pytest.fixture
def a_set(built: Path, tmp_path: Path) -> Callable[..., Path]:
    """Returns a copy of a set with further entries in its manifest."""

    def with_entries(**entries: Any) -> Path:
        folder = tmp_path / "set"
        shutil.copytree(built, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | entries))
        return folder

    return with_entries


def drawn(pipeline: Pipeline, **options: Any) -> Generation:
    given: dict[str, Any] = {
        "prompt": "a cat",
        "width_px": 256,
        "height_px": 256,
        "seed": 1,
        "use_refiner": False,
    }
    return pipeline.generate(pipeline.complete(GenerateRequest(**given | options)))


def store_scheduler(folder: Path, part: str, kind: str = "EulerDiscreteScheduler", **options: Any) -> None:
    """Change the class of a scheduler in a set, and its configuration."""
    changes = {
        "model_index.json": {"scheduler": ["diffusers", kind]},
        "scheduler/scheduler_config.json": options,
    }
    for name, values in changes.items():
        path = folder / part / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    seal(folder)


LIGHTNING = {"num_inference_steps": 4, "guidance_scale": 1.0, "sampler": "Euler a", "schedule": "trailing"}


def test_a_sets_sampling_is_that_of_requests_that_leave_it_open(a_set: Callable[..., Path]) -> None:
    pipeline = Pipeline(load(a_set(sampling=LIGHTNING)))
    by_default = drawn(pipeline)
    asked = drawn(pipeline, **LIGHTNING)
    assert np.array_equal(by_default.pixels, asked.pixels)
    assert (by_default.sampler, by_default.schedule) == ("euler_ancestral", "trailing")
    assert (by_default.num_inference_steps, by_default.guidance_scale) == (4, 1.0)
    assert pipeline.sampling_defaults == LIGHTNING | {"sampler": "euler_ancestral"}
    other = drawn(pipeline, sampler="euler")
    assert (other.sampler, other.schedule) == ("euler", "default"), "the set's schedule is its sampler's"
    assert not np.array_equal(by_default.pixels, other.pixels)
    assert drawn(pipeline, schedule="default").schedule == "default"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("ugly [hands|feet]", "in the weighted syntax: the bracket at character 6 alternates"),
        ("ugly " * 500, "in the plain syntax: must have .* 2000 characters"),
        ("<lora:ugly:1>", "in the plain syntax: a LoRA applies to the whole image"),
    ],
)
def test_a_negative_prompt_that_would_spoil_every_request_stops_the_start(
    a_set: Callable[..., Path], prompt: str, message: str
) -> None:
    with pytest.raises(StartupError, match=f"^MODEL_SET: .*default_negative_prompt, {message}"):
        load(a_set(default_negative_prompt=prompt))


def test_a_request_that_names_the_sampler_of_the_defaults_keeps_the_sets_schedule(
    a_set: Callable[..., Path],
) -> None:
    pipeline = Pipeline(load(a_set(sampling={"schedule": "karras", "num_inference_steps": 2})))
    assert pipeline.sampling_defaults["sampler"] == "euler"
    assert drawn(pipeline, sampler="euler").schedule == drawn(pipeline).schedule == "karras"
    assert drawn(pipeline, sampler="dpmpp_2m").schedule == "default"


def test_a_set_that_says_nothing_is_run_as_before(built: Path) -> None:
    pipeline = Pipeline(load(built))
    assert pipeline.sampling_defaults == {
        "sampler": "euler",
        "schedule": "default",
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
    }
    generation = drawn(pipeline)
    assert np.array_equal(generation.pixels, drawn(pipeline, sampler="euler", schedule="default").pixels)


def test_a_schedule_that_the_sets_sampler_cannot_follow_is_refused(a_set: Callable[..., Path]) -> None:
    pipeline = Pipeline(load(a_set(sampling={"sampler": "lcm", "num_inference_steps": 4})))
    with pytest.raises(InvalidRequest) as caught:
        pipeline.complete(GenerateRequest("a cat", schedule="karras"))
    [violation] = caught.value.fields
    assert violation.field == "schedule" and "lcm" in violation.message
    with pytest.raises(InvalidRequest) as caught:
        pipeline.complete(GenerateRequest("a cat", num_inference_steps=60))
    [violation] = caught.value.fields
    assert violation.field == "num_inference_steps" and "50" in violation.message


def test_a_set_of_zero_terminal_snr_starts_at_pure_noise(a_set: Callable[..., Path]) -> None:
    models = load(a_set(prediction_type="v_prediction", zero_terminal_snr=True))
    config = models.text_to_image.scheduler.config
    assert config.prediction_type == "v_prediction" and config.rescale_betas_zero_snr
    assert config.timestep_spacing == "trailing"
    assert models.refiner is not None and models.refiner.scheduler.config.prediction_type == "epsilon"
    pipeline = Pipeline(models)
    assert np.isfinite(drawn(pipeline, num_inference_steps=3, sampler="ddim").pixels).all()
    with pytest.raises(InvalidRequest, match="zero terminal SNR"):
        pipeline.complete(GenerateRequest("a cat", sampler="heun"))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"sampling": {"sampler": "restart"}}, r"sampling\.sampler must be one of euler"),
        (
            {"sampling": {"sampler": "lcm", "schedule": "karras"}},
            r"sampling\.schedule must be one of",
        ),
        ({"sampling": {"sampler": "lcm", "num_inference_steps": 60}}, "at most 50"),
        ({"sampling": {"steps": 4}}, r"sampling\.steps"),
        ({"sampling": {"num_inference_steps": 151}}, r"sampling\.num_inference_steps"),
        ({"sampling": {"guidance_scale": -1}}, r"sampling\.guidance_scale"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"clip_skip": 0}, "clip_skip"),
    ],
)
def test_a_wrong_entry_stops_the_start_and_is_named(
    a_set: Callable[..., Path], entries: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StartupError, match=problem):
        load(a_set(**entries))


def test_a_default_that_the_refiner_cannot_follow_stops_the_start(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "set")
    store_scheduler(folder, "refiner", "DDIMScheduler")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"sampling": {"schedule": "karras"}}))
    with pytest.raises(StartupError, match=r"'tiny': sampling\.schedule .*DDIMScheduler, of the refiner"):
        load(folder)
    store_scheduler(folder, "refiner", "DDIMScheduler", rescale_betas_zero_snr=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling": {"sampler": "heun"}}))
    with pytest.raises(StartupError, match=r"sampling\.sampler .*zero terminal SNR, of the refiner"):
        load(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling": {"schedule": "trailing"}}))
    load(folder)


# --- what single files say ---


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "base.safetensors"
    tensors = narrow_sdxl.original_layout("base", narrow_sdxl.networks("base"))
    save_file({key: tensor.half() for key, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("keys", "metadata", "predicts", "zero_snr"),
    [
        ((), {}, "epsilon", False),
        (("v_pred",), {}, "v_prediction", False),
        (("v_pred", "ztsnr"), {}, "v_prediction", True),
        ((), {"modelspec.prediction_type": "v"}, "v_prediction", False),
        ((), {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v_prediction", True),
        ((), {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"}, "epsilon", False),
    ],
)
def test_a_checkpoint_says_how_it_was_trained(
    single_file: Path,
    tmp_path: Path,
    keys: tuple[str, ...],
    metadata: dict[str, str],
    predicts: str,
    zero_snr: bool,
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(load_file(single_file) | {key: torch.zeros(0) for key in keys}, path, metadata)
    stored = read_pipeline(path)
    stored.check()
    config = stored.scheduler().config
    assert config.prediction_type == predicts
    assert config.rescale_betas_zero_snr is zero_snr
    assert config.timestep_spacing == ("trailing" if zero_snr else "leading")
    described = inspect(path)["scheduler"]
    assert (described["prediction_type"], described["zero_terminal_snr"]) == (predicts, zero_snr)
    assert (described["sampler"], described["schedule"]) == ("euler", "trailing" if zero_snr else "default")


def save_nine_channels(single_file: Path, path: Path) -> None:
    tensors = load_file(single_file)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    weight = tensors[first]
    nine = torch.cat([weight, weight, weight[:, :1]], dim=1)
    save_file(tensors | {first: nine}, path)


def test_a_single_file_inpaints(single_file: Path, tmp_path: Path) -> None:
    shutil.copy(single_file, tmp_path / "base.safetensors")
    save_nine_channels(single_file, tmp_path / "inpaint.safetensors")
    components = {"base": "base.safetensors", "inpaint": "inpaint.safetensors"}
    narrow_sdxl.write_set(tmp_path, components, max_side=256)  # or the warm-up's images have 1024 px
    models = load(tmp_path)
    assert models.inpaint is not None and models.inpaint.unet.config.in_channels == 9
    assert models.inpaint.vae is models.text_to_image.vae, "all but the UNet is the base's"
    description = inspect(tmp_path)
    assert (description["base"]["pipeline"], description["inpaint"]["pipeline"]) == ("base", "inpaint")
    warm_up(Pipeline(models), models)
    shutil.copy(single_file, tmp_path / "inpaint.safetensors")
    narrow_sdxl.write_set(tmp_path, components)
    with pytest.raises(StartupError, match=r"MODEL_SET: the inpaint: .*is not an inpainting network"):
        load(tmp_path)


def test_an_inpainting_network_and_a_lora_are_named(single_file: Path, tmp_path: Path) -> None:
    save_nine_channels(single_file, tmp_path / "base.safetensors")
    narrow_sdxl.write_set(tmp_path, {"base": "base.safetensors"})
    with pytest.raises(StartupError, match=r"an inpainting network, which goes into the role inpaint"):
        load(tmp_path)
    key = "lora_unet_input_blocks_4_1_proj_in.lora_down.weight"
    save_file({key: torch.zeros(4, 8)}, tmp_path / "base.safetensors")
    narrow_sdxl.write_set(tmp_path, {"base": "base.safetensors"})
    with pytest.raises(StartupError, match="is a LoRA, not a complete SDXL checkpoint"):
        load(tmp_path)


def test_trailing_timesteps_of_a_sets_own_are_as_many_as_the_steps(built: Path, tmp_path: Path) -> None:
    """Also of image to image, whose first step counts from the start of the schedule."""
    folder = shutil.copytree(built, tmp_path / "set")
    for part in ("base", "refiner"):
        store_scheduler(folder, part, timestep_spacing="trailing")
    pipeline = Pipeline(load(folder))
    events: list[Progress] = []
    request = pipeline.complete(
        GenerateRequest("a cat", width_px=256, height_px=256, num_inference_steps=61, use_upscaler=False)
    )
    assert pipeline.generate(request, lambda: None, events.append).schedule == "trailing"
    assert {(event.stage, event.total_steps) for event in events} == {("base", 61), ("refiner", 18)}
    assert len(events) == 61 + 18
