"""What a hostile or slow client can do to connections, on real sockets: time, size and number are limited."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from atelier.common.v1 import image_pb2
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack, eventually

BODY = json.dumps({"prompt": "x", "width": 256, "height": 256}).encode()
GENERATE = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = GENERATE + b"Transfer-Encoding: chunked\r\n\r\n"
MAX_CONNECTIONS = 8


@pytest.fixture(scope="module")
def strict() -> Iterator[Stack]:
    """A gateway that waits a second for what it waits many for."""
    with Stack(header_seconds=1, stall_seconds=1, max_connections=MAX_CONNECTIONS) as stack:
        yield stack


@pytest.fixture(autouse=True)
def usual(strict: Stack) -> Iterator[None]:
    yield
    strict.reset()


def connect(stack: Stack) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=20)
    return connection


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    data = bytearray()
    try:
        while chunk := connection.recv(2**16):
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


def response(connection: socket.socket) -> bytes:
    """Return one response with a Content-Length, or what came of it."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(1)
        if not chunk:
            return bytes(data)
        data += chunk
    header = data.lower()
    size = int(header[header.index(b"content-length:") + 15 :].split(b"\r\n")[0])
    while size > 0 and (chunk := connection.recv(min(size, 2**16))):
        data += chunk
        size -= len(chunk)
    return bytes(data)


def metric(stack: Stack, name: str, **labels: str) -> float:
    text = stack.client.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


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


def test_a_connection_outlives_a_refused_body(strict: Stack) -> None:
    with connect(strict) as connection:
        connection.sendall(GENERATE + b"Content-Length: 100000\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(b"x" * 100_000 + b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response(connection).startswith(b"HTTP/1.1 200")


# --- bytes in flight ---


def form(image: bytes) -> tuple[bytes, bytes]:
    """Return a header and a body."""
    request = httpx.Request("POST", "http://a/detect", files={"image": ("a", image)})
    body = request.read()
    content_type = request.headers["content-type"].encode()
    return (
        b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        % (content_type, len(body)),
        body,
    )


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


def test_a_response_that_is_not_read_is_given_up(strict: Stack) -> None:
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
