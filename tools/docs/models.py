"""The published weights, from the catalog of `make models`."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tools.docs.markdown import code, table
from tools.models.catalogue import read_catalog

CATALOG = Path(__file__).parents[1] / "models/catalogue.toml"


def components() -> str:
    """Return a table of the components: what, how large, under which license, in which sets."""
    catalog = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    rows = []
    for key, component in catalog["components"].items():
        role = component.get("role", key)
        sets = [catalog["name"]] if role == key else []
        sets += [name for name, profile in catalog["profiles"].items() if key in profile["components"]]
        size = sum(file["bytes"] for file in component["files"])
        license = catalog["licenses"][component["license"]]["name"]
        where = ", ".join(map(code, sets)) or f"with {code(f'WITH={key}')}"
        rows.append((code(role), component["name"], _size(size), license, where))
    return table(("component", "published as", "size", "license", "in the sets"), rows)


def sets() -> str:
    """Return a table of the sets: how large, of which components, and what must be accepted."""
    rows = []
    for profile in (None, *tomllib.loads(CATALOG.read_text(encoding="utf-8"))["profiles"]):
        catalog = read_catalog(CATALOG, profile)
        size = sum(source.bytes for entry in catalog.entries for source in entry.files)
        keys = " ".join(license.key for license in catalog.licenses if license.must_be_accepted)
        names = ", ".join(entry.name for entry in catalog.entries)
        command = code(f"PROFILE={profile}") if profile else "none"
        rows.append((command, f"{size / 1e9:.2f} GB", names, code(f'ACCEPT="{keys}"') if keys else "nothing"))
    return table(("profile", "size", "components", "to accept"), rows)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
