"""The command `python -m tools.models`, which `make models` runs. Results go to stdout, messages to stderr.

Exit code 0: the set is complete (or was listed). 1: something went wrong. 2: a decision is needed first.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import CheckpointError
from tools.models.addresses import HUB, hub
from tools.models.assemble import (
    FetchContext,
    Item,
    SetError,
    check_space,
    check_unexpected_files,
    fill,
    local_files,
    locked,
    sources_of,
    take_stock,
    write_manifest,
)
from tools.models.catalogue import BUILT_IN, Catalog, CatalogError, Entry, License, read_catalog
from tools.models.client import Client, DownloadError

_KEPT = "What was fetched is kept; run the same command again to continue."
_REPORT_EVERY_S = 10.0  # in a log file; on a terminal the line is overwritten


class Refused(Exception):
    """A decision is needed first; the message says how to make it."""


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.models",
        description="Fetches the published weights, checks them and makes a model set of them. "
        "Resumes where an earlier run stopped. Asks before it starts if there is a terminal.",
    )
    parser.add_argument("--to", type=_path, metavar="DIR", help="the set's folder")
    parser.add_argument("--list", action="store_true", help="print what would be fetched, and exit")

    def add_list(flag: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text, **more)

    add_list("--accept", "LICENSE", "accept a license by its short name")
    add_list("--only", "ROLE", "fetch only the components of these roles, such as identity")
    add_list("--without", "ROLE", "leave the components of these roles out of the set")
    add_list(
        "--with",
        "NAME",
        "take this component of the catalog, such as arcface, in place of the set's of the same role",
        dest="alternatives",
    )
    add_list(
        "--from",
        "FOLDER",
        "copy files from this folder, under any name, instead of fetching them; recognized by checksum",
        dest="local",
        type=_path,
    )
    add_list("--trust-unverified", "PATH", "accept files for which the catalog has no checksum")
    parser.add_argument("--mirror", metavar="URL", help="fetch https://HOST/PATH from URL/HOST/PATH")
    parser.add_argument(
        "--catalogue",
        type=_path,
        default=BUILT_IN,
        metavar="FILE",
        help="default: tools/models/catalogue.toml",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="make another set of the catalog: commercial (no component for non-commercial use only), "
        "photo (restoration without SDXL) or photo-commercial (both)",
    )
    parser.add_argument("--yes", action="store_true", help="fetch without asking (does not accept licenses)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="give up on a silent server after this"
    )
    parser.add_argument(
        "--retry-pause", type=float, default=1.0, metavar="S", help="wait after a broken connection; doubles"
    )
    options = parser.parse_args(given)
    if options.to is None and not options.list:
        parser.error("--to DIR is required: the folder that the set goes to (make models TO=DIR)")
    return options


def _path(text: str) -> Path:
    """A path of the command line: not every shell replaces the ~ in TO=~/models, and make never does."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def main(given: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = arguments(given)
    try:
        catalog = read_catalog(options.catalogue, options.profile, options.alternatives)
        if options.mirror:
            catalog = catalog.mirrored(options.mirror)
        elif (endpoint := hub(os.environ)) != HUB:
            catalog = catalog.through_hub(endpoint)
        if options.to is None:
            print_plan(select(catalog, options), [], options)
            return 0
        make(catalog, options)
    except (CatalogError, Refused) as error:
        say(str(error))
        return 2
    except (SetError, DownloadError, CheckpointError, StartupError) as error:
        say(f"{error}\n{_KEPT}")
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written to
        say(f"{error.filename or options.to}: {error.strerror or error}\n{_KEPT}")
        return 1
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to continue.")
        return 130
    return 0


def make(catalog: Catalog, options: argparse.Namespace) -> None:
    """List, ask, fetch, convert, write the manifest."""
    folder: Path = options.to
    trusted = frozenset(options.trust_unverified)
    selection = select(catalog, options)
    if options.list:
        say("Checking existing files ...")
        print_plan(selection, take_stock(selection, folder, local_files(options.local), trusted), options)
        return
    with locked(folder):
        say("Checking existing files ...")
        items = take_stock(selection, folder, local_files(options.local), trusted)
        print_plan(selection, items, options)
        check_accepted(catalog, options.accept)
        selection = accept_licenses(selection, items, options)
        items = [item for item in items if item.source.path in paths_of(selection)]
        check_unverified(items, trusted)
        check_unexpected_files(selection, folder)
        check_space(items, folder)
        missing = sum(item.to_fetch for item in items)
        if (
            missing
            and not options.yes
            and sys.stdin.isatty()
            and not confirm(f"Fetch {format_size(missing)}?")
        ):
            raise Refused("Nothing was fetched.")
        with Client(options.timeout) as client:
            fill(items, folder, FetchContext(client, say, progress, options.retry_pause), trusted)
        complete = complete_set(catalog, selection, folder, options)
        manifest = write_manifest(complete, folder)
    print(f"The set '{catalog.name}' is complete: {manifest}")
    generates = any(entry.role == NetworkRole.BASE for entry in complete.entries)
    generator = f"ATELIER_GENERATOR_MODEL_SET={folder}" if generates else "ATELIER_GATEWAY_GENERATOR=none"
    print(f"  {generator} ATELIER_RESTORER_MODEL_SET={folder} make run")


def select(catalog: Catalog, options: argparse.Namespace) -> Catalog:
    """Return the part of the catalog that the command line selects."""
    return (catalog.only(options.only) if options.only else catalog).without(options.without)


