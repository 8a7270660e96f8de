"""Requests that are denoised together: each one's image is its own, and so are its fate and its progress."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from atelier_generator.generation import Generation, Progress, Run
from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest
from atelier_runtime import metrics
from atelier_runtime.errors import BadImage, Cancelled, DeadlineExceeded
from tests.unit.generator.conftest import UnetCalls, load, request_for

Check = Callable[[list[Progress]], None]

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "a cat", "seed": 1, "guidance_scale": 5.0},
    {"prompt": "a dog in the snow", "seed": 2, "guidance_scale": 9.0, "negative_prompt": "blurry"},
    {"prompt": "a red apple", "seed": 3, "guidance_scale": 1.5},
]


@dataclass
class Outcomes:
    """What became of each request of a batch, in the order in which they ended."""

    ended: list[int] = field(default_factory=list)
    outcome: dict[int, Generation | Exception] = field(default_factory=dict)
    events: dict[int, list[Progress]] = field(default_factory=dict)

    def pixels(self, number: int) -> np.ndarray:
        generation = self.outcome[number]
        assert isinstance(generation, Generation), generation
        return generation.pixels


def run_together(
    pipeline: Pipeline, requests: list[CompletedRequest], checks: dict[int, Check] | None = None
) -> Outcomes:
    """`checks`: of some requests, by number; a check is given the events of its request so far."""
    assert len({pipeline.batch_key(request) for request in requests}) == 1
    outcomes = Outcomes(events={number: [] for number in range(len(requests))})
    runs = []
    for number, request in enumerate(requests):
        events = outcomes.events[number]
        check = (checks or {}).get(number, lambda events: None)
        runs.append(pipeline.run(request, partial(check, events), events.append))

    def end(run: Run, error: Exception | None) -> None:
        outcomes.ended.append(runs.index(run))
        outcomes.outcome[runs.index(run)] = error or pipeline.finish(run)

    pipeline.generate_batch(runs, end)
    assert sorted(outcomes.ended) == list(range(len(requests)))
    return outcomes


def requests_for(**options: Any) -> list[CompletedRequest]:
    return [request_for(**{**options, **request}) for request in REQUESTS]


def singles(models: Models, requests: list[CompletedRequest]) -> list[np.ndarray]:
    return [Pipeline(models).generate(request).pixels for request in requests]


def levels(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def after(steps: int, error: type[Exception]) -> Check:
    def check(events: list[Progress]) -> None:
        if len(events) >= steps:
            raise error

    return check


@pytest.mark.parametrize("options", [{"num_inference_steps": 4}, {"hires_fix": True}, {"lanczos_scale": 1.5}])
def test_an_image_hardly_depends_on_its_batch(full_models, options):
    requests = requests_for(**options)
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        together = run_together(Pipeline(full_models, max_batch=4), requests)
    assert set(base.batches) == set(refiner.batches) == {6}, "three with guidance in each forward pass"
    alone = singles(full_models, requests)
    assert len({image.tobytes() for image in alone}) == 3
    for number, image in enumerate(alone):
        assert levels(together.pixels(number), image) <= 1


def test_without_guidance_there_is_one_row_each(plain_models):
    requests = [request_for(seed=seed, guidance_scale=1.0) for seed in (1, 2)]
    with UnetCalls(plain_models.text_to_image) as base:
        together = run_together(Pipeline(plain_models, max_batch=2), requests)
    assert set(base.batches) == {2}
    for number, image in enumerate(singles(plain_models, requests)):
        assert levels(together.pixels(number), image) <= 1


def test_a_forward_pass_has_at_most_max_batch_requests(plain_models):
    with UnetCalls(plain_models.text_to_image) as base:
        run_together(Pipeline(plain_models, max_batch=2), requests_for(num_inference_steps=1))
    assert base.batches == [4, 2]


def test_each_request_is_told_of_its_own_progress(full_models):
    together = run_together(Pipeline(full_models, max_batch=4), requests_for(num_inference_steps=4))
    for events in together.events.values():
        assert [(event.stage, event.step) for event in events] == [
            *(("base", step) for step in range(1, 5)),
            ("refiner", 1),
        ]


@pytest.mark.parametrize("error", [Cancelled, DeadlineExceeded])
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_stopped_leaves_within_a_step_and_the_others_go_on(plain_models, error, who):
    requests = requests_for(num_inference_steps=6)
    before = metrics.CANCELLED_STEPS._value.get()
    with UnetCalls(plain_models.text_to_image) as base:
        together = run_together(Pipeline(plain_models, max_batch=4), requests, {who: after(3, error)})
    assert isinstance(together.outcome[who], error) and len(together.events[who]) == 3
    assert together.ended[0] == who
    assert base.batches == [6] * 3 + [4] * 3, "its rows are no longer computed"
    assert metrics.CANCELLED_STEPS._value.get() - before == 3
    for number, image in enumerate(singles(plain_models, requests)):
        if number != who:
            assert levels(together.pixels(number), image) <= 1


def test_nothing_is_computed_once_all_are_stopped(full_models):
    stop = {number: after(0, Cancelled) for number in range(3)}
    with UnetCalls(full_models.text_to_image) as base:
        together = run_together(Pipeline(full_models, max_batch=4), requests_for(), stop)
    assert len(base) == 0
    assert all(isinstance(outcome, Cancelled) for outcome in together.outcome.values())


def test_one_whose_image_fails_does_not_affect_the_others(plain_models, monkeypatch):
    requests = requests_for()
    encode = plain_models.text_to_image.encode_prompt

    def nan_for_the_dog(prompt: str, **options: Any) -> Any:
        factor = float("nan") if "dog" in prompt else 1.0
        return tuple(embedding * factor for embedding in encode(prompt=prompt, **options))

    alone = singles(plain_models, requests)
    monkeypatch.setattr(plain_models.text_to_image, "encode_prompt", nan_for_the_dog)
    together = run_together(Pipeline(plain_models, max_batch=4), requests)
    assert isinstance(together.outcome[1], BadImage)
    for number in (0, 2):
        assert levels(together.pixels(number), alone[number]) <= 1


@pytest.fixture
def own_models(full_models, tmp_path):
    """Networks that a test may change."""
    return load(shutil.copytree(full_models.model_set.folder, tmp_path / "set"))


def test_out_of_memory_halves_the_batch_for_the_rest_of_the_pass(own_models):
    requests = requests_for(num_inference_steps=2, use_refiner=False)
    alone = singles(own_models, requests)

    tried: list[int] = []

    def fail_above_two(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        tried.append(len(inputs[0]))
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    own_models.text_to_image.unet.register_forward_pre_hook(fail_above_two)
    pipeline = Pipeline(own_models, max_batch=4)
    with UnetCalls(own_models.text_to_image) as base:
        together = run_together(pipeline, requests)
    assert base.batches == [4, 2, 4, 2]
    assert tried == [6, 4, 2, 4, 2], "no further try of three"
    assert pipeline.max_batch == 4, "the next batch may find more memory"
    for number, image in enumerate(alone):
        outcome = together.outcome[number]
        assert isinstance(outcome, Generation) and outcome.warnings == ()
        assert levels(outcome.pixels, image) <= 1


def test_one_for_which_the_network_raises_fails_alone(own_models):
    requests = requests_for(num_inference_steps=2, use_refiner=False)
    alone = singles(own_models, requests)
    apple = own_models.text_to_image.encode_prompt("a red apple", device="cpu")[2]

    def fail_for_the_apple(module: object, inputs: object, options: dict[str, Any]) -> None:
        pooled = options["added_cond_kwargs"]["text_embeds"]
        if any(torch.allclose(row, apple[0]) for row in pooled):
            raise RuntimeError("no apples")

    own_models.text_to_image.unet.register_forward_pre_hook(fail_for_the_apple, with_kwargs=True)
    together = run_together(Pipeline(own_models, max_batch=4), requests)
    assert isinstance(together.outcome[2], RuntimeError)
    for number in (0, 1):
        assert levels(together.pixels(number), alone[number]) <= 1


def test_images_are_delivered_as_they_are_finished(plain_models, monkeypatch):
    pipeline = Pipeline(plain_models, max_batch=4)
    order: list[str] = []
    decode = type(plain_models.autoencoder).decode

    def recorded(self, latents, tiled):
        order.append("decoded")
        return decode(self, latents, tiled=tiled)

    monkeypatch.setattr(type(plain_models.autoencoder), "decode", recorded)
    runs = [pipeline.run(request, lambda: None, lambda event: None) for request in requests_for()]
    pipeline.generate_batch(runs, lambda run, error: order.append("finished"))
    assert order == ["decoded", "finished"] * 3


@pytest.mark.parametrize(
    "other",
    [
        {"width_px": 512},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"hires_fix": True},
        {"use_refiner": False},
    ],
)
def test_requests_whose_passes_differ_do_not_run_together(full_models, other):
    pipeline = Pipeline(full_models, max_batch=4)
    assert pipeline.batch_key(request_for()) != pipeline.batch_key(request_for(**other))


LONG = "a dog in the snow, " * 9
"""Two chunks: each letter is one token."""


def test_requests_of_other_lengths_run_together_in_forward_passes_of_their_own(full_models):
    requests = requests_for(num_inference_steps=3)
    requests[1:1] = [request_for(prompt=LONG, seed=4, num_inference_steps=3)]
    requests += [
        request_for(prompt=LONG, seed=5, negative_prompt="x", num_inference_steps=3),
        request_for(negative_prompt="y" * 200, seed=6, num_inference_steps=3),
    ]
    with UnetCalls(full_models.text_to_image) as base, UnetCalls(full_models.refiner) as refiner:
        together = run_together(Pipeline(full_models, max_batch=8), requests)
    assert base.batches == [6, 4, 2] * 3, "three of one chunk, two of two, one of three"
    assert refiner.batches == [6, 4, 2]
    for number, image in enumerate(singles(full_models, requests)):
        assert levels(together.pixels(number), image) <= 1


def test_a_forward_pass_of_long_prompts_has_at_most_max_batch_requests(plain_models):
    requests = [request_for(prompt=LONG, seed=seed, num_inference_steps=1) for seed in (1, 2, 3)]
    with UnetCalls(plain_models.text_to_image) as base:
        run_together(Pipeline(plain_models, max_batch=2), [*requests, request_for(num_inference_steps=1)])
    assert base.batches == [4, 2, 2]


def test_one_that_is_stopped_leaves_those_of_other_lengths(plain_models):
    requests = [
        request_for(prompt=LONG, num_inference_steps=4),
        request_for(seed=2, num_inference_steps=4),
    ]
    with UnetCalls(plain_models.text_to_image) as base:
        together = run_together(Pipeline(plain_models, max_batch=4), requests, {0: after(2, Cancelled)})
    assert base.batches == [2, 2] * 2 + [2] * 2
    assert isinstance(together.outcome[0], Cancelled)
    assert np.array_equal(together.pixels(1), singles(plain_models, requests)[1])


def test_what_does_not_concern_the_networks_does_not_keep_requests_apart(full_models):
    pipeline = Pipeline(full_models, max_batch=4)
    own = request_for(prompt=LONG, negative_prompt="y", seed=7, guidance_scale=3.0, output_format="jpeg")
    assert pipeline.batch_key(own) == pipeline.batch_key(request_for())


def test_samplers_that_add_noise_draw_it_from_the_seed(plain_models):
    from diffusers import EulerAncestralDiscreteScheduler

    models = load(plain_models.model_set.folder)
    scheduler = EulerAncestralDiscreteScheduler.from_config(models.text_to_image.scheduler.config)
    models.text_to_image.scheduler = scheduler
    requests = requests_for(num_inference_steps=4)
    alone = singles(models, requests)
    assert all(np.array_equal(*pair) for pair in zip(alone, singles(models, requests), strict=True))
    together = run_together(Pipeline(models, max_batch=4), requests)
    for number, image in enumerate(alone):
        assert levels(together.pixels(number), image) <= 1
