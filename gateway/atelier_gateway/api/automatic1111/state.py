"""Options, progress, interruptions: what a caller reads and changes of its own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.api.automatic1111 import openapi
from atelier_gateway.api.automatic1111.callers import caller_of
from atelier_gateway.api.automatic1111.kinds import Flag
from atelier_gateway.api.automatic1111.lists import json_response
from atelier_gateway.api.automatic1111.loaded import Loaded, Loads
from atelier_gateway.api.automatic1111.options import (
    MODEL,
    MODEL_HASH,
    MOST_BYTES,
    OPTIONS,
    Options,
    ignored_options,
)
from atelier_gateway.api.automatic1111.request import require_shallow
from atelier_gateway.api.automatic1111.running import Registry
from atelier_gateway.http.body import read_json
from atelier_gateway.http.ignored import ignored_header
from atelier_runtime.errors import InvalidRequest

_FLAG = Flag()


class StateRoutes:
    """The handlers."""

    def __init__(self, loads: Loads, options: Options, registry: Registry) -> None:
        self._loads = loads
        self._options = options
        self._registry = registry

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.get("/options", name="sdapi_options", **openapi.OPTIONS_GET)(self.get_options)
        router.post("/options", name="sdapi_set_options", **openapi.OPTIONS_POST)(self.set_options)
        router.get("/progress", name="sdapi_progress", **openapi.PROGRESS)(self.progress)
        for name in ("interrupt", "skip"):
            router.post(f"/{name}", name=f"sdapi_{name}", **openapi.INTERRUPT)(self.interrupt)

    async def get_options(self, request: Request) -> Response:
        """Return the caller's options, and the defaults of those that it has not set."""
        loaded = Loaded(await self._loads.generator(), None)
        values: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}
        values |= self._options.of(caller_of(request))
        values |= {MODEL: loaded.title or None, MODEL_HASH: loaded.digest or None}
        return json_response(values)

    async def set_options(self, request: Request) -> Response:
        """Set options of the caller; answers null."""
        values = await read_json(request, max_bytes=2 * MOST_BYTES, max_fields_bytes=2 * MOST_BYTES)
        require_shallow(values)
        model = values.get(MODEL)
        if model:
            loaded = Loaded(await self._loads.generator(), None)
            if not isinstance(model, str) or not loaded.is_model(model):
                loads = f"{loaded.title} is" if loaded.title else "there is no generator"
                raise InvalidRequest.of(MODEL, f"is not loaded; {loads}, and requests cannot change it")
        self._options.set(caller_of(request), values)
        response = json_response(None)
        response.headers.update(ignored_header(ignored_options(values)))
        return response

    async def progress(self, request: Request) -> Response:
        """Return how far the caller's request is."""
        given = request.query_params.get("skip_current_image", "false")
        try:
            skip = _FLAG.read(given)
        except ValueError as error:
            raise InvalidRequest.of("skip_current_image", str(error)) from None
        return json_response(await self._registry.report(caller_of(request), with_image=not skip))

    async def interrupt(self, request: Request) -> Response:
        """End the caller's requests."""
        self._registry.interrupt(caller_of(request))
        return json_response({})
