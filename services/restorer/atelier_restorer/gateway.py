"""HTTP with the gateway: its errors are the services' own again, and what may pass is waited for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from atelier_runtime.errors import (
    RETRYABLE,
    AtelierError,
    ErrorReason,
    FieldViolation,
    InternalError,
    ServiceUnavailable,
    make_error,
)
from atelier_runtime.tls import Pem, client_context

T = TypeVar("T")

_CONNECT_S, _SILENCE_S = 10.0, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0  # doubled each time, where nobody says how long
_AWAY = (429, 502, 503, 504)
"""Of a proxy, whose errors are not the gateway's."""


class Deadline:
    """A time limit that can begin anew."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Let all the time be left again."""
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Return the seconds that are left; below 0: none."""
        return self._end - time.monotonic()


class Gateway:
    """A gateway at an address. Raises `AtelierError` for everything that goes wrong."""

    def __init__(self, http: httpx.AsyncClient, address: str) -> None:
        self._http = http
        self.address = address

    async def check(self) -> None:
        """Raise `ServiceUnavailable` unless a gateway that takes jobs answers here.

        One that says that it is busy or starting does.
        """
        try:
            listed = await self.send("GET", "jobs", params={"limit": 1})
            if listed.get("object") == "list":
                return
            answer = "something else"
        except ServiceUnavailable:
            raise
        except AtelierError as error:
            if error.reason in RETRYABLE:
                return
            answer = error.message
        raise ServiceUnavailable(f"The server at {self.address} is no gateway that takes jobs: {answer}")

    async def send(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Make a request below /v1/, once; return the JSON object of the response."""
        response = await self._send(method, path, **options)
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise InternalError(f"{self.address}/v1/{path} did not answer with a JSON object.")
        return content

    async def read(self, path: str) -> bytes:
        """Return the bytes of a file below /v1/."""
        return (await self._send("GET", path)).content

    async def with_retries(self, call: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Make a call; while the gateway is busy or away, do so again when it says, until the deadline."""
        attempt = 0
        while True:
            try:
                return await call()
            except AtelierError as error:
                pause_s = _pause_s(error, attempt)
                if pause_s is None or pause_s >= deadline.left():
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **options)
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise ServiceUnavailable(f"The gateway at {self.address} cannot be reached: {why}") from None
        if response.is_success:
            return response
        raise _error_of(response, f"{self.address}/v1/{path}")


@asynccontextmanager
async def connect(
    url: str, *, timeout_s: float, api_key: str | None = None, tls: Pem | None = None
) -> AsyncIterator[Gateway]:
    """Open a client of the gateway at a URL, through the environment's proxies, and check that it is one.

    `timeout_s`: the longest silence, up to a minute. `api_key`: what is presented to it. `tls`: what to trust
    and to present; None: the usual CAs. Redirects are errors: what is sent is private.
    """
    address = str(httpx.URL(url).copy_with(userinfo=b"")).rstrip("/")
    silence_s = min(_SILENCE_S, timeout_s)
    try:
        http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/v1/",
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=httpx.Timeout(silence_s, connect=min(_CONNECT_S, silence_s), pool=None),
            verify=True if tls is None else client_context(tls),
        )
    except ValueError:  # its message quotes the password
        raise ServiceUnavailable("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not the URL of a proxy.") from None
    async with http:
        gateway = Gateway(http, address)
        await gateway.check()
        yield gateway


def error_of(problem: Any, *, retry_after_s: float | None = None) -> AtelierError | None:
    """Rebuild an error from the JSON `{code, message, fields}`; None: it is no such thing."""
    if not isinstance(problem, dict) or not isinstance(message := problem.get("message"), str):
        return None
    fields = [
        FieldViolation(str(each.get("field")), str(each.get("message")))
        for each in problem.get("fields") or []
        if isinstance(each, dict)
    ]
    try:
        reason = ErrorReason(str(problem.get("code")))
    except ValueError:  # of a later version
        return InternalError(message)
    return make_error(reason, message, fields=fields, retry_after_s=retry_after_s)


def _error_of(response: httpx.Response, url: str) -> AtelierError:
    """Return the error of a response; `url` is its address, without a password."""
    after = response.headers.get("Retry-After", "")
    retry_after_s = float(after) if after.isascii() and after.isdecimal() else None
    try:
        content = response.json()
    except ValueError:
        content = None
    problem = content.get("error") if isinstance(content, dict) else None
    if (ours := error_of(problem, retry_after_s=retry_after_s)) is not None:
        return ours
    text = f"{url} answered {response.status_code} {response.reason_phrase}"
    if response.has_redirect_location:
        text += f", to {response.headers['Location']}"
    if response.status_code in _AWAY:
        return ServiceUnavailable(f"{text}.", retry_after_s=retry_after_s)
    return InternalError(f"{text}.")


def _pause_s(error: AtelierError, attempt: int) -> float | None:
    """Return when to try again, in seconds; None: not at all."""
    if error.reason not in RETRYABLE:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5))
