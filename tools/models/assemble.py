"""The folder of the set: what is in it, what is missing, and the manifest, which comes last.

A folder without `manifest.json` is no model set: the manifest goes away before the first file changes and
comes back, in one step, when every file is there and checked. Whatever ends a run in between leaves parts
that the next run continues, and nothing that a service could load.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from atelier_runtime.weights import CheckpointError, ModelSet, sha256
from tools.models.catalogue import Catalogue, Source
from tools.models.convert import convert, is_conversion_of, source_of
from tools.models.download import discard_part, download, part_of, size_of

MANIFEST = "manifest.json"
LOCK = ".lock"


class SetError(Exception):
    """The set cannot be made; the message names the file and the reason."""


@dataclass(frozen=True)
class Item:
    """A file of the set and how far it is: `here` (whole and checked), or so many bytes `to_fetch`.

    `local` is a file of the user's own with the right checksum, which is copied instead of fetched.
    """

    source: Source
    here: bool
    to_fetch: int
    local: Path | None = None


@dataclass(frozen=True)
class Means:
    """How files are got: over which client, from which own folders, and what is told to whom."""

    client: httpx.Client
    say: Callable[[str], None]
    progress: Callable[[str, int], Callable[[int], None]]  # (name, bytes) -> called with the bytes done
    first_pause_s: float = 1.0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock ends with the process, however that ends.

    Raises `SetError` naming the process that has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "?"
            raise SetError(f"{folder}: another run (process {owner}) is at work in this folder") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def sources_of(catalogue: Catalogue) -> list[Source]:
    """Every file of the set: the licences' texts first, then the weights."""
    texts = [licence.text for licence in catalogue.licences]
    return [*texts, *(source for entry in catalogue.entries for source in entry.files)]


def take_stock(
    catalogue: Catalogue, folder: Path, own: Mapping[int, list[Path]], trusted: frozenset[str]
) -> list[Item]:
    """Look at what is there. `own` are the user's files by size, `trusted` the files without a checksum."""
    items = []
    for source in sources_of(catalogue):
        if _is_here(source, folder, trusted):
            items.append(Item(source, here=True, to_fetch=0))
            continue
        published = folder / source.published
        local = next((path for path in own.get(source.bytes, []) if _fits(path, source)), None)
        done = size_of(part_of(published)) if size_of(part_of(published)) <= source.bytes else 0
        if local or _fits(published, source):
            done = source.bytes
        items.append(Item(source, here=False, to_fetch=source.bytes - done, local=local))
    return items


