"""The published weights, from the catalog of `make models`."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tools.docs.markdown import code, table

CATALOG = Path(__file__).parents[1] / "models/catalogue.toml"


def components() -> str:
    """Return a table of the components of the set `sdxl`: what, how large, under which license."""
    catalog = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
    rows = []
    for role, component in catalog["components"].items():
        size = sum(file["bytes"] for file in component["files"])
        license = catalog["licenses"][component["license"]]["name"]
        rows.append((code(role), component["name"], _size(size), license))
    return table(("component", "published as", "size", "license"), rows)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
