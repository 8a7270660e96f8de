"""The built page: small, from nowhere else, and what its source says."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import program
from tests.studio import axe_check
from tools import studio

MOST_JAVASCRIPT = 120_000
"""Bytes, compressed."""
_ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9-]+(?:\.[a-z0-9-]+)+[^\s\"'`)<]*", re.IGNORECASE)
_NAMESPACES = "http://www.w3.org/"


def built() -> list[Path]:
    return sorted(path for path in studio.BUILT.rglob("*") if path.is_file())


def test_its_javascript_is_small() -> None:
    scripts = [path.read_bytes() for path in built() if path.suffix == ".js"]
    assert scripts
    assert sum(len(gzip.compress(script, 9)) for script in scripts) < MOST_JAVASCRIPT


def test_it_has_no_inline_script_or_style() -> None:
    page = (studio.BUILT / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert "<style" not in page and not re.search(r"\s(style|on\w+)=", page)


def test_it_names_no_other_origin() -> None:
    texts = [path for path in built() if path.suffix in (".html", ".js", ".css", ".svg")]
    found = {address for path in texts for address in _ADDRESS.findall(path.read_text())}
    assert {address for address in found if not address.startswith(_NAMESPACES)} == set()


def test_packages_are_installed_anew_when_the_lock_file_has_changed(tmp_path: Path) -> None:
    def lock(path: str, packages: dict[str, dict[str, Any]]) -> None:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"packages": packages}))

    package = {"node_modules/a": {"integrity": "1"}}
    lock("package-lock.json", {"": {}, **package, "node_modules/for-others": {"optional": True}})
    assert not studio.is_installed(tmp_path)
    lock("node_modules/.package-lock.json", package)
    assert studio.is_installed(tmp_path)
    for other in ({}, {"node_modules/a": {"integrity": "2"}}, {**package, "node_modules/b": {}}):
        lock("node_modules/.package-lock.json", other)
        assert not studio.is_installed(tmp_path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The source with its packages installed from the lock file, beside an empty folder to build into."""
    program(str(Path(sys.executable).with_name("npm")))
    folder = tmp_path_factory.mktemp("page") / "gateway" / "studio"
    shutil.copytree(studio.SOURCE, folder, ignore=shutil.ignore_patterns("node_modules"))
    studio.npm("ci", folder=folder)
    yield folder
    shutil.rmtree(folder / "node_modules")


@pytest.mark.slow
def test_its_types_are_those_of_the_gateway(copy: Path, tmp_path: Path) -> None:
    studio.write_types(tmp_path / "schema.ts", folder=copy)
    assert (tmp_path / "schema.ts").read_text() == studio.TYPES.read_text(), "run make studio"


@pytest.mark.slow
def test_its_logic(copy: Path) -> None:
    studio.npm("run", "test", folder=copy)


@pytest.mark.slow
def test_the_committed_files_are_what_the_source_builds(copy: Path) -> None:
    studio.npm("run", "build", folder=copy)
    out = copy.parent / "atelier_gateway" / "studio" / "static"
    made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    committed = {path.relative_to(studio.BUILT): path.read_bytes() for path in built()}
    assert sorted(made) == sorted(committed), "run make studio"
    assert [str(name) for name in made if made[name] != committed[name]] == [], "run make studio"


@pytest.mark.slow
def test_the_licenses_are_those_of_what_it_contains(copy: Path, tmp_path: Path) -> None:
    studio.write_licenses(tmp_path / "licenses", folder=copy)
    assert (tmp_path / "licenses").read_text() == studio.LICENSES.read_text(), "run make studio"


@pytest.mark.slow
def test_types_that_do_not_fit_are_an_error(copy: Path) -> None:
    wrong = copy / "src" / "wrong.ts"
    wrong.write_text('export const seconds: number = "1";\n')
    try:
        with pytest.raises(subprocess.CalledProcessError):
            studio.npm("run", "check", folder=copy)
    finally:
        wrong.unlink()


@pytest.mark.slow
def test_the_axe_of_the_tests_is_the_published_one(copy: Path) -> None:
    published = copy / "node_modules" / "axe-core" / "axe.min.js"
    assert axe_check.SOURCE.read_bytes() == published.read_bytes()
