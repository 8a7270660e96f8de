"""What is working, according to the status of the two services and of the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from atelier_gateway.core.backend import Backend, GeneratorBackend, RestorerBackend
from atelier_gateway.core.without_generator import NoGenerator
from atelier_runtime.errors import AtelierError, ServiceNotReady
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus

ServiceName = Literal["generator", "restorer"]


@dataclass(frozen=True)
class SystemStatus:
    """The status of both services; None for one that did not report it."""

    generator: ServiceStatus | None
    restorer: ServiceStatus | None
    restores_only: bool = False
    """There is no generator, on purpose."""
    jobs_available: bool | None = None
    """Jobs can be accepted and looked up; None: there are none, on purpose."""

    @property
    def can_generate(self) -> bool:
        """The generator is ready."""
        return self.generator is not None and self.generator.ready

    @property
    def can_restore_faces(self) -> bool:
        """The restorer is ready, and finds and restores faces."""
        roles = (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER)
        return all(self.restorer_has(role) for role in roles)

    @property
    def level(self) -> Literal["healthy", "degraded", "unhealthy"]:
        """Unhealthy: no image can be generated. Degraded: no face can be restored, or no job be accepted.

        Without a generator: unhealthy if no face can be restored.
        """
        if not (self.can_restore_faces if self.restores_only else self.can_generate):
            return "unhealthy"
        is_whole = self.can_restore_faces and self.jobs_available is not False
        return "healthy" if is_whole else "degraded"

    @property
    def on_cuda(self) -> bool:
        """At least one service runs on a CUDA device."""
        return any(status is not None and on_cuda(status) for status in (self.generator, self.restorer))

    def generator_has(self, role: NetworkRole) -> bool:
        """Return whether the generator is ready and has a network of this role."""
        return _has(self.generator, role)

    @property
    def main(self) -> ServiceStatus | None:
        """The status that stands for the installation: the generator's, or the restorer's without one."""
        return self.restorer if self.restores_only else self.generator

    @property
    def networks(self) -> list[tuple[ServiceName, LoadedNetwork]]:
        """All networks of the services that are ready."""
        services: list[tuple[ServiceName, ServiceStatus | None]] = [
            ("generator", self.generator),
            ("restorer", self.restorer),
        ]
        return [
            (name, network)
            for name, status in services
            if status is not None and status.ready
            for network in status.networks
        ]

    def restorer_has(self, role: NetworkRole) -> bool:
        """Return whether the restorer is ready and has a network of this role."""
        return _has(self.restorer, role)


class Health:
    """Asks the services for their status."""

    def __init__(
        self,
        generator: GeneratorBackend,
        restorer: RestorerBackend,
        jobs_available: Callable[[], bool] | None = None,
    ) -> None:
        """`jobs_available`: whether jobs can be accepted now; None: there are none."""
        self._generator = generator
        self._restorer = restorer
        self._jobs_available = jobs_available
        self._restores_only = isinstance(generator, NoGenerator)

    async def check(self) -> SystemStatus:
        """Ask both services at once."""
        if self._restores_only:
            system = SystemStatus(None, await _status_or_none(self._restorer), restores_only=True)
        else:
            system = SystemStatus(
                *await asyncio.gather(_status_or_none(self._generator), _status_or_none(self._restorer))
            )
        return replace(system, jobs_available=self._jobs_available() if self._jobs_available else None)

    async def check_main(self) -> SystemStatus:
        """Ask the generator alone, or the restorer where there is no generator: what `main` returns."""
        if self._restores_only:
            return await self.check()
        return SystemStatus(await _status_or_none(self._generator), None)

    async def check_restorer(self) -> ServiceStatus | None:
        """Ask the restorer alone; None if it does not report its status."""
        return await _status_or_none(self._restorer)

    async def require_generator(self) -> None:
        """Raise `ServiceUnavailable` or `ServiceNotReady` unless images can be generated.

        Without a generator: unless the restorer is ready.
        """
        if not self._restores_only:
            require_ready(await self._generator.status())
        elif not (await self._restorer.status()).ready:
            raise ServiceNotReady("The restorer is not ready.")


def require_ready(generator: ServiceStatus) -> None:
    """Raise `ServiceNotReady` unless the generator can generate."""
    if not generator.ready:
        raise ServiceNotReady("The generator is not ready.")


def on_cuda(status: ServiceStatus) -> bool:
    """Return whether a service runs on a CUDA device."""
    return status.device.startswith("cuda")


def _has(status: ServiceStatus | None, role: NetworkRole) -> bool:
    return status is not None and status.ready and status.network(role) is not None


async def _status_or_none(backend: Backend) -> ServiceStatus | None:
    try:
        return await backend.status()
    except AtelierError:  # in a health report, a service that fails to report counts as unavailable
        return None
