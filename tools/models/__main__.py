"""The command `python -m tools.models`, which `make models` runs. The answer goes to stdout.

Exit code 0: the set is there (or was listed). 1: something went wrong. 2: something has to be decided first.
"""

from __future__ import annotations

import argparse
import posixpath
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.models.assemble import (
    Item,
    Means,
    SetError,
    check_space,
    check_strangers,
    fill,
    locked,
    own_files,
    take_stock,
    write_manifest,
)
from tools.models.catalogue import BUILT_IN, Catalogue, CatalogueError, Entry, Licence, read_catalogue
from tools.models.download import DownloadError, new_client

_REPORT_EVERY_S = 10.0  # in a log file; on a terminal the line is overwritten


class Refused(Exception):
    """Something has to be decided first; the message says how."""


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.models",
        description="Fetches the published weights, checks them and makes a model set of them. "
        "Broken off, it goes on where it stopped. Asks before it starts where there is a terminal.",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="the set's folder")
    parser.add_argument("--list", action="store_true", help="say what would be fetched, and stop")

    def several(flag: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text, **more)

    several("--accept", "LICENCE", "accept a licence by its short name")
    several("--only", "ROLE", "fetch these components alone")
    several("--without", "ROLE", "leave these components out of the set")
    several(
        "--from",
        "FOLDER",
        "copy files that lie here, under any name, instead of fetching them; known by their checksum",
        dest="own",
        type=Path,
    )
    several("--trust-unverified", "PATH", "take files of which the catalogue knows no checksum")
    parser.add_argument("--mirror", metavar="URL", help="fetch https://HOST/PATH from URL/HOST/PATH")
    parser.add_argument(
        "--catalogue",
        type=Path,
        default=BUILT_IN,
        metavar="FILE",
        help="default: tools/models/catalogue.toml",
    )
    parser.add_argument("--yes", action="store_true", help="fetch without asking (accepts no licence)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="of a silent server")
    parser.add_argument(
        "--retry-pause", type=float, default=1.0, metavar="S", help="after a cut connection; it doubles"
    )
    options = parser.parse_args(given)
    if options.to is None and not options.list:
        parser.error("--to DIR is needed: the folder that the set goes to (make models TO=DIR)")
    return options


def main(given: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = arguments(given)
    try:
        catalogue = read_catalogue(options.catalogue)
        if options.mirror:
            catalogue = catalogue.mirrored(options.mirror)
        if options.to is None:
            print_plan(selected(catalogue, options), [], options)
            return 0
        make(catalogue, options)
    except (CatalogueError, Refused) as error:
        say(str(error))
        return 2
    except (SetError, DownloadError) as error:
        say(f"{error}\nWhat is complete stays; run the same command again to go on.")
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        say(f"{error.filename or options.to}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to go on.")
        return 130
    return 0


def make(catalogue: Catalogue, options: argparse.Namespace) -> None:
    """List, ask, fetch, convert, write the manifest."""
    folder: Path = options.to
    trusted = frozenset(options.trust_unverified)
    wanted = selected(catalogue, options)
    if options.list:
        say("Checking what is there ...")
        print_plan(wanted, take_stock(wanted, folder, own_files(options.own), trusted), options)
        return
    with locked(folder):
        say("Checking what is there ...")
        items = take_stock(wanted, folder, own_files(options.own), trusted)
        print_plan(wanted, items, options)
        settle_accepted(catalogue, options.accept)
        wanted = settle_licences(wanted, items, options)
        items = [item for item in items if item.source.path in wanted_paths(wanted)]
        settle_unverified(items, trusted)
        check_strangers(wanted, folder)
        check_space(items, folder)
        missing = sum(item.to_fetch for item in items)
        if missing and not options.yes and sys.stdin.isatty() and not asked(f"Fetch {readable(missing)}?"):
            raise Refused("Nothing was fetched.")
        with new_client(options.timeout) as client:
            fill(items, folder, Means(client, say, progress, options.retry_pause), trusted)
        manifest = write_manifest(whole_set(catalogue, wanted, folder, options), folder)
    print(f"The set '{catalogue.name}' is complete: {manifest}")
    print(f"  ATELIER_GENERATOR_MODEL_SET={folder} ATELIER_RESTORER_MODEL_SET={folder} make run")


def selected(catalogue: Catalogue, options: argparse.Namespace) -> Catalogue:
    """What the command line asks for."""
    return (catalogue.only(options.only) if options.only else catalogue).without(options.without)


def whole_set(
    catalogue: Catalogue, wanted: Catalogue, folder: Path, options: argparse.Namespace
) -> Catalogue:
    """What was wanted, and what the folder has complete from earlier runs."""
    trusted = frozenset(options.trust_unverified)
    roles = {entry.role for entry in wanted.entries}
    for entry in catalogue.entries:
        if entry.role not in roles and options.only and entry.role not in options.without:
            single = catalogue.only([entry.role])
            if all(item.here for item in take_stock(single, folder, {}, trusted)):
                check_strangers(single, folder)
                roles.add(entry.role)
    return catalogue.only(roles)


def settle_accepted(catalogue: Catalogue, accepted: list[str]) -> None:
    """Raise `Refused` for a licence that nothing has: a mistyped name accepts nothing."""
    known = [licence.key for licence in catalogue.licences]
    if unknown := [key for key in accepted if key not in known]:
        raise Refused(f"--accept {' '.join(unknown)}: there is no such licence, only {', '.join(known)}")


def settle_licences(wanted: Catalogue, items: list[Item], options: argparse.Namespace) -> Catalogue:
    """Return what may be fetched, now that the licences are accepted or not. Raises `Refused`."""
    missing = {item.source.role for item in items if not item.here}
    for licence in wanted.licences:
        roles = [entry.role for entry in wanted.entries if entry.licence == licence]
        if not licence.must_be_accepted or licence.key in options.accept or not missing & set(roles):
            continue  # what is here was accepted when it was fetched
        if not sys.stdin.isatty():
            raise Refused(how_to_accept(licence, roles))
        if not asked(f"{', '.join(roles)}: {licence.name}, {licence.text.url}\nDo you accept it?"):
            say(f"Not accepted: the set will have no {', '.join(roles)}.")
            wanted = wanted.without(roles)
    if not wanted.entries:
        raise Refused("Nothing is left to fetch.")
    return wanted


def how_to_accept(licence: Licence, roles: list[str]) -> str:
    """What to type where nobody can be asked."""
    names = " ".join(roles)
    return (
        f"{', '.join(roles)}: {licence.name}, {licence.text.url}\n"
        f"To accept it, add: --accept {licence.key}   (make models ... ACCEPT={licence.key})\n"
        f'To have the set without it, add: --without {names}   (make models ... WITHOUT="{names}")'
    )


def settle_unverified(items: list[Item], trusted: frozenset[str]) -> None:
    """Raise `Refused` for missing files of which no checksum is known, unless they are trusted by name."""
    paths = [item.source.path for item in items if not item.here and not item.source.sha256]
    if unknown := [path for path in paths if path not in trusted]:
        raise Refused(
            f"The catalogue knows no checksum of {', '.join(unknown)}. To take what the server sends, add: "
            f"--trust-unverified {' '.join(unknown)}"
        )


def wanted_paths(catalogue: Catalogue) -> set[str]:
    """The places of all files of a catalogue."""
    texts = {licence.text.path for licence in catalogue.licences}
    return texts | {source.path for entry in catalogue.entries for source in entry.files}


def print_plan(catalogue: Catalogue, items: list[Item], options: argparse.Namespace) -> None:
    """Print what the set is made of: file, size, source, licence, and what is there already."""
    states = {item.source.path: state(item) for item in items}
    print(f"The set '{catalogue.name}'{f' in {options.to}' if options.to else ''}\n")
    for entry in catalogue.entries:
        print(f"{entry.role}: {entry.name}, {entry.licence.name}\n  from {origin(entry)}")
        for source in entry.files:
            print(f"  {source.path:<54} {readable(source.bytes):>9}  {states.get(source.path, '')}".rstrip())
    print("\nLicences, whose texts are put beside the weights:")
    for licence in catalogue.licences:
        demand = f"; must be accepted: --accept {licence.key}" if licence.must_be_accepted else ""
        print(f"  {licence.name}{demand}  {licence.text.url}")
    total = sum(source.bytes for entry in catalogue.entries for source in entry.files)
    if items:
        print(
            f"\nTo fetch: {readable(sum(item.to_fetch for item in items))} of {readable(total)}", flush=True
        )
    else:
        print(f"\nAltogether: {readable(total)}", flush=True)


def origin(entry: Entry) -> str:
    """The address of a component's file, or of the folder that its files lie in."""
    urls = [source.url for source in entry.files]
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
        return f"{readable(item.source.bytes - item.to_fetch)} here"
    return "to fetch" if item.source.sha256 else "to fetch, NO CHECKSUM"


def readable(size: int) -> str:
    """A size in B, kB, MB or GB (powers of ten)."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"


def asked(question: str) -> bool:
    """Ask on the terminal; only a yes is one."""
    print(f"{question} [yes/no] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """Tell a person something that is not the answer."""
    print(text, file=sys.stderr, flush=True)


def progress(name: str, size: int) -> Callable[[int], None]:
    """Return what shows how far a file is: on a terminal in place, in a log now and then."""
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
        line = f"{name}: {readable(done)} of {readable(size)}, {readable(int(rate))}/s"
        end = "\n" if done >= size or not terminal else ""
        print(f"\r\x1b[K{line}" if terminal else line, end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
