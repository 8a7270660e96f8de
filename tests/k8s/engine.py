"""Images built from the Dockerfiles by buildah, on a root that debootstrap makes, and their processes.

No daemon and no registry: a root with Debian's own Python of the same version takes the place of
`python:3.11-slim-bookworm`, and knows what this machine knows of where packages are.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.k8s import dockerfile, thin_wheels
from tests.k8s.dockerfile import DOCKER, PREFIX
from tests.k8s.manifests import BACKENDS, ROOT
from tests.processes import program

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
WHEELS = "opt/wheels"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
_APT = re.compile(r"(?m)^Acquire::(?:https?|Check-|Retries|Languages)\S* .*;$")
_BUILD_TIMEOUT_S = 1800
_QUESTION_TIMEOUT_S = 300


def require() -> None:
    """Skip the test, by name, where images cannot be built."""
    for name in ("buildah", "debootstrap", "unshare", "apt-get"):
        program(name)
    if os.getuid() != 0:
        pytest.skip("debootstrap needs root")
    for flags in ("--mount", "--user"):
        if subprocess.run(
            ["unshare", flags, "true"], capture_output=True, timeout=_QUESTION_TIMEOUT_S
        ).returncode:
            pytest.skip(f"namespaces are forbidden: unshare {flags}")
    version = ".".join(map(str, sys.version_info[:2]))
    if f"python:{version}-" not in base_image():
        pytest.skip(f"torch of this environment is for Python {version}, not for that of {base_image()}")
    if not _debian():
        pytest.skip("apt knows no archive of Debian")


def base_image() -> str:
    """The image that the Dockerfiles are based on by default, such as `python:3.11-slim-bookworm`."""
    return dockerfile.read("gateway")["run"].base


def _debian() -> str:
    """The address from which this machine gets Debian; empty: from nowhere."""
    question = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
    known = subprocess.run(
        question, capture_output=True, text=True, timeout=_QUESTION_TIMEOUT_S
    ).stdout.split()
    return next((site for site in known if not site.endswith("-security")), "")


def _output(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_QUESTION_TIMEOUT_S
    ).stdout


def pip_settings(listed: str) -> dict[str, str]:
    """Of what `pip config list` prints: where indexes are and how to reach them, without local folders."""
    lines = sorted(listed.splitlines(), key=lambda line: line.startswith(":env:"))  # variables win
    found = {}
    for line in lines:
        name, _, value = line.partition("=")
        key, words = name.rpartition(".")[2], str(ast.literal_eval(value)).split()
        if words := [word for word in words if not word.startswith(("file:", "/"))]:
            found[key] = " ".join(words)
    return {key: value for key, value in found.items() if key in _PIP}


@dataclass(frozen=True)
class Engine:
    """buildah with a store of its own in `folder`."""

    folder: Path
    driver: str

    def command(self, *arguments: str) -> list[str]:
        store = ("--root", str(self.folder / "store"), "--runroot", str(self.folder / "run"))
        return ["buildah", *store, "--storage-driver", self.driver, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.folder), "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str) -> str:
        """Run one command of buildah's to its end and return what it prints."""
        return _logged(self.command(*arguments), self.environment)

    def build_base(self) -> str:
        """Make the stand-in for the Dockerfiles' base image; return its name."""
        official = base_image()
        suite, python = official.rpartition("-")[2], official.partition(":")[2].partition("-")[0]
        root = self.folder / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        _logged(["debootstrap", "--variant=minbase", packages, suite, str(root), _debian()])
        assert (root / f"usr/bin/python{python}").exists()
        self._tell_where_packages_are(root)
        container = self("from", "scratch").strip()
        self("add", container, str(root), "/")
        self("config", "--env", f"PATH={PATH}", container)
        # as in the official image: pip in /usr/local, where it may install
        self("run", container, "python3", "-m", "venv", "/usr/local")
        name = f"localhost/{official}"
        self("commit", "--rm", container, name)
        shutil.rmtree(root)
        return name

    def _tell_where_packages_are(self, root: Path) -> None:
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        acquire = "\n".join(_APT.findall(_output("apt-config", "dump")))
        (root / "etc/apt/apt.conf.d/99host").write_text(f"{acquire}\n", encoding="utf-8")
        settings = pip_settings(_output(sys.executable, "-m", "pip", "config", "list"))
        settings |= {"cert": str(CERTIFICATES), "find-links": f"/{WHEELS}"}
        text = "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        (root / "etc/pip.conf").write_text(text, encoding="utf-8")
        (root / WHEELS).mkdir()
        for name in thin_wheels.heavy():
            thin_wheels.write(name, root / WHEELS)

    def build(self, name: str, base: str) -> str:
        """Build a service's image, as its Dockerfile's first lines say; return its name.

        In Docker's format: that of OCI has no HEALTHCHECK. Layers are kept, so that stages that begin alike
        are built once.
        """
        image = f"localhost/atelier/{name}"
        flags = ["--format", "docker", "--layers", "--pull-never", "--build-arg", f"BASE={base}"]
        if index := os.environ.get("PIP_INDEX_URL"):
            flags += ["--build-arg", f"PIP_INDEX_URL={index}"]
        self("build", *flags, "-f", str(DOCKER / f"{name}.Dockerfile"), "-t", image, str(ROOT))
        return image

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of its process: User, Env, Entrypoint, Cmd, Healthcheck and so on."""
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        return found

    @contextmanager
    def container(self, image: str, log: Path, **settings: object) -> Iterator[Container]:
        """Start an image's process, and stop it on leaving. Settings are environment variables."""
        name = self("from", "--pull-never", image).strip()
        for key, value in settings.items():
            self("config", "--env", f"{key}={value}", name)
        linked = thin_wheels.heavy() if image.rpartition("/")[2] in BACKENDS else set()
        container = Container(self, name, self.config(image), log, linked)
        try:
            yield container
        finally:
            container.close()
            self("rm", name)


