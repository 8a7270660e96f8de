"""The catalog: which files make up the set, where they come from and what they must be."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from atelier_runtime.service_status import NetworkRole
from tools.models.addresses import HUB, host_of, is_address, public

BUILT_IN = Path(__file__).with_name("catalogue.toml")

PICKLES = (".pth", ".pt", ".ckpt")
LICENSE_ROLE = "license"


class CatalogError(ValueError):
    """The catalog cannot be used; the message names the entry."""


@dataclass(frozen=True)
class Source:
    """One file of the set and where it is published.

    `path` is relative to the set's folder. `bytes` and `sha256` are those of the published file, so of the
    `.pth` if that is converted. An empty `sha256` means unknown: the file is refused unless the user trusts
    it by name.
    """

    role: str
    path: str
    url: str
    bytes: int
    sha256: str

    @property
    def address(self) -> str:
        """The URL as it may be shown and stored."""
        return public(self.url)

    @property
    def is_converted(self) -> bool:
        """True if a pickle is published and the set holds its tensors as safetensors."""
        return self.path.endswith(".safetensors") and self.published.endswith(PICKLES)

    @property
    def published(self) -> str:
        """The path in the set of the file as it was published."""
        suffix = PurePosixPath(urlsplit(self.url).path).suffix
        if suffix in PICKLES and self.path.endswith(".safetensors"):
            return str(PurePosixPath(self.path).with_suffix(suffix))
        return self.path


@dataclass(frozen=True)
class License:
    """A license by its short name (`key`), and its text, which becomes a file of the set."""

    key: str
    name: str
    must_be_accepted: bool
    text: Source


@dataclass(frozen=True)
class Entry:
    """One component of the set.

    `key`: its name in the catalog, which is its role unless it is an alternative to another entry.
    """

    key: str
    role: str
    name: str
    path: str
    license: License
    files: tuple[Source, ...]


@dataclass(frozen=True)
class Catalog:
    """Everything that the set may contain, and what its manifest says about it as a whole."""

    name: str
    description: str
    max_side: int | None
    refiner_max_side: int | None
    size_multiple: int
    default_negative_prompt: str
    entries: tuple[Entry, ...]
    assurance: str = ""
    """What may be said of the set as long as nothing whose license must be accepted was put into it."""
    offered: tuple[Entry, ...] = ()
    """Every entry of the catalog file, in this set or not."""

    @property
    def licenses(self) -> tuple[License, ...]:
        """The licenses of the entries, each once."""
        return tuple({entry.license.key: entry.license for entry in self.entries}.values())

    def only(self, roles: Collection[str]) -> Catalog:
        """Return the catalog with only these roles; raise `CatalogError` for one that is not in it."""
        self._check(roles)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.role in roles))

    def without(self, roles: Collection[str]) -> Catalog:
        """Return the catalog without these roles; raise `CatalogError` for one that is not in it."""
        self._check(roles)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.role not in roles))

    def _check(self, roles: Collection[str]) -> None:
        known = [entry.role for entry in self.entries]
        for role in roles:
            if role in known:
                continue
            for entry in self.offered:
                if role in (entry.key, entry.name) and entry.role in known:
                    is_here = entry.key in {here.key for here in self.entries}
                    exchange = "" if is_here else f" (and --with {entry.key}, or the set has another)"
                    raise CatalogError(
                        f"'{role}' is a component, but --only and --without take roles: write "
                        f"{entry.role}{exchange}"
                    )
            raise CatalogError(f"there is no '{role}' in the set, only {', '.join(known)}")

    def mirrored(self, mirror: str) -> Catalog:
        """Return the catalog with every `https://host/path` fetched from `mirror/host/path`."""

        def on_mirror(url: str) -> str:
            address = urlsplit(url)
            query = f"?{address.query}" if address.query else ""
            return f"{mirror.rstrip('/')}/{host_of(url)}{address.path}{query}"

        _check_url("--mirror", mirror)
        return self._with_urls(on_mirror)

    def through_hub(self, endpoint: str) -> Catalog:
        """Return the catalog with what is on Hugging Face fetched from `endpoint` (HF_ENDPOINT) instead."""
        _check_url("HF_ENDPOINT", endpoint)
        return self._with_urls(
            lambda url: endpoint + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url
        )

    def _with_urls(self, change: Callable[[str], str]) -> Catalog:
        def changed(source: Source) -> Source:
            return replace(source, url=change(source.url))

        entries = (
            replace(
                entry,
                license=replace(entry.license, text=changed(entry.license.text)),
                files=tuple(changed(source) for source in entry.files),
            )
            for entry in self.entries
        )
        return replace(self, entries=tuple(entries))


def read_catalog(
    path: Path = BUILT_IN, profile: str | None = None, alternatives: Collection[str] = ()
) -> Catalog:
    """Read a catalog file; return the set of a profile, by default that of the entries named as their role.

    `alternatives`: entries, by their key, that take the place of the set's entry of the same role.

    Raises `CatalogError` naming the file, the entry and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
        licenses = {key: _license(key, table) for key, table in data[_spelling(data, "licenses")].items()}
        entries = tuple(_entry(key, table, licenses) for key, table in data["components"].items())
        catalog = Catalog(
            name=str(data["name"]),
            description=str(data.get("description", "")),
            max_side=_side(data, "max_side", None),
            refiner_max_side=_side(data, "refiner_max_side", None),
            size_multiple=_side(data, "size_multiple", 8) or 8,
            default_negative_prompt=str(data.get("default_negative_prompt", "")),
            entries=entries,
            offered=entries,
        )
        _check_paths(catalog)
        selection = _select(catalog, data.get("profiles", {}), profile)
        selection = _exchange(selection, catalog, alternatives)
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise CatalogError(f"{path}: {error.args[0]} is missing") from error
    except RecursionError as error:
        raise CatalogError(f"{path}: too many brackets within each other") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}") from error
    return selection


