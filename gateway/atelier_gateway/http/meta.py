"""What the process serves about itself: /metrics, /openapi.json, and /docs without scripts from a CDN."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

_OPENAPI = "/openapi.json"
_ASSETS = "/docs/assets"
_GET = ["GET", "HEAD"]


_SCHEMES = {
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
}
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def _policy_of(page: bytes) -> str:
    """Return a Content-Security-Policy by which only the scripts of a page itself run, and ours."""
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _SCRIPT.findall(page))
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def add_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    """Serve the metrics to Prometheus."""

    @app.api_route("/metrics", methods=_GET, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})


def add_docs(app: FastAPI, root_path: str, *, has_keys: bool) -> None:
    """Serve the OpenAPI document and Swagger UI, whose links begin with `root_path`.

    `has_keys`: clients have to present one, and Swagger UI asks for it.
    """
    assets = root_path + _ASSETS

    @app.api_route(_OPENAPI, methods=_GET, include_in_schema=False)
    async def openapi() -> Response:
        document = app.openapi()
        if has_keys:
            components = {**document["components"], "securitySchemes": _SCHEMES}
            document = {**document, "components": components, "security": [{name: []} for name in _SCHEMES]}
        return JSONResponse(document)

    @app.api_route("/docs", methods=_GET, include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=root_path + _OPENAPI,
            title=f"{app.title} - API",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
        )
        page.headers["Content-Security-Policy"] = _policy_of(bytes(page.body))
        return page

    app.mount(_ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))
