"""What the gateway says of the whole: /health, /readyz and /, from what the stages say now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from atelier_gateway import __version__
from atelier_gateway.answers import HealthAnswer, RootAnswer
from atelier_gateway.clients import Stages
from atelier_gateway.link import UNREACHABLE_RETRY_AFTER_S
from atelier_gateway.work import StageStatus
from atelier_runtime.errors import AtelierError, ServiceNotReady

_GIB = 2**30


async def status_or_none(answer: Awaitable[StageStatus]) -> StageStatus | None:
    """Await a stage's status; None if it does not give one."""
    try:
        return await answer
    except AtelierError:  # not reached, or it cannot say: for the health report it is away
        return None


async def both_statuses(stages: Stages, *, timeout_s: float) -> tuple[StageStatus | None, StageStatus | None]:
    """Ask generator and restorer at once; None for one that does not answer in time."""
    return await asyncio.gather(
        status_or_none(stages.generator_status(timeout_s=timeout_s)),
        status_or_none(stages.restorer_status(timeout_s=timeout_s)),
    )


def health(generator: StageStatus | None, restorer: StageStatus | None) -> HealthAnswer:
    """Judge the whole: unhealthy if nothing can be drawn, degraded if no faces can be restored."""
    draws = generator is not None and generator.ready
    restores = restorer is not None and restorer.ready
    drawing_networks = generator.networks if generator else {}
    restoring_networks = restorer.networks if restorer else {}
    restores_faces = restores and {"detector", "codeformer"} <= restoring_networks.keys()
    on_cuda = generator is not None and generator.device.startswith("cuda")
    return HealthAnswer(
        status="unhealthy" if not draws else "healthy" if restores_faces else "degraded",
        model_loaded=draws and "base" in drawing_networks,
        models_loaded=draws and restores_faces and "base" in drawing_networks,
        cuda_available=any(
            stage is not None and stage.device.startswith("cuda") for stage in (generator, restorer)
        ),
        codeformer_available=restores and "codeformer" in restoring_networks,
        realesrgan_available=draws and "upscaler" in drawing_networks,
        refiner_available=draws and "refiner" in drawing_networks,
        vram_available=_vram(generator),
        device=generator.device or None if generator else None,
        gpu_info=generator.device_name if generator and on_cuda else None,
    )


def require_ready(generator: StageStatus) -> None:
    """Raise ServiceNotReady unless the generator can draw."""
    if not generator.ready:
        raise ServiceNotReady("The generator is not ready.", retry_after_s=UNREACHABLE_RETRY_AFTER_S)


def root(generator: StageStatus | None) -> RootAnswer:
    """Say who answers here."""
    return RootAnswer(
        name="Atelier",
        version=__version__,
        model=generator.model_set or None if generator else None,
        device=generator.device or None if generator else None,
    )


def _vram(status: StageStatus | None) -> str | None:
    if status is None or status.vram_free_bytes is None or status.vram_total_bytes is None:
        return None
    return f"{status.vram_free_bytes / _GIB:.1f}GB / {status.vram_total_bytes / _GIB:.1f}GB"