class Container:
    """A process with the image's user, entrypoint, command and environment, on this machine's network.

    `linked`: distributions whose files come from this environment, read-only.
    """

    def __init__(
        self, engine: Engine, name: str, config: dict[str, Any], log: Path, linked: Collection[str]
    ) -> None:
        self._engine, self._name, self.config, self.log = engine, name, config, log
        self._linked = thin_wheels.contents(linked)
        with log.open("wb") as file:
            self._buildah = subprocess.Popen(
                self._command([*config["Entrypoint"], *config["Cmd"]]),
                env=engine.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def _command(self, inside: Sequence[str]) -> list[str]:
        site = f"{PREFIX}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        volumes = [f"--volume={path}:{site}/{path.name}:ro" for path in self._linked]
        return self._engine.command("run", *volumes, self._name, "--", *inside)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, and says so when it is asked as its HEALTHCHECK asks."""
        assert self._buildah.poll() is None, self.log.read_text()
        kind, *asked = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        done = subprocess.run(
            self._command(asked),
            env=self._engine.environment,
            capture_output=True,
            text=True,
            timeout=_QUESTION_TIMEOUT_S,
        )
        return done.returncode == 0

    def process(self) -> psutil.Process:
        """The image's process itself: the outermost that its Python runs, below buildah's own."""
        descendants = psutil.Process(self._buildah.pid).children(recursive=True)
        return next(each for each in descendants if "".join(each.cmdline()[:1]).startswith(PREFIX))

    def stop(self) -> int:
        """End the process with SIGTERM; return its exit code."""
        self.process().send_signal(signal.SIGTERM)
        return self._buildah.wait(120)

    def written(self) -> set[str]:
        """Files of the image's user in what was changed in the root, which in Kubernetes is read-only."""
        root = Path(self._engine("mount", self._name).strip())
        user = int(self.config["User"].partition(":")[0])
        try:
            places = [path for path in root.iterdir() if path.name not in ("proc", "sys", "dev")]
            files = (path for place in places for path in (place, *place.rglob("*")))
            return {f"/{path.relative_to(root)}" for path in files if path.lstat().st_uid == user}
        finally:
            self._engine("umount", self._name)

    def close(self) -> None:
        """Kill what still runs."""
        if self._buildah.poll() is None:
            for each in psutil.Process(self._buildah.pid).children(recursive=True):
                each.kill()
            self._buildah.kill()
            self._buildah.wait()


def _logged(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    started = time.monotonic()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, errors="replace"
    )
    words = shlex.join(command)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    print(f"{time.monotonic() - started:.1f} s: {words}")
    return done.stdout


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """buildah with an empty store, removed on leaving. Where there can be no overlay, layers are copies."""
    made = Engine(folder, "overlay")
    try:
        asked = subprocess.run(
            made.command("info"), env=made.environment, capture_output=True, timeout=_QUESTION_TIMEOUT_S
        )
        if asked.returncode != 0:
            made = Engine(folder, "vfs")
        yield made
    finally:
        mounted = {each.mountpoint for each in psutil.disk_partitions(all=True)}
        for place in sorted(mounted, reverse=True):  # the store itself, and what an aborted build leaves
            if folder in Path(place).parents:
                _logged(["umount", "--lazy", place])
        _logged(["rm", "-rf", "--one-file-system", str(folder)])
