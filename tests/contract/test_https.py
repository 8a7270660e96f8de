"""The gateway over HTTPS: who gets in, certificates that change, and the limits of connections."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sized
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from atelier_gateway.app import create_app
from atelier_gateway.server import Server
from atelier_gateway.settings import GatewaySettings
from atelier_runtime import tls
from atelier_runtime.settings import StartupError
from tests.authority import Authority, serial_of
from tests.contract.conftest import MAX_CONNECTIONS
from tests.contract.metrics_seen import metric
from tests.contract.raw_http import BODY, GENERATE, response
from tests.contract.services import eventually
from tests.contract.tls_stack import Certificates, SecureStack

MB = 1_000_000
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def module_secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureStack]:
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    with SecureStack(certificates, header_seconds=1, stall_seconds=1) as stack:
        yield stack


@pytest.fixture
def secure(module_secure: SecureStack, monkeypatch: pytest.MonkeyPatch) -> SecureStack:
    monkeypatch.setattr(tls, "LOOK_AGAIN_S", 0.0)
    module_secure.reset()
    return module_secure


@pytest.fixture
def mutual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureStack]:
    """A gateway that only serves clients with a certificate."""
    monkeypatch.setattr(tls, "LOOK_AGAIN_S", 0.0)
    certificates = Certificates(tmp_path)
    with SecureStack(certificates, tls_ca=certificates.ca) as stack:
        yield stack


def is_refused(stack: SecureStack, context: ssl.SSLContext) -> bool:
    with stack.new_client(context) as client:
        try:
            client.get("/livez")
        except httpx.TransportError:
            return True
    return False


def has_length(statuses: Sized, length: int) -> bool:
    return len(statuses) >= length


def has_ended(connection: ssl.SSLSocket) -> bool:
    """Whether the gateway closes the connection, with or without a farewell."""
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLEOFError):
        return True


def test_a_picture_is_made_over_tls_all_the_way(secure: SecureStack) -> None:
    answer = secure.generate()
    assert answer.status_code == 200 and answer.json()["face_restoration_applied"]
    health = secure.client.get("/health").json()
    assert health["model_loaded"] and health["codeformer_available"]


def test_addresses_in_answers_are_of_https(secure: SecureStack) -> None:
    body = {"prompt": "a red apple", "size": "256x256", "response_format": "url"}
    [image] = secure.client.post("/v1/images/generations", json=body).json()["data"]
    assert image["url"].startswith(f"https://localhost:{secure.port}/")
    assert secure.client.get(image["url"]).status_code == 200


def test_who_does_not_speak_tls_or_does_not_trust_the_ca_is_not_served(secure: SecureStack) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{secure.port}/livez", trust_env=False)
    assert is_refused(secure, ssl.create_default_context(cadata=Authority("another").pem.decode()))


def test_with_a_ca_only_clients_with_its_certificates_are_served(mutual: SecureStack) -> None:
    with mutual.new_client(mutual.certificates.trust(client=True)) as client:
        assert client.get("/livez").status_code == 200
    assert is_refused(mutual, mutual.certificates.trust())
    others = mutual.certificates.trust()
    others.load_cert_chain(*Authority("others").client().write(mutual.certificates.folder, "other"))
    assert is_refused(mutual, others)
    servers = mutual.certificates.trust()
    servers.load_cert_chain(*mutual.certificates.authority.server().write(mutual.certificates.folder, "s"))
    assert is_refused(mutual, servers), "a server's certificate is none for a client"


def test_a_ca_that_is_taken_away_is_not_trusted_any_more(mutual: SecureStack) -> None:
    context = mutual.certificates.trust(client=True)
    with mutual.new_client(context) as connected:
        assert connected.get("/livez").status_code == 200
        mutual.certificates.ca.write_bytes(Authority("latter").pem)
        assert is_refused(mutual, context), "not even by a session that is resumed"
        assert connected.get("/livez").status_code == 200, "who is connected already stays so"


def test_a_certificate_is_replaced_under_a_stream_of_requests_without_losing_one(
    secure: SecureStack,
) -> None:
    statuses: list[int | str] = []
    is_enough = threading.Event()

    def keep_asking(new_connections: bool) -> None:
        client = secure.new_client()
        while not is_enough.is_set():
            try:
                statuses.append(client.get("/livez").status_code)
                if new_connections:
                    client.close()
                    client = secure.new_client()
            except httpx.TransportError as error:
                statuses.append(repr(error))
        client.close()

    clients = [threading.Thread(target=keep_asking, args=(each,)) for each in (True, False)]
    for each in clients:
        each.start()
    for _ in range(3):
        secure.certificates.renew()
        with secure.connect() as connection:
            presented = serial_of(connection.getpeercert(binary_form=True))
        assert presented == secure.certificates.serials["gateway"]
        enough = len(statuses) + 20
        eventually(partial(has_length, statuses, enough))
    is_enough.set()
    for each in clients:
        each.join()
    assert set(statuses) == {200}


def test_an_answer_may_come_before_the_body(secure: SecureStack) -> None:
    head = f"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {12 * MB}\r\n\r\n"
    with secure.connect() as connection:
        connection.sendall(head.encode())
        assert response(connection).startswith(b"HTTP/1.1 404")
        connection.sendall(bytes(MB))
        assert has_ended(connection), "it does not wait for the rest forever"


DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n"


def test_answers_of_which_megabytes_wait_for_the_client_arrive_whole(secure: SecureStack) -> None:
    size = len(secure.client.get("/openapi.json").content)
    with secure.connect() as connection:
        connection.sendall((DOCUMENT + b"\r\n") * 30)
        for _ in range(30):
            answer = response(connection)
            assert len(answer.partition(b"\r\n\r\n")[2]) == size


def test_a_client_that_does_not_read_loses_the_connection(secure: SecureStack) -> None:
    before = metric(secure, "atelier_gateway_connections_closed_total", cause="unread")
    with secure.connect() as connection:
        connection.sendall((DOCUMENT + b"\r\n") * 60)
        eventually(
            lambda: metric(secure, "atelier_gateway_connections_closed_total", cause="unread") == before + 1
        )


def test_a_handshake_that_does_not_come_ends_the_connection(secure: SecureStack) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=20) as connection:
        assert connection.recv(1) == b"", "asyncio itself waits for a minute"


def test_what_comes_together_with_the_end_of_the_handshake_is_served(secure: SecureStack) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = secure.certificates.trust().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", secure.port), timeout=20) as connection:
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        session.write(LIVEZ)
        connection.sendall(outgoing.read())  # Finished and the request in one segment
        incoming.write(connection.recv(65536))
        assert session.read().startswith(b"HTTP/1.1 200")


def test_clients_that_begin_no_handshake_count_and_make_room(tmp_path: Path) -> None:
    with (
        SecureStack(Certificates(tmp_path), max_connections=MAX_CONNECTIONS, header_seconds=60) as stack,
        ExitStack() as everything,
    ):
        before = metric(stack, "atelier_gateway_connections_closed_total", cause="evicted")
        for _ in range(30):
            everything.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=20))
        with stack.connect() as connection:
            connection.sendall(LIVEZ)
            assert response(connection).startswith(b"HTTP/1.1 200")
            assert metric(stack, "atelier_gateway_connections") <= MAX_CONNECTIONS
        evicted = metric(stack, "atelier_gateway_connections_closed_total", cause="evicted") - before
        assert evicted >= 30 - MAX_CONNECTIONS


def test_where_all_connections_are_busy_a_client_is_told_so_over_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    request = GENERATE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with SecureStack(certificates, max_connections=4) as stack, ExitStack() as everything:
        stack.generator.hold = True
        for _ in range(4):
            everything.enter_context(stack.connect()).sendall(request)
        eventually(lambda: stack.generator.running == 4)
        with stack.connect() as connection:
            assert response(connection).startswith(b"HTTP/1.1 503")
        stack.generator.hold = False


def test_a_connection_may_be_closed_more_than_once(secure: SecureStack) -> None:
    async def close() -> None:
        for each in list(secure._gateway.server_state.connections):
            for _ in range(3):
                each.transport.close()

    with secure.connect() as connection:
        connection.sendall(LIVEZ)
        assert response(connection).startswith(b"HTTP/1.1 200")
        secure._in_loop(close())
        assert has_ended(connection)


def test_a_lack_of_files_is_said_once(secure: SecureStack, caplog: pytest.LogCaptureFixture) -> None:
    async def report() -> None:
        for _ in range(3):
            error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            asyncio.get_running_loop().call_exception_handler({"message": "accept", "exception": error})

    secure._in_loop(report())
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.getMessage() == "connections cannot be accepted" and record.exc_info is None


def test_idle_clients_do_not_hold_the_end_up(tmp_path: Path) -> None:
    with SecureStack(Certificates(tmp_path), drain_seconds=120) as stack:
        idle = stack.connect()
        idle.sendall(LIVEZ)
        assert response(idle).startswith(b"HTTP/1.1 200")
    # The stack has ended: it waits for the gateway for 30 s, as long as asyncio for a client's farewell.
    idle.close()


def test_a_certificate_that_cannot_be_used_prevents_the_start_by_name(tmp_path: Path) -> None:
    certificate, _ = Authority().server().write(tmp_path, "a")
    _, key = Authority().server().write(tmp_path, "b")
    settings = GatewaySettings(tls_cert=certificate, tls_key=key, jobs_database="none")
    with pytest.raises(StartupError, match=f"^ATELIER_GATEWAY_TLS_KEY={key}: is not the key of ATELIER_"):
        Server(create_app(settings), settings)
