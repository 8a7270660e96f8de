"""A reader's folder in which the documented commands run, against three real processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, run_block
from tests.processes import Atelier, program

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, but for what the commands expect in the root of the repository."""
    made = tmp_path_factory.mktemp("reader")
    for name in ("docs", "examples"):
        (made / name).symlink_to(ROOT / name)
    (made / ".venv").symlink_to(sys.prefix)
    return made


@pytest.fixture(scope="module")
def run(atelier: Atelier, folder: Path) -> Run:
    """Run one of `EXECUTED` as it stands, but for the ports; return what it prints."""
    program("curl")
    ports = {
        "127.0.0.1:7860": atelier.url.removeprefix("http://"),
        "127.0.0.1:50052": atelier.restorer,
    }
    return lambda name: run_block(name, folder, ports)
