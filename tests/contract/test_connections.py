"""What a hostile or slow client can do to connections, on real sockets: headers and numbers are limited."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.contract.conftest import MAX_CONNECTIONS
from tests.contract.metrics_seen import metric
from tests.contract.raw_http import BODY, GENERATE, connect, received, response
from tests.contract.services import eventually
from tests.contract.stack import Stack

# --- headers ---


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n",
        b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET / HT",
    ],
    ids=["nothing", "half a header", "empty lines", "half of the second header"],
)
def test_a_header_that_does_not_end_is_not_waited_for(strict: Stack, begin: bytes) -> None:
    before = metric(strict, "atelier_gateway_connections_closed_total", cause="header_timeout")
    with connect(strict) as connection:
        connection.sendall(begin)
        assert received(connection).count(b"HTTP/1.1 200") == begin.count(b"\r\n\r\nGET")
    assert metric(strict, "atelier_gateway_connections_closed_total", cause="header_timeout") == before + 1


def test_a_header_that_comes_in_drops_is_not_waited_for(strict: Stack) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        started = time.monotonic()
        try:
            while time.monotonic() < started + 20:
                connection.sendall(b"a: b\r\n")
                time.sleep(0.05)
        except OSError:
            return
    raise AssertionError("the connection was never closed")


@pytest.mark.parametrize(
    "header",
    [
        b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        b"".join(b"X-%d: a\r\n" % i for i in range(9000)) + b"\r\n",
        b"X: " + b"x" * 300_000,
    ],
    ids=["one large", "many", "one without an end"],
)
def test_a_header_has_64_kib(strict: Stack, header: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + header)
        assert received(connection).startswith(b"HTTP/1.1 431")


def test_transfer_encoding_with_content_length_closes_the_connection(strict: Stack) -> None:
    smuggled = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(
            GENERATE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
        )
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1_0\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b" Folded: a\r\n",
        b"Nul: \0\r\n",
    ],
)
def test_a_header_that_two_servers_could_read_differently_is_refused(strict: Stack, lines: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(GENERATE + lines + b"\r\nabcd")
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("target", [b"http://example.org/livez?x=1", b"https://example.org", b"HTTP://a:80/"])
def test_an_absolute_target_is_its_path(strict: Stack, target: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: example.org\r\n\r\n" % target)
        assert response(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_request_has_one_host(strict: Stack, hosts: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n%s\r\n" % hosts)
        assert received(connection).startswith(b"HTTP/1.1 400")


def test_what_is_refused_does_not_take_the_place_of_a_response(strict: Stack) -> None:
    strict.generator.hold = True
    with connect(strict) as connection:
        connection.sendall(GENERATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        eventually(lambda: strict.generator.running == 1)
        connection.sendall(b"\0 this is not HTTP\r\n\r\n")
        assert received(connection) == b""


def test_an_offer_of_http2_is_declined(strict: Stack) -> None:
    """Java's client offers it with its first request, whose body must not be lost."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connect(strict) as connection:
        for _ in range(2):
            connection.sendall(GENERATE + offer + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
            answer = response(connection)
            assert (
                answer.startswith(b"HTTP/1.1 200") and json.loads(answer.partition(b"\r\n\r\n")[2])["success"]
            )


def test_many_offers_at_once_are_all_declined(strict: Stack, caplog: pytest.LogCaptureFixture) -> None:
    offer = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(offer * 2000)
        for _ in range(2000):
            assert response(connection).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in caplog.text


def test_what_follows_a_request_does_not_end_it(strict: Stack) -> None:
    strict.generator.hold = True
    with connect(strict) as connection:
        connection.sendall(GENERATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"\r\n")
        eventually(lambda: strict.generator.running == 1)
        time.sleep(2)  # twice as long as a header may take
        strict.generator.hold = False
        assert response(connection).startswith(b"HTTP/1.1 200")


# --- the number of connections ---


def test_at_the_limit_a_body_that_does_not_come_makes_room() -> None:
    with Stack(max_connections=MAX_CONNECTIONS, stall_seconds=60) as stack, ExitStack() as everything:
        for _ in range(MAX_CONNECTIONS):
            everything.enter_context(connect(stack)).sendall(GENERATE + b"Content-Length: 50\r\n\r\n")
        eventually(lambda: is_alive(stack))


def is_alive(stack: Stack) -> bool:
    try:
        with httpx.Client(trust_env=False) as client:
            return client.get(stack.url + "/livez").status_code == 200
    except httpx.HTTPError:
        return False


def test_at_the_limit_the_longest_idle_connection_makes_room(strict: Stack) -> None:
    strict.generator.hold = True
    with ExitStack() as everything:
        connections = [everything.enter_context(connect(strict)) for _ in range(MAX_CONNECTIONS)]
        busy = connections[0]
        busy.sendall(GENERATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        eventually(lambda: strict.generator.running == 1)
        with httpx.Client(trust_env=False) as client:
            assert client.get(strict.url + "/livez").status_code == 200
        strict.generator.hold = False
        assert response(busy).startswith(b"HTTP/1.1 200"), "a connection with a request is not idle"


def test_where_all_connections_are_busy_a_new_one_is_refused(strict: Stack) -> None:
    strict.generator.hold = True
    request: Any = GENERATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with ExitStack() as everything:
        strict.client.close()
        for _ in range(MAX_CONNECTIONS):
            everything.enter_context(connect(strict)).sendall(request)
        eventually(lambda: strict.generator.running == MAX_CONNECTIONS)
        with connect(strict) as connection:
            assert received(connection).startswith(b"HTTP/1.1 503")
        strict.generator.hold = False
    strict.client = httpx.Client(base_url=strict.url, timeout=30, trust_env=False)
