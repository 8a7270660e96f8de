"""What the generator writes into the files of its direct callers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import Generation
from atelier_generator.prompt_syntax import Segment, parse
from atelier_generator.recipe import with_recipe
from atelier_generator.request import CompletedRequest, GenerateRequest, HiresPass
from atelier_generator.source import Source
from atelier_runtime.images import Format, Picture, encode
from atelier_runtime.model_defaults import ModelDefaults
from atelier_runtime.recipes import COMPOSITE, DRAWN, infotext, read_marks
from atelier_runtime.service import LoadedModels

PIXELS = np.full((264, 256, 3), 90, np.uint8)
LOADED = LoadedModels("demo", "ab" * 32, (), torch.device("cpu"), torch.float32)


def completed(**options: Any) -> CompletedRequest:
    request = GenerateRequest("a fox <lora:ink:0.5>", width_px=256, height_px=264, seed=7, **options)
    return request.completed(ModelDefaults(negative_prompt="blurry"), "euler")


def generation(seed: int = 7) -> Generation:
    return Generation(
        pixels=PIXELS,
        seed=seed,
        num_inference_steps=30,
        guidance_scale=7.5,
        sampler="dpmpp_2m",
        schedule="karras",
        refiner_applied=False,
        refiner_reason=None,
        hires_fix_applied=False,
        upscaler="",
        warnings=(),
        stages=(),
    )


@pytest.mark.parametrize("prompt", ["a (very) big [cat]", r"C:\(x\\", "((a:1.3)", "[a|b] [c:3]"])
def test_the_web_ui_draws_the_same_picture_from_the_infotext(prompt: str) -> None:
    request = GenerateRequest(prompt, negative_prompt=prompt, width_px=256, height_px=264, seed=7)
    plain = encode(Picture(PIXELS), "png", 90)
    completed = request.completed(ModelDefaults(), "euler")
    read = infotext.read(read_marks(with_recipe(plain, completed, generation(), LOADED)).infotext or "")
    for name in ("Prompt", "Negative prompt"):
        assert parse(read[name], "weighted") == ((Segment(prompt),),)
    assert infotext.escaped("(a) <lora:ink_(2):1>") == r"\(a\) <lora:ink_(2):1>"


def test_weights_are_in_the_infotext_as_they_are() -> None:
    prompt = "a (very:1.2) big [cat]"
    plain = encode(Picture(PIXELS), "png", 90)
    request = GenerateRequest(prompt, width_px=256, height_px=264, seed=7, prompt_syntax="weighted")
    completed = request.completed(ModelDefaults(), "euler")
    written = read_marks(with_recipe(plain, completed, generation(), LOADED)).infotext or ""
    assert infotext.read(written)["Prompt"] == prompt


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_every_value_that_was_used_is_told(file_format: Format) -> None:
    plain = encode(Picture(PIXELS), file_format, 90)
    request = completed(output_format=file_format, num_images=3)
    found = read_marks(with_recipe(plain, request, generation(9), LOADED))
    assert found.recipe is not None and found.infotext is not None
    said = found.recipe["request"]
    assert (said["prompt"].strip(), said["negative_prompt"]) == ("a fox", "blurry")
    assert said["loras"] == [{"name": "ink", "weight": 0.5}]
    assert (said["width"], said["height"], said["seed"], said["num_images"]) == (256, 264, 7, 3)
    assert (said["sampler"], said["schedule"]) == ("dpmpp_2m", "karras")
    assert (found.recipe["seed"], found.recipe["image"]) == (9, [3, 3])
    assert found.recipe["model_set"] == {"name": "demo", "hash": "ab" * 32}
    assert found.source_type == DRAWN
    parameters = infotext.read(found.infotext)
    assert (parameters["Sampler"], parameters["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert parameters["Negative prompt"] == "blurry"


def test_files_and_passes_are_told() -> None:
    plain = encode(Picture(PIXELS), "png", 90)
    masked = completed(image=b"i", mask=b"m").with_source(
        Source(PIXELS, np.zeros((264, 256), np.uint8), hashes={"image_sha256": "1", "mask_sha256": "2"})
    )
    found = read_marks(with_recipe(plain, masked, generation(), LOADED))
    assert found.recipe is not None
    assert found.recipe["started_from"] == {"image_sha256": "1", "mask_sha256": "2"}
    assert found.source_type == COMPOSITE, "what the mask keeps may be a photograph's"
    hires = completed(hires_pass=HiresPass(512, 528, 0.5))
    found = read_marks(with_recipe(plain, hires, generation(), LOADED))
    assert found.recipe is not None
    assert found.recipe["request"]["hires_pass"]["height"] == 528
    assert infotext.read(found.infotext or "")["Hires resize-1"] == "512"


def test_nothing_is_told_that_is_not_wanted() -> None:
    assert with_recipe(b"a file", completed(metadata="none"), generation(), LOADED) == b"a file"
    assert with_recipe(b"pixels", completed(output_format="raw"), generation(), LOADED) == b"pixels"
