"""What the use cases need from the two services. `atelier_gateway.backends` implements it over gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from atelier_gateway.core.estimates import GeneratorEstimate
from atelier_gateway.core.offer import GeneratorOffer
from atelier_gateway.core.values import (
    CompareSpec,
    Detection,
    DetectSpec,
    GenerateSpec,
    OnImage,
    OnProgress,
    Restoration,
    RestoreSpec,
)
from atelier_runtime.service_status import ServiceStatus


class Backend(ABC):
    """A service. Canceling the task that awaits a call stops the service's work.

    A `deadline` is an absolute deadline on the `time.monotonic()` clock. Every call raises the service's own
    `AtelierError`, in which fields are named as in the spec; `ServiceUnavailable` if the service cannot be
    reached.
    """

    @abstractmethod
    async def status(self) -> ServiceStatus:
        """Return what the service is, has loaded and is doing. Does not wait long for it."""


class GeneratorBackend(Backend):
    """Generates images from text."""

    @abstractmethod
    async def generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, *, deadline: float
    ) -> None:
        """Generate the images, in the spec's output format. What the spec says about faces is ignored."""

    @abstractmethod
    async def offer(self) -> GeneratorOffer:
        """Return what requests may choose. Does not wait long for it."""

    @abstractmethod
    async def estimate(self, spec: GenerateSpec, *, deadline: float) -> GeneratorEstimate:
        """Return what `generate` would do and take, and raise what it would refuse. Generates nothing."""


class RestorerBackend(Backend):
    """Finds and restores faces."""

    @property
    @abstractmethod
    def waiting_for_slot(self) -> Mapping[str, int]:
        """How many calls of each caller wait because the queue is full; nothing of those without any."""

    @abstractmethod
    async def restore(
        self, spec: RestoreSpec, *, deadline: float, wait_for_slot: bool = False
    ) -> Restoration:
        """Restore the faces of an image.

        If the queue is full: raises `QueueFull`, with `wait_for_slot` only when no slot is free before the
        deadline.
        """

    @abstractmethod
    async def compare(self, spec: CompareSpec, *, deadline: float) -> tuple[Restoration, ...]:
        """Restore the faces of an image once for each fidelity, in their order."""

    @abstractmethod
    async def detect(self, spec: DetectSpec, *, deadline: float) -> Detection:
        """Find the faces of an image."""
