"""The generator as a server on a real socket, with tiny networks of the real classes."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from atelier.common.v1 import image_pb2, service_status_pb2
from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_runtime import __version__, images, metrics
from atelier_runtime.errors import DeadlineExceeded, ErrorReason, InvalidRequest
from atelier_runtime.recipes import read_marks
from atelier_runtime.rpc_errors import from_rpc_error
from tests.integration.generator_server import (
    RAW,
    SERVICE,
    Running,
    failure_of,
    request,
    result_of,
    serving,
    until,
)
from tests.tiny_sdxl import UPSCALER_NAME, build_set


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"), refiner=True, default_negative_prompt="blurry")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    """A server that tests share."""
    async with serving(set_folder) as running:
        yield running


def cancelled_steps() -> float:
    return float(metrics.CANCELLED_STEPS._value.get())


# --- becoming ready ---


async def test_ready_only_after_warm_up(set_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    async with serving(set_folder, ready=False, queue_capacity=1) as running:
        # Loading runs on the device thread, so that it has not finished yet.
        assert await running.health("") == health_pb2.HealthCheckResponse.SERVING
        warm_up = running.server.service.warm_up

        def gated_warm_up() -> None:
            gate.wait(30)
            warm_up()

        monkeypatch.setattr(running.server.service, "warm_up", gated_warm_up)
        await until(lambda: running.server.status().networks != ())
        assert await running.health(SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
        status = (await running.generator.GetStatus(pb.GetStatusRequest())).status
        assert not status.ready
        error = await failure_of(running.generator.GenerateImage(request()))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert from_rpc_error(error).reason is ErrorReason.SERVICE_NOT_READY
        gate.set()
        await running.server.wait_ready()
        assert await running.health(SERVICE) == health_pb2.HealthCheckResponse.SERVING
        await result_of(running.generator.GenerateImage(request()))


async def test_the_status_reports_what_is_loaded(set_folder: Path) -> None:
    async with serving(set_folder, queue_capacity=3) as running:
        await until(lambda: running.server.worker.running == 0)  # the warm-up may just be ending
        status = (await running.generator.GetStatus(pb.GetStatusRequest())).status
    assert status.ready and status.model_set == "tiny"
    assert {(network.role, network.name) for network in status.networks} == {
        (service_status_pb2.NETWORK_ROLE_BASE, "tiny-sdxl"),
        (service_status_pb2.NETWORK_ROLE_REFINER, "tiny-refiner"),
        (service_status_pb2.NETWORK_ROLE_UPSCALER, UPSCALER_NAME),
    }
    assert (status.device, status.dtype) == ("cpu", "float32")
    assert status.device_name and status.process_memory_bytes > 10**8
    assert not status.HasField("vram_free_bytes")
    assert (status.queue_depth, status.queue_capacity, status.running) == (0, 3, 0)


async def test_the_status_lists_the_samplers_and_what_is_used_by_default(running: Running) -> None:
    status = await running.generator.GetStatus(pb.GetStatusRequest())
    samplers = {sampler.name: sampler for sampler in status.samplers}
    assert list(samplers) == [
        *("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"),
        *("ddim", "unipc", "lcm", "tcd"),
    ]
    assert list(samplers["dpmpp_2m"].schedules) == ["default", "karras", "exponential", "beta", "trailing"]
    assert list(samplers["lcm"].schedules) == ["default"]
    assert list(samplers["euler_ancestral"].aliases) == ["euler_a"]
    assert (status.defaults.sampler, status.defaults.schedule) == ("euler", "default")
    assert (status.defaults.num_inference_steps, status.defaults.guidance_scale) == (30, 7.5)


async def test_reflection_names_the_service(running: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [response] = [response async for response in stub.ServerReflectionInfo(requests)]
    assert SERVICE in {service.name for service in response.list_services_response.service}


# --- generating ---


async def test_progress_arrives_in_order_and_the_result_last(running: Running) -> None:
    call = running.generator.GenerateImage(request(num_inference_steps=5, hires_fix=True))
    events = [event async for event in call]
    assert [event.WhichOneof("event") for event in events] == ["progress"] * 13 + ["result"]
    progress = [(e.progress.stage, e.progress.step, e.progress.total_steps) for e in events[:-1]]
    assert progress == [("base", i, 5) for i in range(1, 6)] + [("hires", i, 8) for i in range(1, 9)]
    result = events[-1].result
    assert (result.image.width_px, result.image.height_px) == (384, 384)
    assert result.hires_fix_applied and result.refiner_applied
    assert result.upscaler == UPSCALER_NAME and result.model_set == "tiny"
    assert result.stages[0].stage == "text" and result.stages[-1].stage == "encode"


async def test_the_seed_of_the_response_generates_the_same_image_again(running: Running) -> None:
    options: dict[str, Any] = {"prompt": "a cat", "width_px": 256, "height_px": 256, "output": RAW}
    options["num_inference_steps"] = 2
    generate = running.generator.GenerateImage
    first, other = [await result_of(generate(pb.GenerateImageRequest(**options))) for _ in range(2)]
    again = await result_of(generate(pb.GenerateImageRequest(**options, seed=first.seed)))
    assert 0 <= first.seed < 2**53 and first.seed != other.seed
    assert again.seed == first.seed
    assert again.image.data == first.image.data != other.image.data


@pytest.mark.parametrize("seed", [0, 2**53 - 1])
async def test_a_requested_seed_is_returned(running: Running, seed: int) -> None:
    assert (await result_of(running.generator.GenerateImage(request(seed=seed)))).seed == seed


async def test_unset_options_have_the_documented_defaults(running: Running) -> None:
    """The negative prompt is the set's own."""
    explicit = {"negative_prompt": "blurry", "guidance_scale": 7.5, "use_refiner": True, "hires_fix": False}
    by_default = await result_of(running.generator.GenerateImage(request()))
    same = await result_of(running.generator.GenerateImage(request(**explicit, use_upscaler=True)))
    assert same.image.data == by_default.image.data
    for option, value in (("negative_prompt", ""), ("guidance_scale", 7.0), ("use_refiner", False)):
        changed = await result_of(running.generator.GenerateImage(request(**{option: value})))
        assert changed.image.data != by_default.image.data, option


