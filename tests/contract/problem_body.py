"""The body that every error has."""

from __future__ import annotations

from typing import Any

import httpx


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the body that every error has, and return its `error`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"success", "error", "detail", "request_id"}
    assert body["success"] is False and body["request_id"] == response.headers["X-Request-ID"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "fields"}
    assert error["code"] == code and error["message"] == body["detail"]
    for leak in ("Traceback", "Error(", "/usr", "site-packages", ".py", "pydantic", "grpc", "127.0.0.1"):
        assert leak not in response.text
    return error


def named_fields(error: dict[str, Any]) -> list[str]:
    return [field["field"] for field in error["fields"]]


def stable(value: object) -> str:
    """Return a test's ID for a value, the same in every process: sets are sorted."""
    return repr(sorted(value) if isinstance(value, set) else value)
