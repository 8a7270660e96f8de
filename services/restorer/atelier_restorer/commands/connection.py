"""Runs a command with a client: of the service of --server, or of networks loaded in this process."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from atelier_restorer.client import Client, connect
from atelier_restorer.commands import options, tls_flags
from atelier_restorer.commands.stopping import cancelled_by_signals
from atelier_restorer.jobs_client import JobClient, connect_to_gateway
from atelier_restorer.request import RestoreRequest
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.log import PlainFormatter, configure_logging
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError, warn_of_unknown_variables
from atelier_runtime.tls import Pem

if TYPE_CHECKING:
    from atelier_restorer.models import Models

T = TypeVar("T")
C = TypeVar("C")


def run_with_client(
    args: argparse.Namespace,
    work: Callable[[Client], Awaitable[T]],
    *,
    roles: Collection[NetworkRole],
    required: Collection[NetworkRole],
    concurrency: int = 1,
    request: RestoreRequest | None = None,
) -> T:
    """Run `work` with a client. In this process only the networks of `roles` are loaded.

    `request`: what `work` will ask of each image. If the networks loaded in this process cannot tell what it
    wants to know of likeness, that is a `UsageError` before the first image.

    Raises what `work` raises, `UsageError`, `StartupError` if a network of `required` is missing, and
    `Terminated` within `terminated_by_signals`.
    """
    _configure_logging(args)
    if args.server is not None:
        opening = connect(
            args.server,
            timeout_s=_timeout_s(args),
            concurrency=concurrency,
            api_key=_api_key(),
            tls=_tls(args),
        )
        return asyncio.run(_run(opening, work))
    settings = options.load_settings(args)
    warn_of_unknown_variables(RestorerSettings)
    from atelier_restorer.in_process import open_in_process  # imports torch, which takes seconds
    from atelier_restorer.likeness import likeness_of

    def check(models: Models) -> None:
        try:
            if request is not None:
                likeness_of(request, models)
        except InvalidRequest as error:
            raise options.UsageError(options.explain(error)) from None

    opening = open_in_process(settings, roles, required, concurrency=concurrency, check=check)
    return asyncio.run(_run(opening, work))


def run_with_gateway(args: argparse.Namespace, work: Callable[[JobClient], Awaitable[T]], *, run: str) -> T:
    """Run `work` with a client of the gateway of --server; `run`: see `JobClient`.

    Raises what `work` raises, `ServiceUnavailable`, and `Terminated` within `terminated_by_signals`.
    """
    _configure_logging(args)
    opening = connect_to_gateway(
        args.server, run=run, timeout_s=_timeout_s(args), api_key=_api_key(), tls=_tls(args)
    )
    return asyncio.run(_run(opening, work))


def _configure_logging(args: argparse.Namespace) -> None:
    configure_logging("info" if args.verbose else "warning", PlainFormatter())


def _api_key() -> str | None:
    """Return the key for a server. Not a flag: everybody on a machine sees the others' command lines."""
    return os.environ.get("ATELIER_API_KEY", "").strip() or None


def _tls(args: argparse.Namespace) -> Pem | None:
    try:
        return tls_flags.read(args)
    except StartupError as error:
        raise options.UsageError(str(error)) from None


def _timeout_s(args: argparse.Namespace) -> float:
    return defaults.DEADLINE_S if args.timeout is None else float(args.timeout)


async def _run(opening: AbstractAsyncContextManager[C], work: Callable[[C], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opening as client:
            return await work(client)

    return await cancelled_by_signals(run())
