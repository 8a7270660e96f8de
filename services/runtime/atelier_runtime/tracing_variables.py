"""Checks the values of OpenTelemetry's variables, on which its SDK ends with a traceback, or guesses."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from atelier_runtime.settings import StartupError

_EXPORTER = ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_")
_QUEUE, _BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_USUAL = {_QUEUE: "2048", _BATCH: "512"}
_SAMPLER = "OTEL_TRACES_SAMPLER"
_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)


def check_variables() -> None:
    """Raise `StartupError` if a variable has a value that cannot be; its message begins with the name.

    Empty ones are as if they were not set, so they are removed from the environment: the SDK would read them.
    """
    for name, (is_right, wanted) in _RULES.items():
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.strip():
            del os.environ[name]
        elif not is_right(value):
            raise StartupError(f"{name}={value}: must be {wanted}")
    queue, batch = (os.environ.get(name, _USUAL[name]) for name in (_QUEUE, _BATCH))
    if int(batch) > int(queue):
        name = _QUEUE if _QUEUE in os.environ else _BATCH
        raise StartupError(
            f"{name}={os.environ[name]}: the queue ({queue}) must have room for a batch ({_BATCH}, {batch})"
        )


def _whole(value: str, least: int) -> bool:
    return value.strip().isascii() and value.strip().isdecimal() and int(value) >= least


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _is_readable(value: str) -> bool:
    try:
        with Path(value).open("rb"):
            return True
    except OSError:
        return False


_Rule = tuple[Callable[[str], bool], str]
_POSITIVE: _Rule = (lambda value: _whole(value, 1), "a positive whole number")
_RULES: dict[str, _Rule] = {
    **dict.fromkeys((_QUEUE, _BATCH), _POSITIVE),
    "OTEL_BSP_SCHEDULE_DELAY": (lambda value: _whole(value, 1), "milliseconds, a positive whole number"),
    "OTEL_BSP_EXPORT_TIMEOUT": (lambda value: _whole(value, 0), "milliseconds, a whole number"),
    **{name: (lambda value: _whole(value, 0), "a whole number") for name in _LIMITS},
    **{
        f"{prefix}TIMEOUT": (lambda value: 0 < _number(value) < math.inf, "seconds, a positive number")
        for prefix in _EXPORTER
    },
    **{
        f"{prefix}COMPRESSION": (lambda value: value.strip().lower() == "gzip", "gzip, or not set: none")
        for prefix in _EXPORTER
    },
    **{
        f"{prefix}{kind}": (_is_readable, "a file that can be read")
        for prefix in _EXPORTER
        for kind in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    },
    _SAMPLER: (lambda value: value.lower() in _SAMPLERS, f"one of {', '.join(_SAMPLERS)}"),
    "OTEL_TRACES_SAMPLER_ARG": (
        lambda value: "traceidratio" not in os.environ.get(_SAMPLER, "").lower() or 0 <= _number(value) <= 1,
        "a share from 0 to 1",
    ),
}
