"""Flags and servers that are not what the command takes are said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answering_server import answer, answering_server
from tests.archives.runs import (
    Run,
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--server", "ftp://127.0.0.1:1"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://a:b"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://a?b"), "--server must be HOST:PORT or a URL"),
        (("--server", "http://127.0.0.1:1", "--codeformer", "c.pth"), "--codeformer selects networks"),
        (("--share", "3/3"), "--share must be I/N"),
        (("--share", "1"), "--share must be I/N"),
    ],
)
def test_bad_flags(run: Run, album: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    ran = run("restore", album, tmp_path / "out", *flags)
    assert (ran.code, ran.out) == (2, "") and message in ran.err


@pytest.mark.parametrize("flag", [("--resume",), ("--share", "0/1")])
def test_a_single_image_is_not_resumed_or_shared(
    run: Run, album: Path, tmp_path: Path, flag: tuple[str, ...]
) -> None:
    ran = run("restore", album / "00.png", tmp_path / "out.png", *flag)
    assert ran.code == 2 and "for a folder" in ran.err


@pytest.mark.parametrize("command", ["detect", "compare"])
def test_other_commands_take_no_gateway(run: Run, album: Path, tmp_path: Path, command: str) -> None:
    target = [tmp_path / "out"] if command == "compare" else []
    ran = run(command, album / "00.png", *target, "--server", "http://127.0.0.1:1")
    assert ran.code == 2 and f"{command} takes the HOST:PORT of a restorer" in ran.err


def test_a_gateway_that_cannot_be_reached_is_said_at_once(run: Run, album: Path, tmp_path: Path) -> None:
    ran = run("restore", album, tmp_path / "out", "--server", "http://user:secret@127.0.0.1:1/atelier")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(
        "atelier-restorer: The gateway at http://127.0.0.1:1/atelier cannot be reached: "
    )
    assert ran.err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (answer("404 Not Found", b"<html>"), "answered 404 Not Found."),
        (answer("200 OK", b"<html>"), "did not answer with a JSON object."),
        (answer("200 OK", b'{"object": "other"}'), "something else"),
        (answer("301 Moved", headers={"Location": "https://a"}), "answered 301 Moved, to https://a."),
    ],
)
def test_a_server_that_is_no_gateway_is_said_at_once(
    run: Run, album: Path, tmp_path: Path, said: bytes, message: str
) -> None:
    with answering_server() as server:
        server.answers = [lambda _: said]
        ran = run("restore", album, tmp_path / "out", "--server", server.url)
    assert (ran.code, ran.out) == (1, "")
    assert f"The server at {server.url} is no gateway that takes jobs: " in ran.err and message in ran.err
    assert ran.err.count("\n") == 1 and not (tmp_path / "out").exists()
