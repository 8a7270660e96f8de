"""A service with TLS: who gets in, and certificates that change while it serves; real handshakes."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from atelier_runtime import metrics, tls
from atelier_runtime.certificate_expiry import expiries
from atelier_runtime.server import ServiceServer
from atelier_runtime.settings import StartupError
from tests.authority import Authority, Identity
from tests.unit.runtime.tls_service import Running, Service, Settings, running, work

DAY_S = 86400


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_AGAIN_S", 0.0)


async def is_refused(channel: grpc.aio.Channel) -> bool:
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await work(channel)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_with_tls_only_who_speaks_it_and_trusts_the_ca_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as served:
        async with served.channel() as channel:
            assert await work(channel) == b"done"
        assert await is_refused(grpc.aio.insecure_channel(served.address))
        assert await is_refused(served.channel(ca=Authority("another").pem))
        assert served.presented() == served.identity.serial


async def test_a_client_must_find_the_name_that_it_dials_in_the_certificate(tmp_path: Path) -> None:
    async with running(tmp_path, host="0.0.0.0") as served:
        credentials = grpc.ssl_channel_credentials(served.authority.pem)
        for address, is_named in (("dns:///localhost", True), ("127.0.0.1", True), ("127.0.0.2", False)):
            channel = grpc.aio.secure_channel(f"{address}:{served.server.port}", credentials)
            if is_named:
                async with channel:
                    assert await work(channel) == b"done"
            else:
                assert await is_refused(channel)


async def test_with_a_ca_only_clients_with_its_certificates_are_served(tmp_path: Path) -> None:
    clients, others = Authority("clients"), Authority("others")
    async with running(tmp_path, tls_ca=clients.write(tmp_path)) as served:
        async with served.channel(client=clients.client()) as channel:
            assert await work(channel) == b"done"
        assert await is_refused(served.channel())
        assert await is_refused(served.channel(client=others.client()))
        assert await is_refused(served.channel(client=clients.server())), "a server's may not call"
        assert await is_refused(grpc.aio.insecure_channel(served.address))


async def test_a_certificate_is_replaced_under_a_stream_of_calls_without_losing_one(
    tmp_path: Path, looks_always: None
) -> None:
    done = 0

    async def keep_calling(served: Running) -> None:
        nonlocal done
        async with served.channel() as channel:
            while not is_enough.is_set():
                await work(channel)
                done += 1

    async def keep_connecting(served: Running) -> None:
        nonlocal done
        while not is_enough.is_set():
            async with served.channel() as channel:
                await work(channel)
                done += 1

    is_enough = asyncio.Event()
    async with running(tmp_path) as served, asyncio.TaskGroup() as callers:  # which fails if one call does
        for caller in (keep_calling, keep_connecting) * 2:
            callers.create_task(caller(served))
        for _ in range(3):
            before = done
            renewed = served.renew()
            assert await asyncio.to_thread(served.presented) == renewed.serial
            while done < before + 50:
                await asyncio.sleep(0.01)
        is_enough.set()


async def test_a_ca_that_is_taken_away_is_not_trusted_any_more(tmp_path: Path, looks_always: None) -> None:
    former, latter = Authority("former"), Authority("latter")
    ca = former.write(tmp_path)
    async with running(tmp_path, tls_ca=ca) as served:
        async with served.channel(client=former.client()) as connected:
            assert await work(connected) == b"done"
            ca.write_bytes(latter.pem)
            assert await is_refused(served.channel(client=former.client()))
            assert await work(connected) == b"done", "who is connected already stays so"
        async with served.channel(client=latter.client()) as channel:
            assert await work(channel) == b"done"


async def test_what_kubernetes_swaps_is_seen(tmp_path: Path, looks_always: None) -> None:
    """A mounted Secret: its files are links through a link to a folder, and that link is replaced."""
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(identity: Identity, version: str) -> None:
        folder = mount / version
        folder.mkdir()
        identity.write(folder, "tls")
        (mount / "..new").symlink_to(version)
        os.replace(mount / "..new", mount / "..data")

    authority = Authority()
    first, second = authority.server(), authority.server()
    publish(first, "..1")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    async with running(tmp_path, tls_cert=mount / "tls.crt", tls_key=mount / "tls.key") as served:
        served.authority = authority
        assert await asyncio.to_thread(served.presented) == first.serial
        publish(second, "..2")
        assert await asyncio.to_thread(served.presented) == second.serial


async def test_half_of_a_change_leaves_the_former_files_in_use_and_is_told_once(
    tmp_path: Path, looks_always: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, tls.logger.name)
    async with running(tmp_path) as served:
        renewed = served.authority.server()
        (tmp_path / "server.crt").write_bytes(renewed.certificate)
        for _ in range(4):
            assert await asyncio.to_thread(served.presented) == served.identity.serial
        [record] = caplog.records
        assert f"TLS_KEY={tmp_path / 'server.key'}" in vars(record)["error"]
        (tmp_path / "server.key").unlink()
        for _ in range(3):
            assert await asyncio.to_thread(served.presented) == served.identity.serial
        assert len(caplog.records) == 2, "another problem is told, too"
        (tmp_path / "server.key").write_bytes(renewed.key)
        assert await asyncio.to_thread(served.presented) == renewed.serial


async def test_a_change_that_is_seen_in_the_middle_is_no_error(
    tmp_path: Path, looks_always: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, tls.logger.name)
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    files = tls.server_files(tls.TlsFiles.of_settings("TLS_", certificate, key, None))
    assert files is not None
    renewed = authority.server()
    certificate.write_bytes(renewed.certificate)
    before = files.newest()
    key.write_bytes(renewed.key)
    assert files.newest() == tls.Pem(renewed.certificate, renewed.key, b"") != before
    assert not caplog.records


def expiry(setting: str) -> float:
    """When the metric says that a certificate in use expires, in seconds since 1970."""
    found: float = metrics.CERTIFICATE_EXPIRY.labels(setting)._value.get()
    return found


@pytest.mark.parametrize(
    ("days", "message"),
    [(30, None), (3, "a certificate expires soon"), (-1, "a certificate has expired")],
)
def test_a_certificate_that_expires_is_told_once(
    tmp_path: Path, looks_always: None, caplog: pytest.LogCaptureFixture, days: int, message: str | None
) -> None:
    caplog.set_level(logging.WARNING, tls.logger.name)
    certificate, key = Authority(days=days).server().write(tmp_path, "server")
    files = tls.server_files(tls.TlsFiles.of_settings("TLS_", certificate, key, None))
    assert files is not None
    files.newest()
    assert round((expiry("TLS_CERT") - time.time()) / DAY_S) == days
    told = [(each.getMessage(), vars(each)["file"]) for each in caplog.records]
    assert told == ([] if message is None else [(message, f"TLS_CERT={certificate}")])
    Authority(days=40).server().write(tmp_path, "server")
    files.newest()
    Authority(days=5).server().write(tmp_path, "server")
    files.newest()
    assert len(caplog.records) == len(told) + 1, "what is renewed is looked at anew"
    assert round((expiry("TLS_CERT") - time.time()) / DAY_S) == 5


def test_a_ca_that_is_about_to_be_left_out_may_expire(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, tls.logger.name)
    path = tmp_path / "ca.crt"
    path.write_bytes(Authority("former", days=-1).pem + Authority("latter").pem)
    assert tls.client_files(tls.TlsFiles.of_settings("TLS_", None, None, path)) is not None
    assert not caplog.records
    path.write_bytes(Authority("former", days=-1).pem)
    tls.client_files(tls.TlsFiles.of_settings("TLS_", None, None, path))
    assert [each.getMessage() for each in caplog.records] == ["a certificate has expired"]


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 9999])
def test_expiry_is_read_as_it_is_written(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 60)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 2**150)
        .not_valid_before(datetime(1990, 1, 1, tzinfo=UTC))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    assert expiries(certificate.public_bytes(Encoding.PEM) * 2 + broken) == [end, end]


def test_files_are_not_read_for_each_call(tmp_path: Path) -> None:
    authority = Authority()
    files = tls.client_files(tls.TlsFiles.of_settings("TLS_", None, None, authority.write(tmp_path)))
    assert files is not None
    Authority("another").write(tmp_path)
    end = time.monotonic() + tls.LOOK_AGAIN_S / 2
    while time.monotonic() < end:
        assert files.newest().ca == authority.pem


BAD_FILES: dict[str, tuple[dict[str, str], str]] = {
    "no key": ({"tls_cert": "server.crt"}, "TLS_KEY: is required with TLS_CERT={folder}/server.crt"),
    "no certificate": ({"tls_key": "server.key"}, "TLS_CERT: is required with TLS_KEY={folder}/server.key"),
    "a CA alone": ({"tls_ca": "ca.crt"}, "TLS_CA={folder}/ca.crt: needs TLS_CERT and TLS_KEY"),
    "a missing file": (
        {"tls_cert": "server.crt", "tls_key": "none"},
        "TLS_KEY={folder}/none: cannot be read: No such file or directory",
    ),
    "another key": (
        {"tls_cert": "server.crt", "tls_key": "other.key"},
        "TLS_KEY={folder}/other.key: is not the key of TLS_CERT={folder}/server.crt",
    ),
    "no key in the file": (
        {"tls_cert": "server.crt", "tls_key": "ca.crt"},
        "TLS_KEY={folder}/ca.crt: contains no private key in PEM format without a password",
    ),
    "a key with a password": (
        {"tls_cert": "server.crt", "tls_key": "locked.key"},
        "TLS_KEY={folder}/locked.key: contains no private key in PEM format without a password",
    ),
    "no certificate in the file": (
        {"tls_cert": "server.key", "tls_key": "server.key"},
        "TLS_CERT={folder}/server.key: contains no certificates in PEM format",
    ),
    "no CA in the file": (
        {"tls_cert": "server.crt", "tls_key": "server.key", "tls_ca": "server.key"},
        "TLS_CA={folder}/server.key: contains no certificates in PEM format",
    ),
    "a certificate whose key is too short": (
        {"tls_cert": "weak.crt", "tls_key": "weak.key"},
        "TLS_CERT={folder}/weak.crt: its key or signature is too weak (EE_KEY_TOO_SMALL)",
    ),
    "a broken certificate among others": (
        {"tls_cert": "server.crt", "tls_key": "server.key", "tls_ca": "broken.crt"},
        "TLS_CA={folder}/broken.crt: contains a certificate that cannot be read",
    ),
    "an empty file": (
        {"tls_cert": "server.crt", "tls_key": "server.key", "tls_ca": "empty"},
        "TLS_CA={folder}/empty: contains no certificates in PEM format",
    ),
}


def write_weak(folder: Path) -> None:
    """Write a certificate that OpenSSL takes at no security level above 0."""
    subject = (
        "-subj",
        "/CN=localhost",
        "-keyout",
        str(folder / "weak.key"),
        "-out",
        str(folder / "weak.crt"),
    )
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-noenc", *subject],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("name", BAD_FILES)
async def test_what_cannot_work_prevents_the_start_by_name(tmp_path: Path, name: str) -> None:
    authority = Authority()
    authority.write(tmp_path)
    authority.server().write(tmp_path, "server")
    other = authority.server()
    other.write(tmp_path, "other")
    key = load_pem_private_key(other.key, None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "empty").touch()
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "broken.crt").write_bytes(authority.pem + broken)
    write_weak(tmp_path)
    given, message = BAD_FILES[name]
    paths: dict[str, Any] = {field: tmp_path / file for field, file in given.items()}
    settings = Settings(**paths)
    server = ServiceServer("restorer", settings, Service)
    with pytest.raises(StartupError) as caught:
        await server.start()
    assert str(caught.value) == message.format(folder=tmp_path)
    await server.drain()


def test_an_empty_variable_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_TEST_TLS_CERT", "")
    assert Settings().tls_cert is None
