"""Three real processes on free loopback ports, with the demo models, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import Atelier, free_port, process, ready, wait_for


@pytest.fixture(scope="session")
def atelier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atelier]:
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
