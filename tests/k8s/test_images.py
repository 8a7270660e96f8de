"""The Dockerfiles: clean, small, without privileges; and what they install runs with what they copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from atelier_runtime import probe
from tests.k8s import dockerfile, engine
from tests.k8s.dockerfile import DOCKER, PREFIX
from tests.k8s.manifests import BACKENDS, NAMES, ROOT, Workload, program, workloads
from tests.processes import free_port, wait_for

DEBIAN_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
}
"""Libraries that a slim image does not have, and the packages that have them."""

NETWORK_LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "spandrel", "facexlib", "cv2")


def test_hadolint_finds_nothing() -> None:
    files = [str(DOCKER / f"{name}.Dockerfile") for name in NAMES]
    command = [program("hadolint"), "--config", str(ROOT / ".hadolint.yaml"), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_last_stage_is_slim_and_has_no_privileges(name: str) -> None:
    stages = dockerfile.read(name)
    assert list(stages) == ["stubs", "build", "run"]
    assert len({stage.base for stage in stages.values()}) == 1
    run = stages["run"]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", run.base)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", run.only("USER")), (
        "by number, or Kubernetes cannot tell it from root"
    )
    assert run.all("COPY") == [f"--from=build {PREFIX} {PREFIX}"], "no sources, no pip cache, no stubs' tools"
    commands = run.all("RUN")
    if name == "gateway":  # whose user may write to a volume, too; see test_jobs.py
        [folder] = run.all("VOLUME")
        assert commands.pop().endswith(f" {folder}") and not commands
    for command in commands:
        installed = re.search(
            r"apt-get install -y --no-install-recommends ([^&]+)&& rm -rf /var/lib/apt", command
        )
        assert installed, command
        # torch.compile needs a compiler where it runs; nothing else is built there
        compiler = "" if name == "gateway" else r" g\+\+(?= )"
        assert not re.search(
            r"gcc|g\+\+|build-essential|clang|-dev|pip", re.sub(compiler, "", command, count=1)
        )
    assert run.json("ENTRYPOINT") == [f"{PREFIX}/bin/atelier-{name}"] and run.json("CMD") == ["serve"]
    assert run.environment()["HOME"] == "/tmp", "the only writable folder but for the gateway's volume"


@pytest.mark.parametrize("name", NAMES)
def test_a_release_pins_the_base_image_by_one_argument(name: str) -> None:
    text = (DOCKER / f"{name}.Dockerfile").read_text(encoding="utf-8")
    [default] = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+) AS", text, re.MULTILINE)
    assert set(bases) == {"${BASE}"} and default in text.split("ARG")[0], "the comment shows the same one"


@pytest.mark.parametrize("name", NAMES)
def test_docker_asks_the_process_itself_whether_it_is_alive(name: str) -> None:
    check = dockerfile.read(name)["run"].only("HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert json.loads(command) == [f"{PREFIX}/bin/python", "-m", probe.__name__, name]
    seconds = dict(re.findall(r"--(interval|timeout)=(\d+)s", options))
    assert int(seconds["timeout"]) < int(seconds["interval"])


@pytest.mark.parametrize("workload", workloads(), ids=str)
def test_user_ports_and_folder_are_those_of_the_manifests(workload: Workload) -> None:
    run = dockerfile.read(workload.name)["run"]
    context = workload.pod["securityContext"]
    assert run.only("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    ports = {str(port["containerPort"]) for port in workload.container["ports"]}
    assert set(run.only("EXPOSE").split()) == ports
    assert {"name": "tmp", "mountPath": "/tmp"} in workload.container["volumeMounts"]


def test_the_build_gets_sources_and_demo_weights_and_nothing_else() -> None:
    files = {str(path) for path in dockerfile.context()}
    assert "demo/atelier_demo_models/manifest.json" in files and "protos/generate.sh" in files
    unexpected = [
        path
        for path in files
        if not path.endswith(
            (".py", ".pyi", ".toml", ".proto", ".sh", ".json", ".safetensors", ".onnx", ".gz", ".typed")
        )
        and path != "constraints.txt"
        and not path.startswith("gateway/atelier_gateway/studio/static/")
        and path != "gateway/atelier_gateway/studio/LICENSES.txt"
    ]
    assert not unexpected
    assert "gateway/atelier_gateway/studio/static/index.html" in files
    weights = [path for path in files if path.endswith((".safetensors", ".pth", ".ckpt"))]
    assert weights and all(path.startswith("demo/atelier_demo_models/") for path in weights)
    assert not [path for path in files if path.startswith(("tests/", ".", "protos/gen/", "demo/training"))]
    total = sum((ROOT / path).stat().st_size for path in files)
    assert total < 100 * 2**20, "images do not contain production weights"


def test_no_exception_of_dockerignore_has_a_wildcard() -> None:
    """buildah enters an excluded folder only if an exception begins with its name."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    exceptions = [line for line in lines if line.startswith("!")]
    assert exceptions and not [line for line in exceptions if set(line) & set("*?[")]


