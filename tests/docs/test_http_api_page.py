"""The page on the HTTP API names every route, and every part of what its tables have one row for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atelier_gateway.api.native.generate_request import HiresPass

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    [found] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` ")]
    return found


def test_the_table_of_routes_covers_every_path() -> None:
    surface = (ROOT / "tests" / "contract" / "openapi_surface.txt").read_text(encoding="utf-8")
    paths = set(re.findall(r"^[A-Z]+ (/[^\s:]*)", surface, re.MULTILINE))
    assert "/v1/inspect" in paths
    table = PAGE[PAGE.index("| route | what it does |") : PAGE.index("## Generate an image")]
    named = {path.removesuffix("...") for path in re.findall(r"`(?:[A-Z]+ )?(/[^`]*)`", table)} - {"/"}
    assert [path for path in sorted(paths - {"/"}) if not path.startswith(tuple(named))] == []


@pytest.mark.parametrize("name", HiresPass.model_fields)
def test_the_row_of_the_hires_pass_has_its_fields(name: str) -> None:
    assert re.search(rf"\b{name}\b", row("hires_pass"))


def test_where_the_refiner_s_strength_has_no_effect() -> None:
    said = row("refiner_strength")
    assert all(option in said for option in ("hires_fix", "hires_pass", "use_refiner"))


@pytest.mark.parametrize("name", ["recipe_of", "any_model_set"])
def test_what_jobs_take_beyond_the_route_is_told(name: str) -> None:
    assert f"`{name}" in PAGE[PAGE.index("## Jobs") :].replace(f"| `{name}", "")