def complete_set(catalog: Catalog, selection: Catalog, folder: Path, options: argparse.Namespace) -> Catalog:
    """Return the selection and the components that earlier runs completed in the folder."""
    trusted = frozenset(options.trust_unverified)
    roles = {entry.role for entry in selection.entries}
    for entry in catalog.entries:
        if entry.role not in roles and options.only and entry.role not in options.without:
            single = catalog.only([entry.role])
            if all(item.here for item in take_stock(single, folder, {}, trusted)):
                check_unexpected_files(single, folder)
                roles.add(entry.role)
    return catalog.only(roles)


def check_accepted(catalog: Catalog, accepted: list[str]) -> None:
    """Raise `Refused` for an unknown license: a mistyped name accepts nothing."""
    known = [license.key for license in catalog.licenses]
    if unknown := [key for key in accepted if key not in known]:
        raise Refused(f"--accept {' '.join(unknown)}: there is no such license, only {', '.join(known)}")


def accept_licenses(selection: Catalog, items: list[Item], options: argparse.Namespace) -> Catalog:
    """Return what may be fetched with the licenses that the user accepts. Raises `Refused`."""
    missing = {item.source.role for item in items if not item.here}
    open_ones: dict[License, list[str]] = {}
    for license in selection.licenses:
        roles = [entry.role for entry in selection.entries if entry.license == license]
        # A file that is here was accepted when it was fetched.
        if license.must_be_accepted and license.key not in options.accept and missing & set(roles):
            open_ones[license] = roles
    if open_ones and not sys.stdin.isatty():
        raise Refused(how_to_accept(open_ones))
    for license, roles in open_ones.items():
        if not confirm(f"{', '.join(roles)}: {license.name}, {license.text.address}\nDo you accept it?"):
            say(f"Not accepted: the set will not contain {', '.join(roles)}.")
            selection = selection.without(roles)
    if not selection.entries:
        raise Refused("There is nothing left to fetch.")
    return selection


def how_to_accept(licenses: Mapping[License, list[str]]) -> str:
    """What to type when there is no terminal to ask on. `licenses`: each with the roles that are under it."""
    terms = [f"{', '.join(roles)}: {lic.name}, {lic.text.address}" for lic, roles in licenses.items()]
    keys = " ".join(license.key for license in licenses)
    names = " ".join(role for roles in licenses.values() for role in roles)
    return "\n".join(
        [
            *terms,
            f'To accept, add: --accept {keys}   (make models ... ACCEPT="{keys}")',
            f'To have the set without, add: --without {names}   (make models ... WITHOUT="{names}")',
        ]
    )


def check_unverified(items: list[Item], trusted: frozenset[str]) -> None:
    """Raise `Refused` for missing files without a known checksum, unless they are trusted by name."""
    paths = [item.source.path for item in items if not item.here and not item.source.sha256]
    if unknown := [path for path in paths if path not in trusted]:
        raise Refused(
            f"The catalog has no checksum for {', '.join(unknown)}. To accept what the server sends, add: "
            f"--trust-unverified {' '.join(unknown)}"
        )


def paths_of(catalog: Catalog) -> set[str]:
    """The paths of all files of a catalog."""
    texts = {license.text.path for license in catalog.licenses}
    return texts | {source.path for entry in catalog.entries for source in entry.files}


def print_plan(catalog: Catalog, items: list[Item], options: argparse.Namespace) -> None:
    """Print what the set consists of: file, size, source, license, and what is there already."""
    states = {item.source.path: state(item) for item in items}
    print(f"The set '{catalog.name}'{f' in {options.to}' if options.to else ''}\n")
    for entry in catalog.entries:
        print(f"{entry.role}: {entry.name}, {entry.license.name}\n  from {origin(entry)}")
        for source in entry.files:
            print(
                f"  {source.path:<54} {format_size(source.bytes):>9}  {states.get(source.path, '')}".rstrip()
            )
    print("\nLicenses, whose texts are stored with the weights:")
    for license in catalog.licenses:
        demand = f"; must be accepted: --accept {license.key}" if license.must_be_accepted else ""
        print(f"  {license.name}{demand}  {license.text.address}")
    total = sum(source.bytes for source in sources_of(catalog))
    if items:
        print(
            f"\nTo fetch: {format_size(sum(item.to_fetch for item in items))} of {format_size(total)}",
            flush=True,
        )
    else:
        print(f"\nTotal: {format_size(total)}", flush=True)


def origin(entry: Entry) -> str:
    """The URL of a component's file, or of the folder that holds its files."""
    urls = [source.address for source in entry.files]
    return urls[0] if len(urls) == 1 else posixpath.commonpath(urls).replace(":/", "://", 1)


def state(item: Item) -> str:
    """A file's state in a few words."""
    if item.here:
        return "here"
    if item.local:
        return "copied from --from"
    if item.to_fetch == 0:
        return "here, not converted" if item.source.is_converted else "here, not checked"
    if item.to_fetch < item.source.bytes:
        return f"{format_size(item.source.bytes - item.to_fetch)} here"
    return "to fetch" if item.source.sha256 else "to fetch, NO CHECKSUM"


def format_size(size: int) -> str:
    """A size in B, kB, MB or GB (powers of ten)."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but y or yes is a no."""
    print(f"{question} [yes/no] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """Print a message to the user, not a result."""
    print(text, file=sys.stderr, flush=True)


def progress(name: str, size: int) -> Callable[[int], None]:
    """Return a callback that shows a file's progress: in place on a terminal, now and then in a log."""
    start = last = time.monotonic()
    first: int | None = None
    terminal = sys.stderr.isatty()

    def show(done: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if done < size and now - last < (0.2 if terminal else _REPORT_EVERY_S):
            return
        last = now
        rate = (done - first) / max(now - start, 1e-3)
        line = f"{name}: {format_size(done)} of {format_size(size)}, {format_size(int(rate))}/s"
        end = "\n" if done >= size or not terminal else ""
        print(f"\r\x1b[K{line}" if terminal else line, end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
