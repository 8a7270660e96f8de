"""How much of a request is done, by what each of its stages is expected to take."""

from __future__ import annotations

from collections.abc import Sequence

from atelier_gateway.core.estimates import Estimate
from atelier_gateway.core.generate import RESTORE_STAGE
from atelier_gateway.core.values import Progress


class Shares:
    """Turns steps of stages into shares of the whole."""

    def __init__(self, stages: Sequence[tuple[str, float]] = ()) -> None:
        """`stages`: in order, with the seconds that each is expected to take; empty: unknown."""
        self._stages = stages
        self._total = sum(seconds for _, seconds in stages)

    @classmethod
    def of(cls, estimate: Estimate) -> Shares:
        """Return the shares of an estimated request."""
        stages = [(name, cost.seconds) for name, cost in estimate.generator.stages]
        if estimate.restored:
            seconds = 0.0 if estimate.restoration is None else estimate.restoration.seconds
            stages.append((RESTORE_STAGE, seconds))
        return cls(stages)

    def share(self, progress: Progress) -> float:
        """Return what is done, 0 to 1; of the stage alone where what it takes is unknown."""
        share = progress.step / max(1, progress.total)
        names = [name for name, _ in self._stages]
        if progress.stage in names and self._total > 0:
            number = names.index(progress.stage)
            before = sum(seconds for _, seconds in self._stages[:number])
            share = (before + share * self._stages[number][1]) / self._total
        return min(1.0, share)
