"""The page that the gateway serves at `/`: its built files, which `static` holds, and how they are sent.

`make studio` builds them from `gateway/studio`. They are read once, at the start.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from html import escape
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from atelier_gateway.http.negotiation import accepts_gzip
from atelier_gateway.http.ranges import is_unchanged
from atelier_runtime.errors import NotFound
from atelier_runtime.settings import StartupError

FOLDER = Path(__file__).with_name("static")
PATH = "/studio"
"""Below which the page's files are."""

CONTENT_TYPES: Mapping[str, str] = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".webp": "image/webp",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}

_BASE = '<base href="/">'
_SNIFFING = {"X-Content-Type-Options": "nosniff"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Vary": "Accept",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    **_SNIFFING,
}
_ASSET_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
    **_SNIFFING,
}
_COMPRESSIBLE = frozenset({".js", ".css", ".json", ".webmanifest", ".svg"})


class Studio:
    """The page. Its links begin with `root_path`, below which a proxy serves the gateway."""

    def __init__(self, root_path: str, folder: Path = FOLDER) -> None:
        """Read the built files. Raises `StartupError` where they are not all there."""
        file = folder / "index.html"
        try:
            page = file.read_text(encoding="utf-8")
        except OSError as error:
            raise _unusable(f"{file}: {error.strerror}") from None
        if page.count(_BASE) != 1:
            raise _unusable(f"{file}: has not one {_BASE}")
        self._page = page.replace(_BASE, f'<base href="{escape(root_path)}/">').encode()
        self._etag = f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'
        self._assets = dict(_assets_in(folder / PATH.removeprefix("/")))
        self._compressed = {
            name: gzip.compress(data, mtime=0)
            for name, data in self._assets.items()
            if Path(name).suffix in _COMPRESSIBLE
        }

    def page(self, request: Request) -> Response:
        """Respond with the page, or that the client has it."""
        headers = {**_PAGE_HEADERS, "ETag": self._etag}
        if is_unchanged(request.headers.get("if-none-match"), self._etag):
            return Response(status_code=304, headers=headers)
        return Response(self._page, headers=headers, media_type="text/html")

    def asset(self, name: str, accept_encoding: str | None) -> Response:
        """Respond with one of the page's files, whose name changes with what it holds. Raises `NotFound`."""
        data = self._assets.get(name)
        if data is None:
            raise NotFound("The page has no file of this name.")
        headers = dict(_ASSET_HEADERS)
        if name in self._compressed and accepts_gzip(accept_encoding):
            data = self._compressed[name]
            headers["Content-Encoding"] = "gzip"
        return Response(data, headers=headers, media_type=CONTENT_TYPES[Path(name).suffix])


def _assets_in(folder: Path) -> list[tuple[str, bytes]]:
    """Return the files below a folder by their names, which clients can ask for and for nothing else."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if unknown := [path for path in files if path.suffix not in CONTENT_TYPES]:
        raise _unusable(f"{unknown[0]}: is none of {', '.join(CONTENT_TYPES)}")
    try:
        return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]
    except OSError as error:
        raise _unusable(f"{error.filename}: {error.strerror}") from None


def _unusable(problem: str) -> StartupError:
    return StartupError(
        f"{problem}; make studio builds the page, and ATELIER_GATEWAY_STUDIO=false serves none"
    )


def add_routes(router: APIRouter, studio: Studio) -> None:
    """Add the route of the page's files. The page itself shares `/` with what JSON says there."""

    async def get_asset(request: Request) -> Response:
        return studio.asset(request.path_params["name"], request.headers.get("accept-encoding"))

    router.add_api_route(f"{PATH}/{{name:path}}", get_asset, methods=["GET", "HEAD"], include_in_schema=False)
