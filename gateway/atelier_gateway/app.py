"""The application: backends, use cases, dialects and middleware put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from atelier_gateway import __version__
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
from atelier_gateway.jobs.assembly import create_jobs
from atelier_gateway.settings import NO_GENERATOR, GatewaySettings
from atelier_gateway.studio import Studio
from atelier_gateway.tls import backend_files
from atelier_runtime import metrics
from atelier_runtime.settings import StartupError


def create_app(settings: GatewaySettings) -> FastAPI:
    """Build the application. Raises `StartupError`."""
    generator, restorer = _clients(settings)
    signer = credentials_of(settings.c2pa_certificate, settings.c2pa_key)
    generate = Generate(generator, restorer, max_pixels=settings.max_pixels, signer=signer)
    faces = Faces(restorer, signer)
    works = job_works(generate, faces, max_image_bytes=BodyLimits.of(settings).image)
    jobs = create_jobs(settings, works, partial(webhook_data, base=f"{settings.root_path}{JOBS_PATH}"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics.BUILD_INFO.labels(__version__, "", "").set(1)
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
    )
    health = Health(generator, restorer)
    studio = Studio(settings.root_path) if settings.studio else None
    app.include_router(native.create_router(settings, generate, faces, health, jobs, studio))
    app.include_router(openai.create_router(settings, generate, health, jobs))
    for router in automatic1111.create_routers(settings, generate, faces, health):
        app.include_router(router)
    app.state.startup_problem = None
    app.state.drain = _nothing if jobs is None else jobs.drain
    add_docs(app, settings.root_path)
    add_metrics(app, metrics.build_registry("gateway"))
    automatic = dict.fromkeys(automatic1111.PREFIXES, Automatic1111Route)
    ours = dict.fromkeys(("", JOBS_PATH, INSPECT_PATH), NativeRoute)
    errors = ErrorRenderer({**ours, openai.PREFIX: OpenAIRoute, **automatic})
    app.add_exception_handler(HTTPException, errors.handle_unmatched)
    app.add_middleware(RequestContextMiddleware, render_error=errors.render)
    transfers = Transfers(max_bytes=settings.max_bytes_in_flight, stall_seconds=settings.stall_seconds)
    app.add_middleware(TransferMiddleware, transfers=transfers)
    _add_cors(app, settings)
    if settings.root_path:
        app.add_middleware(RootPathMiddleware, root_path=settings.root_path)
    app.add_middleware(SlashesMiddleware)
    return app


def _nothing() -> None:
    """Without jobs, nothing has to know that the gateway drains."""


def _clients(settings: GatewaySettings) -> tuple[GeneratorClient | NoGenerator, RestorerClient]:
    max_pixels = settings.max_pixels
    wait_s = settings.backend_wait_seconds
    status_timeout_s = settings.status_timeout_seconds
    tls = backend_files(settings)
    restorer = RestorerClient(
        settings.restorer, max_pixels=max_pixels, wait_s=wait_s, status_timeout_s=status_timeout_s, tls=tls
    )
    if settings.generator == NO_GENERATOR:
        return NoGenerator(restorer), restorer
    generator = GeneratorClient(
        settings.generator, max_pixels=max_pixels, wait_s=wait_s, status_timeout_s=status_timeout_s, tls=tls
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
                *(IGNORED_HEADER, WARNINGS_HEADER, MODEL_HEADER),
            ],
            max_age=600,
        )
