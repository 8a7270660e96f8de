"""Each dialect renders the errors of its own routes."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

from atelier_gateway.http.errors import HTTP_STATUS, ErrorRenderer, ErrorRenderingRoute, retry_after
from atelier_runtime.errors import AtelierError, OutOfMemory, QueueFull, ServiceUnavailable


class ShoutingRoute(ErrorRenderingRoute):
    @staticmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        return Response(error.reason.upper(), status or HTTP_STATUS[error.reason], headers)


class WhisperingRoute(ErrorRenderingRoute):
    @staticmethod
    def render_error(
        error: AtelierError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        return Response(f"({error.reason})", status or HTTP_STATUS[error.reason], headers)


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
    errors = ErrorRenderer({"": WhisperingRoute, "/loud": ShoutingRoute})
    app.add_exception_handler(HTTPException, errors.handle_unmatched)
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


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/loud/teapot", 418, "MALFORMED_BODY"),
        ("GET", "/quiet/teapot", 418, "(malformed_body)"),
        ("GET", "/loud/other", 404, "NOT_FOUND"),
        ("GET", "/loud", 404, "NOT_FOUND"),
        ("GET", "/louder", 404, "(not_found)"),
        ("GET", "/", 404, "(not_found)"),
        ("POST", "/loud/full", 405, "NOT_FOUND"),
        ("POST", "/quiet/full", 405, "(not_found)"),
    ],
)
async def test_an_error_outside_the_routes_is_rendered_as_the_dialect_of_its_path_does(
    client: httpx.AsyncClient, method: str, path: str, status: int, text: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.text) == (status, text)
    assert response.headers.get("Allow") == ("GET" if status == 405 else None)


def test_a_dialect_must_render_its_errors() -> None:
    class Silent(ErrorRenderingRoute):
        pass

    with pytest.raises(TypeError, match="render_error"):
        APIRouter(route_class=Silent).get("/")(lambda: None)


def test_retry_after_is_rounded_up_and_only_where_a_retry_may_help() -> None:
    assert retry_after(QueueFull(retry_after_s=6.2)) == {"Retry-After": "7"}
    assert retry_after(QueueFull(retry_after_s=0)) == {"Retry-After": "1"}
    assert int(retry_after(ServiceUnavailable())["Retry-After"]) >= 1
    assert retry_after(OutOfMemory()) == {}
