import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from atelier_gateway.server import listen
from atelier_gateway.settings import GatewaySettings
from atelier_runtime.settings import load
from tests.ipv6 import HOSTS


def test_defaults() -> None:
    settings = load(GatewaySettings)
    assert (settings.port, settings.deadline_seconds, settings.max_pixels) == (7860, 300, 50_000_000)
    assert (settings.generator, settings.restorer) == ("127.0.0.1:50051", "127.0.0.1:50052")
    assert settings.cors_origins == ()


def test_settings_are_frozen() -> None:
    settings: Any = load(GatewaySettings)  # mypy would refuse the assignment too
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("http://localhost:3000", ("http://localhost:3000",)),
        (" https://a.example , http://b:1,", ("https://a.example", "http://b:1")),
    ],
)
def test_cors_origins(monkeypatch: pytest.MonkeyPatch, given: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_CORS_ORIGINS", given)
    assert load(GatewaySettings).cors_origins == origins


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATELIER_GATEWAY_PORT", "seven"),
        ("ATELIER_GATEWAY_PORT", "70000"),
        ("ATELIER_GATEWAY_DEADLINE_SECONDS", "0"),
        ("ATELIER_GATEWAY_GENERATOR", ""),
        ("ATELIER_GATEWAY_GENERATOR", "http://generator:50051"),
        ("ATELIER_GATEWAY_GENERATOR", "grpc://generator:50051"),
        ("ATELIER_GATEWAY_GENERATOR", "generator:50051/"),
        ("ATELIER_GATEWAY_GENERATOR", "generator: 50051"),
        ("ATELIER_GATEWAY_RESTORER", "restorer"),
        ("ATELIER_GATEWAY_RESTORER", "::1:50052"),
        ("ATELIER_GATEWAY_RESTORER", "restorer:0"),
        ("ATELIER_GATEWAY_RESTORER", "restorer:65536"),
        ("ATELIER_GATEWAY_RESTORER", "ipv4:restorer"),
        ("ATELIER_GATEWAY_RESTORER", "ipv4:10.0.0.1:50052,10.0.0.2"),
        ("ATELIER_GATEWAY_MAX_BODY_BYTES", "-1"),
        ("ATELIER_GATEWAY_MAX_CONNECTIONS", "0"),
        ("ATELIER_GATEWAY_HEADER_SECONDS", "0"),
        ("ATELIER_GATEWAY_ROOT_PATH", "images"),
        ("ATELIER_GATEWAY_ROOT_PATH", "https://example.org/images"),
        ("ATELIER_GATEWAY_PUBLIC_URL", "images.example.org"),
        ("ATELIER_GATEWAY_PUBLIC_URL", "ftp://images.example.org"),
        ("ATELIER_GATEWAY_PUBLIC_URL", "https://images.example.org/?a=b"),
        ("ATELIER_GATEWAY_CORS_ORIGINS", "localhost:3000"),
        ("ATELIER_GATEWAY_CORS_ORIGINS", "http://localhost:3000/"),
        ("ATELIER_GATEWAY_ALLOWED_HOSTS", "https://images.example.org"),
        ("ATELIER_GATEWAY_ALLOWED_HOSTS", "images.example.org:443"),
        ("ATELIER_GATEWAY_TRUSTED_PROXIES", "10.0.0.0/8, proxy.internal"),
        ("ATELIER_GATEWAY_METRICS_PORT", "70000"),
        ("ATELIER_GATEWAY_ANONYMOUS", "yes"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stop:
        load(GatewaySettings)
    assert stop.value.code == 2
    assert f"{variable}={value}:" in capsys.readouterr().err


def test_the_log_level_may_be_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_LOG_LEVEL", "INFO")
    assert load(GatewaySettings).log_level == "info"


def test_what_is_no_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_MAX_PIXEL", "5")
    monkeypatch.setenv("ATELIER_GATEWAY_XYZZY", "x")
    monkeypatch.setenv("ATELIER_GATEWAY_SERVICE_HOST", "10.0.0.1")  # of Kubernetes
    monkeypatch.setenv("ATELIER_GATEWAY_PORT_7860_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("ATELIER_GATEWAY_CANARY_PORT", "tcp://10.0.0.2:7860")
    load(GatewaySettings)
    assert capsys.readouterr().err.splitlines() == [
        "ATELIER_GATEWAY_MAX_PIXEL is not a setting and is ignored; did you mean ATELIER_GATEWAY_MAX_PIXELS?",
        "ATELIER_GATEWAY_XYZZY is not a setting and is ignored",
    ]


def test_a_host_that_cannot_be_resolved_is_named_with_the_reason() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "atelier_gateway", "serve"],
        env={**os.environ, "ATELIER_GATEWAY_HOST": "127.0.0.1:80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1 and "ATELIER_GATEWAY_HOST=127.0.0.1:80" in run.stderr
    assert "Unknown error" not in run.stderr and "Traceback" not in run.stderr


def test_a_renamed_variable_stops_the_start_and_names_the_new_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_STAGE_WAIT_SECONDS", "600")
    with pytest.raises(SystemExit) as stop:
        load(GatewaySettings)
    assert stop.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "STAGE_WAIT_SECONDS" in line]
    assert "ATELIER_GATEWAY_BACKEND_WAIT_SECONDS" in line


def test_the_new_name_of_a_renamed_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_BACKEND_WAIT_SECONDS", "600")
    assert load(GatewaySettings).backend_wait_seconds == 600


def test_connections_do_not_wait_for_delayed_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("host", HOSTS)
def test_addresses_to_listen_on(host: str) -> None:
    with listen(host, 0) as listener:
        for address in HOSTS[host]:
            socket.create_connection((address.strip("[]"), listener.getsockname()[1]), timeout=20).close()


def test_a_taken_port_stops_the_start_and_names_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "atelier_gateway", "serve"],
            env={
                **os.environ,
                "ATELIER_GATEWAY_HOST": "127.0.0.1",
                "ATELIER_GATEWAY_PORT": str(port),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode == 1
    assert f"ATELIER_GATEWAY_PORT={port}: Address already in use" in run.stderr


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "restorer:65535",
        "generator.atelier.svc.cluster.local:50051",
        "[::1]:50051",
        "dns:///restorer:50052",
        "dns://10.0.0.1/restorer:50052",
        "dns:restorer:50052",
        "ipv4:10.0.0.1:1,10.0.0.2:1",
        "ipv6:[::1]:50051",
        "unix:/run/atelier.sock",
    ],
)
def test_addresses_of_services(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ATELIER_GATEWAY_GENERATOR", address)
    assert load(GatewaySettings).generator == address
