"""The token, passwords and signatures: who is sent them, and that nobody is shown them; the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.answering_server import AnsweringServer, rest_of
from tests.one_file_fetch import (
    CONTENT,
    WHOLE,
    Fetch,
    status,
)
from tools.models.__main__ import main

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
