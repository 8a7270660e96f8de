"""What `bench.load` counts, from servers that answer as a test says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

import pytest

from bench import load
from bench.chaos.overload import TELLING_PICTURES, shares_of
from bench.probe import Probes, probing


def response(status: int, body: object = None, header: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{header}\r\n"
    return head.encode() + content


WHOLE = response(200, {"face_restoration_reason": None})
NO_FACE = response(200, {"face_restoration_reason": "no_face"})
UNRESTORED = response(200, {"face_restoration_reason": "restorer_unavailable"})
REFUSED = response(429, {}, "Retry-After: 0\r\n")
CLOSED, HANGS = b"", None


@asynccontextmanager
async def server(answers: Iterator[bytes | None]) -> AsyncIterator[str]:
    """Answer requests in turn; `HANGS`: not at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                _, _, length = head.partition(b"content-length:")
                await reader.readexactly(int(length.split()[0]) if length else 0)
                answer = next(answers)
                if answer is HANGS:
                    await reader.read()
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def test_whole_pictures_count_and_what_else_comes_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "LOST_PAUSE_S", 0.01)
    answers = chain([WHOLE, UNRESTORED, CLOSED, REFUSED, NO_FACE], repeat(HANGS))

    async def run() -> load.Seen:
        async with server(answers) as url:
            now = time.monotonic()
            return await load.Client("127.0.0.1").load(url, now, now + 3, load.REQUEST)

    seen = asyncio.run(run())
    assert {status: len(seconds) for status, seconds in seen.seconds.items() if seconds} == {
        200: 2,
        load.UNRESTORED: 1,
        load.LOST: 1,
        429: 1,
    }
    assert seen.pictures == 2 and seen.without_retry_after == 0
    assert len(seen.unfinished) == 1 and seen.unfinished[0] > 0


def test_what_hangs_counts_among_the_accepted_with_its_age() -> None:
    seen = load.Seen(unfinished=[50.0])
    seen.seconds[200] += [1.0] * 9
    figures = load.summary([seen], Probes([0.001]), 60)
    assert figures["accepted_ms"]["p99"] == 50_000 and figures["accepted_ms"]["p50"] == 1000
    assert figures["unfinished"] == 1 and figures["responses"] == {"200": 9}
    assert figures["pictures_per_second"] == 0.15


def test_a_failed_probe_counts_and_the_next_one_follows() -> None:
    all_in = asyncio.Event()

    def answers() -> Iterator[bytes | None]:
        yield from [response(200), response(503), CLOSED, response(200)]
        all_in.set()
        yield HANGS

    async def run() -> Probes:
        async with server(answers()) as url, probing(url, "/livez") as probes:
            await all_in.wait()
        return probes

    probes = asyncio.run(run())
    assert probes.failed == 2
    assert len(probes.seconds) == 5  # that which hung, too
    assert len(probes.late) == 4


def crowd(*pictures: int) -> list[load.Seen]:
    """Clients with so many pictures each."""
    seen = [load.Seen() for _ in pictures]
    for each, number in zip(seen, pictures, strict=True):
        each.seconds[200] += [1.0] * number
    return seen


def test_shares_of_a_crowd_have_a_goal_only_where_there_are_enough_pictures_to_tell() -> None:
    few = shares_of(crowd(1, 3))
    assert [(figure.value, figure.met) for figure in few] == [(0.5, None), (1.5, None)]
    many = shares_of(crowd(TELLING_PICTURES, 3 * TELLING_PICTURES))
    assert [(figure.value, figure.met) for figure in many] == [(0.5, False), (1.5, False)]
    equal = shares_of(crowd(TELLING_PICTURES, TELLING_PICTURES))
    assert [figure.met for figure in equal] == [True, True]
