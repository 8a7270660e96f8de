"""The gateway's channels over mutual TLS, while its certificate changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from atelier_gateway.backends import channel as channel_module
from atelier_gateway.backends.channel import BackendChannel
from atelier_gateway.settings import GatewaySettings
from atelier_gateway.tls import backend_files
from atelier_runtime import tls
from atelier_runtime.errors import ServiceUnavailable
from atelier_runtime.settings import StartupError
from tests.authority import Authority
from tests.unit.gateway.backends.replicas import SERVICE, in_time


class Service:
    """Says which certificate its caller has presented; a call that holds waits for `release`."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.ca = self.authority.write(folder)
        self.folder = folder
        self.holds, self.release = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        certificate, key = self.authority.server("localhost").write(self.folder, "server")
        files = tls.server_files(tls.TlsFiles.of_settings("TLS_", certificate, key, self.ca))
        assert files is not None
        self.server = grpc.aio.server()
        handlers = {"Serial": grpc.unary_unary_rpc_method_handler(self._serial)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        self.port = self.server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
        await self.server.start()

    async def _serial(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if request:
            self.holds.set()
            await self.release.wait()
        [pem] = context.auth_context()["x509_pem_cert"]
        return str(x509.load_pem_x509_certificate(pem).serial_number).encode()

    def renew_client(self) -> int:
        """Issue the gateway another certificate; return its serial number."""
        client = self.authority.client("atelier-gateway")
        client.write(self.folder, "client")
        return client.serial

    def channel(self, **settings: Any) -> BackendChannel:
        given = {
            "backend_tls_ca": self.ca,
            "backend_tls_cert": self.folder / "client.crt",
            "backend_tls_key": self.folder / "client.key",
            **settings,
        }
        return BackendChannel(
            "restorer",
            f"dns:///localhost:{self.port}",
            SERVICE,
            max_pixels=65_536,
            wait_s=10.0,
            tls=backend_files(GatewaySettings(**given)),
        )


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(tls, "LOOK_AGAIN_S", 0.0)
    service = Service(tmp_path)
    await service.start()
    yield service
    await service.server.stop(None)


async def serial(channel: grpc.aio.Channel) -> int:
    return int(await channel.unary_unary("/test/Serial")(b"", timeout=20))


async def held_serial(channel: grpc.aio.Channel) -> int:
    return int(await channel.unary_unary("/test/Serial")(b"hold", timeout=20))


async def test_calls_after_a_change_present_the_new_certificate_and_those_before_go_on(
    service: Service,
) -> None:
    first = service.renew_client()
    async with service.channel() as channel:
        before = asyncio.create_task(channel.call(held_serial, in_time()))
        await service.holds.wait()
        second = service.renew_client()
        assert await channel.call(serial, in_time()) == second
        assert await serial(channel.status_channel) == second
        third = service.renew_client()
        assert await serial(channel.status_channel) == third
        assert await channel.call(serial, in_time()) == third
        service.release.set()
        assert await before == first


async def test_a_change_under_a_stream_of_calls_loses_none(service: Service) -> None:
    service.renew_client()
    seen: list[int] = []

    async def keep_calling(channel: BackendChannel) -> None:
        while not is_enough.is_set():
            seen.append(await channel.call(serial, in_time()))

    is_enough = asyncio.Event()
    async with service.channel() as channel, asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(keep_calling(channel))
        for _ in range(3):
            latest = service.renew_client()
            while latest not in seen:
                await asyncio.sleep(0.01)
        is_enough.set()


@pytest.mark.parametrize("presents", ["nothing", "another CA's certificate"])
async def test_a_gateway_that_is_not_let_in_says_why_in_its_log_once(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    presents: str,
) -> None:
    caplog.set_level(logging.WARNING, channel_module.logger.name)
    service.renew_client()
    if presents == "nothing":
        channel = service.channel(backend_tls_cert=None, backend_tls_key=None)
    else:
        Authority("another").client().write(service.folder, "client")
        channel = service.channel()
    channel._wait_s = 0.1
    async with channel:
        for _ in range(2):
            with pytest.raises(ServiceUnavailable):
                await channel.call(serial, in_time())
    [record] = caplog.records
    assert vars(record)["backend"] == "restorer" and vars(record)["error"]


async def test_a_service_of_another_ca_is_not_called(service: Service) -> None:
    service.renew_client()
    channel = service.channel(backend_tls_ca=Authority("another").write(service.folder, "another"))
    channel._wait_s = 0.1
    async with channel:
        with pytest.raises(ServiceUnavailable):
            await channel.call(serial, in_time())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend_tls_cert": "a.crt"}, "ATELIER_GATEWAY_BACKEND_TLS_CA: is required with ATELIER_"),
        (
            {"backend_tls_ca": "ca.crt", "backend_tls_key": "a.key"},
            "ATELIER_GATEWAY_BACKEND_TLS_CERT: is req",
        ),
        ({"backend_tls_ca": "none"}, "ATELIER_GATEWAY_BACKEND_TLS_CA={folder}/none: cannot be read"),
        (
            {"backend_tls_ca": "ca.crt", "generator": "ipv4:10.0.0.1:1,10.0.0.2:1"},
            "ATELIER_GATEWAY_GENERATOR=ipv4:10.0.0.1:1,10.0.0.2:1: with TLS, write one name",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, given: dict[str, str], message: str) -> None:
    authority = Authority()
    authority.write(tmp_path)
    authority.client().write(tmp_path, "a")
    settings: dict[str, Any] = {
        name: tmp_path / value if name.startswith("backend") else value for name, value in given.items()
    }
    with pytest.raises(StartupError) as caught:
        backend_files(GatewaySettings(**settings))
    assert str(caught.value).startswith(message.format(folder=tmp_path))
