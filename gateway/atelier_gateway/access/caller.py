"""Whom a request comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope as AsgiScope

from atelier_gateway.jobs.turns import AtOnce
from atelier_runtime.api_keys import ApiKey, Scope
from atelier_runtime.errors import Forbidden

_STATE = "caller"
PIXELS = "pixels"
"""Key in a scope's state: the pixels of images that the request has made or asked for."""

ADDRESSED = "addressed"
"""The owner of jobs whose outputs are handed out by their addresses: nothing else of them is shown.

Those of a key are of `addressed:NAME`, see `Caller.addressed_owner`.
"""


@dataclass(frozen=True)
class Caller:
    """A client: its key, or else its address. `is_known`: its key is good, or it needs none."""

    address: str
    key: ApiKey | None = None
    is_known: bool = True

    @property
    def name(self) -> str:
        """For queues, which are fair between callers, and for the log."""
        return f"address {_place(self.address)}" if self.key is None else f"key {self.key.name}"

    @property
    def owner(self) -> str:
        """The owner of its jobs; those of all clients without a key have the same."""
        return "" if self.key is None else self.key.name

    @property
    def addressed_owner(self) -> str:
        """The owner of its jobs whose outputs are handed out by their addresses."""
        return ADDRESSED if self.key is None else f"{ADDRESSED}:{self.key.name}"

    @property
    def ends(self) -> tuple[str, ...] | None:
        """Whose jobs it may end: those that it sees, and with a key its addressed ones. None: everybody's."""
        owners = self.owners
        return (*owners, self.addressed_owner) if owners and self.key is not None else owners

    @property
    def owners(self) -> tuple[str, ...] | None:
        """Whose jobs it sees; None: everybody's."""
        if not self.is_known:
            return ()
        if self.key is not None and Scope.ALL_JOBS in self.key.scopes:
            return None
        return (self.owner,)

    def require(self, scope: Scope) -> None:
        """Raise `Forbidden` unless the key has a scope. A client that needs no key may do everything."""
        if self.key is not None and scope not in self.key.scopes:
            has = ", ".join(sorted(self.key.scopes)) or "none"
            raise Forbidden(f"This needs a key with the scope '{scope}'; '{self.key.name}' has: {has}.")


def address_of(scope: AsgiScope) -> str:
    """Return a client's IP address; empty where what a proxy says of it is none."""
    given = str(scope["client"][0]) if scope.get("client") else ""
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return ""


def _place(address: str) -> str:
    """Return what clients of one place have in common: of IPv6, a network: it has countless addresses."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))


def set_caller(scope: AsgiScope, caller: Caller) -> None:
    """Leave the caller in a request's scope."""
    scope.setdefault("state", {})[_STATE] = caller


def caller_in(scope: AsgiScope) -> Caller | None:
    """Return the caller of a request, None before it is known."""
    caller = scope.get("state", {}).get(_STATE)
    assert caller is None or isinstance(caller, Caller)
    return caller


def caller_of(request: Request) -> Caller:
    """Return the caller of a request that has got as far as a route."""
    caller = caller_in(request.scope)
    assert caller is not None, "AccessMiddleware has let it in"
    return caller


def is_addressed(owner: str) -> bool:
    """Return whether an owner is one of jobs whose outputs are handed out by their addresses."""
    return owner == ADDRESSED or owner.startswith(f"{ADDRESSED}:")


def caller_of_owner(owner: str) -> str:
    """Return the name of the caller whose job is carried out, see `Caller.name`."""
    key = owner.removeprefix(ADDRESSED).removeprefix(":")
    return f"key {key}" if key else "jobs"


def at_once_of(keys: Iterable[ApiKey]) -> list[AtOnce]:
    """Return how many jobs of a key may be in progress at once, of those that have a limit."""
    return [
        AtOnce((key.name, f"{ADDRESSED}:{key.name}"), key.jobs_at_once)
        for key in keys
        if key.jobs_at_once is not None
    ]
