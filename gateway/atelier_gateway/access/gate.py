"""Lets a request in, or not: by its key, the key's scopes, and what the key has left."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers

from atelier_gateway.access.caller import Caller
from atelier_gateway.access.presented import presented_key
from atelier_gateway.access.required import COUNTED, Requirement, required_of
from atelier_gateway.access.usage import Kind, Share, Usage
from atelier_runtime.api_keys import KeyRing, Scope
from atelier_runtime.errors import Forbidden, RateLimited, Unauthenticated

_NAMES: dict[Kind, str] = {"requests": "requests a minute", "pixels": "pixels a day"}


class Gate:
    """Knows the keys. Without keys everybody is let in, and what they present is not looked at."""

    def __init__(self, keys: KeyRing | None, usage: Usage, *, lets_anonymous_in: bool) -> None:
        self._keys = keys
        self._lets_anonymous_in = lets_anonymous_in
        self._usage = usage

    def identify(self, method: str, path: str, headers: Headers, address: str) -> Caller:
        """Return the caller of a request. Raises `Unauthenticated` where it needs a key and has none."""
        required = required_of(method, path)
        if self._keys is None:
            if self._lets_anonymous_in or required is Requirement.NOTHING:
                return Caller(address)
            raise Unauthenticated("This gateway lets nobody in: ATELIER_GATEWAY_API_KEYS is not set.")
        if required is Requirement.NOTHING:
            return Caller(address)
        presented = presented_key(headers)
        if presented is None:
            if self._lets_anonymous_in:
                return Caller(address)
            if required is Requirement.ADDRESS:
                return Caller(address, is_known=False)
            raise Unauthenticated()
        return Caller(address, self._keys.find(presented))

    @staticmethod
    def check(caller: Caller, method: str, path: str) -> None:
        """Raise `Forbidden` if a request needs a scope that its key does not have."""
        if isinstance(required := required_of(method, path), Scope):
            caller.require(required)

    def is_counted(self, method: str, path: str) -> bool:
        """Return whether a request counts towards its key's requests a minute: it asks for work."""
        is_work = isinstance(required_of(method, path), Scope) or path.rstrip("/") in COUNTED
        return method == "POST" and is_work

    async def take(self, caller: Caller, kind: Kind, amount: int, note: Callable[[Share], None]) -> None:
        """Count what a caller asks for; note what is left if there is a limit.

        Raises `RateLimited`, or `Forbidden` where it is more than there ever is.
        """
        if caller.key is None:
            return
        limit = caller.key.requests_per_minute if kind == "requests" else caller.key.pixels_per_day
        if limit is None:
            return
        if amount > limit:
            message = f"The key '{caller.key.name}' may ask for {limit} {_NAMES[kind]}, and this is {amount}."
            raise Forbidden(message)
        allowed, share = await self._usage.take(caller.key.name, kind, amount, limit)
        note(share)
        if not allowed:
            asked = f", and this is {amount}" if kind == "pixels" else ""
            raise RateLimited(
                f"The key '{caller.key.name}' may ask for {limit} {_NAMES[kind]}{asked}; the next begins in "
                f"{share.reset_s:.0f} s.",
                retry_after_s=share.reset_s,
            )

    async def give_back(self, caller: Caller, kind: Kind, amount: int, period: int) -> None:
        """Take off what was counted for a request that failed."""
        if caller.key is not None:
            await self._usage.give_back(caller.key.name, kind, amount, period)
