"""Image to image and inpainting: what the result keeps of the image, and at which size."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import Generation
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models, place
from atelier_generator.pipeline import Pipeline
from atelier_generator.plan import pass_size
from atelier_generator.request import CompletedRequest
from atelier_generator.source import MaskArray, Source
from atelier_generator.source_reading import at_pass
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import RgbArray
from atelier_runtime.outcomes import WarningCode
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import crop_to, upscale_to
from tests import tiny_loras
from tests.unit.generator.conftest import UnetCalls, load, request_for

STEPS = 4


def picture(width: int = 256, height: int = 256) -> RgbArray:
    """Smooth colors, which differ at every pixel of a row."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], 2).astype(
        np.uint8
    )


def soft_mask(width: int = 256, height: int = 256) -> MaskArray:
    """White in the middle, black at the borders, soft between."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.maximum(abs(x - width / 2) / width, abs(y - height / 2) / height)
    mask: MaskArray = (np.clip((0.35 - distance) * 10, 0, 1) * 255).round().astype(np.uint8)
    return mask


def request(source: Source, **options: Any) -> CompletedRequest:
    own: dict[str, Any] = {"image": b"", "width_px": None, "height_px": None, "num_inference_steps": STEPS}
    return request_for(**own | options).with_source(source)


def generate(models: Models, source: Source, **options: Any) -> Generation:
    return Pipeline(models).generate(request(source, **options))


def stages(generation: Generation) -> list[str]:
    return [stage.stage for stage in generation.stages]


def distance(one: RgbArray, other: RgbArray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_strength_says_how_many_steps_run_and_how_far_the_image_is_left(plain_models: Models) -> None:
    source = Source(picture())
    found = []
    for strength, steps in ((0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)):
        with UnetCalls(plain_models.text_to_image) as unet:
            generation = generate(plain_models, source, strength=strength)
        assert len(unet) == steps
        assert generation.strength == strength and generation.num_inference_steps == STEPS
        assert ("base" in stages(generation)) is (steps > 0) and "encode_latents" in stages(generation)
        found.append(generation.pixels)
    # The tiny network knows no images, but less noise leaves more of the one that it got.
    far = [distance(pixels, found[0]) for pixels in found]
    assert far == sorted(far) and len(set(far)) == 4
    same = generate(plain_models, source, strength=0.5).pixels
    assert np.array_equal(same, found[2])


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.24), (1, 0.75), (30, 0.03)])
def test_a_strength_that_runs_no_step_is_refused(plain_models: Models, steps: int, strength: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Pipeline(plain_models).complete(
            request(Source(picture()), num_inference_steps=steps, strength=strength)
        )
    [violation] = caught.value.fields
    assert violation.field == "strength" and "less than one step" in violation.message


@pytest.mark.parametrize("options", [{}, {"use_refiner": False}, {"strength": 1.0}, {"strength": 0.0}])
@pytest.mark.parametrize("size", [(256, 256), (333, 277)])
def test_outside_the_mask_are_the_images_own_pixels(
    full_models: Models, inpaint_models: Models, options: dict[str, Any], size: tuple[int, int]
) -> None:
    for models in (full_models, inpaint_models):
        pixels, mask = picture(*size), soft_mask(*size)
        generation = generate(models, Source(pixels, mask), **options)
        drawn = generate(models, Source(pixels, np.full_like(mask, 255)), **options).pixels
        assert generation.pixels.shape == pixels.shape
        black, white = mask == 0, mask == 255
        assert np.array_equal(generation.pixels[black], pixels[black])
        assert black.any() and white.any() and (~black & ~white).any()
        assert distance(drawn[white], pixels[white]) > 0
        assert stages(generation)[-1] == "compose"


def test_the_blend_is_that_of_the_mask() -> None:
    kept, drawn = picture(256, 8), 255 - picture(256, 8)
    mask = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    result = Source(kept, mask).composed(drawn)
    share = mask[..., None] / 255
    exact = kept * (1 - share) + drawn * share
    assert np.abs(result - exact).max() <= 0.5
    assert np.array_equal(result[:, 0], kept[:, 0]) and np.array_equal(result[:, 255], drawn[:, 255])
    assert Source(kept).composed(drawn) is drawn


@pytest.mark.parametrize(
    ("output_format", "quality", "lossy"), [("jpeg", 100, True), ("webp", 99, True), ("webp", 100, False)]
)
def test_a_lossy_file_cannot_keep_the_pixels_outside_the_mask(
    plain_models: Models, output_format: Any, quality: int, lossy: bool
) -> None:
    options = {"output_format": output_format, "quality": quality, "strength": 0.25}
    for mask, expected in ((soft_mask(), lossy), (None, False)):
        generation = generate(plain_models, Source(picture(), mask), **options)
        assert (WarningCode.LOSSY_OUTPUT in {warning.code for warning in generation.warnings}) is expected


def test_a_black_mask_returns_the_image(plain_models: Models) -> None:
    pixels = picture(264, 256)
    generation = generate(plain_models, Source(pixels, np.zeros(pixels.shape[:2], np.uint8)))
    assert np.array_equal(generation.pixels, pixels)


def test_a_mask_is_for_the_inpainting_network_if_there_is_one(inpaint_models: Models) -> None:
    pixels, mask = picture(), soft_mask()
    with UnetCalls(inpaint_models.inpaint) as inpaint, UnetCalls(inpaint_models.text_to_image) as base:
        generate(inpaint_models, Source(pixels, mask), use_refiner=False, strength=1.0)
        assert (len(inpaint), len(base)) == (STEPS, 0)
        generate(inpaint_models, Source(pixels), use_refiner=False, strength=1.0)
        assert (len(inpaint), len(base)) == (STEPS, STEPS)


@pytest.mark.parametrize("masked", [False, True])
def test_each_of_several_images_is_that_of_its_seed(inpaint_models: Models, masked: bool) -> None:
    together = request(Source(picture(), soft_mask() if masked else None), num_images=3)
    encoded = 0
    encode = type(inpaint_models.autoencoder).encode

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return encode(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(inpaint_models.autoencoder), "encode", counted)
        images = Pipeline(inpaint_models).generate_images(together)
    assert encoded == (2 if masked else 1), "the image is encoded once, and what is kept of it"
    assert len({image.pixels.tobytes() for image in images}) == 3
    for image, single in zip(images, together.for_each_image(), strict=True):
        alone = Pipeline(inpaint_models).generate(single)
        assert np.abs(alone.pixels.astype(int) - image.pixels).max() <= 1
        assert stages(alone) == stages(image)


def test_what_shares_forward_passes_agrees_in_strength_and_mask(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models)
    image, masked = Source(picture()), Source(picture(), soft_mask())
    keys = [
        pipeline.batch_key(request_for(num_inference_steps=2)),
        pipeline.batch_key(request(image, strength=0.5)),  # two steps too, of four
        pipeline.batch_key(request(image, strength=1.0, num_inference_steps=2)),
        pipeline.batch_key(request(masked, strength=0.5)),
        pipeline.batch_key(request(masked, strength=0.75)),
    ]
    assert len(set(keys)) == len(keys)
    other = Source(255 - picture(), 255 - soft_mask())
    assert pipeline.batch_key(request(other, strength=0.5, seed=9)) == keys[3]


def test_requests_with_images_of_their_own_share_forward_passes(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models, max_batch=2)
    requests = [
        request(Source(picture(), soft_mask()), seed=1),
        request(Source(255 - picture(), 255 - soft_mask()), seed=2),
    ]
    done: list[Any] = []
    runs = [pipeline.run(each, lambda: None, lambda event: None) for each in requests]
    with UnetCalls(plain_models.text_to_image) as unet:
        pipeline.generate_batch(runs, lambda run, error: done.append((run, error)))
    assert set(unet.batches) == {4}
    for run, error in done:
        assert error is None
        alone = Pipeline(plain_models).generate(run.request)
        assert np.abs(alone.pixels.astype(int) - pipeline.finish(run).pixels).max() <= 1


@pytest.mark.parametrize("size", [(512, 300), (300, 512), (264, 264), (1000, 256)])
def test_a_set_of_small_images_draws_at_its_size_and_keeps_the_place(
    small_models: Models, size: tuple[int, int]
) -> None:
    pixels, mask = picture(*size), soft_mask(*size)
    generation = generate(small_models, Source(pixels, mask), strength=0.25)
    assert generation.pixels.shape == pixels.shape
    assert np.array_equal(generation.pixels[mask == 0], pixels[mask == 0])
    assert [w.code for w in generation.warnings] == [WarningCode.SIZE_LIMITED]


@pytest.mark.parametrize("own", [(512, 300), (300, 512), (333, 277), (1000, 256), (256, 256), (2040, 2048)])
@pytest.mark.parametrize("multiple", [8, 64])
@pytest.mark.parametrize("max_side", [None, 128, 512])
def test_what_is_fitted_to_a_pass_comes_back_in_its_place(
    own: tuple[int, int], multiple: int, max_side: int | None
) -> None:
    size = Size(*own)
    source = Source(picture(*own), soft_mask(*own))
    at = pass_size(size, multiple, max_side)
    fitted = at_pass(source, at)
    assert fitted.size == at and fitted.mask is not None and fitted.mask.shape == (at.height, at.width)
    if at.contains(size):
        assert np.array_equal(crop_to(fitted.pixels, size), source.pixels)
        return
    back = upscale_to(fitted.pixels, size, None, lambda: None).astype(int)
    inner = slice(8, -8)
    assert np.abs(back - source.pixels)[inner, inner].max() <= 4


def test_networks_that_take_turns_change_no_pixel(inpaint_models: Models) -> None:
    models = load(inpaint_models.model_set.folder)
    offloaded = place(models.text_to_image, models.refiner, torch.device("cpu"), models.inpaint, offload=True)
    uses: list[str] = []
    use = offloaded.use

    def recorded(name: str) -> None:
        uses.append(name)
        use(name)

    source = Source(picture(), soft_mask())
    expected = generate(inpaint_models, source).pixels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offloaded, "use", recorded)
        assert np.array_equal(generate(replace(models, placement=offloaded), source).pixels, expected)
    assert [name for name, _ in groupby(uses)] == ["text", "vae", "inpaint", "refiner", "vae"]


def test_loras_change_what_the_inpainting_network_draws(inpaint_models: Models, tmp_path: Path) -> None:
    folder = shutil.copytree(inpaint_models.model_set.folder, tmp_path / "set")
    tiny_loras.write(folder / "loras" / "ink.safetensors", part="unet")
    models = load(folder)
    source = Source(picture(), soft_mask())
    before = generate(models, source).pixels
    changed = generate(models, source, loras=(Lora("ink", 1.0),)).pixels
    assert not np.array_equal(changed, before)
    assert np.array_equal(generate(models, source).pixels, before)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"strength": 0.5}, ["text", "encode_latents", "base", "refiner", "decode", "encode"]),
        ({"strength": 0.0, "use_refiner": False}, ["text", "encode_latents", "decode", "encode"]),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_what_it_takes_is_foretold_and_learned(
    inpaint_models: Models, options: dict[str, Any], expected: list[str], masked: bool
) -> None:
    pipeline = Pipeline(inpaint_models)
    asked = request(Source(picture(), soft_mask() if masked else None), **options)
    before = pipeline.estimate(asked)
    assert [stage.name for stage, _ in before.stages] == expected
    steps: list[str] = []
    pipeline.generate(asked, emit=lambda progress: steps.append(progress.stage))
    assert Counter(steps) == Counter({stage.name: stage.steps for stage in before.passes})
    after = {stage.name: cost.observations for stage, cost in pipeline.estimate(asked).stages}
    assert after.pop("encode") == 0, "written by whoever wants the file"
    assert set(after.values()) == {1}
