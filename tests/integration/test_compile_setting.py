"""COMPILE in a service's process: what stops its start names the variable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def start(service: str, **variables: str) -> tuple[int, str]:
    """Start a service that is to compile with the demo models; return its exit code and standard error."""
    prefix = f"ATELIER_{service.upper()}_"
    own = {"COMPILE": "blocks", "PORT": "0", "METRICS_PORT": "0", "HOST": "127.0.0.1", "DEVICE": "cpu"}
    environment = os.environ | {prefix + name: value for name, value in own.items()} | variables
    command = [sys.executable, "-m", f"atelier_{service}", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize("service", ["generator", "restorer"])
def test_a_compiler_that_is_missing_or_fails_stops_the_start(service: str) -> None:
    variable = f"ATELIER_{service.upper()}_COMPILE=blocks: "
    code, error = start(service, CXX="no-such-compiler")
    assert code == 1 and variable in error and "no-such-compiler" in error.splitlines()[-1]
    code, error = start(service, CXX="/bin/false")
    first_pass = {"generator": "base, ", "restorer": "1 faces: "}[service]
    assert code == 1 and variable + first_pass in error
