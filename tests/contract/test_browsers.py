"""What browsers are kept from doing for pages of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from atelier_gateway.access.browsers import BrowserRules, hosts_of
from atelier_runtime.addresses import is_loopback
from atelier_runtime.errors import Forbidden
from tests.contract.problem_body import problem
from tests.contract.stack import Stack

GENERATE = {"prompt": "a red apple", "width": 256, "height": 256}
OTHER = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


@pytest.fixture(scope="module")
def trusting() -> Iterator[Stack]:
    with Stack(cors_origins="https://app.example") as stack:
        yield stack


def test_a_page_of_another_origin_starts_nothing(stack: Stack) -> None:
    """Both ways that need no preflight: JSON that says it is text, and a form with a file."""
    text = {"Content-Type": "text/plain", **OTHER}
    problem(stack.client.post("/generate", content=b'{"prompt": "x"}', headers=text), 403, "forbidden")
    form = stack.client.post("/detect", files={"image": b"\x89PNG"}, headers=OTHER)
    error = problem(form, 403, "forbidden")
    assert "https://evil.example" in error["message"] and "CORS_ORIGINS" in error["message"]
    for path in (
        "/v1/images/generations",
        "/sdapi/v1/txt2img",
        "/v1/jobs",
        "/v1/jobs/x/cancel",
        "/sdapi/v1/interrupt",
    ):
        assert stack.client.post(path, json={}, headers=OTHER).status_code == 403
    assert stack.client.delete("/v1/jobs/x", headers=OTHER).status_code == 403
    assert stack.generator.requests == [] and stack.restorer.requests == []


ALLOWED: dict[str, dict[str, str]] = {
    "a program": {},
    "the page's own": {"Sec-Fetch-Site": "same-origin", "Origin": "OWN"},
    "somebody who typed the address": {"Sec-Fetch-Site": "none"},
    "an old browser's own page": {"Origin": "OWN"},
}
REFUSED: dict[str, dict[str, str]] = {
    "another port of the same site": {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    "an old browser's other page": {"Origin": "https://evil.example"},
    "a page in a sandbox": {"Origin": "null"},
    "a browser that hides the origin": {"Sec-Fetch-Site": "cross-site"},
}


@pytest.mark.parametrize("headers", ALLOWED.values(), ids=ALLOWED)
def test_requests_that_nobody_else_has_sent(stack: Stack, headers: dict[str, str]) -> None:
    own = {name: stack.url if value == "OWN" else value for name, value in headers.items()}
    assert stack.client.post("/generate", json=GENERATE, headers=own).status_code == 200


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_requests_that_somebody_else_may_have_sent(stack: Stack, headers: dict[str, str]) -> None:
    problem(stack.client.post("/generate", json=GENERATE, headers=headers), 403, "forbidden")
    assert stack.client.get("/health", headers=headers).status_code == 200, "reading changes nothing"


def test_a_page_whose_origin_is_listed_may(trusting: Stack) -> None:
    listed = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    assert trusting.client.post("/generate", json=GENERATE, headers=listed).status_code == 200
    refused = trusting.client.post("/generate", json=GENERATE, headers=OTHER)
    problem(refused, 403, "forbidden")
    assert "access-control-allow-origin" not in refused.headers


def test_the_page_at_the_public_address_may() -> None:
    """Behind a proxy that writes its own Host, over plain HTTP: browsers then send no Sec-Fetch-Site."""
    with Stack(public_url="http://atelier.lan/images") as stack:
        own, other = {"Origin": "http://atelier.lan"}, {"Origin": "http://elsewhere.lan"}
        assert stack.client.post("/generate", json=GENERATE, headers=own).status_code == 200
        problem(stack.client.post("/generate", json=GENERATE, headers=other), 403, "forbidden")


def test_on_loopback_the_host_must_be_this_machine(stack: Stack) -> None:
    """Or a page could give its own name our address, and be taken for our own."""
    for host in (
        "localhost",
        "LOCALHOST:7860",
        "atelier.localhost",
        "127.0.0.1:1",
        "[::1]:7860",
        "192.168.1.5",
    ):
        assert stack.client.get("/health", headers={"Host": host}).status_code == 200, host
    for host in (
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "10.0.0.1.evil.example",
        "[x]",
    ):
        error = problem(stack.client.get("/health", headers={"Host": host}), 403, "forbidden")
        assert "ATELIER_GATEWAY_ALLOWED_HOSTS" in error["message"]


@pytest.mark.parametrize(
    ("settings", "host", "is_served"),
    [
        ({"host": "0.0.0.0"}, "images.example.com", True),
        ({"host": "::", "allowed_hosts": ("images.example.com",)}, "images.example.com:443", True),
        ({"host": "0.0.0.0", "allowed_hosts": ("images.example.com",)}, "evil.example", False),
        ({"host": "127.0.0.1", "public_url": "https://Images.example.com/a"}, "images.example.com", True),
        ({"host": "127.0.0.1", "public_url": "https://images.example.com/a"}, "example.com", False),
        ({"host": "localhost"}, "studio", False),
    ],
)
def test_names_by_which_a_gateway_may_be_called(settings: dict[str, Any], host: str, is_served: bool) -> None:
    hosts = hosts_of(settings["host"], settings.get("public_url", ""), settings.get("allowed_hosts", ()))
    rules = BrowserRules(hosts=hosts, trusted_origins=())
    if is_served:
        rules.check("POST", Headers({"host": host}))
    else:
        with pytest.raises(Forbidden):
            rules.check("GET", Headers({"host": host}))


def test_addresses_that_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "studio.local")))


def test_every_response_says_that_it_is_no_page(stack: Stack) -> None:
    for path in ("/health", "/metrics", "/v1/jobs", "/openapi.json", "/nothing"):
        headers = stack.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'", path
        assert headers["referrer-policy"] == "no-referrer", path
    assert stack.generate().headers["content-security-policy"].startswith("default-src 'none'")


def test_the_page_of_the_docs_runs_its_own_scripts_only(stack: Stack) -> None:
    docs = stack.client.get("/docs")
    policy = docs.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == docs.text.count("<script>") > 0
