"""Callers without keys: who they are, and whether they are let in."""

from __future__ import annotations

import logging

import pytest

from atelier_gateway.access.caller import Caller
from tests.contract.audit import audit_in
from tests.contract.problem_body import problem
from tests.contract.services import eventually
from tests.contract.stack import Stack

GENERATE = {"prompt": "a red apple", "width": 256, "height": 256}


def test_nobody_is_let_in_where_nobody_is_to_be() -> None:
    with Stack(anonymous="refuse") as stack:
        error = problem(stack.client.post("/generate", json=GENERATE), 401, "unauthenticated")
        assert "ATELIER_GATEWAY_API_KEYS" in error["message"]
        assert stack.client.get("/livez").status_code == 200


def test_without_keys_nothing_that_clients_send_as_one_matters(stack: Stack) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-anything"}, {"X-API-Key": "x"}):
        assert stack.client.post("/generate", json=GENERATE, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("proxies", "caller"),
    [
        ("127.0.0.1", "address 203.0.113.7"),
        ("10.0.0.0/8, ::1", "address 127.0.0.1"),
        ("", "address 127.0.0.1"),
    ],
)
def test_only_a_proxy_says_whom_a_request_is_from(
    proxies: str, caller: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Stack(trusted_proxies=proxies) as stack, caplog.at_level(logging.INFO, "atelier_gateway.audit"):
        stack.client.get("/v1/models", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.7"})
        eventually(lambda: len(audit_in(caplog)) == 1)
    assert audit_in(caplog)[0]["caller"] == caller


def test_clients_of_one_ipv6_network_are_one_caller() -> None:
    assert Caller("2001:db8::1").name == Caller("2001:db8::ffff:1").name == "address 2001:db8::/64"
    assert Caller("::ffff:10.0.0.1").name == Caller("10.0.0.1").name == "address 10.0.0.1"
