"""For all tests: the processes that several folders use; in CI a skipped test is a failure."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest

from tests.postgres import Postgres, program, running
from tests.processes import Atelier, free_port, process, ready, wait_for


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip in CI hides a missing program."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """A process configures its log once; a test must not leave one that writes into a stream of its own."""
    root = logging.getLogger()
    before, level = set(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def atelier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atelier]:
    """Three processes with the demo models on a CPU, started once for all tests of a run that use them."""
    logs = tmp_path_factory.mktemp("logs")
    gateway, generator, restorer, metrics_1, metrics_2 = (free_port() for _ in range(5))
    with (
        process("generator", logs / "generator.log", PORT=generator, METRICS_PORT=metrics_1) as first,
        process("restorer", logs / "restorer.log", PORT=restorer, METRICS_PORT=metrics_2) as second,
        process(
            "gateway",
            logs / "gateway.log",
            PORT=gateway,
            GENERATOR=f"127.0.0.1:{generator}",
            RESTORER=f"127.0.0.1:{restorer}",
        ),
    ):
        url = f"http://127.0.0.1:{gateway}"
        wait_for(lambda: ready(url) or first.poll() is not None or second.poll() is not None)
        assert first.poll() is None, (logs / "generator.log").read_text()
        assert second.poll() is None, (logs / "restorer.log").read_text()
        yield Atelier(
            url,
            f"127.0.0.1:{generator}",
            f"127.0.0.1:{restorer}",
            f"127.0.0.1:{metrics_1}",
            f"127.0.0.1:{metrics_2}",
            logs,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a run."""
    if program("postgres") is None:
        pytest.skip("PostgreSQL is not installed")
    with running() as server:
        yield server
