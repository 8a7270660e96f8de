"""Compiling: what stops a start, and what must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier_runtime.compilation import compile_part, prepare, warm_up
from atelier_runtime.settings import StartupError
from tests.compiling import CountingBackend, own_compiler
from tests.unit.runtime.compiled_settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that `prepare` sets, restored afterwards."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return monkeypatch


def settings(**options: Any) -> Settings:
    return Settings(**{"device": "cpu", "compile": "blocks"} | options)


@pytest.mark.parametrize("compiler", [None, "no-such-compiler"])
def test_a_missing_compiler_names_the_setting_and_the_remedies(
    environment: pytest.MonkeyPatch, tmp_path: Path, compiler: str | None
) -> None:
    environment.setenv("PATH", str(tmp_path))
    environment.delenv("CXX", raising=False)
    if compiler:
        environment.setenv("CXX", compiler)
    with pytest.raises(StartupError, match=rf"^COMPILE=blocks: .*{compiler or 'g'}.*CXX.*COMPILE=off"):
        prepare(settings())
    prepare(settings(compile="off"))


def test_a_cache_that_cannot_be_written_names_the_setting(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StartupError, match=rf"^COMPILE_CACHE={file}: "):
        prepare(settings(compile_cache=str(file)))


def test_the_cache_is_in_the_folder_of_the_settings_or_a_private_one(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare(settings(compile_cache=str(tmp_path / "new")))
    folders = {Path(os.environ[name]) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    assert all(tmp_path / "new" in folder.parents for folder in folders)
    prepare(settings())
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert tmp_path not in folder.parents
    assert folder.stat().st_mode & 0o077 == 0, "what lies there is executed"


def test_a_pass_that_fails_stops_the_start_and_is_named() -> None:
    def fail() -> None:
        raise ValueError("the reason\nand more")

    with own_compiler(), pytest.raises(StartupError, match=r"^COMPILE=blocks: base, 64x64: the reason$"):
        warm_up(settings(), [("base, 64x64", fail)])


def test_a_pass_that_needs_too_much_memory_says_so() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError

    with own_compiler(), pytest.raises(StartupError, match=r"too little memory for base, 64x64$"):
        warm_up(settings(), [("base, 64x64", fail)])


def test_more_shapes_than_torch_allows_by_default() -> None:
    network, backend = torch.nn.Linear(2, 2), CountingBackend()
    passes = [(str(n), partial(network, torch.zeros(n, 2))) for n in range(2, 22)]
    with own_compiler():
        compile_part(network, "blocks", backend)
        warm_up(settings(), passes)
        for _, run in passes:
            run()
        assert (backend.graphs, backend.runs) == (20, 40)


STARTS = """
import json, sys
import psutil
import torch
from torch._dynamo.utils import counters
from torch._inductor.async_compile import AsyncCompile
from atelier_runtime.compilation import compile_part, prepare, warm_up
from tests.unit.runtime.compiled_settings import Settings

settings = Settings(device="cpu", compile="blocks", compile_cache=sys.argv[1])
prepare(settings)
AsyncCompile.process_pool()  # as Triton would
network = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.GELU()).requires_grad_(False)
compile_part(network, "blocks")
warm_up(settings, [("one", lambda: network(torch.ones(4, 8)))])
found = {name: counters["inductor"]["fxgraph_cache_" + name] for name in ("hit", "miss")}
found["processes"] = sum("compile_worker" in " ".join(p.cmdline()) for p in psutil.Process().children(True))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_what_was_compiled_survives_a_restart_and_what_was_left_incomplete_does_not_stop_one(
    tmp_path: Path,
) -> None:
    """A process that is killed while its compiler writes leaves a file that cannot be loaded."""

    def start(*, complains: bool = False) -> dict[str, int]:
        command = [sys.executable, "-c", STARTS, str(tmp_path)]
        # As in a container, where the user has no name.
        environment = {k: v for k, v in os.environ.items() if k not in ("USER", "LOGNAME", "USERNAME")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("compiling failed; again, without the cache" in done.stderr) == complains
        found: dict[str, int] = json.loads(done.stdout)
        return found

    assert start() == {"hit": 0, "miss": 1, "processes": 0}
    assert start() == {"hit": 1, "miss": 0, "processes": 0}
    libraries = list(tmp_path.rglob("*.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(library.read_bytes()[:100])
    assert start(complains=True) == {"hit": 0, "miss": 1, "processes": 0}
    assert start() == {"hit": 1, "miss": 0, "processes": 0}
