"""Previews: what the networks take the images for, at any step, without decoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from atelier_generator.generation import Generation, Progress
from atelier_generator.models import Models, load_models
from atelier_generator.pipeline import Pipeline
from atelier_generator.previews import preview
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.latent_colors import SDXL_COLORS, LatentColors
from atelier_runtime.settings import StartupError
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import load


@pytest.fixture(scope="module")
def demo_models() -> Models:
    return load_models(GeneratorSettings(device="cpu", dtype="float32"))


def drawn(pipeline: Pipeline, **options: Any) -> tuple[list[Generation], list[Progress]]:
    given: dict[str, Any] = {
        "prompt": "a man wearing a red cap",
        "width_px": 256,
        "height_px": 256,
        "num_inference_steps": 6,
        "seed": 5,
    }
    request = pipeline.complete(GenerateRequest(**given | options))
    events: list[Progress] = []
    results: list[Generation] = []
    runs = pipeline.image_runs(request, lambda: None, events.append)
    pipeline.generate_group(runs, lambda run: results.append(pipeline.finish(run)))
    return results, events


def test_the_colors_are_those_of_the_decoded_image(demo_models: Models) -> None:
    pipeline = Pipeline(demo_models)
    [image], events = drawn(
        pipeline,
        preview_interval_steps=1,
        num_inference_steps=12,
        use_refiner=False,
    )
    previews = [event.previews[0] for event in events]
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1).float()
    small = functional.adaptive_avg_pool2d(pixels, previews[0].shape[:2]).permute(1, 2, 0).numpy()
    likeness = [np.corrcoef(each.flatten(), small.flatten())[0, 1] for each in previews]
    assert likeness[0] < likeness[5] < likeness[-1]
    assert likeness[-1] > 0.8


def test_they_come_every_so_many_steps_and_change_nothing(full_models: Models) -> None:
    pipeline = Pipeline(full_models)
    [plain], without = drawn(pipeline)
    [image], events = drawn(pipeline, preview_interval_steps=4)
    assert np.array_equal(plain.pixels, image.pixels)
    assert not any(event.previews for event in without)
    steps = [(event.stage, event.step) for event in events]
    assert steps == [(event.stage, event.step) for event in without]
    assert [bool(event.previews) for event in events] == [step % 4 == 0 for _, step in steps]
    assert sum(bool(event.previews) for event in events) >= 1
    shapes = {preview.shape for event in events for preview in event.previews}
    assert shapes == {(32, 32, 3)}


def test_each_image_of_a_request_has_its_own(full_models: Models) -> None:
    pipeline = Pipeline(full_models)
    _, events = drawn(pipeline, num_images=3, preview_interval_steps=2, sampler="dpmpp_2m")
    together = [event.previews for event in events if event.previews]
    assert {len(previews) for previews in together} == {3}
    for number in range(3):
        _, events = drawn(pipeline, seed=5 + number, preview_interval_steps=2, sampler="dpmpp_2m")
        alone = [event.previews[0] for event in events if event.previews]
        assert len(alone) == len(together)
        for one, all_of_them in zip(alone, together, strict=True):
            assert np.abs(one.astype(int) - all_of_them[number].astype(int)).max() <= 1


def test_a_large_one_is_made_smaller() -> None:
    latents = torch.zeros(1, 4, 200, 400)
    latents[:, 0, :, 200:] = 1
    pixels = preview(latents, SDXL_COLORS)
    assert pixels.shape == (128, 256, 3) and pixels.dtype == np.uint8
    assert (pixels[64, 10] == (150, 140, 130)).all() and (pixels[64, 250] == (210, 200, 190)).all()


def test_latents_that_are_not_numbers_are_black() -> None:
    assert not preview(torch.full((1, 4, 8, 8), float("nan")), SDXL_COLORS).any()


@pytest.mark.parametrize("interval", [0, 151])
def test_an_interval_out_of_range_is_named(interval: int) -> None:
    with pytest.raises(InvalidRequest, match="preview_interval_steps: must be from 1 to 150"):
        GenerateRequest("a", preview_interval_steps=interval)


# --- the manifest ---


@pytest.fixture
def a_set(tmp_path: Path) -> Callable[[Any], Path]:
    def with_preview(entry: Any) -> Path:
        folder = build_set(tmp_path / "set")
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"preview": entry}))
        return folder

    return with_preview


def test_a_set_names_its_colors(a_set: Callable[[Any], Path]) -> None:
    models = load(a_set({"factors": [[1, 2, 3.5]] * 4, "bias": [9, 8, 7]}))
    assert models.preview_colors == LatentColors(((1, 2, 3.5),) * 4, (9, 8, 7))


def test_without_any_they_are_those_of_sdxl(plain_models: Models) -> None:
    assert plain_models.preview_colors == SDXL_COLORS


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"factors": [[1, 2, 3]] * 3, "bias": [0, 0, 0]}, "preview.factors must have 4 rows.*, has 3"),
        ({"factors": [[1, 2]] * 4, "bias": [0, 0, 0]}, "preview.factors.0"),
        ({"factors": [[1, 2, 3]] * 4}, "preview.bias"),
        ({"factors": [[1, 2, 3]] * 4, "bias": [0, 0, 0], "offset": 1}, "preview.offset"),
        ({"factors": [["1", 2, 3]] * 4, "bias": [0, 0, 0]}, "preview.factors.0.0"),
    ],
)
def test_colors_that_fit_no_latents_stop_the_start(
    a_set: Callable[[Any], Path], entry: Any, message: str
) -> None:
    with pytest.raises(StartupError, match=message):
        load(a_set(entry))


def test_where_the_colors_are_unknown_there_are_no_previews(
    plain_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Models, "preview_colors", None)
    pipeline = Pipeline(plain_models)
    pipeline.complete(GenerateRequest("a"))
    with pytest.raises(InvalidRequest, match="preview_interval_steps: the model set does not say"):
        pipeline.complete(GenerateRequest("a", preview_interval_steps=1))
