"""The catalogue: which files make up the set, where they come from and what they must be."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from atelier_runtime.service_status import NetworkRole

BUILT_IN = Path(__file__).with_name("catalogue.toml")
PICKLES = (".pth", ".pt", ".ckpt")
LICENCE_ROLE = "licence"


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message names the entry."""


@dataclass(frozen=True)
class Source:
    """One file of the set and where it is published.

    `path` is its place in the set, relative. `bytes` and `sha256` are those of the published file, so of the
    `.pth` where that is converted. An empty `sha256` means that nobody could tell: the file is refused
    unless the user trusts it by name.
    """

    role: str
    path: str
    url: str
    bytes: int
    sha256: str

    @property
    def is_converted(self) -> bool:
        """True if a pickle is published and the set holds its tensors as safetensors."""
        return self.path.endswith(".safetensors") and self.published.endswith(PICKLES)

    @property
    def published(self) -> str:
        """The place in the set where the file lies as it was published."""
        suffix = PurePosixPath(urlsplit(self.url).path).suffix
        if suffix in PICKLES and self.path.endswith(".safetensors"):
            return str(PurePosixPath(self.path).with_suffix(suffix))
        return self.path


@dataclass(frozen=True)
class Licence:
    """A licence by its short name (`key`), and its text, which becomes a file of the set."""

    key: str
    name: str
    must_be_accepted: bool
    text: Source


@dataclass(frozen=True)
class Entry:
    """One component of the set."""

    role: str
    name: str
    path: str
    licence: Licence
    files: tuple[Source, ...]


@dataclass(frozen=True)
class Catalogue:
    """Everything that the set may hold, and what its manifest says of it as a whole."""

    name: str
    description: str
    max_side: int | None
    refiner_max_side: int | None
    size_multiple: int
    default_negative_prompt: str
    entries: tuple[Entry, ...]

    @property
    def licences(self) -> tuple[Licence, ...]:
        """The licences of the entries, each once."""
        return tuple({entry.licence.key: entry.licence for entry in self.entries}.values())

    def only(self, roles: Collection[str]) -> Catalogue:
        """Return the catalogue with these entries alone; raise `CatalogueError` for one that is not in it."""
        self._check(roles)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.role in roles))

    def without(self, roles: Collection[str]) -> Catalogue:
        """Return the catalogue without these entries; raise `CatalogueError` for one that is not in it."""
        self._check(roles)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.role not in roles))

    def _check(self, roles: Collection[str]) -> None:
        known = [entry.role for entry in self.entries]
        for role in roles:
            if role not in known:
                raise CatalogueError(f"there is no '{role}' in the catalogue, only {', '.join(known)}")

    def mirrored(self, mirror: str) -> Catalogue:
        """Return the catalogue with every `https://host/path` fetched from `mirror/host/path`."""

        def moved(source: Source) -> Source:
            address = urlsplit(source.url)
            query = f"?{address.query}" if address.query else ""
            return replace(source, url=f"{mirror.rstrip('/')}/{address.netloc}{address.path}{query}")

        _check_url("--mirror", mirror)
        entries = (
            replace(
                entry,
                licence=replace(entry.licence, text=moved(entry.licence.text)),
                files=tuple(moved(source) for source in entry.files),
            )
            for entry in self.entries
        )
        return replace(self, entries=tuple(entries))


def read_catalogue(path: Path = BUILT_IN) -> Catalogue:
    """Read a catalogue file.

    Raises `CatalogueError` naming the file, the entry and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
        licences = {key: _licence(key, table) for key, table in data["licences"].items()}
        entries = tuple(_entry(role, table, licences) for role, table in data["components"].items())
        catalogue = Catalogue(
            name=str(data["name"]),
            description=str(data.get("description", "")),
            max_side=data.get("max_side"),
            refiner_max_side=data.get("refiner_max_side"),
            size_multiple=int(data.get("size_multiple", 8)),
            default_negative_prompt=str(data.get("default_negative_prompt", "")),
            entries=entries,
        )
        _check_places(catalogue)
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise CatalogueError(f"{path}: {error.args[0]} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    return catalogue


def _licence(key: str, table: Mapping[str, Any]) -> Licence:
    place = f"licences.{key}"
    text = _source(place, LICENCE_ROLE, table, f"licences/{_text(place, table, 'file')}", None)
    return Licence(key, _text(place, table, "name"), bool(table.get("must_be_accepted", False)), text)


def _entry(role: str, table: Mapping[str, Any], licences: Mapping[str, Licence]) -> Entry:
    place = f"components.{role}"
    if role not in set(NetworkRole):
        raise CatalogueError(f"{place} is unknown; known are {', '.join(NetworkRole)}")
    path = _text(place, table, "path")
    key = _text(place, table, "licence")
    if key not in licences:
        raise CatalogueError(f"{place}: the licence '{key}' is not in the catalogue")
    base = table.get("from")
    files = []
    for number, file in enumerate(table["files"]):
        inner = f"{path}/{file['path']}" if "path" in file else path
        files.append(_source(f"{place}.files[{number}]", role, file, inner, base))
    if not files:
        raise CatalogueError(f"{place} has no files")
    return Entry(role, _text(place, table, "name"), path, licences[key], tuple(files))


def _source(place: str, role: str, table: Mapping[str, Any], path: str, base: str | None) -> Source:
    url = table.get("url") or (urljoin(base, table["path"]) if base else None)
    if not isinstance(url, str):
        raise CatalogueError(f"{place}: url is missing")
    _check_url(place, url)
    size = table.get("bytes")
    if not isinstance(size, int) or size < 1:
        raise CatalogueError(f"{place}: bytes must be the file's size, it is {size!r}")
    checksum = _text(place, table, "sha256")
    if not re.fullmatch(r"[0-9a-f]{64}|", checksum):
        raise CatalogueError(f"{place}: sha256 must be 64 lower-case hexadecimal digits (or empty: unknown)")
    return Source(role, path, url, size, checksum)


def _text(place: str, table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise CatalogueError(f"{place}: {key} must be a text, it is {value!r}")
    return value


def _check_url(place: str, url: str) -> None:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise CatalogueError(f"{place}: {url} is no http(s) address")


def _check_places(catalogue: Catalogue) -> None:
    """No file may lie outside of the set, and no two in one place."""
    taken: set[str] = set()
    sources = [source for entry in catalogue.entries for source in entry.files]
    for source in (*sources, *(licence.text for licence in catalogue.licences)):
        path = PurePosixPath(source.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in source.path:
            raise CatalogueError(f"{source.role}: {source.path} leads out of the set")
        for place in {source.path, source.published}:
            if place in taken or place == "manifest.json":
                raise CatalogueError(f"{source.role}: {place} is taken")
            taken.add(place)
