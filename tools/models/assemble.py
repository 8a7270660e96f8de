"""The set's folder: what is in it, what is missing, and the manifest, which is written last.

A folder without `manifest.json` is not a model set: the manifest is removed before the first file changes and
written, in one step, when every file is there and checked. However a run ends in between, it leaves parts
that the next run continues, and nothing that a service could load. What the user measured and wrote into the
manifest is kept aside meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import CheckpointError, ModelSet, sha256
from tools.models.catalogue import Catalog, Source
from tools.models.client import Client
from tools.models.convert import convert, is_conversion_of, source_of
from tools.models.download import discard_part, download, leftovers_of, part_of, size_of

MANIFEST = "manifest.json"
EARLIER_MANIFEST = ".manifest.before.json"
LOCK = ".lock"


class SetError(Exception):
    """The set cannot be made; the message names the file and the reason."""


@dataclass(frozen=True)
class Item:
    """A file of the set and its state: `here` (complete and checked), or with bytes `to_fetch`.

    `local` is one of the user's own files with the right checksum, which is copied instead of fetched.
    """

    source: Source
    here: bool
    to_fetch: int
    local: Path | None = None


@dataclass(frozen=True)
class MeasuredLimits:
    """The manifest's `identity`, and the SHA-256 of the files that it holds for."""

    limits: object
    files: frozenset[str]


@dataclass(frozen=True)
class FetchContext:
    """How files are fetched: the client, and where messages and progress go."""

    client: Client
    say: Callable[[str], None]
    progress: Callable[[str, int], Callable[[int], None]]  # (name, bytes) -> called with the bytes done
    first_pause_s: float = 1.0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock ends with the process, however that ends.

    Raises `SetError` naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="ascii", opener=_open_no_link) as file:
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


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sources_of(catalog: Catalog) -> list[Source]:
    """Every file of the set: the license texts first, then the weights."""
    texts = [license.text for license in catalog.licenses]
    return [*texts, *(source for entry in catalog.entries for source in entry.files)]


def take_stock(
    catalog: Catalog, folder: Path, local: Mapping[int, list[Path]], trusted: frozenset[str]
) -> list[Item]:
    """Check what is there. `local`: the user's files by size; `trusted`: paths taken without a checksum."""
    items = []
    for source in sources_of(catalog):
        if _is_here(source, folder, trusted):
            items.append(Item(source, here=True, to_fetch=0))
            continue
        published = folder / source.published
        found = next((path for path in local.get(source.bytes, []) if _is_published_file(path, source)), None)
        done = size_of(part_of(published))
        done = done if done <= source.bytes else 0
        if found or _is_published_file(published, source):
            done = source.bytes
        items.append(Item(source, here=False, to_fetch=source.bytes - done, local=found))
    return items


