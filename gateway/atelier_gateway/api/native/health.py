"""`GET /health`, `/livez`, `/readyz` and `/`: what is working; `/` is a page, too, where it is preferred."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway import __version__
from atelier_gateway.api.native.errors import Problem
from atelier_gateway.core.health import Health, ServiceName, SystemStatus, on_cuda
from atelier_gateway.http.negotiation import prefers_html
from atelier_gateway.studio import Studio
from atelier_runtime.service_status import NetworkRole, ServiceStatus

_GIB = 2**30


class Load(BaseModel):
    """How busy a service is."""

    running: int | None = Field(description="Requests that the device is working on.")
    queue_depth: int | None = Field(description="Requests that wait for it.")
    queue_capacity: int | None = Field(description="Requests that may wait.")
    image_workers: int | None = Field(description="Processes that decode and encode images.")
    image_workers_busy: int | None = Field(description="Image workers that are busy.")
    image_queue_depth: int | None = Field(description="Images waiting for an image worker.")


class NetworkAnswer(BaseModel):
    """A network in memory."""

    service: ServiceName
    role: NetworkRole | None = Field(
        description="What it is for; null: a newer service has a role that this gateway does not know.",
        examples=["parser"],
    )
    name: str = Field(examples=["parsenet"])


class HealthAnswer(BaseModel):
    """What the two services report now."""

    status: Literal["healthy", "degraded", "unhealthy"] = Field(
        description="degraded: images are generated, but the restorer or one of its networks is missing, or "
        "jobs cannot be accepted."
    )
    restores_only: bool = Field(
        description="This gateway has no generator and only restores photos. healthy then means that faces "
        "are found and restored."
    )
    model: str | None = Field(
        description="Name of the generator's model set, without a generator of the restorer's; null while it "
        "is loading or does not respond."
    )
    networks: list[NetworkAnswer] = Field(description="What the services that are ready have loaded.")
    model_loaded: bool = Field(description="The generating network is loaded and warm.")
    models_loaded: bool = Field(
        description="The networks of both services are loaded and warm; without a generator, the restorer's."
    )
    cuda_available: bool
    codeformer_available: bool
    realesrgan_available: bool
    refiner_available: bool
    identity_available: bool = Field(
        description="The restorer has an identity network: it tells whether restored faces still show the "
        "same people."
    )
    jobs_available: bool | None = Field(
        description="The jobs' database and the store of their files could be used the last time, at most "
        "some seconds ago; null if this gateway has no jobs."
    )
    vram_available: str | None = Field(
        description="Free / total on the generator's device, without a generator on the restorer's; null on "
        "a CPU.",
        examples=["12.5GB / 24.0GB"],
    )
    device: str | None = Field(description="The generator's, without a generator the restorer's.")
    gpu_info: str | None = Field(description="The name of that device; null on a CPU.")
    generator_load: Load | None = Field(description="null if the generator does not respond.")
    restorer_load: Load | None = Field(description="null if the restorer does not respond.")


class RootAnswer(BaseModel):
    """Name and version; model and device are null while the generator is loading or unreachable.

    Without a generator they are the restorer's.
    """

    name: str
    version: str
    model: str | None
    device: str | None
    restores_only: bool = Field(description="This gateway has no generator and only restores photos.")


def add_routes(router: APIRouter, health: Health, studio: Studio | None) -> None:
    """Add the four routes. `studio`: None where there is no page."""

    async def get_health() -> Response:
        answer = health_answer(await health.check())
        return _json(answer, 503 if answer.status == "unhealthy" else 200)

    async def get_livez() -> Response:
        return Response(orjson.dumps({"status": "alive"}), media_type="application/json")

    async def get_readyz() -> Response:
        await health.require_generator()
        return Response(orjson.dumps({"status": "ready"}), media_type="application/json")

    async def get_root(request: Request) -> Response:
        if studio is None:
            return _json(root_answer(await health.check_main()))
        if prefers_html(", ".join(request.headers.getlist("accept"))):
            return studio.page(request)
        return _json(root_answer(await health.check_main()), headers={"Vary": "Accept"})

    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": HealthAnswer},
        503: {"model": HealthAnswer, "description": "Unhealthy."},
    }
    root: dict[str, Any] = {"model": RootAnswer}
    if studio is not None:
        root["description"] = "JSON, or the page where Accept prefers text/html to it."
        root["content"] = {"text/html": {"schema": {"type": "string"}}}
    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Not ready."}}

    def get(path: str, name: str, endpoint: Callable[..., Awaitable[Response]], **documented: Any) -> None:
        # HEAD is what monitors of uptime send; the server leaves out the body. The first route serves both;
        # the second stands in the OpenAPI document.
        both = router.api_route(
            path, methods=["GET", "HEAD"], name=name, include_in_schema=False, response_model=None
        )
        both(endpoint)
        router.get(path, name=name, response_model=None, tags=["state"], **documented)(endpoint)

    get(
        "/health",
        "health",
        get_health,
        description="Report what is working: 200 if images can be generated (without a generator: faces "
        "restored), otherwise 503.",
        responses=answers,
    )
    get("/livez", "livez", get_livez, description="Report that this process is alive.")
    get(
        "/readyz",
        "readyz",
        get_readyz,
        description="Report whether the generator (without one: the restorer) is ready: 200 if it is, "
        "otherwise 503.",
        responses=not_ready,
    )
    get(
        "/",
        "root",
        get_root,
        description="Return name and version, and what the gateway serves.",
        responses={200: root},
    )


def health_answer(system: SystemStatus) -> HealthAnswer:
    """Return the health in the terms of the contract."""
    main = system.main
    has_base = system.generator_has(NetworkRole.BASE)
    main_has = system.restorer_has if system.restores_only else system.generator_has
    return HealthAnswer(
        status=system.level,
        restores_only=system.restores_only,
        model=main.model_set or None if main else None,
        networks=[
            NetworkAnswer(service=service, role=network.role, name=network.name)
            for service, network in system.networks
        ],
        model_loaded=has_base,
        models_loaded=(has_base or system.restores_only) and system.can_restore_faces,
        cuda_available=system.on_cuda,
        codeformer_available=system.restorer_has(NetworkRole.FACE_RESTORER),
        realesrgan_available=main_has(NetworkRole.UPSCALER),
        refiner_available=system.generator_has(NetworkRole.REFINER),
        identity_available=system.restorer_has(NetworkRole.IDENTITY),
        jobs_available=system.jobs_available,
        vram_available=_vram(main),
        device=main.device or None if main else None,
        gpu_info=main.device_name if main and on_cuda(main) else None,
        generator_load=_load(system.generator),
        restorer_load=_load(system.restorer),
    )


def root_answer(system: SystemStatus) -> RootAnswer:
    """Return name and version, and what the generator, without one the restorer, has loaded."""
    main = system.main
    return RootAnswer(
        name="Atelier",
        version=__version__,
        model=main.model_set or None if main else None,
        device=main.device or None if main else None,
        restores_only=system.restores_only,
    )


def _load(status: ServiceStatus | None) -> Load | None:
    return None if status is None else Load.model_validate(status, from_attributes=True)


def _vram(status: ServiceStatus | None) -> str | None:
    if status is None or status.vram_free_bytes is None or status.vram_total_bytes is None:
        return None
    return f"{status.vram_free_bytes / _GIB:.1f}GB / {status.vram_total_bytes / _GIB:.1f}GB"


def _json(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = answer.model_dump_json()
    return Response(content, status_code=status, headers=headers, media_type="application/json")
