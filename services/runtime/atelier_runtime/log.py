"""JSON log lines, each with the ID of its request."""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from atelier_runtime import tracing

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The ID of the request that the current task or thread belongs to."""

REQUEST_ID_HEADER = "x-request-id"
"""The HTTP header and gRPC metadata key of the request ID."""

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def accept_request_id(client_id: str | None) -> str:
    """Return the client's ID if it is 1 to 64 letters, digits, '.', '_' or '-', else a new one."""
    if client_id and _VALID_REQUEST_ID.fullmatch(client_id):
        return client_id
    return uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, IDs, and the fields of `extra=`.

    The IDs: of the request and, where there is a trace, of it and of the span.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = request_id.get()
        if current is not None:
            line["request_id"] = current
        line.update(tracing.ids())
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD_ATTRIBUTES})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """For a terminal: level, message, and the fields of `extra=`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        extra = [f"{k}={v}" for k, v in vars(record).items() if k not in _STANDARD_ATTRIBUTES]
        line = f"{record.levelname.lower()}: {' '.join([record.getMessage(), *extra])}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(level: str, formatter: logging.Formatter | None = None) -> None:
    """Log to standard error, as JSON unless another formatter is given."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter or JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "urllib3", "PIL", "asyncio", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
