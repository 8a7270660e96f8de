"""What the restorer's calls for generated images have taken, for estimates of the next."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from atelier_gateway.core.hand_over import AT_ONCE
from atelier_gateway.core.values import GenerateSpec
from atelier_runtime.cost_model import Cost, CostModel, Work
from atelier_runtime.sizes import Size


class RestorationCosts:
    """Measures calls, from the first byte sent to the last received, waits for the restorer included.

    How many faces an image will have nobody knows; the spread of past calls covers it.
    """

    def __init__(self) -> None:
        self._costs = CostModel()

    @contextmanager
    def measured(self, spec: GenerateSpec) -> Iterator[None]:
        """Measure a call for one image of a spec; one that raises does not count."""
        start = time.monotonic()
        yield
        self._costs.observe(_work(spec), time.monotonic() - start)

    def estimate(self, spec: GenerateSpec) -> Cost | None:
        """Return the cost for all images of a spec; None if no such call has been made yet."""
        work = _work(spec)
        if not self._costs.knows(work.kind):
            return None
        return self._costs.estimate(work).times(math.ceil(spec.image_count / AT_ONCE))


def _work(spec: GenerateSpec) -> Work:
    result = spec.result_size()
    generated = Size(result.width // spec.upscale, result.height // spec.upscale)
    pixels = generated.pixels + result.pixels
    kind = "restore" if spec.restore_faces else "upscale"
    return Work(kind, (generated, spec.upscale), calls=1, amount=pixels, held=pixels)
