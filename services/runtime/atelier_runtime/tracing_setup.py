"""Whether a process traces: what OpenTelemetry's standard variables say, and what is installed."""

from __future__ import annotations

import importlib
import os

from atelier_runtime import tracing
from atelier_runtime.settings import StartupError
from atelier_runtime.tracing_variables import check_variables

FLUSH_SECONDS = 3.0
"""The longest that the end of a process waits for its last spans to be delivered."""

_ADDRESS = "OTEL_EXPORTER_OTLP_ENDPOINT"


def begin_tracing(process: str) -> None:
    """Begin to trace if the variables say so; `process`: such as "gateway".

    Raises `StartupError` if they ask for what is not installed, not supported or not possible; its message
    begins with the whole name of the variable.
    """
    name, address = _first_of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _ADDRESS)
    exporter = _first_of("OTEL_TRACES_EXPORTER")[1] or "otlp"
    is_disabled = _first_of("OTEL_SDK_DISABLED")[1].lower() == "true"
    if not address or is_disabled or exporter == "none":
        return
    if not address.startswith(("http://", "https://")):
        raise StartupError(f"{name}={address}: must begin with http:// or https://")
    if exporter != "otlp":
        raise StartupError(f"OTEL_TRACES_EXPORTER={exporter}: must be otlp or none")
    protocol_name, protocol = _first_of("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "grpc"):
        raise StartupError(
            f"{protocol_name}={protocol}: must be grpc, for which collectors listen on port 4317"
        )
    check_variables()
    try:
        implementation = importlib.import_module("atelier_runtime.tracing_otlp")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        message = f"{name} is set, but OpenTelemetry is not installed: pip install 'atelier-{process}[otel]'"
        raise StartupError(message) from None
    tracing.install(implementation.Tracer(f"atelier-{process}"))


def end_tracing(seconds: float = FLUSH_SECONDS) -> None:
    """Deliver the spans that are left, for at most so many seconds, and trace no more. Blocks."""
    if (tracer := tracing.install(None)) is not None:
        tracer.shutdown(seconds)


def _first_of(*names: str) -> tuple[str, str]:
    """Return the first of some variables that is set, and its value; the last one and "" if none is."""
    values = ((name, os.environ.get(name, "").strip()) for name in names)
    return next(((name, value) for name, value in values if value), (names[-1], ""))
