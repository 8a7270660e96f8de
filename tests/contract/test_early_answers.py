"""Answers that come before the body: a client that sends all of it before it reads must receive them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from atelier_gateway.settings import NO_GENERATOR
from tests.contract.metrics_seen import metric
from tests.contract.raw_http import connect, received, response
from tests.contract.services import eventually
from tests.contract.stack import Stack

MB = 1_000_000


@pytest.fixture(scope="module")
def alone() -> Iterator[Stack]:
    with Stack(generator=NO_GENERATOR, max_body_bytes=2**20) as stack:
        yield stack


@pytest.fixture
def small() -> Iterator[Stack]:
    """A gateway whose largest body has less than 2 MB, and that waits a second for what it waits ten for."""
    with Stack(max_pixels=256 * 256, header_seconds=1) as stack:
        yield stack


def head(path: str, size: int, *, content_type: str = "application/json", close: bool = True) -> bytes:
    connection = "close" if close else "keep-alive"
    return (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()


ANSWERS = [
    ("/generate", 501, "application/json"),
    ("/api/generate", 501, "application/json"),
    ("/nothing", 404, "application/json"),
    ("/health", 405, "application/json"),
    ("/restore", 415, "image/png"),
]


@pytest.mark.parametrize("size", [12 * MB, 30 * MB])
@pytest.mark.parametrize(("path", "status", "content_type"), ANSWERS)
def test_the_body_may_come_after_the_answer(
    alone: Stack, path: str, status: int, content_type: str, size: int
) -> None:
    with connect(alone) as connection:
        connection.sendall(head(path, size, content_type=content_type))
        answer = response(connection)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower()
        connection.sendall(bytes(size))
        assert received(connection) == b""


@pytest.mark.parametrize("size", [12 * MB, 30 * MB])
@pytest.mark.parametrize(("path", "status"), [("/generate", 501), ("/nothing", 404)])
def test_urllib_which_sends_everything_first_gets_the_error(
    alone: Stack, path: str, status: int, size: int
) -> None:
    request = urllib.request.Request(
        alone.url + path, data=bytes(size), headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(request, timeout=30)
    with caught.value as answer:
        assert answer.code == status and json.load(answer)["error"]["code"]


def test_a_body_that_is_too_large_is_told_so(small: Stack) -> None:
    with connect(small) as connection:
        connection.sendall(head("/restore", 100 * MB))
        assert response(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(bytes(MB))
        assert received(connection) == b""


def test_a_malformed_request_is_told_so_whatever_follows(alone: Stack) -> None:
    with connect(alone) as connection:
        connection.sendall(b"POST /restore HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 400")
        connection.sendall(bytes(12 * MB))
        assert received(connection) == b""


def test_the_connection_ends_when_the_client_has_its_answer(alone: Stack) -> None:
    def count() -> float:
        return metric(alone, "atelier_gateway_connections")

    eventually(lambda: count() == 1)  # the one that asks
    with connect(alone) as connection:
        connection.sendall(head("/nothing", 12 * MB))
        assert response(connection).startswith(b"HTTP/1.1 404")
        assert count() == 2
    eventually(lambda: count() == 1)


def is_cut_off(stack: Stack, request: bytes, piece: bytes, pieces: int) -> bool:
    """Whether the server closes while these pieces come after its answer."""
    with connect(stack) as connection:
        connection.sendall(request)
        assert response(connection).startswith(b"HTTP/1.1 404")
        try:
            for _ in range(pieces):
                connection.sendall(piece)
        except OSError:
            return True
        return False


@pytest.mark.parametrize("close", [True, False])
def test_what_is_discarded_is_limited_in_time(small: Stack, close: bool) -> None:
    closed = metric(small, "atelier_gateway_connections_closed_total", cause="body")
    with connect(small) as connection:
        connection.sendall(head("/nothing", 100 * MB, close=close))
        assert response(connection).startswith(b"HTTP/1.1 404")
        eventually(
            lambda: metric(small, "atelier_gateway_connections_closed_total", cause="body") == closed + 1
        )


def test_what_is_discarded_is_limited_in_bytes(small: Stack) -> None:
    assert is_cut_off(small, head("/nothing", 10_000 * MB), bytes(MB), 200)


def test_a_connection_that_only_discards_makes_room_for_a_new_one() -> None:
    with Stack(max_connections=4) as stack:
        stack.client.close()
        connections = [connect(stack) for _ in range(4)]
        for connection in connections:
            connection.sendall(head("/nothing", 12 * MB))
            assert response(connection).startswith(b"HTTP/1.1 404")
        with connect(stack) as another:
            another.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert response(another).startswith(b"HTTP/1.1 200")
        for connection in connections:
            connection.close()