def local_files(folders: list[Path]) -> dict[int, list[Path]]:
    """Every file in the user's folders, by size.

    Raises `SetError` for a folder that does not exist.
    """
    found: dict[int, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SetError(f"--from {folder}: no such folder")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def check_space(items: list[Item], folder: Path) -> None:
    """Raise `SetError` if the disk cannot hold what is missing and the largest conversion."""
    missing = [item for item in items if not item.here]
    copied = sum(item.source.bytes for item in missing if item.local)
    converted = max((item.source.bytes for item in missing if item.source.is_converted), default=0)
    needed = sum(item.to_fetch for item in missing) + copied + converted
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SetError(f"{folder}: {needed} bytes are needed, {free} are free")


def check_unexpected_files(catalog: Catalog, folder: Path) -> None:
    """Raise `SetError` if a component's folder has a file that does not belong to the set.

    The services refuse such a set, which is better found out before the download than after it.
    """
    known = {path for s in sources_of(catalog) for path in (s.path, s.published)}
    known |= {name for path in known for name in leftovers_of(path)}
    for entry in catalog.entries:
        for path in sorted((folder / entry.path).rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if not path.is_dir() and relative not in known:
                raise SetError(f"{path} does not belong to this set; move it elsewhere")


def fill(items: list[Item], folder: Path, context: FetchContext, trusted: frozenset[str]) -> None:
    """Fetch or copy every file that is missing. Removes the manifest before the first change.

    Raises `SetError` and `DownloadError`; what was fetched is kept for the next run.
    """
    for item in items:
        if not item.here:
            with suppress(FileNotFoundError):
                (folder / MANIFEST).replace(folder / EARLIER_MANIFEST)
            _obtain(item, folder, context, trusted)


def measured_limits(folder: Path) -> MeasuredLimits | None:
    """Return what the user measured for the set's identity network and put into its manifest.

    The manifest is that before the run, or before the run that was interrupted. None without one, or with one
    that cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads((path if path.exists() else folder / EARLIER_MANIFEST).read_text("utf-8"))
        limits = manifest["identity"]
        return MeasuredLimits(limits, _identity_files(manifest)) if limits is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _identity_files(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the checksums of the files of the identity network."""
    path = manifest["components"][NetworkRole.IDENTITY]["path"]
    files = manifest["files"].items()
    return frozenset(
        record["sha256"] for name, record in files if name == path or name.startswith(f"{path}/")
    )


def write_manifest(catalog: Catalog, folder: Path) -> Path:
    """Write the manifest of a complete folder, and open the set as a service would.

    Limits in the manifest before are kept if they were measured for the identity network that the set has.
    """
    components = {
        entry.role: {
            "path": entry.path,
            "name": entry.name,
            "license": entry.license.name,
            "license_text": entry.license.text.path,
        }
        for entry in catalog.entries
    }
    manifest: dict[str, Any] = {
        "name": catalog.name,
        "license": "; ".join(license.name for license in catalog.licenses),
        "licenses_accepted": [lic.key for lic in catalog.licenses if lic.must_be_accepted],
        "description": catalog.description,
        "max_side": catalog.max_side,
        "refiner_max_side": catalog.refiner_max_side,
        "size_multiple": catalog.size_multiple,
        "default_negative_prompt": catalog.default_negative_prompt,
        "components": components,
        "files": {source.path: _record(source, folder) for source in sources_of(catalog)},
        "made_by": "python -m tools.models",
    }
    measured = measured_limits(folder)
    if measured and NetworkRole.IDENTITY in components and _identity_files(manifest) == measured.files:
        manifest["identity"] = measured.limits
    path, part = folder / MANIFEST, part_of(folder / MANIFEST)
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    (folder / EARLIER_MANIFEST).unlink(missing_ok=True)
    ModelSet.open(str(folder))
    return path


def _record(source: Source, folder: Path) -> dict[str, Any]:
    path = folder / source.path
    known = source.sha256 and not source.is_converted
    record = {
        "sha256": source.sha256 if known else sha256(path),
        "bytes": path.stat().st_size,
        "source": source.address,
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
    return _is_published_file(path, source)


def _is_published_file(path: Path, source: Source) -> bool:
    """Return whether a file is the published one; without a checksum it never is."""
    return bool(source.sha256) and size_of(path) == source.bytes and sha256(path) == source.sha256


def _obtain(item: Item, folder: Path, context: FetchContext, trusted: frozenset[str]) -> None:
    source = item.source
    published = folder / source.published
    published.parent.mkdir(parents=True, exist_ok=True)
    if not _is_published_file(published, source):
        if item.local:
            discard_part(published)
            shutil.copyfile(item.local, part_of(published))
            _check(source, published)
        else:
            _fetch(source, published, context)
        part_of(published).replace(published)
        discard_part(published)  # what else is left of it
    if not source.sha256 and source.path in trusted:
        context.say(f"{source.path}: taken unverified; its SHA-256 is {sha256(published)}")
    if source.is_converted:
        try:
            convert(published, folder / source.path, source.sha256)
        except CheckpointError as error:
            published.unlink()
            raise SetError(f"{error}. The file was deleted; it came from {source.address}") from error
        published.unlink()  # its tensors are in the set now, its checksum goes into the manifest


def _fetch(source: Source, published: Path, context: FetchContext) -> None:
    for last in (False, True):
        resumed = download(
            context.client,
            source.url,
            published,
            source.bytes,
            progress=context.progress(source.published, source.bytes),
            say=context.say,
            first_pause_s=context.first_pause_s,
        )
        try:
            return _check(source, published)
        except SetError as error:
            if last or not resumed:
                raise
            context.say(f"{error}. It came in several parts, so it is fetched again")


def _check(source: Source, published: Path) -> None:
    """Raise `SetError`, and delete the file, if it is not the published one."""
    part = part_of(published)
    actual = sha256(part)
    if source.sha256 and actual != source.sha256:
        discard_part(published)
        raise SetError(
            f"{source.published}: wrong checksum: SHA-256 {actual}, expected {source.sha256}; "
            f"the file was deleted. It came from {source.address}"
        )
