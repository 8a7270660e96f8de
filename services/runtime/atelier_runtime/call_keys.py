"""API keys of gRPC calls, for a service that is reached by others than the gateway.

A key is in the metadata `authorization` (`Bearer KEY`) or `x-api-key`. Of the limits only the requests a
minute apply here, and each process counts by itself; jobs and pixels are the gateway's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from atelier_runtime.api_keys import ApiKey, KeyRing, Scope
from atelier_runtime.caller import CALLER_HEADER, accept_caller
from atelier_runtime.errors import Forbidden, RateLimited, Unauthenticated

_MINUTE_S = 60


class CallKeys:
    """Lets calls in by their keys."""

    def __init__(
        self,
        keys: KeyRing | None,
        scope: Scope,
        *,
        lets_anonymous_in: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`scope`: what calls that do work need. `clock`: seconds since 1970."""
        self._keys = keys
        self._scope = scope
        self._lets_anonymous_in = lets_anonymous_in
        self._clock = clock
        self._counts: dict[str, tuple[int, int]] = {}

    def admit(self, metadata: Mapping[str, Any], peer: str, *, works: bool) -> str:
        """Return whom a call is for, see `caller`. `works`: it does work, rather than tell what is loaded.

        `peer`: the client's address. Raises `Unauthenticated`, `Forbidden` or `RateLimited`.
        """
        said = accept_caller(metadata.get(CALLER_HEADER))
        presented = _presented(metadata)
        if self._keys is None or (presented is None and self._lets_anonymous_in):
            if not self._lets_anonymous_in:
                raise Unauthenticated("This service lets nobody in: its API_KEYS is not set.")
            return said or peer if self._keys is None else peer
        if presented is None:
            raise Unauthenticated("An API key is required, in the metadata authorization or x-api-key.")
        key = self._keys.find(presented)
        if works:
            if self._scope not in key.scopes:
                raise Forbidden(f"This needs a key with the scope '{self._scope}'.")
            self._count(key)
        return said if said and Scope.ALL_JOBS in key.scopes else f"key {key.name}"

    def _count(self, key: ApiKey) -> None:
        if (limit := key.requests_per_minute) is None:
            return
        now = self._clock()
        minute = int(now // _MINUTE_S)
        of_minute, used = self._counts.get(key.name, (minute, 0))
        used = used if of_minute == minute else 0
        if used >= limit:
            left_s = (minute + 1) * _MINUTE_S - now
            raise RateLimited(
                f"The key '{key.name}' may make {limit} calls a minute; the next begins in {left_s:.0f} s.",
                retry_after_s=left_s,
            )
        self._counts[key.name] = minute, used + 1


def _presented(metadata: Mapping[str, Any]) -> str | None:
    key = metadata.get("x-api-key")
    if isinstance(key, str) and key.strip():
        return key.strip()
    scheme, _, rest = str(metadata.get("authorization", "")).strip().partition(" ")
    return rest.strip() or None if scheme.lower() == "bearer" else None