async def test_each_sampler_draws_an_image_of_its_own_and_is_named(running: Running) -> None:
    drawn: dict[bytes, tuple[str, str]] = {}
    names = [("Euler a", None), ("DPM++ 2M Karras", None), ("ddim", "SGM Uniform"), (None, "beta")]
    for sampler, schedule in names:
        given = request(sampler=sampler, schedule=schedule, num_inference_steps=4)
        result, again = [await result_of(running.generator.GenerateImage(given)) for _ in range(2)]
        assert result.image.data == again.image.data, "its noise is the request's own"
        drawn[result.image.data] = (result.sampler, result.schedule)
        assert (result.num_inference_steps, result.guidance_scale) == (4, 7.5)
    assert list(drawn.values()) == [
        *(("euler_ancestral", "default"), ("dpmpp_2m", "karras"), ("ddim", "trailing"), ("euler", "beta")),
    ]


@pytest.mark.parametrize(
    ("options", "field", "lists"),
    [
        ({"sampler": "restart"}, "sampler", "euler, euler_ancestral, heun"),
        ({"schedule": "linear"}, "schedule", "default, karras, exponential, beta, trailing"),
        ({"sampler": "ddim", "schedule": "karras"}, "schedule", "default, trailing"),
        ({"sampler": "lcm", "num_inference_steps": 51}, "num_inference_steps", "at most 50"),
    ],
)
async def test_a_sampler_that_there_is_not_is_refused_with_the_list(
    running: Running, options: dict[str, Any], field: str, lists: str
) -> None:
    error = await failure_of(running.generator.GenerateImage(request(**options)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = from_rpc_error(error).fields
    assert violation.field == field and lists in violation.message


async def test_every_output_format_contains_the_image(running: Running) -> None:
    raw = await result_of(running.generator.GenerateImage(request()))
    pixels = np.frombuffer(raw.image.data, np.uint8).reshape(256, 256, 3)
    for number, name in images_by_number().items():
        output = image_pb2.OutputOptions(format=number, quality=60, metadata=image_pb2.METADATA_NONE)
        result = await result_of(running.generator.GenerateImage(request(output=output)))
        assert result.image.format == number
        assert result.image.data == images.encode(images.Picture(rgb=pixels), name, 60)
        picture = images.decode(result.image.data, max_pixels=10**6)
        assert (picture.format, picture.width, picture.height) == (name, 256, 256)
        output.metadata = image_pb2.METADATA_RECIPE
        told = await result_of(running.generator.GenerateImage(request(output=output)))
        recipe = read_marks(told.image.data).recipe
        assert recipe is not None and recipe["seed"] == told.seed == result.seed
        assert recipe["model_set"]["hash"] == told.model_set_hash
        assert (images.decode(told.image.data, max_pixels=10**6).rgb == picture.rgb).all()


def images_by_number() -> dict[image_pb2.ImageFormat, images.Format]:
    return {
        image_pb2.IMAGE_FORMAT_PNG: "png",
        image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
        image_pb2.IMAGE_FORMAT_WEBP: "webp",
    }


async def test_images_above_grpcs_default_limit_arrive(running: Running) -> None:
    big = request(lanczos_scale=4.0, width_px=512, height_px=512, num_inference_steps=1)
    result = await result_of(running.generator.GenerateImage(big))
    assert len(result.image.data) == 2048 * 2048 * 3 > 4 * 2**20


async def test_health_and_status_respond_while_an_image_is_generated(running: Running) -> None:
    call = running.generator.GenerateImage(request(num_inference_steps=60, use_refiner=False))
    answered = 0
    async for event in call:
        if event.WhichOneof("event") == "progress" and event.progress.step % 20 == 10:
            status = (await running.generator.GetStatus(pb.GetStatusRequest())).status
            assert await running.health("") == health_pb2.HealthCheckResponse.SERVING
            answered += status.running
    assert answered >= 1


async def test_long_prompts_and_weights(running: Running) -> None:
    generate = running.generator.GenerateImage
    start = "x" * 75
    weighted: dict[str, Any] = {"prompt_syntax": pb.PROMPT_SYNTAX_WEIGHTED}
    results = {
        name: await result_of(generate(request(**options)))
        for name, options in {
            "short": {"prompt": start},
            "long": {"prompt": f"{start} red apple"},
            "two": {"prompt": f"{start} BREAK red apple", **weighted},
            "other": {"prompt": f"{start} BREAK red (apple:1.4)", **weighted},
            "negative": {"prompt": f"{start} red apple", "negative_prompt": "(blurry:1.4)", **weighted},
            "plain": {"prompt": start, "prompt_syntax": pb.PROMPT_SYNTAX_PLAIN},
            "unspecified": {"prompt": start, "prompt_syntax": pb.PROMPT_SYNTAX_UNSPECIFIED},
        }.items()
    }
    data = {name: result.image.data for name, result in results.items()}
    assert data["short"] == data["plain"] == data["unspecified"]
    assert data["two"] == data["long"]
    assert len(set(data.values())) == 4
    assert not any(result.warnings for result in results.values())


# --- refusing ---


async def test_every_bad_field_is_named(set_folder: Path) -> None:
    async with serving(set_folder, max_pixels=2_000_000) as running:
        bad = request(prompt="", width_px=100, num_inference_steps=0, seed=2**60, guidance_scale=float("nan"))
        error = await failure_of(running.generator.GenerateImage(bad))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        problem = from_rpc_error(error)
        assert isinstance(problem, InvalidRequest)
        fields = {violation.field for violation in problem.fields}
        assert fields == {"prompt", "width_px", "num_inference_steps", "seed", "guidance_scale"}
        error = await failure_of(running.generator.GenerateImage(request(width_px=1024, height_px=1960)))
        assert {v.field for v in from_rpc_error(error).fields} == {"width_px", "height_px"}
        await result_of(running.generator.GenerateImage(request()))


async def test_what_a_weighted_prompt_may_not_contain_is_named(running: Running) -> None:
    options: dict[str, Any] = {"prompt_syntax": pb.PROMPT_SYNTAX_WEIGHTED}
    bad = request(prompt="a [cat:dog:0.5]", negative_prompt="(blurry:11)", **options)
    error = await failure_of(running.generator.GenerateImage(bad))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    problem = from_rpc_error(error)
    assert isinstance(problem, InvalidRequest)
    messages = {violation.field: violation.message for violation in problem.fields}
    assert set(messages) == {"prompt", "negative_prompt"}
    assert "character 3" in messages["prompt"] and "0 to 10" in messages["negative_prompt"]


async def test_a_full_queue_refuses_and_says_when_to_retry(set_folder: Path) -> None:
    async with serving(set_folder, queue_capacity=0) as running:
        gate = threading.Event()
        blocker = running.server.worker.submit(lambda job: gate.wait(30))
        error = await failure_of(running.generator.GenerateImage(request()))
        gate.set()
        await blocker.result()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        problem = from_rpc_error(error)
        assert problem.reason is ErrorReason.QUEUE_FULL and (problem.retry_after_s or 0) >= 1
        await until(lambda: running.server.worker.running == 0)
        await result_of(running.generator.GenerateImage(request()))


async def test_an_image_of_nan_is_an_error(running: Running) -> None:
    vae = running.server.service.pipeline._models.text_to_image.vae
    weight = vae.decoder.conv_out.weight
    original = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        error = await failure_of(running.generator.GenerateImage(request()))
    finally:
        with torch.no_grad():
            weight.copy_(original)
    assert error.code() == grpc.StatusCode.INTERNAL
    assert from_rpc_error(error).reason is ErrorReason.BAD_IMAGE
    await result_of(running.generator.GenerateImage(request()))


# --- stopping ---


async def test_a_client_that_disconnects_stops_the_work_and_the_next_is_unaffected(running: Running) -> None:
    undisturbed = await result_of(running.generator.GenerateImage(request(hires_fix=True)))
    before = cancelled_steps()
    call = running.generator.GenerateImage(request(num_inference_steps=150, hires_fix=True))
    async for event in call:
        if event.progress.step == 3:
            break
    call.cancel()
    await until(lambda: running.server.worker.running == 0)
    saved = cancelled_steps() - before
    # A few steps of a network this small may run before the message arrives.
    assert 158 - 30 <= saved <= 158 - 3
    again = await result_of(running.generator.GenerateImage(request(hires_fix=True)))
    assert again.image.data == undisturbed.image.data
    await until(lambda: metrics.REQUESTS_IN_PROGRESS._value.get() == 0)


async def test_nothing_is_generated_for_a_client_that_disconnects_in_the_queue(running: Running) -> None:
    gate = threading.Event()
    blocker = running.server.worker.submit(lambda job: gate.wait(30))
    call = running.generator.GenerateImage(request())
    reading = asyncio.create_task(failure_of_cancelled(call))
    await until(lambda: running.server.worker.depth == 1)
    call.cancel()
    await reading
    await until(lambda: running.server.worker.depth == 0)
    gate.set()
    await blocker.result()


async def failure_of_cancelled(call: AsyncIterator[pb.GenerateImageResponse]) -> None:
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        async for _ in call:
            pass


async def test_an_expired_deadline_stops_the_work(running: Running) -> None:
    before = cancelled_steps()
    slow = request(num_inference_steps=150, width_px=512, height_px=512)
    error = await failure_of(running.generator.GenerateImage(slow, timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(from_rpc_error(error), DeadlineExceeded)
    await until(lambda: running.server.worker.running == 0)
    assert cancelled_steps() - before > 50
    await result_of(running.generator.GenerateImage(request(), timeout=60))


# --- metrics ---


async def test_an_image_changes_the_metrics(running: Running) -> None:
    before = await scrape(running)
    result = await result_of(running.generator.GenerateImage(request()))
    after = await scrape(running)
    changed = {name for name, value in after.items() if value != before.get(name)}
    for stage in ("text", "base", "refiner", "decode", "encode"):
        assert f'atelier_stage_duration_seconds_count{{stage="{stage}"}}' in changed
    assert 'atelier_request_duration_seconds_count{code="OK",method="GenerateImage"}' in changed
    assert "atelier_queue_wait_seconds_count" in changed
    assert after[f'atelier_build_info{{dtype="float32",model_set="tiny",version="{__version__}"}}'] == 1
    name = 'atelier_stage_duration_seconds_sum{stage="base"}'
    reported = {stage.stage: stage.duration.ToNanoseconds() / 1e9 for stage in result.stages}
    assert after[name] - before.get(name, 0) == pytest.approx(reported["base"], abs=1e-6)


async def scrape(running: Running) -> dict[str, float]:
    url = f"http://127.0.0.1:{running.server.metrics_port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}
