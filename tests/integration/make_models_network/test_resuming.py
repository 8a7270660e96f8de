"""Resuming: nothing is lost, whatever a server answers, and only what is missing is fetched."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.answering_server import AnsweringServer, Asked, answer, rest_of
from tests.one_file_fetch import (
    CONTENT,
    HALF,
    ROOT,
    SIZE,
    WHOLE,
    Fetch,
    begun,
    extent,
    status,
    without_length,
)


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
