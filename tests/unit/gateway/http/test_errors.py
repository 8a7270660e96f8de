"""Each dialect renders the errors of its own routes."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

from atelier_gateway.http.errors import HTTP_STATUS, ErrorRenderingRoute, retry_after
from atelier_runtime.errors import AtelierError, OutOfMemory, QueueFull, ServiceUnavailable


class ShoutingRoute(ErrorRenderingRoute):
    @staticmethod
    def render_error(error: AtelierError) -> Response:
        return Response(error.reason.upper(), status_code=HTTP_STATUS[error.reason])


class WhisperingRoute(ErrorRenderingRoute):
    @staticmethod
    def render_error(error: AtelierError) -> Response:
        return Response(f"({error.reason})", status_code=HTTP_STATUS[error.reason])


def router(route_class: type[ErrorRenderingRoute], prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix, route_class=route_class)

    @router.get("/full")
    async def full() -> Response:
        raise QueueFull()

    @router.get("/fault")
    async def fault() -> Response:
        raise RuntimeError("a secret")

    @router.get("/teapot")
    async def teapot() -> Response:
        raise HTTPException(418)

    return router


@pytest.fixture
async def client() -> httpx.AsyncClient:
    app = FastAPI(openapi_url=None)
    app.include_router(router(ShoutingRoute, "/loud"))
    app.include_router(router(WhisperingRoute, "/quiet"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/loud/full", 429, "QUEUE_FULL"),
        ("/quiet/full", 429, "(queue_full)"),
        ("/loud/fault", 500, "INTERNAL"),
        ("/quiet/fault", 500, "(internal)"),
    ],
)
async def test_a_route_renders_its_errors(
    client: httpx.AsyncClient, path: str, status: int, text: str
) -> None:
    response = await client.get(path)
    assert (response.status_code, response.text) == (status, text)


async def test_the_frameworks_own_errors_are_left_to_the_application(client: httpx.AsyncClient) -> None:
    assert (await client.get("/loud/teapot")).status_code == 418
    assert (await client.post("/loud/full")).status_code == 405


def test_retry_after_is_rounded_up_and_only_where_a_retry_may_help() -> None:
    assert retry_after(QueueFull(retry_after_s=6.2)) == {"Retry-After": "7"}
    assert retry_after(QueueFull(retry_after_s=0)) == {"Retry-After": "1"}
    assert int(retry_after(ServiceUnavailable())["Retry-After"]) >= 1
    assert retry_after(OutOfMemory()) == {}
