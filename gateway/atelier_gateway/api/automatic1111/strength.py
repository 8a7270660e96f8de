"""denoising_strength: how much is drawn anew, of a picture or in the second pass."""

from __future__ import annotations

import math

from atelier_gateway.api.automatic1111.loaded import Loaded
from atelier_gateway.api.automatic1111.request import Given
from atelier_runtime import defaults

_LEFT_OUT = 0.75
_FIELD = "denoising_strength"


def strength_of(given: Given, steps: int) -> float:
    """Return a strength at which one of these steps is run at least, and tell the client if it is another.

    AUTOMATIC1111's web UI draws at least one step; the services refuse what is less.
    """
    asked: float = _LEFT_OUT if given[_FIELD] is None else given[_FIELD]
    if int(asked * steps) >= 1:
        return asked
    given.tell(_FIELD)
    return math.ceil(1000 / steps) / 1000


def own_steps(loaded: Loaded | None) -> int:
    """Return how many steps the loaded model set takes."""
    offer = loaded.offer if loaded is not None else None
    known = offer.defaults if offer is not None else None
    return defaults.NUM_INFERENCE_STEPS if known is None else known.num_inference_steps
