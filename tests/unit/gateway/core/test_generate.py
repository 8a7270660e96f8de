"""The chain from a spec to the finished image, with backends that are not on a wire."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GenerateSpec, Generation, Progress
from atelier_runtime.errors import (
    AtelierError,
    BadImage,
    DeadlineExceeded,
    DeadlineUnmeetable,
    ErrorReason,
    InternalError,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    ServiceNotReady,
    ServiceUnavailable,
)
from atelier_runtime.outcomes import SkipReason, WarningCode
from atelier_runtime.service_status import NetworkRole, ServiceStatus
from tests.unit.gateway.core.fakes import STEPS, FakeGenerator, FakeRestorer, file_of, status


@dataclass
class Chain:
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    restorer: FakeRestorer = field(default_factory=FakeRestorer)
    progress: list[Progress] = field(default_factory=list)

    async def run(self, spec: GenerateSpec, seconds: float = 100.0) -> Generation:
        [generation] = await self.run_all(spec, seconds)
        return generation

    async def run_all(self, spec: GenerateSpec, seconds: float = 100.0) -> list[Generation]:
        generate = Generate(self.generator, self.restorer, max_pixels=2**22)
        return await generate.run(spec, self.progress.append, deadline=time.monotonic() + seconds)


@pytest.fixture
def chain() -> Chain:
    return Chain()


async def test_the_restorer_gets_raw_pixels_and_encodes(chain: Chain) -> None:
    spec = GenerateSpec(
        "x",
        fidelity=0.3,
        upscale=2,
        use_upscaler=False,
        match_tone=True,
        output_format="webp",
        quality=80,
        metadata="none",
    )
    generation = await chain.run(spec)
    assert chain.generator.specs[0].output_format == "raw"
    [restore] = chain.restorer.specs
    assert (restore.image.format, restore.image.width) == ("raw", 16)
    assert (restore.fidelity, restore.upscale, restore.use_upscaler, restore.match_tone) == (
        *(0.3, 2, False, True),
    )
    assert restore.metadata == chain.generator.specs[0].metadata == "none", "the recipe is written here"
    assert (restore.output_format, restore.quality, restore.max_faces) == ("webp", 80, None)
    assert generation.image.data == file_of("restorer", "webp")
    assert (generation.face_restoration_applied, len(generation.faces)) == (True, 1)
    assert [stage.stage for stage in generation.stages] == ["base", "restore"]
    assert [warning.message for warning in generation.warnings] == ["of the generator", "of the restorer"]


async def test_the_generator_encodes_if_there_is_nothing_to_restore(chain: Chain) -> None:
    generation = await chain.run(
        GenerateSpec("x", restore_faces=False, output_format="jpeg", metadata="none")
    )
    assert generation.image.data == file_of("generator", "jpeg")
    assert chain.generator.specs[0].output_format == "jpeg" and not chain.restorer.specs
    assert generation.face_restoration_reason is None


async def test_to_upscale_only_no_face_is_detected(chain: Chain) -> None:
    chain.restorer.reason, chain.restorer.applied = SkipReason.SKIPPED, False
    generation = await chain.run(GenerateSpec("x", restore_faces=False, upscale=2))
    assert chain.restorer.specs[0].max_faces == 0
    assert (generation.upscale_applied, generation.faces) == (2, ())
    assert (generation.face_restoration_applied, generation.face_restoration_reason) == (False, None)


async def test_progress_of_the_generator_and_the_step_to_the_restorer_are_reported(chain: Chain) -> None:
    await chain.run(GenerateSpec("x"))
    steps = [Progress("base", step, STEPS) for step in range(1, STEPS + 1)]
    assert chain.progress == [*steps, Progress("restore", 0, 1)]


async def test_without_a_restorer_there_is_no_progress_of_it(chain: Chain) -> None:
    await chain.run(GenerateSpec("x", restore_faces=False))
    assert [progress.stage for progress in chain.progress] == ["base"] * STEPS


async def test_everything_that_upscaled_is_named_once(chain: Chain) -> None:
    chain.generator.upscaler, chain.restorer.upscaler = "lanczos", "x2"
    assert (await chain.run(GenerateSpec("x", upscale=2))).upscalers == ("lanczos", "x2")
    chain.restorer.upscaler = "lanczos"
    assert (await chain.run(GenerateSpec("x", upscale=2))).upscalers == ("lanczos",)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QueueFull(), SkipReason.RESTORER_BUSY),
        (DeadlineUnmeetable(), SkipReason.RESTORER_BUSY),
        (DeadlineExceeded(), SkipReason.RESTORER_UNAVAILABLE),
        (OutOfMemory(), SkipReason.OUT_OF_MEMORY),
        (InternalError("a bug"), SkipReason.FAILED),
        (InvalidRequest.of("image", "is refused"), SkipReason.FAILED),
    ],
)
async def test_if_the_restorer_fails_the_generated_image_is_encoded_here(
    chain: Chain, error: AtelierError, reason: SkipReason
) -> None:
    chain.restorer.error = error
    generation = await chain.run(GenerateSpec("x", upscale=2, output_format="webp"))
    image = Image.open(io.BytesIO(generation.image.data))
    assert (image.format, image.size) == ("WEBP", (16, 16))
    assert (generation.face_restoration_applied, generation.face_restoration_reason) == (False, reason)
    assert (generation.upscale_applied, generation.faces) == (1, ())
    assert [warning.code for warning in generation.warnings] == [
        WarningCode.RESTORER_FAILED,
        WarningCode.SIZE_LIMITED,
    ]
    assert [stage.stage for stage in generation.stages] == ["base", "encode"]


async def test_a_generated_image_that_cannot_be_encoded_is_not_the_clients_fault(chain: Chain) -> None:
    chain.restorer.error, chain.generator.raw = QueueFull(), b"too short"
    with pytest.raises(InternalError):
        await chain.run(GenerateSpec("x"))


async def test_while_many_generated_images_wait_for_the_restorer_no_more_are_generated(chain: Chain) -> None:
    chain.restorer.waiting = {"": 7}
    await chain.run(GenerateSpec("x"))
    chain.restorer.waiting = {"": 8}
    with pytest.raises(QueueFull) as refused:
        await chain.run(GenerateSpec("x"))
    assert refused.value.retry_after_s and "restorer" in refused.value.message
    assert len(chain.generator.specs) == 1
    await chain.run(GenerateSpec("x", restore_faces=False))


async def test_only_a_generated_image_waits_for_a_slot(chain: Chain) -> None:
    await chain.run(GenerateSpec("x"))
    await chain.run(GenerateSpec("x", on_restore_failure="fail"))
    assert chain.restorer.waits == [True, True]


async def test_a_restorer_that_hangs_leaves_the_time_to_encode(chain: Chain) -> None:
    await chain.run(GenerateSpec("x"), seconds=10)
    assert chain.restorer.deadlines[0] == pytest.approx(time.monotonic() + 9, abs=0.5)
    await chain.run(GenerateSpec("x", on_restore_failure="fail"), seconds=10)
    assert chain.restorer.deadlines[1] == pytest.approx(time.monotonic() + 10, abs=0.5)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(InternalError(), ServiceUnavailable), (BadImage(), ServiceUnavailable), (QueueFull(), QueueFull)],
)
async def test_fail_raises_the_restorers_error(
    chain: Chain, error: AtelierError, raised: type[AtelierError]
) -> None:
    chain.restorer.error = error
    with pytest.raises(raised):
        await chain.run(GenerateSpec("x", on_restore_failure="fail"))


@pytest.mark.parametrize(
    ("reason", "raised"),
    [
        (SkipReason.FAILED, ErrorReason.SERVICE_UNAVAILABLE),
        (SkipReason.NOT_LOADED, ErrorReason.SERVICE_UNAVAILABLE),
        (SkipReason.OUT_OF_MEMORY, ErrorReason.OUT_OF_MEMORY),
        (SkipReason.NO_FACE, None),
        (SkipReason.TOO_SMALL, None),
    ],
)
async def test_fail_also_means_that_the_restorer_restored_no_face_by_its_own_fault(
    chain: Chain, reason: SkipReason, raised: ErrorReason | None
) -> None:
    chain.restorer.applied, chain.restorer.reason = False, reason
    spec = GenerateSpec("x", on_restore_failure="fail")
    if raised is None:
        assert (await chain.run(spec)).face_restoration_reason is reason
    else:
        with pytest.raises(AtelierError) as caught:
            await chain.run(spec)
        assert caught.value.reason is raised


async def test_names_that_are_not_loaded_are_refused_together(chain: Chain) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await chain.run(GenerateSpec("x", model_set="flux", face_detector="yolo"))
    assert [violation.field for violation in refused.value.fields] == ["model_set", "face_detector"]
    assert not chain.generator.specs


async def test_names_that_are_loaded_pass(chain: Chain) -> None:
    generation = await chain.run(GenerateSpec("x", model_set="demo", face_detector="retinaface"))
    assert WarningCode.NOT_CHECKED not in [warning.code for warning in generation.warnings]


async def test_no_model_set_can_be_checked_while_the_generator_is_loading(chain: Chain) -> None:
    chain.generator.reported = status(ready=False)
    with pytest.raises(ServiceNotReady):
        await chain.run(GenerateSpec("x", model_set="demo"))


@pytest.mark.parametrize("reported", [ServiceUnavailable(), status(ready=False)], ids=["away", "loading"])
async def test_a_detector_that_cannot_be_checked_is_a_warning(
    chain: Chain, reported: ServiceStatus | ServiceUnavailable
) -> None:
    chain.restorer.reported = reported
    generation = await chain.run(GenerateSpec("x", face_detector="retinaface"))
    assert generation.warnings[0].code is WarningCode.NOT_CHECKED


async def test_a_restorer_without_a_detector_refuses_every_name(chain: Chain) -> None:
    chain.restorer.reported = status((NetworkRole.FACE_RESTORER, "codeformer"))
    with pytest.raises(InvalidRequest):
        await chain.run(GenerateSpec("x", face_detector="retinaface"))


@pytest.mark.parametrize(
    ("spec", "size", "fields"),
    [
        (GenerateSpec("x", width=2048, height=2048), None, []),
        (GenerateSpec("x", upscale=4), "4096x4096", ["width", "height", "upscale"]),
        (
            GenerateSpec("x", width=2048, height=2048, hires_fix=True),
            "3072x3072",
            ["width", "height", "hires_fix"],
        ),
        (GenerateSpec("x", lanczos_scale=4), "4096x4096", ["width", "height", "lanczos_scale"]),
    ],
)
async def test_a_result_above_the_limit_is_refused_before_any_call(
    chain: Chain, spec: GenerateSpec, size: str | None, fields: list[str]
) -> None:
    if size is None:
        await chain.run(spec)
        return
    with pytest.raises(InvalidRequest) as refused:
        await chain.run(spec)
    assert [violation.field for violation in refused.value.fields] == fields
    assert all(size in violation.message for violation in refused.value.fields)
    assert not chain.generator.specs


# --- several images ---


def several(num_images: int, **options: Any) -> GenerateSpec:
    return GenerateSpec("x", num_images=num_images, width=256, height=256, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def test_each_image_is_restored_and_they_are_returned_in_order(chain: Chain) -> None:
    generations = await chain.run_all(several(4))
    assert [generation.seed for generation in generations] == [7, 8, 9, 10]
    assert len(chain.restorer.specs) == 4 and chain.restorer.waits == [True] * 4
    assert all(generation.face_restoration_applied for generation in generations)
    assert chain.progress == [
        *(Progress("base", step, STEPS) for step in range(1, STEPS + 1)),
        *(Progress("restore", number, 4) for number in range(4)),
    ]


async def test_several_images_without_faces_do_not_need_the_restorer(chain: Chain) -> None:
    chain.restorer.error = ServiceUnavailable()
    generations = await chain.run_all(several(3, restore_faces=False))
    assert [generation.seed for generation in generations] == [7, 8, 9]
    assert not chain.restorer.specs


async def test_two_are_restored_at_once_while_the_generator_goes_on(chain: Chain) -> None:
    chain.restorer.gate = asyncio.Event()
    running = asyncio.create_task(chain.run_all(several(5)))
    await until(lambda: chain.restorer.at_once == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert chain.generator.handed_over == 3, "one more waits, and the next is not read"
    chain.restorer.gate.set()
    assert len(await running) == 5
    assert chain.restorer.most_at_once == 2


async def test_one_image_that_is_not_restored_does_not_affect_the_others(chain: Chain) -> None:
    chain.restorer.errors = {1: ServiceUnavailable()}
    first, second, third = await chain.run_all(several(3))
    assert first.face_restoration_applied and third.face_restoration_applied
    assert second.face_restoration_reason is SkipReason.RESTORER_UNAVAILABLE
    assert Image.open(io.BytesIO(second.image.data)).size == (16, 16)
    assert [w.code for w in second.warnings][:1] == [WarningCode.RESTORER_FAILED]
    assert second.seed == 8


async def test_one_that_fails_ends_the_request_if_it_is_to(chain: Chain) -> None:
    chain.restorer.errors = {1: ServiceUnavailable("gone")}
    chain.restorer.gate = asyncio.Event()
    with pytest.raises(ServiceUnavailable, match="gone"):
        await chain.run_all(several(4, on_restore_failure="fail"))
    assert (chain.restorer.cancelled, chain.restorer.at_once) == (1, 0)
    assert chain.generator.handed_over == 3, "nothing more began"


async def test_the_image_whose_faces_could_not_be_restored_is_named(chain: Chain) -> None:
    spec = several(4, on_restore_failure="fail")
    chain.restorer.errors = {1: InternalError()}
    with pytest.raises(ServiceUnavailable, match=r"at image 2 of 4 \(seed 8\)\.$"):
        await chain.run_all(spec)
    chain.restorer.applied, chain.restorer.reason, chain.restorer.errors = False, SkipReason.FAILED, {}
    with pytest.raises(ServiceUnavailable, match=r"of image 1 of 4 \(seed 7\): "):
        await chain.run_all(spec)


async def test_an_error_of_the_generator_between_images_ends_the_request(chain: Chain) -> None:
    chain.generator.fails_before = {2: BadImage("Image 3 of 4")}
    chain.restorer.gate = asyncio.Event()
    with pytest.raises(BadImage, match="Image 3 of 4"):
        await chain.run_all(several(4))
    assert (chain.restorer.cancelled, chain.restorer.at_once) == (2, 0)


async def test_images_of_a_call_that_began_again_do_not_count(chain: Chain) -> None:
    chain.generator.begins_again_before = {2}
    chain.restorer.gate = asyncio.Event()
    running = asyncio.create_task(chain.run_all(several(3)))
    await until(lambda: chain.restorer.cancelled == 2)
    chain.restorer.gate.set()
    assert [generation.seed for generation in await running] == [7, 8, 9]


async def test_canceling_stops_all_images(chain: Chain) -> None:
    chain.restorer.gate = asyncio.Event()
    running = asyncio.create_task(chain.run_all(several(4)))
    await until(lambda: chain.restorer.at_once == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (chain.restorer.cancelled, chain.restorer.at_once) == (2, 0)


@pytest.mark.parametrize(("waiting", "num_images", "refused"), [(7, 1, False), (7, 2, True), (6, 8, False)])
async def test_images_that_will_wait_count_before_they_are_generated(
    chain: Chain, waiting: int, num_images: int, refused: bool
) -> None:
    chain.restorer.waiting = {"": waiting}
    if not refused:
        assert len(await chain.run_all(several(num_images))) == num_images
        return
    with pytest.raises(QueueFull):
        await chain.run_all(several(num_images))
    assert not chain.generator.specs


async def test_what_a_restorer_that_hangs_leaves_is_the_same_for_all(chain: Chain) -> None:
    await chain.run_all(several(8))
    assert len(set(chain.restorer.deadlines)) == 1


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (GenerateSpec("x", num_images=4, width=1024, height=1024), []),
        (GenerateSpec("x", num_images=4, width=1024, height=1032), ["num_images"]),
        (GenerateSpec("x", num_images=2, upscale=4), ["width", "height", "upscale"]),
        (GenerateSpec("x", num_images=8, width=256, height=256, seed=2**53 - 8), []),
        (GenerateSpec("x", num_images=8, width=256, height=256, seed=2**53 - 7), ["seed"]),
    ],
)
def test_too_many_pixels_or_seeds_are_refused(chain: Chain, spec: GenerateSpec, fields: list[str]) -> None:
    generate = Generate(chain.generator, chain.restorer, max_pixels=2**22)
    assert [violation.field for violation in generate.violations(spec)] == fields
