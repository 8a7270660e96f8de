"""The flags with which a command calls a service over TLS."""

from __future__ import annotations

import argparse
from pathlib import Path

from atelier_restorer.commands.addresses import is_gateway
from atelier_runtime.tls import Pem, TlsFiles, client_files

_CERTIFICATE, _KEY, _CA = _NAMES = ("--tls-cert", "--tls-key", "--tls-ca")


def add_to(group: argparse._ActionsContainer) -> None:
    """Add the flags."""
    group.add_argument(
        _CA,
        metavar="FILE",
        type=Path,
        help="call with TLS: PEM file of the CAs that may have signed the server's certificate; a URL with "
        "https needs it for a CA of your own only",
    )
    group.add_argument(
        _CERTIFICATE, metavar="FILE", type=Path, help="certificate to present, where the server requires one"
    )
    group.add_argument(_KEY, metavar="FILE", type=Path, help="its private key, without a password")


def problem(args: argparse.Namespace) -> str:
    """Return why the flags have no meaning with the value of --server; empty: they have."""
    given = [name for name, path in zip(_NAMES, _paths(args), strict=True) if path is not None]
    if not given:
        return ""
    if args.server is None:
        return f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for --server"
    if is_gateway(args.server) and not args.server.startswith("https:"):
        return f"{given[0]} is for a URL with https, --server is {args.server}"
    return ""


def read(args: argparse.Namespace) -> Pem | None:
    """Return what to trust and to present, None without flags. Raises `StartupError` that names a flag."""
    files = client_files(TlsFiles(*_paths(args), names=_NAMES))
    return None if files is None else files.newest()


def _paths(args: argparse.Namespace) -> tuple[Path | None, Path | None, Path | None]:
    return args.tls_cert, args.tls_key, args.tls_ca
