"""The metric label of a request is the template of the route that matched it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from atelier_gateway.http.errors import HTTP_STATUS
from atelier_gateway.http.middleware import (
    RequestContextMiddleware,
    RootPathMiddleware,
    SlashesMiddleware,
)
from atelier_runtime import metrics
from atelier_runtime.errors import AtelierError


def app() -> FastAPI:
    def render(path: str, error: AtelierError) -> Response:
        return Response(error.reason, status_code=HTTP_STATUS[error.reason])

    app = FastAPI(openapi_url=None)
    router = APIRouter(prefix="/v1")

    @router.get("/jobs/{job_id}")
    async def job(job_id: str) -> Response:
        return Response(job_id)

    @router.get("/fault/{kind}")
    async def fault(kind: str) -> Response:
        raise RuntimeError(kind)

    @router.get("/cut/{kind}")
    async def cut(kind: str) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"the beginning"
            if kind == "drain":
                await asyncio.Event().wait()
            raise RuntimeError(kind)

        return StreamingResponse(body())

    app.include_router(router)
    app.add_middleware(RequestContextMiddleware, render_error=render)
    return app


@pytest.fixture
async def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test")


def count(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    [metric] = metrics.REQUEST_DURATION.collect()
    counts = [s.value for s in metric.samples if s.name.endswith("_count") and s.labels == labels]
    return sum(counts)


async def test_one_label_for_every_job(client: httpx.AsyncClient) -> None:
    before = count("GET /v1/jobs/{job_id}", "200")
    for job in ("a", "b", "c"):
        assert (await client.get(f"/v1/jobs/{job}")).text == job
    assert count("GET /v1/jobs/{job_id}", "200") == before + 3


async def test_a_wrong_method_counts_for_the_route(client: httpx.AsyncClient) -> None:
    before = count("POST /v1/jobs/{job_id}", "405")
    await client.post("/v1/jobs/a")
    assert count("POST /v1/jobs/{job_id}", "405") == before + 1


async def test_what_no_route_matched_is_other(client: httpx.AsyncClient) -> None:
    before = count("GET other", "404")
    for path in ("/v1/jobs", "/v2/jobs/a", "/jobs/a"):
        await client.get(path)
    assert count("GET other", "404") == before + 3


async def test_an_unforeseen_error_gets_a_response_and_a_request_id(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/fault/a", headers={"X-Request-ID": "abc"})
    assert (response.status_code, response.text) == (500, "internal")
    assert response.headers["X-Request-ID"] == "abc"
    assert count("GET /v1/fault/{kind}", "500") >= 1


@pytest.mark.parametrize(("kind", "code"), [("drain", "503"), ("fault", "500")])
async def test_a_response_that_is_cut_off_counts_as_a_failure(kind: str, code: str) -> None:
    before, good = count("GET /v1/cut/{kind}", code), count("GET /v1/cut/{kind}", "200")
    path = f"/v1/cut/{kind}"
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    serving = asyncio.ensure_future(app()(scope, asyncio.Queue[Message]().get, send))
    while not any(message.get("body") for message in sent):
        await asyncio.sleep(0)
    if kind == "drain":
        serving.cancel()  # as uvicorn does at the end of the time for draining
    with contextlib.suppress(RuntimeError):
        await serving
    assert [message.get("body") for message in sent if message.get("body")] == [b"the beginning"]
    assert all(message.get("more_body", True) for message in sent), "it has no end"
    assert count("GET /v1/cut/{kind}", code) == before + 1
    assert count("GET /v1/cut/{kind}", "200") == good


@pytest.mark.parametrize("path", ["/v1/jobs/7", "//v1/jobs/7", "///v1//jobs///7", "/images//v1/jobs/7"])
async def test_several_slashes_are_one(path: str) -> None:
    below = RootPathMiddleware(app(), root_path="/images")
    transport = httpx.ASGITransport(SlashesMiddleware(below))
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get(f"http://test{path}")
    assert (response.status_code, response.text) == (200, "7")
