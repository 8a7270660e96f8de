from __future__ import annotations

import pytest

from atelier_gateway.core.health import Health
from atelier_gateway.core.without_generator import NoGenerator
from atelier_runtime.errors import InternalError, ServiceNotReady, ServiceUnavailable
from atelier_runtime.service_status import NetworkRole, ServiceStatus
from tests.unit.gateway.core.fakes import FakeGenerator, FakeRestorer, status

BASE = (NetworkRole.BASE, "sdxl")
DETECTOR, RESTORER = (NetworkRole.FACE_DETECTOR, "d"), (NetworkRole.FACE_RESTORER, "r")


def health(
    generator: ServiceStatus | ServiceUnavailable,
    restorer: ServiceStatus | ServiceUnavailable | InternalError,
) -> Health:
    fake_generator, fake_restorer = FakeGenerator(), FakeRestorer()
    fake_generator.reported, fake_restorer.reported = generator, restorer
    return Health(fake_generator, fake_restorer)


@pytest.mark.parametrize(
    ("generator", "restorer", "level"),
    [
        (status(BASE), status(DETECTOR, RESTORER), "healthy"),
        (status(BASE), status(DETECTOR), "degraded"),
        (status(BASE), status(DETECTOR, RESTORER, ready=False), "degraded"),
        (status(BASE), ServiceUnavailable(), "degraded"),
        (status(BASE), InternalError(), "degraded"),
        (status(BASE, ready=False), status(DETECTOR, RESTORER), "unhealthy"),
        (ServiceUnavailable(), status(DETECTOR, RESTORER), "unhealthy"),
    ],
)
async def test_levels(
    generator: ServiceStatus | ServiceUnavailable, restorer: ServiceStatus | ServiceUnavailable, level: str
) -> None:
    assert (await health(generator, restorer).check()).level == level


async def test_cuda_on_either_service() -> None:
    on_cuda = status(DETECTOR, device="cuda:0")
    assert (await health(status(BASE), on_cuda).check()).on_cuda
    assert not (await health(status(BASE), status()).check()).on_cuda


async def test_the_generator_is_required() -> None:
    await health(status(BASE), ServiceUnavailable()).require_generator()
    with pytest.raises(ServiceNotReady):
        await health(status(ready=False), status()).require_generator()
    with pytest.raises(ServiceUnavailable):
        await health(ServiceUnavailable(), status()).require_generator()


@pytest.mark.parametrize(
    ("restorer", "level"),
    [
        (status(DETECTOR, RESTORER), "healthy"),
        (status(RESTORER), "unhealthy"),
        (status(DETECTOR, RESTORER, ready=False), "unhealthy"),
        (ServiceUnavailable(), "unhealthy"),
    ],
)
async def test_levels_where_there_is_no_generator(
    restorer: ServiceStatus | ServiceUnavailable, level: str
) -> None:
    fake = FakeRestorer()
    fake.reported = restorer
    system = await Health(NoGenerator(fake), fake).check()
    assert (system.level, system.restores_only, system.can_generate) == (level, True, False)


async def test_without_a_generator_the_restorer_is_required() -> None:
    fake = FakeRestorer()
    await Health(NoGenerator(fake), fake).require_generator()
    fake.reported = status(DETECTOR, RESTORER, ready=False)
    with pytest.raises(ServiceNotReady, match="restorer"):
        await Health(NoGenerator(fake), fake).require_generator()
    fake.reported = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await Health(NoGenerator(fake), fake).require_generator()
