"""Images that are returned as they were drawn are counted, by the reason that the response gives."""

from __future__ import annotations

import time

import pytest

from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GenerateSpec, Generation
from atelier_runtime import metrics
from atelier_runtime.errors import (
    AtelierError,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InternalError,
    OutOfMemory,
    QueueFull,
    ServiceUnavailable,
)
from atelier_runtime.outcomes import SkipReason
from tests.unit.gateway.core.fakes import FakeGenerator, FakeRestorer


def counts() -> dict[str, float]:
    """The samples of the counter, by reason."""
    [family] = metrics.UNRESTORED_IMAGES.collect()
    return {s.labels["reason"]: s.value for s in family.samples if s.name.endswith("_total")}


async def run(spec: GenerateSpec, restorer: FakeRestorer, *, can_wait: bool = False) -> list[Generation]:
    generate = Generate(FakeGenerator(), restorer, max_pixels=2**22)
    return await generate.run(spec, deadline=time.monotonic() + 100, can_wait=can_wait)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QueueFull(), SkipReason.RESTORER_BUSY),
        (DeadlineUnmeetable(), SkipReason.RESTORER_BUSY),
        (DeadlineExceeded(), SkipReason.RESTORER_UNAVAILABLE),
        (ServiceUnavailable("gone"), SkipReason.RESTORER_UNAVAILABLE),
        (OutOfMemory(), SkipReason.OUT_OF_MEMORY),
        (InternalError("a bug"), SkipReason.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AtelierError) else str(value),
)
async def test_each_image_counts_by_its_reason(error: AtelierError, reason: SkipReason) -> None:
    restorer = FakeRestorer()
    restorer.errors = {0: error, 2: error}
    Generate(FakeGenerator(), restorer, max_pixels=2**22)
    before = counts()
    assert reason in before, "there from the start, so that the first one is an increase"
    generations = await run(GenerateSpec("x", num_images=3), restorer)
    assert [g.face_restoration_reason for g in generations] == [reason, None, reason]
    assert counts() == before | {reason: before[reason] + 2}


async def test_what_is_refused_or_put_off_or_not_asked_for_does_not_count() -> None:
    restorer = FakeRestorer()
    restorer.error = QueueFull()
    Generate(FakeGenerator(), restorer, max_pixels=2**22)
    before = counts()
    with pytest.raises(QueueFull):
        await run(GenerateSpec("x"), restorer, can_wait=True)
    with pytest.raises(QueueFull):
        await run(GenerateSpec("x", on_restore_failure="fail"), restorer)
    await run(GenerateSpec("x", restore_faces=False), restorer)
    assert counts() == before
