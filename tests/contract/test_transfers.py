"""Slow and endless bodies, bytes in flight, and responses that nobody reads, on real sockets."""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import ExitStack, suppress

import pytest

from atelier.common.v1 import image_pb2
from tests.contract.metrics_seen import metric
from tests.contract.raw_http import BODY, CHUNKED, GENERATE, connect, form, received, response
from tests.contract.script import file_of, gradient
from tests.contract.services import eventually
from tests.contract.stack import Stack

# --- bodies ---


@pytest.mark.parametrize("path", ["/generate", "/detect"])
def test_a_body_that_does_not_come_is_not_waited_for(strict: Stack, path: str) -> None:
    with connect(strict) as connection:
        head = GENERATE.replace(b"/generate", path.encode()) + b"Content-Length: 100\r\n\r\n{"
        connection.sendall(head)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def test_a_body_that_comes_steadily_may_take_its_time(strict: Stack) -> None:
    with connect(strict) as connection:
        body = b'{"image": "' + b"A" * 20_000 + b'"}'
        connection.sendall(
            GENERATE.replace(b"/generate", b"/detect") + b"Content-Length: %d\r\n\r\n" % len(body)
        )
        for start in range(0, len(body), 2048):
            connection.sendall(body[start : start + 2048])
            time.sleep(0.15)
        assert response(connection).startswith(b"HTTP/1.1 422"), "it is no image, but all of it has come"


