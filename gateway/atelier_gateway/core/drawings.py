"""Images that were drawn, kept until their faces are restored, so that nothing has to be drawn again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from atelier_gateway.core.values import GeneratedImage, OnImage
from atelier_runtime.images import EncodedImage

Finish = Callable[[EncodedImage], Awaitable[EncodedImage]]
"""Takes the file of an image as it was drawn, and returns it with what it says of itself."""


class Drawings(ABC):
    """Keeps the images of one request, by their numbers."""

    @abstractmethod
    async def load(self, number: int) -> GeneratedImage | None:
        """Return a kept image as it was, raw pixels included; None: there is none."""

    @abstractmethod
    async def keep(self, number: int, drawn: GeneratedImage, finish: Finish) -> None:
        """Keep an image, as the file that `finish` returns. Once this returns, it is not lost."""


class NotKept(Drawings):
    """Keeps nothing: who waits for the response repeats the request if it fails."""

    async def load(self, number: int) -> GeneratedImage | None:
        """Return None."""
        return None

    async def keep(self, number: int, drawn: GeneratedImage, finish: Finish) -> None:
        """Do nothing."""


NOT_KEPT = NotKept()


def drawn_once(
    generate: Callable[[OnImage], Coroutine[Any, Any, None]],
    drawings: Drawings,
    count: int,
    finish: Callable[[int, GeneratedImage, EncodedImage], Awaitable[EncodedImage]],
) -> Callable[[OnImage], Coroutine[Any, Any, None]]:
    """Wrap what generates `count` images: keep each, and hand them out again if all have been kept before.

    `finish`: of the file of an image, see `Finish`. They are denoised together, so that one that is missing
    costs as much as all.
    """

    async def hand_out(on_image: OnImage) -> None:
        kept = [await drawings.load(number) for number in range(count)]
        if not all(kept):

            async def keep(number: int, drawn: GeneratedImage) -> None:
                await drawings.keep(number, drawn, partial(finish, number, drawn))
                await on_image(number, drawn)

            await generate(keep)
            return
        for number, drawn in enumerate(kept):
            assert drawn is not None, "just checked"
            await on_image(number, drawn)

    return hand_out
