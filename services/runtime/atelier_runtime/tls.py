"""TLS from PEM files, which are read again when they change.

Whoever opens a connection or accepts one asks for the newest files first. What is already connected goes on
as it is, so no call is lost. Files that make no sense together, such as a new certificate whose key has not
been written yet, leave the former ones in use.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import grpc

from atelier_runtime import metrics
from atelier_runtime.certificate_expiry import expiries
from atelier_runtime.settings import StartupError

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""Files are looked at this often at most, and only when somebody connects."""

_SOON = timedelta(days=7)
_BEGIN = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")
_TOO_WEAK = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")
_NO_PASSWORD = b""  # or OpenSSL would ask for one at the terminal


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files, and the names of the settings that they come from, for messages."""

    certificate: Path | None
    key: Path | None
    ca: Path | None
    names: tuple[str, str, str]
    """Of certificate, key and CA."""

    @classmethod
    def of_settings(cls, prefix: str, certificate: Path | None, key: Path | None, ca: Path | None) -> Self:
        """Name the settings as in `TLS_CERT`, `TLS_KEY` and `TLS_CA`, with `TLS_` as the prefix."""
        return cls(certificate, key, ca, (f"{prefix}CERT", f"{prefix}KEY", f"{prefix}CA"))


@dataclass(frozen=True)
class Pem:
    """The contents of the files; empty where there is no file."""

    certificate: bytes
    key: bytes
    ca: bytes


class PemFiles:
    """The newest contents that make sense. Safe to use in several threads."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises `StartupError`, which names a setting and its file."""
        self._files = files
        self._lock = threading.Lock()
        self._refused: Pem | str | None = None
        self._has_been_told = False
        self._pem = self._read()
        _check(self._pem, files)
        self._expiry = _Expiry(self._pem, files)
        self._expiry.warn()
        self._looked_at = time.monotonic()

    def newest(self) -> Pem:
        """Return the contents: the same object until they change."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
                self._look()
                self._expiry.warn()
                self._looked_at = time.monotonic()
            return self._pem

    def _look(self) -> None:
        found: Pem | str | None = None
        try:
            found = self._read()
            if found == self._pem:
                self._refused = None
                return
            _check(found, self._files)
        except StartupError as error:
            self._refuse(str(error) if found is None else found, error)
            return
        self._pem, self._refused = found, None
        self._expiry = _Expiry(found, self._files)
        logger.info("the TLS files have changed", extra={"files": _paths(self._files)})

    def _refuse(self, found: Pem | str, error: StartupError) -> None:
        """Keep the former files. Say so the second time, once: the first may be in the middle of a change."""
        if found != self._refused:
            self._refused, self._has_been_told = found, False
        elif not self._has_been_told:
            self._has_been_told = True
            logger.error("the TLS files have changed and cannot be used", extra={"error": str(error)})

    def _read(self) -> Pem:
        certificate, key, ca = self._files.names
        return Pem(
            _content(certificate, self._files.certificate),
            _content(key, self._files.key),
            _content(ca, self._files.ca),
        )


class _Expiry:
    """Tells a metric when certificates expire, and the log, once each, within a week of it and afterwards."""

    def __init__(self, pem: Pem, files: TlsFiles) -> None:
        certificate, _, ca = files.names
        self._left: list[tuple[datetime, datetime, str, str]] = []  # when to say it, expiry, message, file
        for name, path, ends in (
            (certificate, files.certificate, min(expiries(pem.certificate), default=None)),
            (ca, files.ca, max(expiries(pem.ca), default=None)),  # a former CA may expire
        ):
            if ends is not None:
                metrics.CERTIFICATE_EXPIRY.labels(name).set(ends.timestamp())
                self._left += [
                    (ends - _SOON, ends, "a certificate expires soon", f"{name}={path}"),
                    (ends, ends, "a certificate has expired", f"{name}={path}"),
                ]

    def warn(self) -> None:
        """Say what is to be said by now."""
        now = datetime.now(UTC)
        for due in [each for each in self._left if each[0] <= now]:
            self._left.remove(due)
            _, ends, message, file = due
            if ends > now or message.endswith("expired"):
                logger.warning(message, extra={"file": file, "expires": ends.isoformat()})


def server_files(files: TlsFiles) -> PemFiles | None:
    """Return what a server presents, None without settings. Raises `StartupError`.

    With a CA, clients must present certificates that it has signed.
    """
    certificate, key, ca = files.names
    if files.certificate is None and files.key is None:
        if files.ca is not None:
            raise StartupError(f"{ca}={files.ca}: needs {certificate} and {key}")
        return None
    _require_both(files)
    return PemFiles(files)


def client_files(files: TlsFiles) -> PemFiles | None:
    """Return what a client trusts and presents, None without settings. Raises `StartupError`."""
    certificate, key, ca = files.names
    if files.ca is None:
        if files.certificate is not None or files.key is not None:
            raise StartupError(f"{ca}: is required with {certificate if files.certificate else key}")
        return None
    if files.certificate is not None or files.key is not None:
        _require_both(files)
    return PemFiles(files)


def server_credentials(files: PemFiles) -> grpc.ServerCredentials:
    """Return the credentials of a gRPC server; each handshake uses the newest files."""
    served = files.newest()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        newest = files.newest()
        if newest is served:
            return None
        served = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), changed, require_client_authentication=bool(served.ca)
    )


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """Return the credentials of a gRPC channel, which keeps them: after a change, open another."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key or None, pem.certificate or None)


