"""What a request is expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from atelier_gateway.core.values import Sampling
from atelier_runtime.cost_model import Cost
from atelier_runtime.outcomes import ResponseWarning
from atelier_runtime.sizes import Size


@dataclass(frozen=True)
class EstimatedPass:
    """A denoising pass that a request would have. `steps`: as progress events count them."""

    stage: str
    size: Size
    steps: int


@dataclass(frozen=True)
class GeneratorEstimate:
    """What the generator would do with a spec, and what it expects that to take."""

    passes: tuple[EstimatedPass, ...]
    stages: tuple[tuple[str, Cost], ...]
    """In order, each with its cost for all images."""
    cost: Cost
    """Of all images, without the wait in the queue."""
    queue_wait_s: float
    size: Size
    """Of each image as the generator would return it."""
    model_set: str
    sampling: Sampling
    warnings: tuple[ResponseWarning, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a spec is expected to take, without its wait in the generator's queue."""

    generator: GeneratorEstimate
    restored: bool
    """The restorer would be called."""
    restoration: Cost | None
    """Of its calls for all images; None if none was made yet, or none would be."""
    cost: Cost
    """Of all of it, as far as it is known."""
    result: Size
    warnings: tuple[ResponseWarning, ...]
