"""The command `atelier-gateway keys`: make an API key, list those of a file."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from atelier_runtime.api_keys import (
    MAX_KEYS,
    ApiKey,
    InvalidKeys,
    Scope,
    digest_of,
    entry_of,
    is_valid_name,
    new_key,
    read_keys,
)
from atelier_runtime.settings import StartupError

_FILE_MODE = 0o640


def add_to(commands: Any) -> None:
    """Add the command to `argparse`'s subparsers."""
    keys = commands.add_parser("keys", help="make and list API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    new = actions.add_parser(
        "new",
        help="make a key",
        description="Make a key, print it, and add it to the file, which has only its SHA-256: the key "
        "itself is shown this once.",
    )
    new.add_argument("name", metavar="NAME", type=_name, help="of the key, in logs and metrics")
    new.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it may do; repeat it for several (default: generate and restore)",
    )
    new.add_argument("--expires", metavar="DATE", type=_end_of, help="last day, such as 2027-06-30 (UTC)")
    new.add_argument("--requests-per-minute", metavar="N", type=_count(1_000_000))
    new.add_argument("--jobs-at-once", metavar="N", type=_count(10_000), help="further ones wait")
    new.add_argument("--pixels-per-day", metavar="N", type=_count(10**15), help="of images made (UTC days)")
    listing = actions.add_parser("list", help="list the keys of the file")
    for action in (new, listing):
        action.add_argument(
            "--file", metavar="FILE", help="default: what ATELIER_GATEWAY_API_KEYS names; else keys.toml"
        )


def run(arguments: argparse.Namespace, from_settings: str) -> int:
    """Run the command and return the exit code. Raises `StartupError`."""
    path = Path(arguments.file or from_settings or "keys.toml")
    try:
        if arguments.action == "list":
            for key in read_keys(path).values():
                print(_line(key))
            return 0
        secret = _new(arguments, path)
    except InvalidKeys as error:
        raise StartupError(str(error)) from None
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from None
    print(f"{path}: {arguments.name} added. This is the key; it is not shown again:", file=sys.stderr)
    print(secret)
    return 0


def _new(arguments: argparse.Namespace, path: Path) -> str:
    secret = new_key()
    key = ApiKey(
        arguments.name,
        digest_of(secret),
        frozenset(Scope(each) for each in arguments.scope or (Scope.GENERATE, Scope.RESTORE)),
        arguments.expires,
        arguments.requests_per_minute,
        arguments.jobs_at_once,
        arguments.pixels_per_day,
    )
    _added(path, key)
    return secret


def _added(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which stays whose it is. Raises `InvalidKeys`, `StartupError` or `OSError`."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # or another command could count the same keys
        known = read_keys(path)
        if key.name in known:
            raise StartupError(f"{path}: there is a key of the name {key.name}; remove it first")
        if len(known) >= MAX_KEYS:
            raise StartupError(f"{path}: has {len(known)} keys, the limit")
        end = file.seek(0, os.SEEK_END)
        file.write(f"\n{entry_of(key)}" if end else entry_of(key))


def _line(key: ApiKey) -> str:
    limits = {
        "requests a minute": key.requests_per_minute,
        "jobs at once": key.jobs_at_once,
        "pixels a day": key.pixels_per_day,
    }
    parts = [", ".join(sorted(key.scopes)) or "no scopes"]
    parts += [f"{limit} {what}" for what, limit in limits.items() if limit is not None]
    if key.expires is not None:
        parts.append(f"{'expired' if key.has_expired else 'until'} {key.expires:%Y-%m-%d %H:%M} UTC")
    return f"{key.name}: {'; '.join(parts)}"


def _name(given: str) -> str:
    if not is_valid_name(given):
        raise argparse.ArgumentTypeError(
            f"'{given}' is not a name: 1 to 48 lower-case letters, digits, '_' and '-'"
        )
    return given


def _end_of(given: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(given), time(23, 59, 59), UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{given}' is not a date such as 2027-06-30") from None


def _count(most: int) -> Callable[[str], int]:
    def count(given: str) -> int:
        number = int(given.replace("_", ""))
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{number} is not from 1 to {most}")
        return number

    return count
