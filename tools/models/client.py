"""HTTP as a downloader needs it: redirects, certificates, proxies, the hub's token, errors that help.

Settings are those of the environment that other programs use: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY,
REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR, HF_TOKEN, HF_ENDPOINT.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import certifi
import httpx
import truststore

from tools.models.addresses import hub, is_address, public
from tools.models.waiting import requested_pause

_MOST_REDIRECTS = 10
_CONNECT_S = 15.0
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_FINAL_5XX = (501, 505, 506, 508, 510, 511)
# What a signature that has expired, or a storage server that is out of step, leads to. A new attempt begins
# at the address that redirects, which signs anew.
_FINAL_UNLESS_REDIRECTED = (400, 401, 403, 410)
_TO_TRUST = (
    "If a proxy or your company issues its own certificates, add theirs to the system's, or name a file of "
    "them with REQUESTS_CA_BUNDLE"
)
_TO_PROXY = "give both in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"


class DownloadError(Exception):
    """A file could not be fetched, and trying again would not help; the message names address and reason."""


class Broken(Exception):
    """This attempt failed; another may succeed. `pause_s`: the pause that the server asks for, if it does."""

    def __init__(self, reason: str, pause_s: float | None = None, *, limited: bool = False) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.limited = limited
        """True if there were too many requests."""


@dataclass(frozen=True)
class Answer:
    """A response whose body has not been read. `redirected`: the host that a redirect led to."""

    response: httpx.Response
    redirected: str | None


class Client:
    """An HTTP client, as a context. Raises `DownloadError` for invalid settings of the environment."""

    def __init__(self, timeout_s: float, environment: Mapping[str, str] = os.environ) -> None:
        """`timeout_s`: the longest silence of a server."""
        endpoint = hub(environment)
        if not is_address(endpoint):
            raise DownloadError(f"HF_ENDPOINT: {public(endpoint)} is not an http(s) URL")
        self._hub = httpx.URL(endpoint)
        self._token = _token(environment)
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
        try:
            self._http = httpx.Client(
                verify=trusted_certificates(environment),
                timeout=timeout,
                headers={"User-Agent": "atelier-models", "Accept-Encoding": "identity"},
            )
        except ImportError as error:
            raise DownloadError(
                f"{_proxies(environment)}: for a SOCKS proxy, install its package: pip install 'httpx[socks]'"
            ) from error
        except (ValueError, httpx.InvalidURL, httpx.HTTPError) as error:  # their messages quote the password
            raise DownloadError(
                f"{_proxies(environment)}: not the address of a proxy, such as http://HOST:PORT or "
                "socks5://HOST:PORT, or NO_PROXY is not a list of hosts"
            ) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Request an address, following redirects. Raises `DownloadError` and `Broken`.

        So does reading the body within the context.
        """
        try:
            first = address = httpx.URL(url)
            for _ in range(_MOST_REDIRECTS):
                response = self._send(address, headers)
                if not response.has_redirect_location:
                    try:
                        yield Answer(response, address.host if address != first else None)
                    finally:
                        response.close()
                    return
                response.close()
                address = _redirected(url, address, response)
        except httpx.TransportError as error:
            raise _explained(error, url) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise DownloadError(f"{public(url)}: {type(error).__name__}") from error
        except Exception as error:
            if type(error).__module__.startswith("socksio"):  # httpx lets its errors through
                raise DownloadError(f"{public(url)}: the proxy does not speak SOCKS5 ({error})") from error
            raise
        raise DownloadError(f"{public(url)}: more than {_MOST_REDIRECTS} redirects")

    def _send(self, address: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        own = dict(headers)
        if self._token and _origin(address) == _origin(self._hub):  # and nobody else learns it
            own["Authorization"] = f"Bearer {self._token}"
        return self._http.send(self._http.build_request("GET", address, headers=own), stream=True)


def check_status(answer: Answer, url: str) -> None:
    """Raise `DownloadError` or `Broken` for any status but 200, 206 and 416."""
    response = answer.response
    status = response.status_code
    if status in (200, 206, 416):
        return
    shown = f"{public(url)}" + (f" (redirected to {answer.redirected})" if answer.redirected else "")
    reason = f"the server returned {status} {response.reason_phrase}".rstrip()
    pause = requested_pause(response.headers)
    if status == 407:
        raise DownloadError(f"{shown}: the proxy demands a user and a password: {_TO_PROXY}")
    if status == 511:
        raise DownloadError(f"{shown}: {reason}: this network wants a login, in a browser, first")
    asks_for_patience = status == 403 and pause is not None  # GitHub's way to say 429
    again = status in (408, 425, 429) or (status >= 500 and status not in _FINAL_5XX)
    if again or asks_for_patience or (answer.redirected and status in _FINAL_UNLESS_REDIRECTED):
        raise Broken(reason, pause, limited=status == 429)
    hint = ""
    if status in (401, 403):
        hint = ". If this file needs an account, accept its terms on the web page, and set HF_TOKEN"
    raise DownloadError(f"{shown}: {reason}{hint}")


def trusted_certificates(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's certificates, or those that the environment names.

    Raises `DownloadError` naming the variable and the file.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if value := environment.get(name):
            path = Path(value)
            try:
                if not path.exists():
                    raise DownloadError(f"{name}: there is no file {value}")
                folder = path.is_dir()
                return ssl.create_default_context(
                    cafile=None if folder else value, capath=value if folder else None
                )
            except OSError as error:  # SSLError is one
                raise DownloadError(f"{name}: {value} is not a file of certificates (PEM)") from error
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not _system_has_certificates():  # a bare container
        context.load_verify_locations(cafile=certifi.where())
    return context


def _system_has_certificates() -> bool:
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    return paths.cafile is not None or (folder is not None and any(folder.iterdir()))


def _token(environment: Mapping[str, str]) -> str:
    token = environment.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise DownloadError("HF_TOKEN has characters that no token has")
    return token


def _origin(address: httpx.URL) -> tuple[str, str, int]:
    return address.scheme, address.host, address.port or (443 if address.scheme == "https" else 80)


def _redirected(url: str, address: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        target = address.join(response.headers["Location"])
    except httpx.InvalidURL as error:
        raise DownloadError(f"{public(url)}: redirects to an invalid address") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise DownloadError(f"{public(url)}: redirects to something that is no http(s) address")
    if address.scheme == "https" and target.scheme == "http":
        raise DownloadError(
            f"{public(url)}: redirects from https to http ({target.host}), which is not followed"
        )
    return target.copy_with(username=None, password=None) if target.userinfo else target


def _explained(error: httpx.TransportError, url: str) -> Exception:
    """Return what to raise: a `DownloadError` for what will be the same in a minute, else `Broken`."""
    shown, text = public(url), str(error)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{shown}: the server's certificate is not trusted ({cause.verify_message}). {_TO_TRUST}"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return DownloadError(f"{shown}: the server, or the proxy in between, does not speak TLS")
    if isinstance(error, httpx.ProxyError):
        if text.startswith("407"):
            return DownloadError(f"{shown}: the proxy demands a user and a password: {_TO_PROXY}")
        if text.startswith("4") or "uth" in text or "username" in text:
            return DownloadError(
                f"{shown}: the proxy refuses ({text}). Hosts to be reached without it go into NO_PROXY"
            )
        return Broken(f"the proxy failed ({text})")
    if "location header" in text:  # the message quotes the address
        return DownloadError(f"{shown}: redirects to an invalid address")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return DownloadError(f"{shown}: not a request that can be sent")  # the message may quote a header
    return Broken(f"the connection broke ({text or type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _proxies(environment: Mapping[str, str]) -> str:
    """Return the names of the variables that are set."""
    names = [name for upper in _PROXIES for name in (upper, upper.lower()) if environment.get(name)]
    return ", ".join(names) or "the proxy"
