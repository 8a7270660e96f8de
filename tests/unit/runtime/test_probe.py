"""The HEALTHCHECK finds the process where its own variables put it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from atelier_gateway.settings import GatewaySettings
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import probe
from tests.answering_server import answer, answering_server
from tests.processes import free_port


def probed(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as Docker runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "atelier_runtime.probe", name],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("gateway", "ATELIER_GATEWAY_PORT"),
        ("gateway", "ATELIER_GATEWAY_METRICS_PORT"),
        ("generator", "ATELIER_GENERATOR_METRICS_PORT"),
        ("restorer", "ATELIER_RESTORER_METRICS_PORT"),
    ],
)
def test_it_asks_at_the_port_that_is_set(name: str, variable: str) -> None:
    with answering_server() as server:
        server.answers.append(lambda asked: answer("200 OK"))
        done = probed(name, **{variable: str(urlsplit(server.url).port)})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [asked.line for asked in server.asked] == ["GET /livez HTTP/1.1"]


def test_a_gateway_with_tls_is_asked_over_tls_whatever_its_certificate_names() -> None:
    with answering_server(tls=True) as server:
        server.answers.append(lambda asked: answer("200 OK"))
        port = str(urlsplit(server.url).port)
        done = probed("gateway", ATELIER_GATEWAY_PORT=port, ATELIER_GATEWAY_TLS_CERT="/tls/tls.crt")
        assert done.returncode == 0, done.stdout


def test_a_gateway_that_requires_certificates_at_its_only_port_is_alive_if_it_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = {
            "ATELIER_GATEWAY_PORT": str(listener.getsockname()[1]),
            "ATELIER_GATEWAY_TLS_CERT": "/tls/tls.crt",
            "ATELIER_GATEWAY_TLS_CA": "/tls/ca.crt",
        }
        done = probed("gateway", **settings)
        assert (done.returncode, done.stdout) == (0, "")
    assert probed("gateway", **settings).returncode == 1
    with answering_server() as server:
        server.answers.append(lambda asked: answer("503 Service Unavailable"))
        metrics_port = str(urlsplit(server.url).port)
        assert probed("gateway", **settings, ATELIER_GATEWAY_METRICS_PORT=metrics_port).returncode == 1


@pytest.mark.parametrize(("status", "code"), [("503 Service Unavailable", 1), ("421 Misdirected Request", 0)])
def test_an_error_is_no_sign_of_life_and_a_refusal_is(status: str, code: int) -> None:
    with answering_server() as server:
        server.answers.append(lambda asked: answer(status))
        done = probed("gateway", ATELIER_GATEWAY_PORT=str(urlsplit(server.url).port))
        assert done.returncode == code and (status[:3] in done.stdout) == bool(code)


def test_who_does_not_answer_is_not_alive() -> None:
    port = str(free_port())
    done = probed("restorer", ATELIER_RESTORER_METRICS_PORT=port)
    assert done.returncode == 1 and port in done.stdout and not done.stderr


def test_the_defaults_are_those_of_the_processes() -> None:
    assert GatewaySettings.model_fields["port"].default == probe.GATEWAY_PORT
    found = {
        name: fields["metrics_port"].default
        for name, fields in (
            ("gateway", GatewaySettings.model_fields),
            ("generator", GeneratorSettings.model_fields),
            ("restorer", RestorerSettings.model_fields),
        )
    }
    assert found == probe.METRICS_PORTS


@pytest.mark.parametrize(
    ("listening", "asked"), [("0.0.0.0", "127.0.0.1"), ("[::]", "::1"), ("10.1.2.3", "10.1.2.3")]
)
def test_it_asks_at_an_address_on_which_the_process_listens(listening: str, asked: str) -> None:
    assert probe.connection_to("generator", {"ATELIER_GENERATOR_HOST": listening}).host == asked


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = "import sys, atelier_runtime.probe; print(*{name.split('.')[0] for name in sys.modules})"
    printed = subprocess.run(
        [sys.executable, "-Ic", f"import sys; sys.path[:0]={sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(printed.stdout.split()) - set(sys.stdlib_module_names) - {"__main__", "atelier_runtime"}
    assert not {name for name in loaded if not name.startswith("_")}, "it runs every few seconds"
    assert Path(probe.__file__).parent.name == "atelier_runtime"
