"""A real PostgreSQL server for tests, in a folder of its own, as a user that is not root."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "nobody"
_DEBIAN = Path("/usr/lib/postgresql")
_STARTUP_S = 30


def program(name: str) -> str | None:
    """Return where one of PostgreSQL's programs is; Debian does not put them on PATH."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(found[0]) if found else None)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """One server, with as many databases as tests ask for."""

    def __init__(self) -> None:
        # Not pytest's folder, which only its own user may enter: the server refuses to run as root.
        self._temporary = tempfile.TemporaryDirectory(prefix="postgres_", ignore_cleanup_errors=True)
        self.folder = folder = Path(self._temporary.name)
        self.port = free_port()
        self._databases = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-U", "atelier", "-A", "trust", "--no-sync")
        self.start()

    def create_database(self) -> str:
        """Return the URL of a new database."""
        name = f"jobs_{next(self._databases)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "atelier", name)
        return f"postgresql://atelier@127.0.0.1:{self.port}/{name}"

    def execute(self, url: str, statement: str) -> None:
        """Run a statement on a database, {name} being its name, and end all connections to it."""
        name = url.rpartition("/")[2]
        ends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        for each in (statement.format(name=name), ends):
            arguments = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "atelier", "-d", "postgres")
            self._run("psql", *arguments, "-c", each)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = ("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user(),
                    self._program("postgres"),
                    "-D",
                    str(self.folder / "data"),
                    "-p",
                    str(self.port),
                    *settings,
                ],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        end = time.monotonic() + _STARTUP_S
        while not self._is_ready():
            assert time.monotonic() < end and self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, as if its machine had lost power; what was committed is on the disk."""
        assert self._process is not None
        self._process.send_signal(3)  # SIGQUIT: immediate shutdown
        self._process.wait()

    def close(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        self._temporary.cleanup()

    def _is_ready(self) -> bool:
        arguments = ("-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "atelier", "-d", "postgres")
        return subprocess.run([self._program("pg_isready"), *arguments], check=False).returncode == 0

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self._as_user(), self._program(name), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    @staticmethod
    def _program(name: str) -> str:
        found = program(name)
        assert found is not None, f"{name} is not installed"
        return found

    @staticmethod
    def _as_user() -> list[str]:
        return ["setpriv", f"--reuid={_USER}", "--clear-groups"] if os.geteuid() == 0 else []


@contextmanager
def running() -> Iterator[Postgres]:
    """A server, while the context lasts."""
    server = Postgres()
    try:
        yield server
    finally:
        server.close()
