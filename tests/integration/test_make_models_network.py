"""`make models` and the networks of the field: real sockets that misbehave as theirs do."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.answering_server import TLS, AnsweringServer, Asked, answer, answering_server, rest_of
from tests.socks_proxy import socks_proxy
from tools.models.__main__ import main
from tools.models.waiting import LONGEST_S, requested_pause

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 400
SIZE = len(CONTENT)
HALF = SIZE // 2
WHOLE = rest_of(CONTENT)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_TOKEN", "HF_ENDPOINT")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.upper() for name in PROXIES), *OTHERS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with answering_server() as served:
        served.answers = [WHOLE]
        yield served


@pytest.fixture
def other() -> Iterator[AnsweringServer]:
    with answering_server() as served:
        served.answers = [WHOLE]
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


class Fetch:
    """Fetch a set of one file, whose license is there already; return the exit code."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, url: str, *more: str, pause: str = "0", sha256: str = "") -> int:
        self.write_catalog(url, sha256)
        command = ["--to", str(self.folder), "--catalogue", str(self.folder.parent / "c.toml"), "--yes"]
        code = main([*command, "--retry-pause", pause, *more])
        self.out, self.err = self.capsys.readouterr()
        return code

    def write_catalog(self, url: str, sha256: str = "") -> None:
        text = self.folder / "licences/free.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("free\n")
        license = f'bytes = 5, sha256 = "{hashlib.sha256(text.read_bytes()).hexdigest()}"'
        weights = f'bytes = {SIZE}, sha256 = "{sha256 or hashlib.sha256(CONTENT).hexdigest()}"'
        (self.folder.parent / "c.toml").write_text(
            'name = "x"\n[licenses]\n'
            f'free = {{ name = "Free", file = "free.txt", url = "http://free.invalid/", {license} }}\n'
            '[components.base]\nname = "b"\npath = "base.safetensors"\nlicense = "free"\n'
            f'files = [{{ url = "{url}", {weights} }}]\n'
        )

    def as_process(self, url: str, **environment: str) -> int:
        """The same in a process: httpcore leaves sockets to refused SOCKS connections open."""
        self.write_catalog(url)
        command = ["--to", str(self.folder), "--catalogue", str(self.folder.parent / "c.toml"), "--yes"]
        process = subprocess.run(
            [sys.executable, "-m", "tools.models", *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        self.out, self.err = process.stdout, process.stderr
        return process.returncode

    @property
    def part(self) -> Path:
        return self.folder / "base.safetensors.part"

    @property
    def complete(self) -> bool:
        return (self.folder / "base.safetensors").read_bytes() == CONTENT and sorted(
            path.name for path in self.folder.iterdir()
        ) == [".lock", "base.safetensors", "licences", "manifest.json"]


@pytest.fixture
def fetch(folder: Path, capsys: pytest.CaptureFixture[str]) -> Fetch:
    return Fetch(folder, capsys)


def begun(fetch: Fetch, content: bytes = CONTENT[:HALF]) -> None:
    fetch.folder.mkdir(parents=True)
    fetch.part.write_bytes(content)


def status(line: str, body: bytes = b"", **headers: str) -> Callable[[Asked], bytes]:
    return lambda asked: answer(line, body, headers)


def extent(start: int, end: int, total: int | str, body: bytes) -> Callable[[Asked], bytes]:
    return status("206 Partial Content", body, Content_Range=f"bytes {start}-{end}/{total}")


def without_length(body: bytes) -> Callable[[Asked], bytes]:
    return lambda asked: answer("200 OK", body, length=False)


# -- resuming


def test_a_connection_that_is_cut_every_few_bytes_completes(fetch: Fetch, server: AnsweringServer) -> None:
    server.answers = [rest_of(CONTENT, most=SIZE // 20)]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert server.ranges == [SIZE // 20 * n for n in range(20)] or len(server.ranges) == 21


def test_a_shorter_range_than_asked_for_is_appended(fetch: Fetch, server: AnsweringServer) -> None:
    begun(fetch)
    end = HALF + 100
    server.answers = [extent(HALF, end - 1, SIZE, CONTENT[HALF:end]), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert server.ranges == [HALF, end]


@pytest.mark.parametrize(
    "bad",
    [
        status("416 Range Not Satisfiable"),
        extent(0, SIZE - 1, SIZE, b"x" * SIZE),
        extent(HALF, SIZE - 1, SIZE + 1, b"x" * HALF),
        extent(HALF + 1, SIZE - 1, SIZE, b"x" * (HALF - 1)),
        extent(HALF, SIZE, SIZE, b"x" * (HALF + 1)),
        status("206 Partial Content", b"x" * HALF),
        without_length(b"<html>Sign in</html>"),
        without_length(CONTENT[: HALF - 1]),
    ],
    ids=["416", "start 0", "total", "start", "end", "no range", "page", "shorter"],
)
def test_a_part_is_kept_until_what_replaces_it_is_better(
    fetch: Fetch, server: AnsweringServer, bad: Callable[[Asked], bytes]
) -> None:
    """Nothing is lost by an answer that is no use, and the next run needs only the rest."""
    begun(fetch)
    server.answers = [bad, status("503 Service Unavailable")]
    assert fetch(f"{server.url}/x") == 1
    assert fetch.part.read_bytes() == CONTENT[:HALF]
    assert not fetch.part.with_name(fetch.part.name + ".new").exists()
    server.answers = [bad, rest_of(CONTENT, most=100), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete


def test_a_server_without_ranges_completes_and_replaces_the_part(
    fetch: Fetch, server: AnsweringServer
) -> None:
    begun(fetch, b"damaged")
    server.answers = [without_length(CONTENT)]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert len(server.asked) == 1


def test_a_part_with_another_content_is_fetched_again_once_the_checksum_says_so(
    fetch: Fetch, server: AnsweringServer
) -> None:
    begun(fetch, b"?" * HALF)
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert server.ranges == [HALF, 0]


def test_a_checksum_that_is_wrong_twice_is_an_error(fetch: Fetch, server: AnsweringServer) -> None:
    begun(fetch)
    assert fetch(f"{server.url}/x", sha256="0" * 64) == 1
    assert server.ranges == [HALF, 0] and "wrong checksum" in fetch.err
    assert not fetch.part.exists() and not (fetch.folder / "manifest.json").exists()


def test_bytes_beyond_those_announced_are_not_taken(fetch: Fetch, server: AnsweringServer) -> None:
    begun(fetch)
    end = HALF + 100
    longer = answer(
        "206 Partial Content",
        CONTENT[HALF:],
        {"Content-Range": f"bytes {HALF}-{end - 1}/{SIZE}"},
        length=False,
    )
    server.answers = [lambda asked: longer, WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete and server.ranges == [HALF, end]
    fetch.folder.joinpath("base.safetensors").unlink()
    server.answers = [without_length(CONTENT + b"more")]
    begun_again = fetch.part
    begun_again.write_bytes(CONTENT[:HALF])
    assert fetch(f"{server.url}/x") == 1 and f"sends more than the {SIZE} bytes" in fetch.err
    assert begun_again.read_bytes() == CONTENT[:HALF]


def test_what_a_killed_run_fetched_anew_is_used(fetch: Fetch, server: AnsweringServer) -> None:
    begun(fetch)
    fetch.part.with_name(fetch.part.name + ".new").write_bytes(CONTENT[: HALF + 50])
    fetch.part.with_name(fetch.part.name + ".version").write_text('"of 0.1"')
    assert fetch(f"{server.url}/x") == 0 and fetch.complete and server.ranges == [HALF + 50]


def test_a_part_that_is_a_link_is_not_written_through(fetch: Fetch, server: AnsweringServer) -> None:
    fetch.folder.mkdir()
    (fetch.folder.parent / "precious").write_bytes(b"mine")
    fetch.part.symlink_to(fetch.folder.parent / "precious")
    assert fetch(f"{server.url}/x") == 1
    assert (fetch.folder.parent / "precious").read_bytes() == b"mine"


def test_a_disk_that_fills_up_leaves_what_the_next_run_continues(
    fetch: Fetch, server: AnsweringServer
) -> None:
    fetch.write_catalog(f"{server.url}/x")
    command = ["--to", str(fetch.folder), "--catalogue", str(fetch.folder.parent / "c.toml"), "--yes"]

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))

    process = subprocess.run(
        [sys.executable, "-m", "tools.models", *command],
        cwd=ROOT, preexec_fn=fill, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "File too large" in process.stderr and "run the same command again" in process.stderr
    assert fetch.part.read_bytes() == CONTENT[:HALF]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete and server.ranges[-1] == HALF


# -- waiting and statuses

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
IN_A_MINUTE = format_datetime(NOW + timedelta(seconds=60), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": IN_A_MINUTE, "Date": format_datetime(NOW, usegmt=True)}, 60),
        ({"Retry-After": IN_A_MINUTE.replace("2030", "1999")}, 0),
        ({"Retry-After": "99999999"}, LONGEST_S),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Mon, 99 Foo 99999999999999 99:99:99 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=123'}, 123),
        ({"RateLimit": '"api"; r=0; t=55, "pages"; r=9; t=200'}, 55),
        ({"RateLimit": '"api";r=0;t=5', "Retry-After": "8"}, 8),
        ({"RateLimit": "nonsense"}, None),
        ({"RateLimit-Reset": "30"}, 30),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 40),
          "Date": format_datetime(NOW, usegmt=True)}, 40),
        ({"X-RateLimit-Remaining": "9", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 40)}, None),
    ],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_pause(httpx.Headers(headers)) == seconds


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({"RateLimit": '"resolvers";r=0;t=271', "RateLimit-Policy": '"fixed window";q=3000;w=300'}, [271]),
        ({"Retry-After": "3600"}, [300]),
        ({}, [60]),
    ],
)
def test_too_many_requests_are_waited_for(
    fetch: Fetch,
    server: AnsweringServer,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    pauses: list[float],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tools.models.download.time.sleep", waited.append)
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    server.answers = [status("429 Too Many Requests", b"", **named), WHOLE]
    assert fetch(f"{server.url}/x", pause="1") == 0 and fetch.complete
    assert waited == pauses and "429" in fetch.err


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 530])
def test_what_passes_is_tried_again(fetch: Fetch, server: AnsweringServer, code: int) -> None:
    server.answers = [status(f"{code} Wait"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete


@pytest.mark.parametrize("code", [400, 401, 403, 404, 407, 410, 451, 501, 511])
def test_what_does_not_pass_is_told_at_once(fetch: Fetch, server: AnsweringServer, code: int) -> None:
    server.answers = [status(f"{code} No")]
    assert fetch(f"{server.url}/x") == 1 and len(server.asked) == 1
    hints = {401: "HF_TOKEN", 403: "HF_TOKEN", 407: "HTTPS_PROXY", 511: "login"}
    assert hints.get(code, str(code)) in fetch.err


def test_a_compressed_503_is_a_503(fetch: Fetch, server: AnsweringServer) -> None:
    body = gzip.compress(b"<html>busy</html>")
    server.answers = [status("503 Service Unavailable", body, Content_Encoding="gzip"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and "503" in fetch.err


def test_an_expired_signature_is_signed_anew(
    fetch: Fetch, server: AnsweringServer, other: AnsweringServer
) -> None:
    server.answers = [status("302 Found", Location=f"{other.url}/y?X-Amz-Signature=s3cret")]
    other.answers = [rest_of(CONTENT, most=HALF), status("403 Forbidden", b"Request has expired"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete
    assert len(server.asked) == 3 and other.ranges == [0, HALF, HALF]
    assert "s3cret" not in fetch.out + fetch.err


def test_githubs_403_with_a_time_to_wait_is_no_refusal(fetch: Fetch, server: AnsweringServer) -> None:
    server.answers = [status("403 rate limit exceeded", Retry_After="0"), WHOLE]
    assert fetch(f"{server.url}/x") == 0 and fetch.complete


# -- the hub, redirects, and what must not be told

TOKEN = "hf_abcdefghijklmnop"


def test_the_token_goes_to_the_hub_alone(
    fetch: Fetch, server: AnsweringServer, other: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    server.answers = [
        status("307 Temporary Redirect", Location="/api/x"),
        status("302 Found", Location=f"{other.url}/blob?Signature=s3cret"),
    ]
    assert fetch("https://huggingface.co/o/r/resolve/1/x?download=true") == 0 and fetch.complete
    assert [asked.path for asked in server.asked] == ["/o/r/resolve/1/x?download=true", "/api/x"]
    assert [asked.headers["authorization"] for asked in server.asked] == [f"Bearer {TOKEN}"] * 2
    assert all("authorization" not in asked.headers for asked in other.asked) and other.asked
    manifest = (fetch.folder / "manifest.json").read_text()
    assert json.loads(manifest)["files"]["base.safetensors"]["source"] == f"{server.url}/o/r/resolve/1/x"
    assert TOKEN not in fetch.out + fetch.err + manifest


def test_no_other_host_gets_the_token(
    fetch: Fetch, server: AnsweringServer, other: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(f"{server.url}/x") == 0
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    (fetch.folder / "base.safetensors").unlink()
    assert fetch("https://huggingface.co/x", "--mirror", other.url) == 0, "a mirror takes precedence"
    assert all("authorization" not in asked.headers for asked in (*server.asked, *other.asked))


@pytest.mark.parametrize("token", ["hf_a b", "hf_\x07", "hf_é"])
def test_a_token_that_is_none_is_not_quoted(
    fetch: Fetch, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert fetch(f"{server.url}/x") == 1
    assert "HF_TOKEN has characters" in fetch.err and token not in fetch.err and not server.asked


def test_an_endpoint_that_is_no_address_is_named(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "ftp://user:pa55@mirror.invalid?key=s3cret")
    assert fetch("https://huggingface.co/x") == 2
    assert "HF_ENDPOINT" in fetch.err and "pa55" not in fetch.err and "s3cret" not in fetch.err


def test_passwords_and_signatures_are_used_but_never_shown(fetch: Fetch, server: AnsweringServer) -> None:
    url = server.url.replace("http://", "http://user:pa55@") + "/x?X-Amz-Signature=s3cret"
    server.answers = [status("503 Busy"), rest_of(CONTENT, most=9), status("404 Not Found")]
    assert fetch(url) == 1
    assert server.asked[0].headers["authorization"].startswith("Basic ") and "s3cret" in server.asked[0].path
    shown = fetch.out + fetch.err
    server.answers = [WHOLE]
    assert fetch(url) == 0 and fetch(url, "--list") == 0
    shown += fetch.out + fetch.err + (fetch.folder / "manifest.json").read_text()
    (fetch.folder / "base.safetensors").unlink()
    mirror = server.url.replace("http://", "http://user:pa55@")
    assert fetch("https://user:pa55@host.invalid/x?key=s3cret", "--mirror", mirror) == 0
    assert server.asked[-1].path == "/host.invalid/x?key=s3cret"
    shown += fetch.out + fetch.err + (fetch.folder / "manifest.json").read_text()
    assert "pa55" not in shown and "s3cret" not in shown and "user" not in shown


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("ftp://host.invalid/x", "no http"),
        ("http://[::1", "invalid address"),
        ("file:///etc/passwd", "no http"),
        ("/x", "more than 10 redirects"),
    ],
)
def test_redirects_that_lead_nowhere(
    fetch: Fetch, server: AnsweringServer, location: str, problem: str
) -> None:
    server.answers = [status("302 Found", Location=location)]
    assert fetch(f"{server.url}/x") == 1 and problem in fetch.err


# -- certificates and proxies


@pytest.fixture
def secure() -> Iterator[AnsweringServer]:
    with answering_server(tls=True) as served:
        served.answers = [WHOLE]
        yield served


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


# -- the command line


def test_the_home_folder_is_found_where_a_shell_did_not(
    fetch: Fetch, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch.write_catalog(f"{server.url}/x")
    monkeypatch.setenv("HOME", str(fetch.folder.parent))
    assert main(["--to", "~/set", "--catalogue", "~/c.toml", "--yes"]) == 0
    assert (fetch.folder / "manifest.json").exists() and not Path("~").exists()
    with pytest.raises(SystemExit):
        main(["--to", "~nobody-of-that-name/set"])
    assert "~nobody-of-that-name" in capsys.readouterr().err


def test_a_link_in_place_of_the_lock_is_not_written_through(fetch: Fetch, server: AnsweringServer) -> None:
    fetch.folder.mkdir()
    (fetch.folder.parent / "precious").write_bytes(b"mine")
    (fetch.folder / ".lock").symlink_to(fetch.folder.parent / "precious")
    assert fetch(f"{server.url}/x") == 1 and ".lock" in fetch.err
    assert (fetch.folder.parent / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a = " * 50_000,
        "max_side = 0\n",
        "size_multiple = 'x'\n",
        "max_side = true\n",
    ],
)
def test_a_hostile_catalog_is_a_clear_error(tmp_path: Path, text: str, capsys: Any) -> None:
    (tmp_path / "c.toml").write_text(f'name = "x"\n{text}\n[licenses]\n[components]\n')
    assert main(["--list", "--catalogue", str(tmp_path / "c.toml")]) == 2
    assert "c.toml" in capsys.readouterr().err
