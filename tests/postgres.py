"""A real PostgreSQL server for tests, in a folder of its own, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
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
    """One server; `url` is that of its database `jobs`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://atelier@127.0.0.1:{self.port}/jobs"
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam(_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
            for above in folder.parents:
                if above.stat().st_uid == 0 and above != Path("/"):
                    above.chmod(above.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(folder / "data"), "-U", "atelier", "-A", "trust", "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "atelier", "jobs")

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

    def _is_ready(self) -> bool:
        arguments = ("-q", "-h", "127.0.0.1", "-p", str(self.port))
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
def running(folder: Path) -> Iterator[Postgres]:
    """A server, while the context lasts."""
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()
