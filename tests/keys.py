"""Files of API keys for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atelier_runtime.api_keys import ApiKey, Scope, digest_of, entry_of

BOTH = frozenset({Scope.GENERATE, Scope.RESTORE})


def secret_of(name: str) -> str:
    """Return the key of this name."""
    return f"atelier_{name}-0123456789abcdef"


def key(name: str, scopes: frozenset[Scope] = BOTH, **limits: Any) -> ApiKey:
    """Return a key for a file."""
    return ApiKey(name, digest_of(secret_of(name)), scopes, **limits)


def write_keys(path: Path, *keys: ApiKey) -> None:
    """Write a file of keys, as an editor or Kubernetes does: another file takes its place."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(entry_of(each) for each in keys), encoding="utf-8")
    new.replace(path)


def bearer(name: str) -> dict[str, str]:
    """Return the header of the key of this name."""
    return {"Authorization": f"Bearer {secret_of(name)}"}
