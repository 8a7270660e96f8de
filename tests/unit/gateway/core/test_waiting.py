"""Whose drawings may wait for the restorer."""

from __future__ import annotations

import time

import pytest

from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GenerateSpec
from atelier_runtime.errors import QueueFull
from tests.unit.gateway.core.fakes import FakeGenerator, FakeRestorer


@pytest.mark.parametrize(
    ("waiting", "own", "refused"), [(8, 0, False), (12, 3, False), (12, 4, True), (32, 0, True)]
)
async def test_who_has_fewer_images_waiting_than_another_may_still_begin(
    waiting: int, own: int, refused: bool
) -> None:
    """Of two callers: the room is for 8, so each has a right to 4."""
    restorer = FakeRestorer()
    restorer.waiting, restorer.waiting_own = waiting, own
    generate = Generate(FakeGenerator(), restorer, max_pixels=2**22)
    if not refused:
        await generate.run(GenerateSpec("x"), deadline=time.monotonic() + 100)
        return
    with pytest.raises(QueueFull):
        await generate.run(GenerateSpec("x"), deadline=time.monotonic() + 100)
