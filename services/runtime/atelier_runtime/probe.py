"""The HEALTHCHECK of the images: `python -m atelier_runtime.probe gateway` asks whether that is alive.

It reads the same variables as the process, so another port or certificate needs no other HEALTHCHECK. Nothing
but the standard library is imported: it runs every few seconds, next to the process.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Mapping

from atelier_runtime.addresses import bare_host

METRICS_PORTS: Mapping[str, int | None] = {"gateway": None, "generator": 9101, "restorer": 9102}
"""Where each process answers without TLS, by default; None: at its HTTP port alone."""
GATEWAY_PORT = 7860
_TIMEOUT_S = 4.0
_ALL_ADDRESSES = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def connection_to(name: str, environment: Mapping[str, str]) -> http.client.HTTPConnection:
    """Return a connection, not yet open, to where the process answers `/livez`. Raises `ValueError`."""
    if name not in METRICS_PORTS:
        raise ValueError(f"{name!r} is none of {', '.join(METRICS_PORTS)}")
    prefix = f"ATELIER_{name.upper()}_"
    given = bare_host(environment.get(f"{prefix}HOST", ""))
    host = _ALL_ADDRESSES.get(given, given)
    port = environment.get(f"{prefix}METRICS_PORT") or METRICS_PORTS[name]
    if port is not None:
        return http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
    own = int(environment.get(f"{prefix}PORT") or GATEWAY_PORT)
    if not environment.get(f"{prefix}TLS_CERT"):
        return http.client.HTTPConnection(host, own, timeout=_TIMEOUT_S)
    context = ssl.create_default_context()  # the certificate is for a public name, not for this address
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, own, timeout=_TIMEOUT_S, context=context)


def is_answered(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether the process answers us: one that requires certificates at its only port does not."""
    prefix = f"ATELIER_{name.upper()}_"
    has_metrics = METRICS_PORTS[name] is not None or bool(environment.get(f"{prefix}METRICS_PORT"))
    return has_metrics or not environment.get(f"{prefix}TLS_CA")


def problem(connection: http.client.HTTPConnection, *, asks: bool = True) -> str:
    """Return in a few words why the process does not seem to be alive; empty: it is.

    A refusal, such as of the name in `Host`, is a sign of life too. `asks=False` only connects.
    """
    try:
        if not asks:
            socket.create_connection((connection.host, connection.port), timeout=_TIMEOUT_S).close()
            return ""
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{connection.host}:{connection.port}: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if status < 500 else f"{connection.host}:{connection.port}: {status}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 if the process is alive, else 1, as Docker wants it."""
    [name] = sys.argv[1:] if arguments is None else arguments
    found = problem(connection_to(name, os.environ), asks=is_answered(name, os.environ))
    if found:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
