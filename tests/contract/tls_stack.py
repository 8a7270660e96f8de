"""The test stack with TLS at every connection, mutual between gateway and services."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx

from atelier_runtime.tls import TlsFiles, server_credentials, server_files
from tests.authority import Authority, serial_of
from tests.contract.services import ScriptedServices
from tests.contract.stack import Stack


class Certificates:
    """The files of all processes in one folder, signed by one authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.ca = self.authority.write(folder)
        self.serials: dict[str, int] = {}
        self.renew()

    def renew(self) -> None:
        """Issue each process another certificate."""
        identities = {
            "services": self.authority.server(),
            "gateway": self.authority.server(),
            "gateway_client": self.authority.client("atelier-gateway"),
        }
        for name, identity in identities.items():
            identity.write(self.folder, name)
            self.serials[name] = identity.serial

    @property
    def gateway(self) -> dict[str, Any]:
        """The gateway's settings."""
        return {
            "tls_cert": self.folder / "gateway.crt",
            "tls_key": self.folder / "gateway.key",
            "backend_tls_ca": self.ca,
            "backend_tls_cert": self.folder / "gateway_client.crt",
            "backend_tls_key": self.folder / "gateway_client.key",
        }

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials of a service, as its settings make them."""
        certificate, key = self.folder / "services.crt", self.folder / "services.key"
        files = server_files(TlsFiles.of_settings("TLS_", certificate, key, self.ca))
        assert files is not None
        return server_credentials(files)

    def trust(self, client: bool = False) -> ssl.SSLContext:
        """What a client of the gateway trusts; `client`: and presents."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if client:
            paths = self.authority.client().write(self.folder, "client")
            context.load_cert_chain(*map(str, paths))
        return context


def presented(port: int, context: ssl.SSLContext, alpn: str = "http/1.1") -> int:
    """The serial number of the certificate in a new handshake with a server of this machine."""
    context.set_alpn_protocols([alpn])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return serial_of(connection.getpeercert(binary_form=True))


class SecureServices(ScriptedServices):
    """Scripted services that only serve clients with a certificate."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        super().__init__()

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        return int(server.add_secure_port(address, self.certificates.credentials()))


class SecureStack(SecureServices, Stack):
    """A gateway over HTTPS before scripted services over mutual TLS."""

    def __init__(self, certificates: Certificates, **settings: Any) -> None:
        self.certificates = certificates
        Stack.__init__(self, **{**certificates.gateway, **settings})
        self.client.close()
        self.url = f"https://localhost:{self.port}"
        self.client = self.new_client()

    def new_client(self, context: ssl.SSLContext | None = None) -> httpx.Client:
        """Return a client that trusts the gateway, or as `context` says."""
        verify = context or self.certificates.trust()
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=verify)

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Return a new connection to the gateway after its handshake."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return (context or self.certificates.trust()).wrap_socket(plain, server_hostname="localhost")
