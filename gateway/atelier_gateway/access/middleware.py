"""Every request passes here before its route: browsers' rules, the key, its limits."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier_gateway.access.browsers import BrowserRules
from atelier_gateway.access.caller import PIXELS, Caller, address_of, set_caller
from atelier_gateway.access.gate import Gate
from atelier_gateway.access.usage import Kind, Share
from atelier_gateway.core.spending import spending
from atelier_gateway.http.errors import log_and_count, path_below_root
from atelier_runtime.caller import caller as current_caller
from atelier_runtime.errors import AtelierError, NotFound

_FAILED = 400
_GONE = 499

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""Of responses that do not say otherwise: nothing in them is a page, whatever a browser makes of it."""


class AccessMiddleware:
    """Lets requests in, and says in the response what is left of the key's limits."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate,
        rules: BrowserRules,
        render_error: Callable[[str, AtelierError], Response],
        route_of: Callable[[Scope], BaseRoute | None],
    ) -> None:
        """`render_error` takes a path and an error, and renders it as the path's dialect does."""
        self._route_of = route_of
        self._app = app
        self._gate = gate
        self._rules = rules
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        try:
            caller = await self._let_in(scope, request)
        except AtelierError as error:
            log_and_count(error)
            if (route := self._route_of(scope)) is not None:  # for the log: the router will not see it
                scope["route"] = route
            await self._render_error(path_below_root(scope), error)(scope, receive, request.send)
            return
        token = spending.set(lambda pixels: self._spend(scope, caller, request, pixels))
        try:
            await self._app(scope, receive, request.send)
        finally:
            spending.reset(token)
            share = request.share_of("pixels")
            if share and request.pixels and request.status >= _FAILED and request.status != _GONE:
                await self._gate.give_back(caller, "pixels", request.pixels, share.period)

    async def _let_in(self, scope: Scope, request: _Request) -> Caller:
        method, path, headers = scope["method"], path_below_root(scope), Headers(scope=scope)
        self._rules.check(method, headers)
        if not path.isprintable():  # routes would take it for the path without its last line feed
            raise NotFound()
        caller = self._gate.identify(method, path, headers, address_of(scope))
        set_caller(scope, caller)
        current_caller.set(caller.name)
        self._gate.check(caller, method, path)
        if self._gate.is_counted(method, path):
            await self._gate.take(caller, "requests", 1, request.note)
        return caller

    async def _spend(self, scope: Scope, caller: Caller, request: _Request, pixels: int) -> None:
        await self._gate.take(caller, "pixels", pixels, request.note)
        request.pixels += pixels
        scope["state"][PIXELS] = request.pixels


class _Request:
    """What is known of a request and its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._shares: dict[str, Share] = {}
        self.status = 0
        self.pixels = 0

    def note(self, share: Share) -> None:
        """Say in the response what the key has left."""
        self._shares[share.kind] = share

    def share_of(self, kind: Kind) -> Share | None:
        """Return what the key has left of something."""
        return self._shares.get(kind)

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the headers that all responses have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
            if shares := self._shares.values():
                headers["RateLimit-Policy"] = ", ".join(share.policy_header for share in shares)
                headers["RateLimit"] = ", ".join(share.header for share in shares)
        await self._send(message)
