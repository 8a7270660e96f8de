"""TLS as the gateway's settings ask for it: of its own server, and towards generator and restorer."""

from __future__ import annotations

import ssl

from atelier_gateway.settings import GatewaySettings
from atelier_runtime.settings import StartupError
from atelier_runtime.tls import PemFiles, TlsFiles, client_files, server_context, server_files


def http_context(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Return the context of the HTTP server, None if it serves without TLS. Raises `StartupError`."""
    files = server_files(
        TlsFiles.of_settings("ATELIER_GATEWAY_TLS_", settings.tls_cert, settings.tls_key, settings.tls_ca)
    )
    return None if files is None else server_context(files)


def backend_files(settings: GatewaySettings) -> PemFiles | None:
    """Return what the gateway trusts and presents, None if it calls without TLS. Raises `StartupError`."""
    files = client_files(
        TlsFiles.of_settings(
            "ATELIER_GATEWAY_BACKEND_TLS_",
            settings.backend_tls_cert,
            settings.backend_tls_key,
            settings.backend_tls_ca,
        )
    )
    if files is not None:
        for name, address in (("GENERATOR", settings.generator), ("RESTORER", settings.restorer)):
            if "," in address:
                raise StartupError(
                    f"ATELIER_GATEWAY_{name}={address}: with TLS, write one name that all replicas have, "
                    "such as dns:///HOST:PORT; certificates are checked against it"
                )
    return files
