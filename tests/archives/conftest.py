"""A gateway with scripted services, and the command in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier_restorer.__main__ import main
from tests.archives.runs import (
    Ran,
    Run,
    make_album,
)
from tests.contract.stack import Stack


@pytest.fixture(scope="module")
def jobs_stack() -> Iterator[Stack]:
    """A gateway that takes on more jobs at once than any of these commands has in flight."""
    with Stack(jobs_at_once=16) as stack:
        yield stack


@pytest.fixture
def stack(jobs_stack: Stack) -> Iterator[Stack]:
    jobs_stack.reset()
    yield jobs_stack
    jobs_stack.restorer.hold = False


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process."""
    monkeypatch.setattr("atelier_restorer.commands.connection.configure_logging", lambda *_: None)

    def run_command(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return make_album(tmp_path / "in", 4)
