"""API keys: a TOML file that says who may ask for what, and how much of it.

    [photo-team]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["restore"]
    expires = 2027-06-30
    requests_per_minute = 60
    jobs_at_once = 4
    pixels_per_day = 500_000_000

The file has only the keys' SHA-256. That is enough: a key is 256 random bits, so there is nothing to guess,
and a slow hash, as for passwords, would only slow down each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atelier_runtime.errors import Unauthenticated
from atelier_runtime.settings import StartupError

logger = logging.getLogger(__name__)

PREFIX = "atelier_"
"""Keys begin with it, so that people and scanners of secrets know one when they see it."""

MAX_KEYS = 1000
"""Names of keys are labels of metrics."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_RESERVED = frozenset({"addressed", "anonymous", "none"})
_LOOK_S = 1.0


class Scope(StrEnum):
    """What a key may do. Every key may read what is loaded, and see its own jobs."""

    GENERATE = "generate"
    """Draw pictures; restoring the faces in them is part of it."""
    RESTORE = "restore"
    """Find, compare and restore faces in photos, and enlarge photos."""
    ALL_JOBS = "all_jobs"
    """See and end the jobs of other keys; and, towards a service, say whom a call is for."""
    METRICS = "metrics"
    """Read /metrics where it is on the gateway's own port."""


@dataclass(frozen=True)
class ApiKey:
    """One key. The limits are None where there is none."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    expires: datetime | None = None
    requests_per_minute: int | None = None
    jobs_at_once: int | None = None
    pixels_per_day: int | None = None

    @property
    def has_expired(self) -> bool:
        """Its time is over."""
        return self.expires is not None and datetime.now(UTC) >= self.expires


def _time(given: object) -> object:
    """Take TOML's own dates and times only: a text or a number might be read as another time."""
    if given is not None and not isinstance(given, date):
        raise ValueError("is neither a date nor a time: write it as 2027-06-30, without quotes")
    return given


class _Entry(BaseModel):
    """What the file says of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope]
    expires: Annotated[datetime | date | None, BeforeValidator(_time)] = None
    requests_per_minute: Annotated[int | None, Field(ge=1, le=1_000_000, strict=True)] = None
    jobs_at_once: Annotated[int | None, Field(ge=1, le=10_000, strict=True)] = None
    pixels_per_day: Annotated[int | None, Field(ge=1, le=10**15, strict=True)] = None

    def to_key(self, name: str) -> ApiKey:
        expires = self.expires
        if expires is not None and not isinstance(expires, datetime):  # the whole day is still good
            expires = datetime.combine(expires, time_of_day.max, UTC)
        elif isinstance(expires, datetime) and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        return ApiKey(
            name,
            bytes.fromhex(self.sha256),
            self.scopes,
            expires,
            self.requests_per_minute,
            self.jobs_at_once,
            self.pixels_per_day,
        )


class InvalidKeys(Exception):
    """A file of keys cannot be used; the message has its path, and names the key and the field."""


def new_key() -> str:
    """Return a new key: the prefix and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def is_valid_name(name: str) -> bool:
    """Return whether a key may have this name."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


def read_keys(path: Path) -> dict[str, ApiKey]:
    """Return the keys of a file by their names. Raises `InvalidKeys`."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidKeys(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidKeys(f"{path}: {error}") from None
    if len(given) > MAX_KEYS:
        raise InvalidKeys(f"{path}: has {len(given)} keys, the limit is {MAX_KEYS}")
    keys = {name: _key_of(path, name, entry) for name, entry in given.items()}
    of_digest: dict[bytes, str] = {}
    for key in keys.values():
        if (other := of_digest.setdefault(key.digest, key.name)) != key.name:
            raise InvalidKeys(f"{path}: {other} and {key.name} have the same sha256")
    return keys


def _key_of(path: Path, name: str, entry: Any) -> ApiKey:
    if not is_valid_name(name):
        raise InvalidKeys(
            f"{path}: '{name[:60]}' is not the name of a key: 1 to 48 lower-case letters, digits, '_' and "
            f"'-', and not {', '.join(sorted(_RESERVED))}"
        )
    if not isinstance(entry, dict):
        raise InvalidKeys(f"{path}: {name} is not a table: write [{name}] and the fields below it")
    try:
        return _Entry.model_validate(entry).to_key(name)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise InvalidKeys(f"{path}: [{name}] {field}: {problem['msg']}") from None


class KeyRing:
    """The keys of a file, which is read again when it changes.

    A changed file that cannot be used is reported in the log, once, and the keys stay as they were: a slip in
    an editor locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises `InvalidKeys`."""
        self._path = path
        self._seen = self._state()
        self._keys = read_keys(path)
        self._look_at = time.monotonic() + _LOOK_S

    def find(self, presented: str) -> ApiKey:
        """Return the key that somebody presents. Takes as long for any. Raises `Unauthenticated`."""
        digest = digest_of(presented)
        found: ApiKey | None = None
        for key in self.keys.values():
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated("The API key is not known.")
        if found.has_expired:
            raise Unauthenticated(f"The API key '{found.name}' has expired.")
        return found

    @property
    def keys(self) -> Mapping[str, ApiKey]:
        """The keys by their names, as the file has them now."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look()
        return self._keys

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = read_keys(self._path)
        except InvalidKeys as error:
            logger.error("API keys stay as they were", extra={"error": str(error)})
        else:
            logger.info("API keys read", extra={"keys": len(self._keys)})

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def key_ring(path: str, variable: str) -> KeyRing | None:
    """Return the keys of the file that a setting names, None if it is empty. Raises `StartupError`."""
    if not path:
        return None
    try:
        return KeyRing(Path(path))
    except InvalidKeys as error:
        raise StartupError(f"{variable}={error}") from None


def entry_of(key: ApiKey) -> str:
    """Return what a file says of a key, as TOML."""
    return "\n".join([f"[{key.name}]", *_lines(key)]) + "\n"


def _lines(key: ApiKey) -> Iterator[str]:
    yield f'sha256 = "{key.digest.hex()}"'
    scopes = ", ".join(f'"{scope}"' for scope in Scope if scope in key.scopes)
    yield f"scopes = [{scopes}]"
    if key.expires is not None:
        yield f"expires = {key.expires.isoformat()}"
    for name in ("requests_per_minute", "jobs_at_once", "pixels_per_day"):
        if (limit := getattr(key, name)) is not None:
            yield f"{name} = {limit}"
