"""What each path requires of a caller. A path that is not named here requires a key, and no scope."""

from __future__ import annotations

import re
from enum import Enum, auto

from atelier_runtime.api_keys import Scope


class Requirement(Enum):
    """Where no scope is required."""

    NOTHING = auto()
    """Everybody may: it tells nothing and starts nothing, or it is the page where a key is typed in."""
    ADDRESS = auto()
    """A file's address, which nobody can guess, is enough; with a key, the file is the key's own."""
    KEY = auto()
    """Any key."""


_FOR_EVERYBODY = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json", "/internal/ping"})
_FILES_FOR_EVERYBODY = ("/studio/", "/docs/assets/")
_OUTPUT = re.compile(r"/v1/jobs/[^/]+/outputs/[^/]+")

_SCOPES = {
    "/metrics": Scope.METRICS,
    **dict.fromkeys(("/generate", "/txt2img", "/api/generate"), Scope.GENERATE),
    **dict.fromkeys(("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"), Scope.GENERATE),
    **dict.fromkeys(("/sdapi/v1/txt2img", "/sdapi/v1/img2img"), Scope.GENERATE),
    **dict.fromkeys(("/restore", "/detect", "/compare"), Scope.RESTORE),
    **dict.fromkeys(
        ("/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"),
        Scope.RESTORE,
    ),
}
"""`POST /v1/jobs` is not among them: what it requires depends on the type of the job."""


COUNTED = frozenset({"/v1/jobs", "/v1/inspect", "/sdapi/v1/png-info"})
"""Work that needs no scope, or depends on what is in the body."""


def required_of(method: str, path: str) -> Requirement | Scope:
    """Return what a request requires. `path`: below the root path, with single slashes."""
    path = path.rstrip("/") or "/"
    is_reading = method in ("GET", "HEAD", "OPTIONS")
    if is_reading and (path in _FOR_EVERYBODY or path.startswith(_FILES_FOR_EVERYBODY)):
        return Requirement.NOTHING
    if is_reading and _OUTPUT.fullmatch(path):
        return Requirement.ADDRESS
    return _SCOPES.get(path, Requirement.KEY)
