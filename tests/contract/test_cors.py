"""Cross-origin requests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.stack import Stack

ORIGIN = {"Origin": "http://localhost:3000"}


@pytest.fixture(scope="module")
def cors_stack() -> Iterator[Stack]:
    with Stack(cors_origins="http://localhost:3000, http://127.0.0.1:5173") as stack:
        yield stack


def test_cors_is_off_unless_set(stack: Stack) -> None:
    response = stack.client.get("/livez", headers=ORIGIN)
    assert "access-control-allow-origin" not in response.headers


def test_preflight_of_a_listed_origin(cors_stack: Stack) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    response = cors_stack.client.options("/generate", headers={**ORIGIN, **preflight})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "content-type" in response.headers["access-control-allow-headers"].lower()


def test_private_network_preflight_of_a_listed_origin(cors_stack: Stack) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    response = cors_stack.client.options("/generate", headers={**ORIGIN, **preflight})
    assert response.status_code == 200
    assert response.headers["access-control-allow-private-network"] == "true"


def test_a_page_can_read_why_its_request_failed(cors_stack: Stack) -> None:
    response = cors_stack.client.post("/generate", json={}, headers=ORIGIN)
    assert response.status_code == 422
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "X-Atelier-Report" in response.headers["access-control-expose-headers"]


def test_other_origins_are_not_allowed(cors_stack: Stack) -> None:
    response = cors_stack.client.get("/livez", headers={"Origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in response.headers
