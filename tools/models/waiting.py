"""How long a server asks to wait before the next request."""

from __future__ import annotations

import email.utils
import math
import re
from datetime import UTC, datetime

import httpx

LONGEST_S = 300.0
"""The window in which Hugging Face counts requests: after so long, every one of them is forgotten."""


def requested_pause(headers: httpx.Headers) -> float | None:
    """Return the seconds to wait, at most `LONGEST_S`; None if the server does not say.

    Reads Retry-After (seconds or a date, RFC 9110), `RateLimit: ...;r=0;t=SECONDS` and RateLimit-Reset (both
    of the IETF's drafts), and GitHub's X-RateLimit-Reset, a point in time.
    """
    found = [_retry_after(headers), _rate_limit(headers), _seconds(headers.get("RateLimit-Reset", ""))]
    if headers.get("X-RateLimit-Remaining") == "0":
        reset = _seconds(headers.get("X-RateLimit-Reset", ""))
        found.append(None if reset is None else reset - _now(headers).timestamp())
    pauses = [max(0.0, min(pause, LONGEST_S)) for pause in found if pause is not None]
    return max(pauses, default=None)


def _retry_after(headers: httpx.Headers) -> float | None:
    value = headers.get("Retry-After", "")
    if (seconds := _seconds(value)) is not None:
        return seconds
    date = _date(value)
    return None if date is None else (date - _now(headers)).total_seconds()


def _rate_limit(headers: httpx.Headers) -> float | None:
    """Return the time until a limit is lifted: of those that are used up, if the server says which are."""
    limits = [
        {name: float(value) for name, value in re.findall(r";\s*([rt])\s*=\s*(\d{1,15})\b", item)}
        for item in headers.get("RateLimit", "").split(",")
    ]
    used_up = [limit for limit in limits if limit.get("r") == 0] or limits
    return max((limit["t"] for limit in used_up if "t" in limit), default=None)


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _now(headers: httpx.Headers) -> datetime:
    """Return the time by the server's clock if it says so: ours may be wrong."""
    return _date(headers.get("Date", "")) or datetime.now(UTC)


def _date(value: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
