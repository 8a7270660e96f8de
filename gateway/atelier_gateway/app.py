"""The HTTP application: its addresses, and what goes around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway import __version__
from atelier_gateway import health as health_report
from atelier_gateway.accept import MEDIA_TYPES, wanted_file
from atelier_gateway.answers import REPORT_HEADER, HealthAnswer, Problem, RootAnswer, json_body, report_header
from atelier_gateway.body import read_json_object
from atelier_gateway.clients import Stages
from atelier_gateway.documentation import DESCRIPTION, add_docs_page, generate_route
from atelier_gateway.edge import RequestContextMiddleware, record, cancel_on_disconnect
from atelier_gateway.orchestrate import Orchestrator
from atelier_gateway.photo_documentation import photo_route
from atelier_gateway.photos import PhotoDesk
from atelier_gateway.problems import problem_response
from atelier_gateway.schema import Order, read_order
from atelier_gateway.settings import GatewaySettings
from atelier_runtime import metrics
from atelier_runtime.errors import AtelierError, DeadlineExceeded, MalformedBody, NotFound
from atelier_runtime.log import request_id

GENERATE_PATHS = ("/generate", "/txt2img", "/api/generate")
"""The first is the address, the others are older clients' names for it."""

PHOTO_PATHS = ("/restore", "/detect", "/compare")

_OTHER_PATHS = ("/", "/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json")


class Gateway:
    """The handlers, and what they share while the process runs."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._registry = metrics.build_registry("gateway")
        self._stages: Stages

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open the channels in the server's event loop, and close them at the end."""
        self._stages = Stages(
            generator=self._settings.generator,
            restorer=self._settings.restorer,
            max_pixels=self._settings.max_pixels,
            wait_s=self._settings.stage_wait_seconds,
        )
        self._orchestrator = Orchestrator(
            self._stages,
            max_pixels=self._settings.max_pixels,
            status_timeout_s=self._settings.status_timeout_seconds,
        )
        self._photos = PhotoDesk(self._stages, self._settings)
        metrics.BUILD_INFO.labels(__version__, "", "").set(1)
        for stage in ("generator", "restorer"):
            metrics.BACKEND_PENDING.labels(stage)  # shown as 0 before the first call
        yield
        await self._stages.close()

    async def generate(self, request: Request) -> Response:
        """Draw a picture, restore its faces, and return it with a report."""
        return await self._in_time(request, self._generate)

    async def restore(self, request: Request) -> Response:
        """Restore the faces of a photograph, and return it with a report."""
        return await self._in_time(request, self._photos.restore)

    async def detect(self, request: Request) -> Response:
        """Find the faces of a photograph and change nothing."""
        return await self._in_time(request, self._photos.detect)

    async def compare(self, request: Request) -> Response:
        """Restore a photograph at up to 8 fidelities, for little more than the price of one."""
        return await self._in_time(request, self._photos.compare)

    async def _in_time(
        self, request: Request, answer: Callable[[Request, float], Awaitable[Response]]
    ) -> Response:
        """Answer within the deadline, reading the body included."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                return await answer(request, started)
        except TimeoutError:
            raise DeadlineExceeded() from None

    async def _generate(self, request: Request, started: float) -> Response:
        body = await read_json_object(request, max_bytes=self._settings.max_body_bytes)
        order = read_order(body, max_pixels=self._settings.max_pixels)
        return await cancel_on_disconnect(request, self._carry_out(request, order, started))

    async def _carry_out(self, request: Request, order: Order, started: float) -> Response:
        accepted = wanted_file(request.headers.get("accept"))
        file_format = order.request.output_format or accepted or "png"
        finished = await self._orchestrator.generate(
            order,
            file_format,
            request_id=request_id.get() or "",
            started=started,
            deadline=started + self._settings.deadline_seconds,
        )
        if accepted is not None:
            return Response(
                finished.picture.data,
                media_type=MEDIA_TYPES[file_format],
                headers={REPORT_HEADER: report_header(finished.report)},
            )
        older_client = order.older_client or request.url.path != GENERATE_PATHS[0]
        body = await asyncio.to_thread(
            json_body,
            finished.report,
            finished.picture,
            order.request.prompt,
            with_plain_base64=older_client,
        )
        return Response(body, media_type="application/json")

    async def health(self) -> Response:
        """Say what works now: 200 where a generation can be served, else 503."""
        statuses = await health_report.both_statuses(
            self._stages, timeout_s=self._settings.status_timeout_seconds
        )
        answer = health_report.health(*statuses)
        return _json(answer, 503 if answer.status == "unhealthy" else 200)

    async def livez(self) -> Response:
        """Say that this process turns."""
        return Response(orjson.dumps({"status": "alive"}), media_type="application/json")

    async def readyz(self) -> Response:
        """Say whether the generator is ready: 200, else 503."""
        timeout = self._settings.status_timeout_seconds
        health_report.require_ready(await self._stages.generator_status(timeout_s=timeout))
        return Response(orjson.dumps({"status": "ready"}), media_type="application/json")

    async def root(self) -> Response:
        """Say who answers here."""
        timeout = self._settings.status_timeout_seconds
        generator = await health_report.status_or_none(self._stages.generator_status(timeout_s=timeout))
        return _json(health_report.root(generator))

    async def metrics(self, request: Request) -> Response:
        """Show the gateway's metrics to Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": content_type})


def create_app(settings: GatewaySettings) -> FastAPI:
    """Build the application."""
    gateway = Gateway(settings)
    app = FastAPI(
        title="Atelier",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=gateway.lifespan,
    )
    _add_routes(app, gateway)
    add_docs_page(app)
    app.add_exception_handler(AtelierError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(RequestContextMiddleware, paths=frozenset({*GENERATE_PATHS, *PHOTO_PATHS, *_OTHER_PATHS}))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REPORT_HEADER, "X-Request-ID", "Retry-After"],
            max_age=600,
        )
    return app


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    for path in GENERATE_PATHS:
        older = path != GENERATE_PATHS[0]
        app.post(
            path,
            name="generate",
            tags=["pictures"],
            deprecated=older,
            include_in_schema=not older,
            **generate_route(),
        )(gateway.generate)
    for path, handler in zip(PHOTO_PATHS, (gateway.restore, gateway.detect, gateway.compare), strict=True):
        app.post(path, tags=["photographs"], **photo_route(path))(handler)
    failing: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Not ready."}}
    plain: dict[str, Any] = {"response_model": None, "tags": ["state"]}
    app.get(
        "/health",
        responses={200: {"model": HealthAnswer}, 503: {"model": HealthAnswer, "description": "Unhealthy."}},
        **plain,
    )(gateway.health)
    app.get("/livez", **plain)(gateway.livez)
    app.get("/readyz", responses=failing, **plain)(gateway.readyz)
    app.get("/", responses={200: {"model": RootAnswer}}, **plain)(gateway.root)
    app.get("/metrics", include_in_schema=False)(gateway.metrics)


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status_code=status, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AtelierError), "registered for this class"
    return problem_response(record(error, quietly=request.method == "GET"), request_id.get() or "")


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Give the framework's own failures (no such page, wrong method) our body."""
    assert isinstance(error, HTTPException), "registered for this class"
    current = request_id.get() or ""
    if error.status_code == 404:
        return problem_response(record(NotFound()), current)
    if error.status_code == 405:
        wrong_method = NotFound(f"{request.method[:20]} is not a method of this address.")
        return problem_response(record(wrong_method), current, status=405, headers=error.headers)
    return problem_response(
        record(MalformedBody("The request cannot be read.")), current, status=error.status_code
    )