@pytest.mark.parametrize("name", NAMES)
def test_what_opencv_links_against_is_where_opencv_is(name: str) -> None:
    [library] = Path(str(metadata.distribution("opencv-python").locate_file("cv2"))).glob("cv2*.so")
    linked = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True, timeout=60)
    needed = {DEBIAN_PACKAGES[word] for word in linked.stdout.split() if word in DEBIAN_PACKAGES}
    assert needed == set(DEBIAN_PACKAGES.values())
    installed_packages = {
        package
        for command in dockerfile.read(name)["run"].all("RUN")
        if "apt-get" in command
        for package in command.split("--no-install-recommends")[1].split("&&")[0].split()
    }
    own = ROOT / ("gateway" if name == "gateway" else f"services/{name}") / "pyproject.toml"
    project = tomllib.loads(own.read_text(encoding="utf-8"))["project"]
    needs_opencv = "opencv-python" in {Requirement(text).name for text in project["dependencies"]}
    compiler = set() if name == "gateway" else {"g++"}
    assert installed_packages == compiler | (needed if needs_opencv else set())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may read, like an image's root."""
    root = Path(tempfile.mkdtemp(prefix="image-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def without_privileges() -> dict[str, Any]:
    """Arguments for Popen: the image's user if that user may read Python here, else none."""
    python = Path(sys.base_prefix).resolve()
    readable = all(
        folder.stat().st_mode & 0o005 == 0o005 for folder in (python, *python.parents, ROOT, *ROOT.parents)
    )
    return {"user": 10001, "group": 10001} if readable and os.getuid() == 0 else {}


def touched(folder: Path, since: float) -> list[Path]:
    return [path for path in folder.rglob("*") if path.lstat().st_mtime > since]


def start(name: str, prefix: Path, folder: Path) -> None:
    """Start the installed process as the image would, wait until it is ready, and stop it."""
    run = dockerfile.read(name)["run"]
    writable = folder / "tmp"
    writable.mkdir()
    writable.chmod(0o777)
    port, metrics_port = free_port(), free_port()
    upper = f"ATELIER_{name.upper()}"
    environment = {
        key: re.sub("^/tmp|/var/lib/atelier", str(writable), value)
        for key, value in run.environment().items()
    }
    environment |= {"PATH": "/usr/bin:/bin", f"{upper}_HOST": "127.0.0.1", f"{upper}_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1"}
    if name in BACKENDS:
        environment[f"{upper}_METRICS_PORT"] = str(metrics_port)
    started = time.time()
    command = [run.json("ENTRYPOINT")[0].replace(PREFIX, str(prefix)), *run.json("CMD")]
    log = folder / "log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdout=file,
            stderr=subprocess.STDOUT,
            **without_privileges(),
        )
    try:
        line = '"message": "ready"' if name in BACKENDS else '"message": "listening"'
        wait_for(lambda: line in log.read_text() or child.poll() is not None)
        assert child.poll() is None, log.read_text()
        asked = json.loads(run.only("HEALTHCHECK").partition(" CMD ")[2])
        asked[0] = asked[0].replace(PREFIX, str(prefix))
        alive = subprocess.run(asked, env=environment, cwd="/", capture_output=True, text=True, timeout=60)
        assert alive.returncode == 0, alive.stdout + alive.stderr
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0, log.read_text()
        assert not touched(prefix, started), "the root is read-only"
    finally:
        child.kill()
        child.wait()


def installed(prefix: Path) -> set[str]:
    return {path.name.split("-")[0].lower() for path in prefix.glob("lib/python*/site-packages/*.dist-info")}


@pytest.mark.slow
def test_the_gateways_image_starts_and_has_no_network_library(folder: Path) -> None:
    prefix = dockerfile.build("gateway", folder)
    assert not installed(prefix) & {*NETWORK_LIBRARIES, "opencv_python", "atelier_demo_models"}
    start("gateway", prefix, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS)
def test_a_services_image_starts_with_the_demo_models(name: str, folder: Path) -> None:
    """Everything is downloaded and installed except torch, torchvision and what they require.

    Those are gigabytes, so they are linked from the environment that runs the tests, in which `make setup`
    installed the same versions. That pip finds and unpacks their wheels is not tested here.
    """
    prefix = dockerfile.build(name, folder, linked=("torch", "torchvision"))
    other = "generator" if name == "restorer" else "restorer"
    assert ("opencv_python" in installed(prefix)) == (name == "restorer")
    assert {f"atelier_{name}", "atelier_demo_models"} <= installed(prefix)
    assert not installed(prefix) & {f"atelier_{other}", "atelier_gateway", "pytest", "grpcio_tools"}
    start(name, prefix, folder)


def test_a_build_is_told_of_indexes_but_not_of_folders_of_this_machine() -> None:
    listed = """:env:.timeout='180'
global.extra-index-url='file:///srv/wheels https://a.example/simple\\nhttps://b.example/simple'
global.find-links='/srv/wheels'
global.timeout='15'
install.trusted-host='a.example'
"""
    assert engine.pip_settings(listed) == {
        "extra-index-url": "https://a.example/simple https://b.example/simple",
        "timeout": "180",
        "trusted-host": "a.example",
    }


def test_each_image_installs_its_distribution_and_those_of_this_repository_that_it_requires() -> None:
    folders = {"protos", "services/runtime", "demo", "services/generator", "services/restorer", "gateway"}
    projects = {f: tomllib.loads((ROOT / f / "pyproject.toml").read_text())["project"] for f in folders}
    folder_of = {project["name"]: folder for folder, project in projects.items()}
    for name in NAMES:
        needed, todo = set(), [f"atelier-{name}"]
        while todo:
            folder = folder_of[todo.pop()]
            needed.add(folder)
            requirements = (Requirement(text).name for text in projects[folder].get("dependencies", []))
            todo += [r for r in requirements if r in folder_of]
        stage = dockerfile.read(name)["build"]
        last = stage.all("RUN")[-1]
        words = [word.strip("'").partition("[")[0] for word in last.split()]  # './gateway[c2pa]': an extra
        assert {word.removeprefix("./") for word in words if word.startswith("./")} == needed
        copied = {copy.split()[-2] for copy in stage.all("COPY")} - {"constraints.txt"}
        assert copied == needed - {"protos"} | {"/src/protos"}, "a change elsewhere rebuilds nothing"