def _select(catalog: Catalog, profiles: Mapping[str, Any], chosen: str | None) -> Catalog:
    """Return a profile's part of the whole catalog, under the profile's name. Checks every profile."""
    known = {entry.key: entry for entry in catalog.entries}
    plain = tuple(entry for entry in catalog.entries if entry.key == entry.role)
    sets: dict[str | None, Catalog] = {None: replace(catalog, entries=plain)}
    for name, table in profiles.items():
        keys = list(table["components"])
        if unknown := [key for key in keys if key not in known]:
            raise CatalogError(f"profiles.{name}: there is no component {', '.join(unknown)}")
        entries = tuple(known[key] for key in keys)
        roles = [entry.role for entry in entries]
        if twice := {role for role in roles if roles.count(role) > 1}:
            raise CatalogError(f"profiles.{name}: several components are a {', '.join(sorted(twice))}")
        description = _text(f"profiles.{name}", table, "description")
        assurance = _text(f"profiles.{name}", {"assurance": "", **table}, "assurance")
        sets[name] = replace(
            catalog, name=name, description=description, assurance=assurance, entries=entries
        )
    if chosen not in sets:
        raise CatalogError(
            f"there is no profile '{chosen}', only {', '.join(profiles) or 'the whole catalog'}"
        )
    return sets[chosen]


