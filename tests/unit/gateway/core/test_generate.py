"""The chain from a spec to the finished image, with backends that are not on a wire."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field

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
from tests.unit.gateway.core.fakes import STEPS, FakeGenerator, FakeRestorer, status


@dataclass
class Chain:
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    restorer: FakeRestorer = field(default_factory=FakeRestorer)
    progress: list[Progress] = field(default_factory=list)

    async def run(self, spec: GenerateSpec, seconds: float = 100.0) -> Generation:
        generate = Generate(self.generator, self.restorer, max_pixels=2**22)
        return await generate.run(spec, self.progress.append, deadline=time.monotonic() + seconds)


@pytest.fixture
def chain() -> Chain:
    return Chain()


async def test_the_restorer_gets_raw_pixels_and_encodes(chain: Chain) -> None:
    spec = GenerateSpec(
        "x", fidelity=0.3, upscale=2, use_upscaler=False, match_tone=True, output_format="webp", quality=80
    )
    generation = await chain.run(spec)
    assert chain.generator.specs[0].output_format == "raw"
    [restore] = chain.restorer.specs
    assert (restore.image.format, restore.image.width) == ("raw", 16)
    assert (restore.fidelity, restore.upscale, restore.use_upscaler, restore.match_tone) == (
        *(0.3, 2, False, True),
    )
    assert (restore.output_format, restore.quality, restore.max_faces) == ("webp", 80, None)
    assert generation.image.data == b"a file of the restorer"
    assert (generation.face_restoration_applied, len(generation.faces)) == (True, 1)
    assert [stage.stage for stage in generation.stages] == ["base", "restore"]
    assert [warning.message for warning in generation.warnings] == ["of the generator", "of the restorer"]


async def test_the_generator_encodes_if_there_is_nothing_to_restore(chain: Chain) -> None:
    generation = await chain.run(GenerateSpec("x", restore_faces=False, output_format="jpeg"))
    assert generation.image.data == b"a file of the generator"
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
    chain.restorer.waiting = 7
    await chain.run(GenerateSpec("x"))
    chain.restorer.waiting = 8
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
