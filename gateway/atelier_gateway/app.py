"""The application: backends, use cases, dialects and middleware put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from atelier_gateway import __version__
from atelier_gateway.access.browsers import BrowserRules, hosts_of, origin_of
from atelier_gateway.access.caller import at_once_of
from atelier_gateway.access.gate import Gate
from atelier_gateway.access.middleware import AccessMiddleware
from atelier_gateway.access.usage import Usage
from atelier_gateway.api import automatic1111, native, openai
from atelier_gateway.api.automatic1111.errors import Automatic1111Route
from atelier_gateway.api.native.errors import NativeRoute
from atelier_gateway.api.native.inspect import PATH as INSPECT_PATH
from atelier_gateway.api.native.job_response import webhook_data
from atelier_gateway.api.native.job_work import works as job_works
from atelier_gateway.api.native.jobs import PATH as JOBS_PATH
from atelier_gateway.api.native.openapi import DESCRIPTION
from atelier_gateway.api.native.report import REPORT_HEADER
from atelier_gateway.api.native.request import BodyLimits
from atelier_gateway.api.openai.errors import OpenAIRoute
from atelier_gateway.api.openai.response import MODEL_HEADER
from atelier_gateway.backends.client import GeneratorClient, RestorerClient
from atelier_gateway.core.faces import Faces
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health
from atelier_gateway.core.without_generator import NoGenerator
from atelier_gateway.credentials import credentials_of
from atelier_gateway.http.errors import ErrorRenderer
from atelier_gateway.http.ignored import IGNORED_HEADER, WARNINGS_HEADER
from atelier_gateway.http.meta import add_docs, add_metrics
from atelier_gateway.http.middleware import (
    RequestContextMiddleware,
    RootPathMiddleware,
    SlashesMiddleware,
)
from atelier_gateway.http.transfer import TransferMiddleware, Transfers
from atelier_gateway.jobs.assembly import create_database, create_jobs
from atelier_gateway.jobs.service import Jobs
from atelier_gateway.settings import NO_GENERATOR, GatewaySettings
from atelier_gateway.studio import Studio
from atelier_gateway.tls import backend_files
from atelier_runtime import metrics
from atelier_runtime.api_keys import key_ring
from atelier_runtime.errors import AtelierError
from atelier_runtime.metrics_server import Probes
from atelier_runtime.settings import StartupError


def create_app(settings: GatewaySettings) -> FastAPI:
    """Build the application. Raises `StartupError`."""
    generator, restorer = _clients(settings)
    signer = credentials_of(settings.c2pa_certificate, settings.c2pa_key)
    generate = Generate(generator, restorer, max_pixels=settings.max_pixels, signer=signer)
    faces = Faces(restorer, signer)
    works = job_works(generate, faces, max_image_bytes=BodyLimits.of(settings).image)
    keys = key_ring(settings.api_keys, "ATELIER_GATEWAY_API_KEYS")
    database = create_database(settings)
    describe = partial(webhook_data, base=f"{settings.root_path}{JOBS_PATH}")
    jobs = create_jobs(
        settings, database, works, describe, lambda: at_once_of(keys.keys.values()) if keys else []
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics.BUILD_INFO.labels(__version__, "", "").set(1)
        app.state.probes.attach()
        async with AsyncExitStack() as stack:  # in the event loop of the server
            try:
                for part in (generator, restorer, jobs or nullcontext()):
                    await stack.enter_async_context(part)
            except StartupError as error:
                app.state.startup_problem = str(error)
                raise
            yield

    app = FastAPI(
        title="Atelier",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,  # see add_docs
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        redirect_slashes=False,
        lifespan=lifespan,
        # FastAPI's own would hold what clients sent; ours are atelier_runtime.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    health = Health(generator, restorer, None if jobs is None else lambda: jobs.are_available)
    studio = Studio(settings.root_path) if settings.studio else None
    routers = [
        native.create_router(settings, generate, faces, health, jobs, studio),
        openai.create_router(settings, generate, health, jobs),
        *automatic1111.create_routers(settings, generate, faces, health),
    ]
    for router in routers:
        app.include_router(router)
    app.state.startup_problem = None
    app.state.probes = probes = Probes(partial(_not_ready, health))
    app.state.drain = partial(_drain, probes, jobs)
    add_docs(app, settings.root_path, has_keys=keys is not None)
    registry = metrics.build_registry("gateway")
    if settings.metrics_port is None:
        add_metrics(app, registry)
    app.state.metrics_registry = registry
    automatic = dict.fromkeys(automatic1111.PREFIXES, Automatic1111Route)
    ours = dict.fromkeys(("", JOBS_PATH, INSPECT_PATH), NativeRoute)
    errors = ErrorRenderer({**ours, openai.PREFIX: OpenAIRoute, **automatic})
    app.add_exception_handler(HTTPException, errors.handle_unmatched)
    gate = Gate(keys, Usage(database), lets_anonymous_in=settings.lets_anonymous_in)
    hosts = hosts_of(settings.host, settings.public_url, settings.allowed_hosts)
    own_origin = [origin_of(settings.public_url)] if settings.public_url else []
    rules = BrowserRules(hosts=hosts, trusted_origins=[*settings.cors_origins, *own_origin])
    app.add_middleware(
        AccessMiddleware,
        gate=gate,
        rules=rules,
        render_error=errors.render,
        route_of=partial(_route_of, [route for router in routers for route in router.routes]),
    )
    app.add_middleware(RequestContextMiddleware, render_error=errors.render)
    transfers = Transfers(max_bytes=settings.max_bytes_in_flight, stall_seconds=settings.stall_seconds)
    app.add_middleware(TransferMiddleware, transfers=transfers)
    _add_cors(app, settings)
    if settings.root_path:
        app.add_middleware(RootPathMiddleware, root_path=settings.root_path)
    app.add_middleware(SlashesMiddleware)
    return app


def _route_of(routes: Sequence[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route that a request is for, without taking it there."""
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


def _drain(probes: Probes, jobs: Jobs | None) -> None:
    probes.set_draining()
    if jobs is not None:
        jobs.drain()


async def _not_ready(health: Health) -> str:
    """Return why the gateway is not ready, as `/readyz` does; empty: it is."""
    try:
        await health.require_generator()
    except AtelierError as error:
        return error.message
    return ""


def _clients(settings: GatewaySettings) -> tuple[GeneratorClient | NoGenerator, RestorerClient]:
    max_pixels = settings.max_pixels
    wait_s = settings.backend_wait_seconds
    status_timeout_s = settings.status_timeout_seconds
    tls = backend_files(settings)
    restorer = RestorerClient(
        settings.restorer,
        max_pixels=max_pixels,
        wait_s=wait_s,
        status_timeout_s=status_timeout_s,
        api_key=settings.backend_api_key,
        tls=tls,
    )
    if settings.generator == NO_GENERATOR:
        return NoGenerator(restorer), restorer
    generator = GeneratorClient(
        settings.generator,
        max_pixels=max_pixels,
        wait_s=wait_s,
        status_timeout_s=status_timeout_s,
        api_key=settings.backend_api_key,
        tls=tls,
    )
    return generator, restorer


def _add_cors(app: FastAPI, settings: GatewaySettings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,  # of a page on the internet whose origin is listed
            expose_headers=[
                *(REPORT_HEADER, "X-Request-ID", "Retry-After"),
                *("Location", "Preference-Applied", "ETag", "Content-Disposition"),
                *(IGNORED_HEADER, WARNINGS_HEADER, MODEL_HEADER, "RateLimit", "RateLimit-Policy"),
            ],
            max_age=600,
        )
