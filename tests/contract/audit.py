"""Reads the gateway's audit lines."""

from __future__ import annotations

from typing import Any

import pytest


def audit_in(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of each line, a request each, in order."""
    return [vars(record) for record in caplog.records if record.name == "atelier_gateway.audit"]
