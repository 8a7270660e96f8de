"""Pixels are spent here: what a request makes or looks at counts towards its caller's limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from atelier_gateway.core.values import CompareSpec, DetectSpec, GenerateSpec, RestoreSpec
from atelier_runtime.images import InputImage, displayed_size

Spend = Callable[[int], Awaitable[None]]
"""Counts pixels. Raises `RateLimited` if there are not so many left."""


async def _freely(pixels: int) -> None:
    """Count nothing: the work of jobs, whose pixels were spent when they were accepted."""


spending: ContextVar[Spend] = ContextVar("spending", default=_freely)
"""What counts the current request's pixels."""


async def spend_on(spec: GenerateSpec | RestoreSpec | CompareSpec | DetectSpec) -> None:
    """Spend what a spec takes of the pixels of the current request's caller. Raises `RateLimited`."""
    await spending.get()(pixels_of(spec))


def pixels_of(spec: GenerateSpec | RestoreSpec | CompareSpec | DetectSpec) -> int:
    """Return the pixels of all images that a spec makes, or of the photo where it makes none."""
    if isinstance(spec, GenerateSpec):
        return spec.image_count * spec.result_size().pixels
    if isinstance(spec, CompareSpec):
        return len(spec.fidelities) * pixels_of(spec.restore)
    enlarged = (spec.upscale or 1) if isinstance(spec, RestoreSpec) else 1
    return enlarged**2 * _pixels_in(spec.image)


def _pixels_in(image: InputImage) -> int:
    """Return an image's pixels; 0 for a file that is none, which the restorer refuses."""
    if image.width is not None and image.height is not None:
        return image.width * image.height
    size = displayed_size(image.data)
    return 0 if size is None else size.pixels
