"""A Dockerfile's build without an engine: its COPY and RUN lines, executed in a folder."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.k8s.manifests import ROOT

DOCKER = ROOT / "docker"
PREFIX = "/opt/atelier"


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for word, text in self.lines if word == instruction]

    def only(self, instruction: str) -> str:
        [text] = self.all(instruction)
        return text

    def json(self, instruction: str) -> list[str]:
        words: list[str] = json.loads(self.only(instruction))
        return words

    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for text in self.all("ENV") for word in shlex.split(text))


def read(name: str) -> dict[str, Stage]:
    """The stages of a service's Dockerfile by name."""
    text = (DOCKER / f"{name}.Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "ARG" and not stages:  # with its default, as a build without --build-arg takes it
            key, _, value = rest.strip().partition("=")
            arguments[f"${{{key}}}"] = value
        elif word == "FROM":
            base, _, name = rest.split()
            stages[name] = Stage(arguments.get(base, base), name)
        else:
            list(stages.values())[-1].lines.append((word, rest.strip()))
    return stages


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern of .dockerignore matches a path or a folder around it."""
    parts, patterns = path.split("/"), pattern.split("/")
    if patterns[0] == "**":
        return any(fnmatch.fnmatchcase(part, patterns[1]) for part in parts)
    return len(parts) >= len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def context() -> list[Path]:
    """The files in a build's context, relative to the repository: those that .dockerignore leaves."""
    rules = [
        (line.removeprefix("!"), line.startswith("!"))
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == ("*", False), "everything is excluded first"
    roots = {pattern.split("/")[0] for pattern, kept in rules if kept}
    files = []
    for root in sorted(roots):
        top = ROOT / root
        for path in [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file()):
            relative = path.relative_to(ROOT)
            kept = False
            for pattern, keeps in rules:
                if _matches(str(relative), pattern):
                    kept = keeps
            if kept:
                files.append(relative)
    return files


def link_installed(environment: Path, *names: str) -> None:
    """Link some distributions and all that they require from this environment into another.

    In the versions of constraints.txt only, so that pip, which has the same constraints, leaves them alone.
    """
    here = Path(str(metadata.distribution("pip").locate_file(""))).resolve()
    [there] = environment.glob("lib/python*/site-packages")
    todo: list[tuple[str, frozenset[str]]] = [(name, frozenset()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = entry = todo.pop()
        if entry in seen or name in ("pip", "setuptools", "wheel"):
            continue
        seen.add(entry)
        distribution = metadata.distribution(name)
        # 2.15.0+cpu is 2.15.0 too, for pip as for us
        assert Version(distribution.version).public == _pinned()[canonicalize_name(name)], name
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            ):
                todo.append((requirement.name, frozenset(requirement.extras)))
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (there / top).exists():
                (there / top).symlink_to(here / top)


@cache
def _pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def build(name: str, folder: Path, linked: tuple[str, ...] = ()) -> Path:
    """Execute the build of a service's image in `folder`; return the environment that it installed.

    `linked`: distributions that are not downloaded and unpacked again but linked from this environment, in
    the versions of constraints.txt, so that pip finds them installed.
    """
    files = context()
    stages = read(name)
    prefix = folder / "opt"
    for stage in (stages["stubs"], stages["build"]):
        work = folder / stage.name
        work.mkdir(parents=True)
        for word, text in stage.lines:
            if word == "COPY":
                _copy(text, files, folder, work)
            elif word == "RUN":
                _run(text, work, prefix, linked)
    return prefix


def _copy(text: str, files: list[Path], folder: Path, work: Path) -> None:
    words = text.split()
    if words[0].startswith("--from="):
        built = folder / words[0].removeprefix("--from=") / Path(words[1]).relative_to("/src")
        shutil.copytree(built, work / words[2], dirs_exist_ok=True)
        return
    *sources, target = words
    for source in map(Path, sources):
        inside = [file for file in files if file == source or source in file.parents]
        assert inside, f"COPY {source}: .dockerignore leaves nothing of it"
        for file in inside:
            goal = work / target / (file.relative_to(source) if file != source else file.name)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, goal)


def _run(text: str, work: Path, prefix: Path, linked: tuple[str, ...]) -> None:
    tools = work.parent / "tools"  # stands in for the base image's own Python
    if not tools.exists():
        venv.create(tools, with_pip=True)
    text = text.replace(PREFIX, str(prefix)).replace("--no-cache-dir", "")
    for command in text.split("&&"):
        path = f"{tools / 'bin'}:/usr/bin:/bin"
        environment = {**_index_settings(), "PATH": path, "HOME": str(work)}
        done = subprocess.run(
            ["bash", "-ec", command], cwd=work, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if "-m venv" in command and linked:
            link_installed(prefix, *linked)


def _index_settings() -> dict[str, str]:
    """The variables and the user's file that tell pip where packages are."""
    found = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    found |= {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    found |= {key: os.environ[key] for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if key in os.environ}
    files = [Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
    for file in filter(Path.is_file, files):
        found.setdefault("PIP_CONFIG_FILE", str(file))
    return found
