"""Several images of one request: each is that of its seed alone, and they begin, end and fail together."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import ForwardPass, Generation, Progress, Run
from atelier_generator.image_group import Sharing
from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest
from atelier_runtime import metrics
from atelier_runtime.errors import BadImage, Cancelled, DeadlineExceeded, OutOfMemory
from atelier_runtime.outcomes import WarningCode
from tests.unit.generator.conftest import UnetCalls, load, request_for


def singles(models: Models, request: CompletedRequest) -> list[Generation]:
    return [Pipeline(models).generate(single) for single in request.for_each_image()]


def levels(one: Generation, other: Generation) -> int:
    return int(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max())


@pytest.fixture
def own_models(full_models, tmp_path):
    """Networks that a test may change."""
    return load(shutil.copytree(full_models.model_set.folder, tmp_path / "set"))


@pytest.mark.parametrize(
    "options",
    [
        {"num_inference_steps": 4},
        {"num_inference_steps": 4, "use_refiner": False, "guidance_scale": 1.0},
        {"hires_fix": True},
        {"lanczos_scale": 1.5},
        {"negative_prompt": "blurry", "use_upscaler": False},
    ],
)
def test_each_image_is_that_of_its_seed_alone(full_models, options):
    request = request_for(num_images=3, seed=40, **options)
    with UnetCalls(full_models.text_to_image) as base:
        together = Pipeline(full_models).generate_images(request)
    assert set(base.batches) == {6 if request.guided else 3}, "all of them in each forward pass"
    alone = singles(full_models, request)
    assert len({each.pixels.tobytes() for each in alone}) == 3
    for one, other in zip(together, alone, strict=True):
        assert levels(one, other) <= 1
        assert (one.seed, one.upscaler, one.warnings) == (other.seed, other.upscaler, other.warnings)
        assert (one.refiner_applied, one.hires_fix_applied) == (
            other.refiner_applied,
            other.hires_fix_applied,
        )
        assert [stage.stage for stage in one.stages] == [stage.stage for stage in other.stages]
    assert [each.seed for each in together] == [40, 41, 42]


def test_one_at_a_time_they_are_the_same_bit_for_bit(full_models):
    request = request_for(num_images=3, hires_fix=True)
    apart = Pipeline(full_models, max_images=1).generate_images(request)
    for one, other in zip(apart, singles(full_models, request), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_a_set_of_limited_size_says_so_for_each_image(small_models):
    together = Pipeline(small_models).generate_images(request_for(num_images=2))
    assert [[w.code for w in each.warnings] for each in together] == [[WarningCode.SIZE_LIMITED]] * 2


def test_the_prompt_is_encoded_once_for_all(plain_models, monkeypatch):
    encode = plain_models.text_to_image.encode_prompt
    prompts: list[str] = []

    def counted(prompt: str, **options: Any) -> Any:
        prompts.append(prompt)
        return encode(prompt=prompt, **options)

    monkeypatch.setattr(plain_models.text_to_image, "encode_prompt", counted)
    Pipeline(plain_models).generate_images(request_for(num_images=4))
    assert prompts == ["a cat"]


def test_there_is_one_event_for_each_step(full_models):
    events: list[Progress] = []
    request = request_for(num_images=3, num_inference_steps=4)
    Pipeline(full_models).generate_images(request, lambda: None, events.append)
    steps = [("base", step) for step in range(1, 5)]
    assert [(event.stage, event.step) for event in events] == [*steps, ("refiner", 1)]


def test_images_are_delivered_one_by_one_in_order(plain_models, monkeypatch):
    pipeline = Pipeline(plain_models)
    order: list[object] = []
    decode = type(plain_models.autoencoder).decode

    def recorded(self, latents, tiled):
        order.append("decoded")
        return decode(self, latents, tiled=tiled)

    monkeypatch.setattr(type(plain_models.autoencoder), "decode", recorded)
    runs = pipeline.image_runs(request_for(num_images=3), lambda: None, lambda event: None)
    pipeline.generate_group(runs, lambda run: order.append(run.request.seed))
    assert order == ["decoded", 1, "decoded", 2, "decoded", 3]


@pytest.mark.parametrize("error", [Cancelled, DeadlineExceeded])
def test_all_are_stopped_within_a_step(full_models, error):
    events: list[Progress] = []

    def check() -> None:
        if len(events) >= 3:
            raise error

    request = request_for(num_images=3, num_inference_steps=6, use_refiner=False)
    before = metrics.CANCELLED_STEPS._value.get()
    with UnetCalls(full_models.text_to_image) as base, pytest.raises(error):
        Pipeline(full_models).generate_images(request, check, events.append)
    assert len(base) == 3
    assert metrics.CANCELLED_STEPS._value.get() - before == 3 * 3


def spoil(
    models: Models, monkeypatch: pytest.MonkeyPatch, number: int, spoiled: Callable[..., Any]
) -> list[int]:
    """Let the decoding of an image, by number from 1, be `spoiled`; returns those that began."""
    decode = type(models.autoencoder).decode
    begun: list[int] = []

    def decoded(self, latents, tiled):
        if not tiled:
            begun.append(len(begun) + 1)
        return spoiled(latents) if begun[-1] == number else decode(self, latents, tiled=tiled)

    monkeypatch.setattr(type(models.autoencoder), "decode", decoded)
    return begun


def bad_image(latents: torch.Tensor) -> None:
    raise BadImage


def out_of_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("spoiled", "error"), [(bad_image, BadImage), (out_of_memory, OutOfMemory)])
def test_the_request_fails_with_the_first_image_that_fails_and_names_it(
    plain_models, monkeypatch, spoiled, error
):
    begun = spoil(plain_models, monkeypatch, 2, spoiled)
    pipeline = Pipeline(plain_models)
    delivered: list[Run] = []
    runs = pipeline.image_runs(request_for(num_images=4, seed=10), lambda: None, lambda event: None)
    with pytest.raises(error) as caught:
        pipeline.generate_group(runs, delivered.append)
    assert caught.value.message == f"Image 2 of 4 (seed 11): {error.default_message}"
    assert begun == [1, 2] and [run.request.seed for run in delivered] == [10]
    kept = [(run.latents, run.denoising, run.prompt, run.pending_prompt) for run in runs]
    assert kept == [(None, None, None, None)] * 4


def test_an_error_of_a_single_image_is_that_of_before(plain_models, monkeypatch):
    spoil(plain_models, monkeypatch, 1, bad_image)
    with pytest.raises(BadImage) as caught:
        Pipeline(plain_models).generate(request_for())
    assert caught.value.message == BadImage.default_message


def test_an_error_of_what_they_share_is_raised_once(plain_models, monkeypatch):
    def fail(**options: Any) -> None:
        raise RuntimeError("no words")

    monkeypatch.setattr(plain_models.text_to_image, "encode_prompt", fail)
    with pytest.raises(RuntimeError, match="no words"):
        Pipeline(plain_models).generate_images(request_for(num_images=3))


class Memory:
    """A device on which forward passes of at most `rows` rows fit; `tried` has those of each."""

    def __init__(self, models: Models, rows: int) -> None:
        self.rows = rows
        self.tried: list[int] = []
        models.text_to_image.unet.register_forward_pre_hook(self._check)

    def _check(self, module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self.tried.append(len(inputs[0]))
        if len(inputs[0]) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_the_images_of_a_forward_pass_and_says_so(own_models):
    request = request_for(num_images=4, num_inference_steps=2, use_refiner=False)
    alone = singles(own_models, request)
    memory = Memory(own_models, rows=4)
    pipeline = Pipeline(own_models)
    together = pipeline.generate_images(request)
    assert memory.tried == [8, 4, 4, 4, 4]
    for one, other in zip(together, alone, strict=True):
        assert levels(one, other) <= 1
        [warning] = one.warnings
        assert warning.code is WarningCode.MEMORY_FALLBACK
        assert "base pass" in warning.message and "of 4 images at most 2 at a time" in warning.message

    memory.tried.clear()
    again = pipeline.generate_images(request)
    assert memory.tried == [4] * 4, "what fitted is remembered"
    assert [each.warnings for each in again] == [each.warnings for each in together], "and said again"

    memory.tried.clear()
    assert pipeline.generate_images(request_for(num_images=2, use_refiner=False))[0].warnings == ()
    other_size = request_for(num_images=4, width_px=512, num_inference_steps=1, use_refiner=False)
    pipeline.generate_images(other_size)
    assert memory.tried[-3:] == [8, 4, 4], "other sizes are tried for themselves"


def test_memory_for_not_even_one_fails_the_request_and_names_the_image(own_models):
    memory = Memory(own_models, rows=1)
    with pytest.raises(OutOfMemory, match=r"Image 1 of 2 \(seed 1\)"):
        Pipeline(own_models).generate_images(request_for(num_images=2, use_refiner=False))
    assert memory.tried == [4, 2, 2]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 8),
        ({"max_images": 3}, 3),
        ({"max_latents": 256 * 256}, 4),
        ({"max_latents": 128 * 128 - 1}, 1),
        ({"max_images": 2, "max_latents": 256 * 256}, 2),
    ],
)
def test_how_many_share_a_forward_pass(limits, expected):
    assert Sharing(**limits).most(ForwardPass("base", 128, 128, guided=True), 8) == expected


def test_long_texts_count_like_large_images(bare_models):
    """Each BREAK is a chunk: the longest prompt that is accepted has 334."""
    long = request_for(
        prompt="BREAK " * 333,
        prompt_syntax="weighted",
        num_images=8,
        num_inference_steps=1,
        guidance_scale=1.0,
    )
    pipeline = Pipeline(bare_models)
    with UnetCalls(bare_models.text_to_image) as base:
        pipeline.generate_images(long)
    assert base.batches == [2, 2, 2, 2], "of 256 * 256 tokens at most, 25641 each"
    with UnetCalls(bare_models.text_to_image) as base:
        pipeline.generate_images(request_for(num_images=8, num_inference_steps=1, guidance_scale=1.0))
    assert base.batches == [8]


def test_what_fits_is_remembered_for_texts_of_that_length():
    sharing = Sharing()
    short, long = (ForwardPass("base", 32, 32, guided=True, tokens=tokens) for tokens in (77, 7700))
    sharing.remember(long, 2)
    assert (sharing.most(long, 8), sharing.most(short, 8)) == (2, 8)


def test_a_shortage_is_forgotten_in_time():
    now = 0.0
    sharing = Sharing(clock=lambda: now)
    kind, other = (ForwardPass(stage, 128, 128, guided=True) for stage in ("base", "refiner"))
    sharing.remember(kind, 2)
    assert (sharing.most(kind, 8), sharing.most(kind, 1), sharing.most(other, 8)) == (2, 1, 8)
    now = 3600.0
    assert sharing.most(kind, 8) == 8


def test_what_is_remembered_is_bounded():
    sharing = Sharing()
    kinds = [ForwardPass("base", 32, width, guided=True) for width in range(32, 1032)]
    for kind in kinds:
        sharing.remember(kind, 1)
    assert sharing.most(kinds[-1], 8) == 1
    assert sharing.most(kinds[0], 8) == 8


def test_on_a_cpu_images_share_a_forward_pass_up_to_the_pixels_of_the_largest_one(bare_models):
    pipeline = Pipeline(bare_models)
    largest = ForwardPass("base", 2048 // 8, 2048 // 8, guided=True)
    assert pipeline._sharing.most(largest, 8) == 1
    assert pipeline._sharing.most(largest._replace(width=2048 // 16), 8) == 2
