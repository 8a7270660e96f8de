"""What the pipeline expects of a request, and what it learns from those that have run."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from atelier_generator.estimates import Estimate
from atelier_generator.generation import Run
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import CompletedRequest
from atelier_generator.warm_up import warm_up
from atelier_runtime.cost_model import Work
from atelier_runtime.metrics import StageReport
from tests.unit.generator.conftest import request_for


def work_of(estimate: Estimate, name: str) -> Work:
    return next(stage.work for stage, _ in estimate.stages if stage.name == name)


def names_of(estimate: Estimate) -> list[str]:
    return [stage.name for stage, _ in estimate.stages]


def run_of(pipeline: Pipeline, request: CompletedRequest) -> Run:
    [run] = pipeline.image_runs(request, lambda: None, lambda progress: None)
    return run


def reports_of(pipeline: Pipeline, request: CompletedRequest, seconds: float, **peaks: int) -> list[Any]:
    """Reports as a run of a request would have them, all stages of equal length."""
    estimate = pipeline.estimate(request)
    return [
        StageReport(stage.name, seconds, peaks.get(stage.name))
        for stage, _ in estimate.stages
        if stage.on_device or stage.name == "text"
    ]


def test_the_warm_up_gives_first_values(full_models: Models) -> None:
    pipeline = Pipeline(full_models)
    warm_up(pipeline, full_models)
    for options in ({}, {"hires_fix": True}, {"num_images": 4}):
        estimate = pipeline.estimate(request_for(**options))
        costs = {stage.name: cost for stage, cost in estimate.stages}
        assert all(cost.seconds > 0 for cost in costs.values())
        assert estimate.cost.observations == 0 and not estimate.cost.proven
        assert estimate.cost.high_s > 1.5 * estimate.cost.low_s
    assert pipeline.estimate(request_for(use_upscaler=True, hires_fix=True)).passes[-1].name == "hires"


def test_a_request_that_ran_is_expected_to_take_as_long_again(full_models: Models) -> None:
    pipeline = Pipeline(full_models)
    request = request_for(hires_fix=True)
    generation = pipeline.generate(request)
    estimate = pipeline.estimate(request)
    actual = [stage for stage in generation.stages if stage.stage != "encode"]
    expected = [(stage, cost) for stage, cost in estimate.stages if stage.name != "encode"]
    assert [stage.name for stage, _ in expected] == [report.stage for report in actual]
    for (stage, cost), report in zip(expected, actual, strict=True):
        if stage.name not in ("upscale", "decode"):  # of two sizes, of which each pulls the other
            assert cost.seconds == pytest.approx(report.seconds, rel=0.1)
            assert cost.observations == 1
    assert estimate.on_device.seconds < estimate.cost.seconds, "the file is written beside the device"


def test_images_of_a_request_share_forward_passes_up_to_the_limit(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models, max_images=2)
    one, five = (work_of(pipeline.estimate(request_for(num_images=n)), "base") for n in (1, 5))
    assert one.calls == 2 and five.calls == 2 * 3, "two, two and one"
    assert five.amount == 5 * one.amount and five.held == 2 * one.held


def test_requests_that_run_together_share_every_forward_pass(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models, max_batch=4)
    one, three = (work_of(pipeline.estimate(request_for(), requests=n), "base") for n in (1, 3))
    assert three.calls == one.calls and three.amount == 3 * one.amount
    pipeline.generate(request_for())
    alone, together = (pipeline.estimate(request_for(), requests=n).on_device.seconds for n in (1, 3))
    assert alone < together < 3.5 * alone


def test_without_guidance_half_of_the_rows_are_left(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models)
    guided, unguided = (
        work_of(pipeline.estimate(request_for(guidance_scale=scale)), "base") for scale in (5.0, 1.0)
    )
    assert guided.amount == 2 * unguided.amount and guided.variant != unguided.variant


def test_loras_cost_something_and_are_remembered_apart(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models)
    request = request_for()
    adapted = replace(request, loras=(Lora("ink", 0.5), Lora("none", 0.0)))
    plain, with_lora = (work_of(pipeline.estimate(each), "base") for each in (request, adapted))
    assert with_lora.amount == pytest.approx(1.15 * plain.amount)
    assert with_lora.variant != plain.variant


def test_the_peak_is_the_highest_of_all_stages_and_unknown_if_one_is(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models)
    request = request_for(use_upscaler=False)
    assert pipeline.estimate(request).peak_bytes is None
    reports = reports_of(pipeline, request, 0.5, base=5_000, text=9_000)
    pipeline.estimator.learn(run_of(pipeline, request), reports, shared=True)
    assert pipeline.estimate(request).peak_bytes is None, "that of the decoder is not known"
    reports = reports_of(pipeline, request, 0.5, base=5_000, decode=7_000)
    pipeline.estimator.learn(run_of(pipeline, request), reports, shared=True)
    assert pipeline.estimate(request).peak_bytes == 7_000
    assert pipeline.estimate(request_for(use_upscaler=False, width_px=512)).peak_bytes is None


def test_what_ran_out_of_memory_is_no_example(plain_models: Models) -> None:
    pipeline = Pipeline(plain_models)
    request = request_for()
    run = run_of(pipeline, request)
    run.memory_retry_used = True
    pipeline.estimator.learn(run, reports_of(pipeline, request, 0.5), shared=True)
    assert pipeline.estimate(request).on_device.seconds == 0


def test_stages_that_are_not_known_are_passed_over(plain_models: Models) -> None:
    """Reports with another number of decodes, say, do not tell which is which."""
    pipeline = Pipeline(plain_models)
    request = request_for()
    reports = [*reports_of(pipeline, request, 0.5), StageReport("new", 3.0), StageReport("decode", 9.0)]
    pipeline.estimator.learn(run_of(pipeline, request), reports, shared=True)
    costs = {stage.name: cost.seconds for stage, cost in pipeline.estimate(request).stages}
    assert costs["base"] == pytest.approx(0.5, rel=0.05) and costs["decode"] == 0


def test_an_error_in_learning_costs_no_image(
    plain_models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(plain_models)

    def fail(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline.estimator.costs, "observe", fail)
    with caplog.at_level(logging.ERROR):
        assert pipeline.generate(request_for()).pixels.shape == (256, 256, 3)
    assert "nothing was learned" in caplog.text


def test_files_are_written_while_the_next_image_is_made(plain_models: Models) -> None:
    """Unless a file takes longer than an image: then they are what the caller waits for."""
    request, seconds = request_for(), {"base": 10.0, "decode": 1.0, "text": 0.5, "encode": 0.25}
    for file, expected in ((0.25, 0.5 + 10 + 4 * 1 + 0.25), (3.0, 0.5 + 10 + 1 + 4 * 3)):
        pipeline = Pipeline(plain_models)
        four = replace(request, num_images=4, use_upscaler=False)
        for stage, _ in pipeline.estimate(four).stages:
            pipeline.estimator.costs.observe(stage.work, {**seconds, "encode": file}[stage.name])
        estimate = pipeline.estimate(four)
        assert estimate.cost.seconds == pytest.approx(expected, rel=0.05)
        assert estimate.on_device.seconds == pytest.approx(10 + 4, rel=0.05)