def _exchange(selection: Catalog, catalog: Catalog, alternatives: Collection[str]) -> Catalog:
    """Return a selection with the named entries of the whole catalog in place of those of the same role.

    Its description says so. The selection's assurance becomes part of it if it still holds.
    """
    known = {entry.key: entry for entry in catalog.entries}
    if unknown := [key for key in alternatives if key not in known]:
        raise CatalogError(f"there is no component {', '.join(unknown)}, only {', '.join(known)}")
    chosen = {key: known[key] for key in alternatives}
    roles = [entry.role for entry in chosen.values()]
    if twice := {role for role in roles if roles.count(role) > 1}:
        raise CatalogError(f"several of {', '.join(chosen)} are a {', '.join(sorted(twice))}")
    replaced = {entry.role: entry.name for entry in selection.entries if entry.role in roles}
    description = selection.description
    if selection.assurance and not any(entry.license.must_be_accepted for entry in chosen.values()):
        description += f" {selection.assurance}"
    for entry in chosen.values():
        instead = f" in place of {replaced[entry.role]}" if entry.role in replaced else ""
        description += f" With {entry.name} ({entry.license.name}){instead}."
    kept = (entry for entry in selection.entries if entry.role not in roles)
    return replace(selection, description=description.strip(), entries=(*kept, *chosen.values()))


def _spelling(table: Mapping[str, Any], key: str) -> str:
    """Return a table's spelling of a key: catalogs written for 0.1 have `licences` and `licence`."""
    british = key.replace("license", "licence")
    return british if british in table else key


def _side(table: Mapping[str, Any], key: str, default: int | None) -> int | None:
    value = table.get(key, default)
    if value is not None and (type(value) is not int or value < 1):
        raise CatalogError(f"{key} must be a positive integer, not {value!r}")
    return value


def _license(key: str, table: Mapping[str, Any]) -> License:
    where = f"licenses.{key}"
    text = _source(where, LICENSE_ROLE, table, f"licences/{_text(where, table, 'file')}", None)
    return License(key, _text(where, table, "name"), bool(table.get("must_be_accepted", False)), text)


def _entry(key: str, table: Mapping[str, Any], licenses: Mapping[str, License]) -> Entry:
    where = f"components.{key}"
    role = _text(where, table, "role") if "role" in table else key
    if role not in set(NetworkRole):
        raise CatalogError(f"{where} is unknown; known are {', '.join(NetworkRole)}")
    path = _text(where, table, "path")
    license = _text(where, table, _spelling(table, "license"))
    if license not in licenses:
        raise CatalogError(f"{where}: the license '{license}' is not in the catalog")
    base = table.get("from")
    files = []
    for number, file in enumerate(table["files"]):
        inner = f"{path}/{file['path']}" if "path" in file else path
        files.append(_source(f"{where}.files[{number}]", role, file, inner, base))
    if not files:
        raise CatalogError(f"{where} has no files")
    return Entry(key, role, _text(where, table, "name"), path, licenses[license], tuple(files))


def _source(where: str, role: str, table: Mapping[str, Any], path: str, base: str | None) -> Source:
    url = table.get("url") or (urljoin(base, table["path"]) if base else None)
    if not isinstance(url, str):
        raise CatalogError(f"{where}: url is missing")
    _check_url(where, url)
    size = table.get("bytes")
    if type(size) is not int or size < 1:
        raise CatalogError(f"{where}: bytes must be the file's size, not {size!r}")
    checksum = _text(where, table, "sha256")
    if not re.fullmatch(r"[0-9a-f]{64}|", checksum):
        raise CatalogError(f"{where}: sha256 must be 64 lowercase hexadecimal digits (or empty: unknown)")
    return Source(role, path, url, size, checksum)


def _text(where: str, table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise CatalogError(f"{where}: {key} must be a string, not {value!r}")
    return value


def _check_url(where: str, url: str) -> None:
    if not is_address(url):
        raise CatalogError(f"{where}: {public(url)} is not an http(s) URL")


def _check_paths(catalog: Catalog) -> None:
    """No file may be outside the set, and no two may have the same path."""
    taken: set[str] = set()
    sources = [source for entry in catalog.entries for source in entry.files]
    for source in (*sources, *(license.text for license in catalog.licenses)):
        path = PurePosixPath(source.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in source.path:
            raise CatalogError(f"{source.role}: {source.path} leads out of the set")
        for name in {source.path, source.published}:
            if name in taken or name in ("manifest.json", "manifest.json.part", ".lock"):
                raise CatalogError(f"{source.role}: {name} is taken")
            taken.add(name)