def server_context(files: PemFiles) -> ssl.SSLContext:
    """Return the context of an HTTP server; each handshake uses the newest files."""
    served = files.newest()
    context = first = _server_context(served)

    def choose(connection: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        nonlocal served, context
        newest = files.newest()
        if newest is not served:
            # Another context, not the same with other files: that would go on to trust the former CA, too.
            served, context = newest, _server_context(newest)
        connection.context = context

    first.sni_callback = choose  # called for each handshake, whether it has a name or not
    return first


def client_context(pem: Pem) -> ssl.SSLContext:
    """Return the context of an HTTP client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with _file(pem.ca) as path:
        context.load_verify_locations(path)
    if pem.certificate:
        _load_pair(context, pem)
    return context


def _server_context(pem: Pem) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A session that is resumed would not be checked against the newest CA.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_pair(context, pem)
    if pem.ca:
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3
        )  # in which a session cannot be resumed without tickets
        context.verify_mode = ssl.CERT_REQUIRED
        with _file(pem.ca) as path:
            context.load_verify_locations(path)
    return context


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca or None)


def _require_both(files: TlsFiles) -> None:
    certificate, key, _ = files.names
    if files.certificate is None:
        raise StartupError(f"{certificate}: is required with {key}={files.key}")
    if files.key is None:
        raise StartupError(f"{key}: is required with {certificate}={files.certificate}")


def _content(name: str, path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{name}={path}: cannot be read: {error.strerror}") from None


def _check(pem: Pem, files: TlsFiles) -> None:
    """Raise `StartupError` unless the contents are what they should be and belong together."""
    certificate, key, ca = files.names
    for name, path, content in (
        (certificate, files.certificate, pem.certificate),
        (ca, files.ca, pem.ca),
    ):
        if path is not None and not _has_certificates(content):
            problem = (
                "contains a certificate that cannot be read"
                if _BEGIN.search(content)
                else "contains no certificates in PEM format"
            )
            raise StartupError(f"{name}={path}: {problem}")
    if files.certificate is None:
        return
    try:
        _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
    except ssl.SSLError as error:
        if error.reason in _TOO_WEAK:
            raise StartupError(
                f"{certificate}={files.certificate}: its key or signature is too weak ({error.reason})"
            ) from None
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            problem = f"is not the key of {certificate}={files.certificate}"
        else:
            problem = "contains no private key in PEM format without a password"
        raise StartupError(f"{key}={files.key}: {problem}") from None


def _has_certificates(content: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with _file(content) as path:
            context.load_verify_locations(path)
    except ssl.SSLError:
        return False
    return context.cert_store_stats()["x509"] > 0


def _load_pair(context: ssl.SSLContext, pem: Pem) -> None:
    with _file(pem.certificate) as certificate, _file(pem.key) as key:
        context.load_cert_chain(certificate, key, password=_NO_PASSWORD)


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Make a file in memory: OpenSSL takes only paths, and files on disk may have changed meanwhile."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _paths(files: TlsFiles) -> list[str]:
    return [str(path) for path in (files.certificate, files.key, files.ca) if path is not None]