def own_files(folders: list[Path]) -> dict[int, list[Path]]:
    """Every file in the user's folders by its size.

    Raises `SetError` for a folder that does not exist.
    """
    found: dict[int, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SetError(f"--from {folder}: there is no such folder")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def check_space(items: list[Item], folder: Path) -> None:
    """Raise `SetError` if the disk cannot hold what is missing, and the largest conversion beside it."""
    missing = [item for item in items if not item.here]
    copied = sum(item.source.bytes for item in missing if item.local)
    converted = max((item.source.bytes for item in missing if item.source.is_converted), default=0)
    needed = sum(item.to_fetch for item in missing) + copied + converted
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SetError(f"{folder}: {needed} bytes are needed, {free} are free")


def check_strangers(catalogue: Catalogue, folder: Path) -> None:
    """Raise `SetError` if a component's folder has a file that is not of the set.

    The services refuse such a set, which is better known before the download than after it.
    """
    known = {place for s in sources_of(catalogue) for place in (s.path, s.published)}
    known |= {f"{place}{end}" for place in known for end in (".part", ".part.version")}
    for entry in catalogue.entries:
        for path in sorted((folder / entry.path).rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if not path.is_dir() and relative not in known:
                raise SetError(f"{path} is not of this set; move it away")


def fill(items: list[Item], folder: Path, means: Means, trusted: frozenset[str]) -> None:
    """Get every file that is missing. Removes the manifest before the first change.

    Raises `SetError`, and `DownloadError` of the download; what was got stays for the next run.
    """
    for item in items:
        if not item.here:
            (folder / MANIFEST).unlink(missing_ok=True)
            _get(item, folder, means, trusted)


def write_manifest(catalogue: Catalogue, folder: Path) -> Path:
    """Write the manifest of a complete folder, and open the set as a service would."""
    components = {
        entry.role: {
            "path": entry.path,
            "name": entry.name,
            "license": entry.licence.name,
            "license_text": entry.licence.text.path,
        }
        for entry in catalogue.entries
    }
    manifest = {
        "name": catalogue.name,
        "license": "; ".join(licence.name for licence in catalogue.licences),
        "licenses_accepted": [lic.key for lic in catalogue.licences if lic.must_be_accepted],
        "description": catalogue.description,
        "max_side": catalogue.max_side,
        "refiner_max_side": catalogue.refiner_max_side,
        "size_multiple": catalogue.size_multiple,
        "default_negative_prompt": catalogue.default_negative_prompt,
        "components": components,
        "files": {source.path: _record(source, folder) for source in sources_of(catalogue)},
        "made_by": "python -m tools.models",
    }
    path, part = folder / MANIFEST, part_of(folder / MANIFEST)
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    ModelSet.open(str(folder))
    return path


def _record(source: Source, folder: Path) -> dict[str, Any]:
    path = folder / source.path
    known = source.sha256 and not source.is_converted
    record = {
        "sha256": source.sha256 if known else sha256(path),
        "bytes": path.stat().st_size,
        "source": source.url,
    }
    if source.is_converted:
        record |= {"source_sha256": source_of(path), "source_bytes": source.bytes}
    if not source.sha256:
        record["verified"] = False
    return record


def _is_here(source: Source, folder: Path, trusted: frozenset[str]) -> bool:
    path = folder / source.path
    if source.is_converted:
        return bool(source.sha256) and is_conversion_of(path, source.sha256)
    if not source.sha256:
        return source.path in trusted and size_of(path) == source.bytes
    return _fits(path, source)


def _fits(path: Path, source: Source) -> bool:
    """Tell whether a file is the published one. Without a checksum none is."""
    return bool(source.sha256) and size_of(path) == source.bytes and sha256(path) == source.sha256


def _get(item: Item, folder: Path, means: Means, trusted: frozenset[str]) -> None:
    source = item.source
    published = folder / source.published
    published.parent.mkdir(parents=True, exist_ok=True)
    if not _fits(published, source):
        if item.local:
            discard_part(published)
            shutil.copyfile(item.local, part_of(published))
            _check(source, published)
        else:
            _fetch(source, published, means)
        part_of(published).replace(published)
        discard_part(published)  # what is left of it: the version's name
    if not source.sha256 and source.path in trusted:
        means.say(f"{source.path}: taken unverified; its SHA-256 is {sha256(published)}")
    if source.is_converted:
        try:
            convert(published, folder / source.path)
        except CheckpointError as error:
            published.unlink()
            raise SetError(f"{error}. The file was deleted; it came from {source.url}") from error
        published.unlink()  # the tensors are in the set now, its checksum stands in the manifest


def _fetch(source: Source, published: Path, means: Means) -> None:
    for last in (False, True):
        resumed = download(
            means.client,
            source.url,
            published,
            source.bytes,
            progress=means.progress(source.published, source.bytes),
            say=means.say,
            first_pause_s=means.first_pause_s,
        )
        try:
            return _check(source, published)
        except SetError as error:
            if last or not resumed:
                raise
            means.say(f"{error}. It was pieced together, so it is fetched anew")


def _check(source: Source, published: Path) -> None:
    """Raise `SetError`, and delete what came, if it is not the published file."""
    part = part_of(published)
    actual = sha256(part)
    if source.sha256 and actual != source.sha256:
        discard_part(published)
        raise SetError(
            f"{source.published}: wrong checksum: SHA-256 {actual}, expected {source.sha256}; "
            f"the file was deleted. It came from {source.url}"
        )
