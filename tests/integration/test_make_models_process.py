"""`make models` killed in the middle, run twice at once, and asked on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier_runtime.service_status import NetworkRole
from atelier_runtime.weights import ModelSet
from tests.file_server import Fault, FileServer, file_server
from tests.tiny_catalogue import published_files, write_catalog
from tools.models.__main__ import main

ROOT = Path(__file__).parents[2]
PLACE = "/faces/detector.pth"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as served:
        served.files |= published_files()
        yield served


@pytest.fixture
def command(server: FileServer, tmp_path: Path) -> list[str]:
    catalog = write_catalog(tmp_path / "catalogue.toml", server)
    return ["--to", str(tmp_path / "set"), "--catalogue", str(catalog), "--retry-pause", "0"]


def wait_for_part(path: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} did not reach {size} bytes"
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on_and_meanwhile_a_second_run_is_refused(
    server: FileServer, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    half = len(server.files[PLACE]) // 2
    server.faults[PLACE] = [Fault(stall_after=half)]
    command = [*command, "--only", "detector"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.models", *command], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    try:
        wait_for_part(folder / "detector.pth.part", half)
        assert main(command) == 1
        assert f"another run (process {process.pid}) is at work" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait(timeout=30)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {".lock", "licences/open.txt", "detector.pth.part"}
    assert main(command) == 0
    assert server.ranges_of(PLACE) == [None, f"bytes={half}-"]
    out, err = capsys.readouterr()
    assert "detector.pth: " in err and str(folder / "manifest.json") in out
    ModelSet.open(str(folder)).verify(NetworkRole.FACE_DETECTOR)


@pytest.mark.parametrize(
    ("answers", "code", "components"),
    [
        ("yes\nyes\n", 0, {"base", "detector", "codeformer"}),
        ("no\nyes\n", 0, {"base", "detector"}),
        ("yes\nno\n", 2, None),
    ],
    ids=["accepted", "not accepted", "accepted, not fetched"],
)
def test_on_a_terminal_it_asks(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: str,
    code: int,
    components: set[str] | None,
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answers.encode())
    with os.fdopen(ours), os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert main(command) == code
    err = capsys.readouterr().err
    assert "codeformer: License s-lab" in err and "Do you accept it? [yes/no]" in err and "Fetch " in err
    if components is None:
        assert not (tmp_path / "set/manifest.json").exists()
    else:
        assert set(ModelSet.open(str(tmp_path / "set")).components) == components
