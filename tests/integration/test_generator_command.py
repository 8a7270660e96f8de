"""The command `atelier-generator serve` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_sdxl import build_set


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("set"))


def command(**environment: str) -> subprocess.Popen[str]:
    settings = {f"ATELIER_GENERATOR_{name}": value for name, value in environment.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "atelier_generator", "serve"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ATELIER_GENERATOR_CPU_THREADS": "1", **settings},
        stderr=subprocess.PIPE,
        text=True,
    )


def error_output(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_bad_settings_stop_the_start_and_name_the_variable(tmp_path: Path) -> None:
    with command(PORT="many") as process:
        assert process.wait(60) == 2
        assert "ATELIER_GENERATOR_PORT=many" in error_output(process)
    with command(MODEL_SET=str(tmp_path / "nowhere"), PORT="0", METRICS_PORT="0") as process:
        assert process.wait(60) == 1
        assert "ATELIER_GENERATOR_MODEL_SET=" in error_output(process)


def test_sigterm_ends_the_process_cleanly(set_folder: Path) -> None:
    settings = {"MODEL_SET": str(set_folder), "PORT": "0", "METRICS_PORT": "0", "HOST": "127.0.0.1"}
    with command(**settings) as process:
        lines = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if '"ready"' in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "".join(lines)
    assert any('"stopped"' in line for line in lines)
