"""`make models` for a set of one file, and answers of servers that misbehave."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.answering_server import Asked, answer, rest_of
from tools.models.__main__ import main

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 400
SIZE = len(CONTENT)
HALF = SIZE // 2
WHOLE = rest_of(CONTENT)


class Fetch:
    """Fetch a set of one file, whose license is there already; return the exit code."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, url: str, *more: str, pause: str = "0", sha256: str = "") -> int:
        self.write_catalog(url, sha256)
        command = ["--to", str(self.folder), "--catalogue", str(self.folder.parent / "c.toml"), "--yes"]
        code = main([*command, "--retry-pause", pause, *more])
        self.out, self.err = self.capsys.readouterr()
        return code

    def write_catalog(self, url: str, sha256: str = "") -> None:
        text = self.folder / "licences/free.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("free\n")
        license = f'bytes = 5, sha256 = "{hashlib.sha256(text.read_bytes()).hexdigest()}"'
        weights = f'bytes = {SIZE}, sha256 = "{sha256 or hashlib.sha256(CONTENT).hexdigest()}"'
        (self.folder.parent / "c.toml").write_text(
            'name = "x"\n[licenses]\n'
            f'free = {{ name = "Free", file = "free.txt", url = "http://free.invalid/", {license} }}\n'
            '[components.base]\nname = "b"\npath = "base.safetensors"\nlicense = "free"\n'
            f'files = [{{ url = "{url}", {weights} }}]\n'
        )

    def as_process(self, url: str, **environment: str) -> int:
        """The same in a process: httpcore leaves sockets to refused SOCKS connections open."""
        self.write_catalog(url)
        command = ["--to", str(self.folder), "--catalogue", str(self.folder.parent / "c.toml"), "--yes"]
        process = subprocess.run(
            [sys.executable, "-m", "tools.models", *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        self.out, self.err = process.stdout, process.stderr
        return process.returncode

    @property
    def part(self) -> Path:
        return self.folder / "base.safetensors.part"

    @property
    def complete(self) -> bool:
        return (self.folder / "base.safetensors").read_bytes() == CONTENT and sorted(
            path.name for path in self.folder.iterdir()
        ) == [".lock", "base.safetensors", "licences", "manifest.json"]


def begun(fetch: Fetch, content: bytes = CONTENT[:HALF]) -> None:
    fetch.folder.mkdir(parents=True)
    fetch.part.write_bytes(content)


def status(line: str, body: bytes = b"", **headers: str) -> Callable[[Asked], bytes]:
    return lambda asked: answer(line, body, headers)


def extent(start: int, end: int, total: int | str, body: bytes) -> Callable[[Asked], bytes]:
    return status("206 Partial Content", body, Content_Range=f"bytes {start}-{end}/{total}")


def without_length(body: bytes) -> Callable[[Asked], bytes]:
    return lambda asked: answer("200 OK", body, length=False)
