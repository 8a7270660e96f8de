"""Images on their way from the generator to the restorer, while the generator works on the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from atelier_gateway.core.values import GeneratedImage, Generation, OnImage

AT_ONCE = 2
"""Images of one request that are restored at once: one on the restorer's device, one on its processors.

While these are under way the next is not read, so that the generator keeps it.
"""

Draw = Callable[[OnImage], Coroutine[Any, Any, None]]
Finish = Callable[[int, GeneratedImage], Coroutine[Any, Any, Generation]]


async def hand_over(generate: Draw, finish: Finish) -> list[Generation]:
    """Let `generate` hand over images and `finish` each of them, `AT_ONCE` at a time.

    Returns the finished images in order. The first error, of either, cancels all that is under way.
    """
    tasks: dict[int, asyncio.Task[Generation]] = {}
    errors: list[BaseException] = []
    failed = asyncio.Event()
    slots = asyncio.Semaphore(AT_ONCE)

    def ended(task: asyncio.Task[Generation]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            slots.release()
        else:  # and nothing more begins
            errors.append(error)
            failed.set()

    async def take(number: int, generated: GeneratedImage) -> None:
        if number == 0:  # perhaps again, by another replica
            for task in tasks.values():
                task.cancel()
            tasks.clear()
        await slots.acquire()
        tasks[number] = asyncio.create_task(finish(number, generated))
        tasks[number].add_done_callback(ended)

    generating, failing = asyncio.create_task(generate(take)), asyncio.create_task(failed.wait())
    try:
        await asyncio.wait({generating, failing}, return_when=asyncio.FIRST_COMPLETED)
        if not errors:
            generating.result()
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        if errors:
            raise errors.pop(0)
        return [tasks[number].result() for number in sorted(tasks)]
    finally:
        under_way: set[asyncio.Task[Any]] = {generating, failing, *tasks.values()}
        for task in under_way:
            task.cancel()
        await asyncio.wait(under_way)
        # The tasks keep the exception that is raised here, which keeps this frame: no cycle, or the request's
        # images would stay in memory.
        tasks.clear()
        errors.clear()
        del generating, failing, under_way, task


def only_one(generate: Draw, finish: Finish, only: int | None) -> tuple[Draw, Finish]:
    """Return what hands over and finishes a single one of the images, as number 0; None: all of them."""
    if only is None:
        return generate, finish

    async def draw(on_image: OnImage) -> None:
        async def pick(number: int, drawn: GeneratedImage) -> None:
            if number == only:
                await on_image(0, drawn)

        await generate(pick)

    async def finish_it(_: int, drawn: GeneratedImage) -> Generation:
        return await finish(only, drawn)

    return draw, finish_it
