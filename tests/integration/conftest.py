"""Model sets of the restorer with real networks of tiny width, and servers that tests share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from atelier_restorer.__main__ import main
from tests.integration.restorer_command import CommandResult, RunHere
from tests.integration.restorer_server import Client, serve
from tests.tiny_restorer import (
    FACES_OF_256_PX,
    FACES_OF_512_PX,
    build_set,
    codeformer_state,
    detector_state,
)

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the asynchronous tests of a module in one event loop: the servers that they share live in it."""
    for item in items:
        if item.path.parent == HERE and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that detects a few large faces in every image, and more smaller ones of lower confidence."""
    faces = {FACES_OF_512_PX: 0.99, FACES_OF_256_PX: 0.7}
    folder = tmp_path_factory.mktemp("seeing")
    return build_set(folder, detector=detector_state(faces), codeformer=codeformer_state())


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that never detects a face, without an upscaler."""
    folder = tmp_path_factory.mktemp("blind")
    return build_set(folder, detector=detector_state(), codeformer=codeformer_state(), upscaler=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restorer(seeing: Path) -> AsyncIterator[Client]:
    """A server of the seeing set."""
    async with serve(seeing) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def blind_restorer(blind: Path) -> AsyncIterator[Client]:
    """A server of the blind set."""
    async with serve(blind) as client:
        yield client


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RunHere]:
    """Run `atelier-restorer` in this process, with networks of its own."""
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    monkeypatch.setenv("ATELIER_RESTORER_DEVICE", "cpu")
    monkeypatch.setenv("ATELIER_RESTORER_DTYPE", "float32")  # as the server of these tests
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object) -> CommandResult:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return CommandResult(code, *capsys.readouterr())

    yield run
    root.handlers[:], root.level = handlers, level