@pytest.mark.parametrize(
    "flood",
    [
        b"1\r\nx\r\n" * 60_000,
        b"0\r\n" + b"".join(b"T%d: x\r\n" % i for i in range(30_000)),
        b"0\r\nT: " + b"x" * 300_000,
        b"5;" + b"e=1;" * 80_000,
    ],
    ids=["chunks of a byte", "many trailers", "a large trailer", "a large extension"],
)
def test_a_body_is_not_all_framing(strict: Stack, flood: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(CHUNKED.replace(b"/generate", b"/detect"))
        with suppress(OSError):
            connection.sendall(flood)
        answer = received(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer


def test_trailers_are_not_headers(strict: Stack) -> None:
    with connect(strict) as connection:
        chunk = b"%x\r\n%s\r\n" % (len(BODY), BODY)
        connection.sendall(CHUNKED + chunk + b"0\r\nAccept: image/png\r\nX-Request-ID: trailer\r\n\r\n")
        answer = response(connection)
    assert answer.startswith(b"HTTP/1.1 200") and b"image/png" not in answer.partition(b"\r\n\r\n")[0]


def test_the_rest_of_a_refused_body_is_not_read_forever(strict: Stack) -> None:
    with connect(strict) as connection:
        connection.sendall(GENERATE + b"Content-Length: 1000000000\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 413")
        started = time.monotonic()
        try:
            while time.monotonic() < started + 20:
                connection.sendall(b"x" * 1000)
                time.sleep(0.05)
        except OSError:
            return
    raise AssertionError("the connection was never closed")


def test_a_connection_outlives_a_refused_body() -> None:
    with Stack(max_pixels=256 * 256) as stack, connect(stack) as connection:
        connection.sendall(GENERATE + b"Content-Length: 8000000\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(b"x" * 8_000_000 + b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 200")


# --- bytes in flight ---


def test_bodies_that_do_not_fit_together_are_refused_before_they_are_read() -> None:
    image = file_of(gradient(64, 48)) + b"\0" * 700_000
    with Stack(max_bytes_in_flight=2**20) as stack:
        header, body = form(image)
        with connect(stack) as first, connect(stack) as second:
            first.sendall(header + body[:-1])
            eventually(lambda: metric(stack, "atelier_gateway_bytes_in_flight") == len(body) - 1)
            second.sendall(header)
            refused = response(second)
            assert refused.startswith(b"HTTP/1.1 429") and b"retry-after" in refused.lower()
            assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "queue_full"
            first.sendall(body[-1:])
            assert response(first).startswith(b"HTTP/1.1 200")
        assert stack.client.post("/detect", files={"image": image}).status_code == 200
        assert metric(stack, "atelier_gateway_bytes_in_flight") < 100_000, "only this response"


def test_a_slow_body_makes_room_for_others() -> None:
    image = file_of(gradient(64, 48)) + b"\0" * 700_000
    with Stack(max_bytes_in_flight=2**20, stall_seconds=4) as stack, connect(stack) as slow:
        header, body = form(bytes(2**20))
        slow.sendall(header + body[:700_000])
        eventually(lambda: metric(stack, "atelier_gateway_bytes_in_flight") >= 700_000)
        sent = 700_000

        def admitted() -> bool:
            nonlocal sent
            with suppress(OSError):  # once it has been ended
                slow.sendall(body[sent : sent + 100])
            sent += 100
            return stack.client.post("/detect", files={"image": image}).status_code == 200

        eventually(admitted)
        answer = received(slow)
        assert b" 408 " in answer.partition(b"\r\n")[0] and b"while others waited for its room" in answer


def test_a_response_that_is_read_slowly_makes_room_for_others() -> None:
    large = image_pb2.Image(data=bytes(8_000_000), format=image_pb2.IMAGE_FORMAT_PNG, width_px=1, height_px=1)
    image = file_of(gradient(64, 48)) + b"\0" * 700_000
    with Stack(max_bytes_in_flight=2**20, stall_seconds=2) as stack:
        stack.restorer.image = large
        header, body = form(file_of(gradient(64, 48)))
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", stack.port))
            slow.sendall(header.replace(b"/detect", b"/restore") + body)
            eventually(lambda: metric(stack, "atelier_gateway_bytes_in_flight") > 8_000_000)

            def admitted() -> bool:
                slow.recv(100)
                return stack.client.post("/detect", files={"image": image}).status_code == 200

            eventually(admitted)


def test_a_small_request_is_admitted_when_nothing_else_is() -> None:
    with Stack(max_bytes_in_flight=2**20) as stack, connect(stack) as large:
        header, body = form(bytes(2**20))
        large.sendall(header + body[:-1])
        eventually(lambda: metric(stack, "atelier_gateway_bytes_in_flight") >= 2**20)
        assert stack.generate().status_code == 200


def test_a_single_request_is_always_admitted() -> None:
    image = file_of(gradient(64, 48)) + b"\0" * 3_000_000
    with Stack(max_bytes_in_flight=2**20) as stack:
        assert stack.client.post("/detect", files={"image": image}).status_code == 200


# --- responses ---


def test_a_response_that_is_not_read_is_given_up(strict: Stack, caplog: pytest.LogCaptureFixture) -> None:
    image = image_pb2.Image(data=bytes(8_000_000), format=image_pb2.IMAGE_FORMAT_PNG, width_px=1, height_px=1)
    strict.restorer.image = image
    header, body = form(file_of(gradient(64, 48)))
    before = metric(strict, "atelier_gateway_connections_closed_total", cause="unread")
    with ExitStack() as open_connections:
        for _ in range(3):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", strict.port))
            open_connections.enter_context(connection)
            connection.sendall(header.replace(b"/detect", b"/restore") + body)
        eventually(
            lambda: metric(strict, "atelier_gateway_connections_closed_total", cause="unread") == before + 3
        )
        eventually(lambda: metric(strict, "atelier_gateway_bytes_in_flight") < 100_000)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "it is no failure"


def test_a_response_that_is_read_slowly_is_read_to_its_end(strict: Stack) -> None:
    """Of megabytes in the kernel's buffers, only what the client takes shows that it reads."""
    image = image_pb2.Image(data=bytes(9_000_000), format=image_pb2.IMAGE_FORMAT_PNG, width_px=1, height_px=1)
    strict.restorer.image = image
    header, body = form(file_of(gradient(64, 48)))
    header = header.replace(b"/detect", b"/restore").replace(b"Host: a", b"Host: a\r\nAccept: image/png")
    with connect(strict) as connection:
        connection.sendall(header + body)
        taken = 0
        for _ in range(40):  # four times the period, at some 400 kB/s
            time.sleep(0.1)
            taken += len(connection.recv(40_000))
        while taken < 9_000_000:
            chunk = connection.recv(2**20)
            assert chunk, f"closed after {taken} bytes"
            taken += len(chunk)
