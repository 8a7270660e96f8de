"""What the standard variables do, and that without them nothing is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from atelier_runtime import tracing
from atelier_runtime.settings import StartupError
from atelier_runtime.tracing_setup import begin_tracing
from tests.tracing.otlp_receiver import tracing_to, variables

ADDRESS = "http://127.0.0.1:1"
OFF: list[dict[str, str]] = [
    {},
    variables(ADDRESS, OTEL_SDK_DISABLED="true"),
    variables(ADDRESS, OTEL_TRACES_EXPORTER="none"),
]

LOADED = "print(*sorted(m for m in sys.modules if m.startswith('opentelemetry')))"
SERVICE = f"""
import os, sys
import atelier_runtime.server
from atelier_runtime.tracing_setup import begin_tracing
for variables in {[*OFF, variables(ADDRESS)]}:
    os.environ.update(variables)
    begin_tracing("restorer")
    for name in variables:
        del os.environ[name]
    {LOADED}
"""
GATEWAY = f"""
import sys
from atelier_gateway.__main__ import GatewaySettings, begin_tracing, create_app
begin_tracing("gateway")
create_app(GatewaySettings())
{LOADED}
"""
NOT_INSTALLED = "import sys; sys.modules['opentelemetry.sdk'] = None\n"
START_GATEWAY = f"""{NOT_INSTALLED}
from atelier_gateway.__main__ import GatewaySettings, main
sys.argv = ["atelier-gateway", "serve"]
sys.exit(main())
"""
START_SERVICE = f"""{NOT_INSTALLED}
from atelier_runtime.server import run_service
from atelier_runtime.settings import ServiceSettings
sys.exit(run_service("restorer", ServiceSettings(port=0, metrics_port=0), None))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    usual = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    usual["ATELIER_GATEWAY_PORT"] = "0"
    return subprocess.run(
        [sys.executable, "-c", code], env=usual | environment, capture_output=True, text=True, timeout=240
    )


def test_without_them_a_service_loads_nothing_of_opentelemetry() -> None:
    ended = run(SERVICE)
    assert ended.returncode == 0, ended.stderr
    *off, on = ended.stdout.splitlines()
    assert off == ["", "", ""]
    assert "opentelemetry.sdk.trace" in on.split()


def test_without_them_the_gateway_loads_no_sdk_and_no_exporter() -> None:
    """Its web framework imports the interfaces of opentelemetry-api itself."""
    ended = run(GATEWAY)
    assert ended.returncode == 0, ended.stderr
    loaded = {name.split(".")[1] for name in ended.stdout.split() if "." in name}
    assert not loaded & {"sdk", "exporter", "proto"}


@pytest.mark.parametrize(
    ("name", "code"), [("gateway", START_GATEWAY), ("restorer", START_SERVICE)], ids=["gateway", "service"]
)
def test_an_address_without_the_packages_prevents_the_start(name: str, code: str) -> None:
    ended = run(code, **variables(ADDRESS))
    assert ended.returncode in (1, 2)
    assert ended.stderr.splitlines()[-1] == (
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: "
        f"pip install 'atelier-{name}[otel]'"
    )


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            variables("collector:4317"),
            "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317: must begin with http:// or https://",
        ),
        (
            variables(ADDRESS, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"),
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf: must be grpc, "
            "for which collectors listen on port 4317",
        ),
        (
            variables(ADDRESS, OTEL_TRACES_EXPORTER="jaeger"),
            "OTEL_TRACES_EXPORTER=jaeger: must be otlp or none",
        ),
    ],
    ids=["no scheme", "another protocol", "another exporter"],
)
def test_what_is_not_supported_prevents_the_start(
    environment: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        begin_tracing("gateway")
    assert str(caught.value) == line
    with tracing.server_span("a request", {}) as span:
        assert span is None


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "the queue (100) must have room for a batch"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "the queue (2048) must have room for a batch"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "abc", "must be a positive whole number"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "must be milliseconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "must be seconds, a positive number"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "nan", "must be seconds, a positive number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "must be gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none.pem", "must be a file that can be read"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/", "must be a file that can be read"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "must be a whole number"),
        ("OTEL_TRACES_SAMPLER", "ratio", "must be one of always_on, "),
        ("OTEL_TRACES_SAMPLER_ARG", "10%", "must be a share from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "10", "must be a share from 0 to 1"),
    ],
)
def test_a_value_that_cannot_be_prevents_the_start(
    name: str, value: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    for each, text in variables(ADDRESS, **{name: value}).items():
        monkeypatch.setenv(each, text)
    with pytest.raises(StartupError, match=re.escape(wanted)) as caught:
        begin_tracing("gateway")
    assert str(caught.value).startswith(f"{name}={value}: ")


def test_an_empty_variable_is_as_if_it_were_not_set() -> None:
    names = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_BSP_MAX_QUEUE_SIZE")
    with tracing_to(ADDRESS, **dict.fromkeys(names, "")), tracing.server_span("one", {}) as span:
        assert span is not None
