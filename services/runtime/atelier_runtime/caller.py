"""Whom the current work is for: queues are fair between callers, and limits are of callers.

The gateway tells callers apart by their API keys, or else by their addresses, and says so to the services.
What it sends is no secret, and no proof: the services believe whoever may call them.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

CALLER_HEADER = "x-atelier-caller"
"""The gRPC metadata key."""

caller: ContextVar[str] = ContextVar("caller", default="")
"""The caller that the current task or thread works for, such as `key photo-team`; "" if nobody has said."""

_VALID = re.compile(r"[ -~]{1,128}")


def accept_caller(given: str | None) -> str:
    """Return what a client says, if it is 1 to 128 printable ASCII characters, else ""."""
    return given if given and _VALID.fullmatch(given) else ""
