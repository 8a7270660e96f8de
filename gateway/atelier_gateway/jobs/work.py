"""What a type of job is, seen by the room: checked when it comes, carried out when its turn has come.

A dialect implements it with the same functions as the synchronous route, so that both accept and return the
same. Files travel apart from the fields: they are blobs while the job waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atelier_gateway.core.drawings import Drawings
from atelier_gateway.jobs.values import JobProgress, Json
from atelier_runtime.images import EncodedImage


@dataclass(frozen=True)
class Accepted:
    """A valid request as it is kept: what it says, and its files by the names of their fields."""

    fields: Json
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Result:
    """What a job has made: the report of the synchronous response, and the images by their names."""

    report: Json
    images: Sequence[tuple[str, EncodedImage]]


@dataclass(frozen=True)
class Surroundings:
    """What carrying out a job needs of its runner. `deadline` is on the clock of `time.monotonic`.

    `can_wait`: an error that says that a service is full or away puts the job off.
    """

    deadline: float
    on_progress: Callable[[JobProgress], None]
    drawings: Drawings
    can_wait: bool = True
    preview_interval_steps: int | None = None


class JobWork(ABC):
    """One type of job."""

    @abstractmethod
    async def accept(self, body: Mapping[str, Any]) -> Accepted:
        """Check a request and complete it, so that it gives the same each time it is carried out.

        Raises what the synchronous route would refuse it with, as far as that is known without the services.
        """

    @abstractmethod
    async def run(self, accepted: Accepted, surroundings: Surroundings) -> Result:
        """Carry out a request that was accepted. Canceling the task stops the services' work."""
