"""The place of the generator where there is none: a gateway that only finds and restores faces."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self

from atelier_gateway.core.backend import GeneratorBackend, RestorerBackend
from atelier_gateway.core.estimates import GeneratorEstimate
from atelier_gateway.core.offer import GeneratorOffer
from atelier_gateway.core.values import GenerateSpec, OnImage, OnProgress
from atelier_runtime.errors import AtelierError, NotServed
from atelier_runtime.service_status import ServiceStatus


class NoGenerator(GeneratorBackend):
    """Every call raises `NotServed`, which says that there is no generator, and what there is."""

    def __init__(self, restorer: RestorerBackend) -> None:
        self._restorer = restorer

    async def __aenter__(self) -> Self:
        """Nothing to open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    async def status(self) -> ServiceStatus:
        """Raise `NotServed`."""
        await self.refuse()

    async def generate(
        self, spec: GenerateSpec, on_image: OnImage, on_progress: OnProgress, *, deadline: float
    ) -> None:
        """Raise `NotServed`."""
        await self.refuse()

    async def offer(self) -> GeneratorOffer:
        """Raise `NotServed`."""
        await self.refuse()

    async def estimate(self, spec: GenerateSpec, *, deadline: float) -> GeneratorEstimate:
        """Raise `NotServed`."""
        await self.refuse()

    async def refuse(self) -> NoReturn:
        """Raise `NotServed`."""
        try:
            model_set = (await self._restorer.status()).model_set
        except AtelierError:
            model_set = ""
        loaded = f" The restorer runs the model set '{model_set}'." if model_set else ""
        raise NotServed(
            "No images are generated here: ATELIER_GATEWAY_GENERATOR is none, so this gateway has no "
            f"generator; it finds and restores the faces of photos (/detect, /restore, /compare).{loaded}"
        )
