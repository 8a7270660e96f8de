"""How `make run` ends, with three small programs in place of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tools import run

ROOT = Path(__file__).parents[3]
PROGRAM = """
import pathlib, signal, sys, time

def stop(*_):
    if {name!r} == "gateway":
        time.sleep(0.5)  # finishes a request
    with open("ended", "a") as file:
        print({name!r}, file=file)
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if {name!r} == {stubborn!r} else stop)
pathlib.Path("{name}.up").touch()
while True:
    signal.pause()
"""


def write_programs(folder: Path, stubborn: str = "") -> None:
    for name in run.NAMES:
        package = folder / f"atelier_{name}"
        package.mkdir()
        (package / "__init__.py").touch()  # or the installed package would win over a mere folder
        (package / "__main__.py").write_text(PROGRAM.format(name=name, stubborn=stubborn))


def wait_until_up(folder: Path, names: tuple[str, ...] = run.NAMES) -> None:
    deadline = time.monotonic() + 60
    while not all((folder / f"{name}.up").exists() for name in names):
        assert time.monotonic() < deadline, "the programs did not start"
        time.sleep(0.01)


def make_run(folder: Path) -> subprocess.Popen[str]:
    """What `make run` starts, in a folder where `python -m` finds the small programs first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATELIER_GATEWAY_PORT": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tools.run"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_after_ctrl_c_the_services_run_until_the_gateway_has_finished(tmp_path: Path) -> None:
    write_programs(tmp_path)
    process = make_run(tmp_path)
    wait_until_up(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Stopped" in output
    ended = (tmp_path / "ended").read_text().split()
    assert ended[0] == "gateway" and set(ended[1:]) == {"generator", "restorer"}


def test_without_a_generator_the_other_two_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_programs(tmp_path)
    monkeypatch.chdir(tmp_path)
    environment = {"ATELIER_GATEWAY_GENERATOR": "none"}
    with run.Processes(environment) as processes:
        assert list(processes._children) == ["restorer", "gateway"]
        wait_until_up(tmp_path, run.started(environment))
    assert sorted((tmp_path / "ended").read_text().split()) == ["gateway", "restorer"]


@pytest.mark.parametrize("stubborn", run.NAMES)
def test_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str) -> None:
    write_programs(tmp_path, stubborn)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "STOP_TIMEOUT_S", 2.0)
    with run.Processes({}) as processes:
        wait_until_up(tmp_path)
    codes = {name: child.returncode for name, child in processes._children.items()}
    assert None not in codes.values() and codes[stubborn] == -signal.SIGKILL


def test_a_process_that_ends_by_itself_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    write_programs(tmp_path)
    (tmp_path / "atelier_restorer/__main__.py").write_text("raise SystemExit('PORT=1: taken')")
    process = make_run(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "restorer" in output and "PORT=1: taken" in output


def test_another_instance_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "all_ready", lambda environment: True)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    assert run.main() == 1
    assert "running already: http://127.0.0.1:" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing was started"


@pytest.mark.parametrize("name", ["generator", "restorer", "gateway"])
def test_a_log_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path, name: str) -> None:
    write_programs(tmp_path)
    (tmp_path / f".run/{name}.log").mkdir(parents=True)
    process = make_run(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and f"{name}.log: Is a directory" in output and "Traceback" not in output
    assert not list(tmp_path.glob("*.up")) and not programs_in(tmp_path)


def test_a_file_in_place_of_the_logs_folder_is_told(tmp_path: Path) -> None:
    write_programs(tmp_path)
    (tmp_path / ".run").touch()
    process = make_run(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and ".run: File exists" in output and "Traceback" not in output


def test_what_was_started_is_stopped_if_the_next_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a limit of processes. What starts them is the operating system's."""
    write_programs(tmp_path)
    monkeypatch.chdir(tmp_path)
    start = subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def second_fails(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(start(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", second_fails)
    with pytest.raises(BlockingIOError), run.Processes({}):
        pass
    assert started[0].returncode is not None


def test_a_gateway_that_hangs_does_not_take_the_services_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_programs(tmp_path, "gateway")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "STOP_TIMEOUT_S", 60.0)
    monkeypatch.setattr(run, "_END_S", 0.5)
    with run.Processes({"ATELIER_GATEWAY_DRAIN_SECONDS": "0.5"}) as processes:
        wait_until_up(tmp_path)
    assert sorted((tmp_path / "ended").read_text().split()) == ["generator", "restorer"]
    codes = {name: child.returncode for name, child in processes._children.items()}
    assert codes == {"gateway": -signal.SIGKILL, "generator": 0, "restorer": 0}


@pytest.mark.parametrize(
    ("value", "seconds"), [("5", 20.0), (None, run.STOP_TIMEOUT_S), ("soon", run.STOP_TIMEOUT_S)]
)
def test_each_process_has_its_own_time(value: str | None, seconds: float) -> None:
    environment = {} if value is None else {"ATELIER_RESTORER_DRAIN_SECONDS": value}
    assert run.stop_seconds("restorer", environment) == seconds
    assert run.stop_seconds("generator", environment) == run.STOP_TIMEOUT_S


def test_a_terminal_that_is_closed_stops_all_three(tmp_path: Path) -> None:
    write_programs(tmp_path)
    process = make_run(tmp_path)
    wait_until_up(tmp_path)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0 and not programs_in(tmp_path)
    assert len((tmp_path / "ended").read_text().split()) == 3


def programs_in(folder: Path) -> list[int]:
    """Return the processes that run in a folder."""
    return [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(folder)]
