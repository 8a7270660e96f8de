"""Certificates and proxies: what is trusted, and what to set where nothing is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.answering_server import TLS, AnsweringServer
from tests.one_file_fetch import (
    Fetch,
    status,
)
from tests.socks_proxy import socks_proxy


def test_a_certificate_that_nobody_vouches_for_is_final(fetch: Fetch, secure: AnsweringServer) -> None:
    assert fetch(f"{secure.url}/x") == 1
    assert "certificate is not trusted" in fetch.err and "REQUESTS_CA_BUNDLE" in fetch.err
    assert "retrying" not in fetch.err


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_companys_own_certificates_are_named_by_the_usual_variables(
    fetch: Fetch, secure: AnsweringServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(TLS / "ca.pem"))
    assert fetch(f"{secure.url}/x") == 0 and fetch.complete


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_is_none_is_named(
    fetch: Fetch,
    secure: AnsweringServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
) -> None:
    if content:
        (tmp_path / "b.pem").write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "b.pem"))
    assert fetch(f"{secure.url}/x") == 1 and "REQUESTS_CA_BUNDLE: " in fetch.err and "b.pem" in fetch.err


def test_https_does_not_lead_to_http(
    fetch: Fetch, secure: AnsweringServer, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(TLS / "ca.pem"))
    secure.answers = [status("302 Found", Location=f"{server.url}/x")]
    assert fetch(f"{secure.url}/x") == 1 and "from https to http" in fetch.err and not server.asked


def test_a_server_without_tls_is_final(fetch: Fetch, server: AnsweringServer) -> None:
    assert fetch(server.url.replace("http:", "https:") + "/x") == 1
    assert "does not speak TLS" in fetch.err and "retrying" not in fetch.err


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_final(
    fetch: Fetch, other: AnsweringServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    other.answers = [status("407 Proxy Authentication Required", Proxy_Authenticate="Basic")]
    monkeypatch.setenv(f"{scheme}_proxy", other.url.replace("http://", "http://user:pa55@"))
    assert fetch(f"{scheme}://models.invalid/x") == 1 and len(other.asked) == 1
    assert "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT" in fetch.err and "pa55" not in fetch.err


def test_a_proxy_that_forbids_is_final(
    fetch: Fetch, other: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.answers = [status("403 Forbidden")]
    monkeypatch.setenv("HTTPS_PROXY", other.url)
    assert fetch("https://models.invalid/x") == 1 and "NO_PROXY" in fetch.err and len(other.asked) == 1


def test_no_proxy_names_hosts_that_are_reached_directly(
    fetch: Fetch, server: AnsweringServer, other: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", other.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(f"{server.url}/x") == 0 and not other.asked
    monkeypatch.delenv("NO_PROXY")
    (fetch.folder / "base.safetensors").unlink()
    assert fetch("http://models.invalid/x") == 0 and other.asked[0].path == "http://models.invalid/x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "socks4://user:pa55@127.0.0.1:1080"),
        ("ALL_PROXY", "user:pa55@ba d:host"),
        ("NO_PROXY", "fe80::/10,[::"),
    ],
)
def test_a_proxy_setting_that_is_none_is_named_without_its_password(
    fetch: Fetch, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv(name, value)
    assert fetch(f"{server.url}/x") == 1
    assert name in fetch.err and "pa55" not in fetch.err and "Traceback" not in fetch.err


def test_a_socks_proxy_is_used(
    fetch: Fetch, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socks_proxy(target, ("user", "pa55")) as proxy:
        wrong = f"socks5h://user:wr0ng@127.0.0.1:{proxy.port}"
        assert fetch.as_process("http://models.invalid/x", ALL_PROXY=wrong) == 1
        assert "the proxy refuses" in fetch.err and "wr0ng" not in fetch.err and not proxy.hosts
        monkeypatch.setenv("ALL_PROXY", f"socks5h://user:pa55@127.0.0.1:{proxy.port}")
        assert fetch("http://models.invalid/x") == 0 and fetch.complete
        assert proxy.hosts == ["models.invalid"] and "pa55" not in fetch.err


def test_a_proxy_that_does_not_speak_socks_is_named(fetch: Fetch, other: AnsweringServer) -> None:
    proxy = other.url.replace("http://", "socks5h://user:pa55@")
    assert fetch.as_process("http://models.invalid/x", ALL_PROXY=proxy) == 1
    assert "does not speak SOCKS5" in fetch.err and "pa55" not in fetch.err


def test_without_the_package_for_socks_a_clear_word_names_it(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:pa55@127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    assert fetch("http://models.invalid/x") == 1
    assert "ALL_PROXY: for a SOCKS proxy, install" in fetch.err and "pa55" not in fetch.err


def test_netrc_is_not_sent(
    fetch: Fetch, server: AnsweringServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password pa55\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert fetch(f"{server.url}/x") == 0 and "authorization" not in server.asked[0].headers
