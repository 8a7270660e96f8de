"""Whose drawings may wait for the restorer, and how many in all."""

from __future__ import annotations

import time

import pytest

from atelier_gateway.core.drawings import Drawings, Finish
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.values import GeneratedImage, GenerateSpec
from atelier_gateway.core.waiting_room import WaitingRoom
from atelier_runtime.caller import caller
from atelier_runtime.errors import QueueFull
from tests.unit.gateway.core.fakes import FakeGenerator, FakeRestorer

SINGLES = {f"caller {n}": 1 for n in range(8)}


@pytest.mark.parametrize(
    ("waiting", "refused"),
    [
        ({"": 8}, True),
        (SINGLES, True),
        ({"other": 8}, False),
        ({"other": 8, "": 3}, False),
        ({"other": 8, "": 7}, True),
        ({"other": 16}, True),
    ],
)
async def test_who_has_fewer_images_waiting_than_another_may_still_begin(
    waiting: dict[str, int], refused: bool
) -> None:
    """The room is for 8. Where it is full of callers with one each, nobody has a greater right to it."""
    restorer = FakeRestorer()
    restorer.waiting = waiting
    generate = Generate(FakeGenerator(), restorer, max_pixels=2**22)
    if not refused:
        await generate.run(GenerateSpec("x"), deadline=time.monotonic() + 100)
        return
    with pytest.raises(QueueFull):
        await generate.run(GenerateSpec("x"), deadline=time.monotonic() + 100)


def test_what_is_being_drawn_counts_until_it_is_drawn() -> None:
    waiting: dict[str, int] = {}
    room = WaitingRoom(lambda: waiting)
    caller.set("a")
    with room.enter(2), room.enter(2), room.enter(4) as leave, room.enter(1):
        waiting["b"] = 1  # from here on the restorer is full
        caller.set("b")
        with room.enter(1):
            pass
        caller.set("a")
        with pytest.raises(QueueFull, match="10 images"), room.enter(1):
            pass
        for _ in range(6):
            leave()
        with room.enter(1), pytest.raises(QueueFull), room.enter(2):
            pass
    with room.enter(7):
        pass


class Kept(Drawings):
    """Keeps what is drawn in memory."""

    def __init__(self) -> None:
        self.images: dict[int, GeneratedImage] = {}

    async def load(self, number: int) -> GeneratedImage | None:
        return self.images.get(number)

    async def keep(self, number: int, drawn: GeneratedImage, finish: Finish) -> None:
        self.images[number] = drawn


async def test_what_has_been_drawn_before_needs_no_room() -> None:
    """A job that was put off with its drawing: refusing it would keep the restorer from nothing."""
    generator, restorer, drawings = FakeGenerator(), FakeRestorer(), Kept()
    generate = Generate(generator, restorer, max_pixels=2**22)
    for _ in range(2):
        [made] = await generate.run(GenerateSpec("x"), deadline=time.monotonic() + 100, drawings=drawings)
        assert made.face_restoration_applied
        restorer.waiting = {"other": 16}
    assert len(generator.specs) == 1 and len(restorer.specs) == 2
