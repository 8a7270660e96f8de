"""Requests that nobody means well with."""

from __future__ import annotations

import asyncio
import struct
import zlib

import httpx

from bench.chaos.clients import ask, client_of, photo
from bench.chaos.figures import Figure, Result, at_most, informs, none_of
from bench.chaos.scale import Scale
from bench.chaos.stack import Stack
from bench.load import REQUEST
from bench.report import percentile

GROWTH_MIB = 50
_REFUSALS = (400, 413, 415, 422)
_JSON = {"Content-Type": "application/json"}


def huge_png() -> bytes:
    """Return the header of a PNG of 20,000 x 20,000 px, and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def files() -> dict[str, bytes]:
    """Return files that are no pictures that we read, by what they are."""
    return {
        "a header of 400 megapixels": huge_png(),
        "half of a PNG": photo()[: len(photo()) // 2],
        "nothing": b"",
        "a GIF": b"GIF89a" + bytes(100),
        "a TIFF": b"II*\0" + bytes(100),
        "zeros": bytes(100_000),
        "a PNG's first bytes, then others": photo()[:8] + bytes(1000),
    }


def bodies() -> dict[str, bytes]:
    """Return bodies of /generate that are refused, by what is wrong with them."""
    return {
        "a million steps": b'{"prompt": "x", "steps": 1000000}',
        "NaN": b'{"prompt": "x", "guidance_scale": NaN}',
        "a number without end": b'{"prompt": "x", "guidance_scale": 1e999}',
        "a prompt of 1 MB": b'{"prompt": "' + b"x" * 2**20 + b'"}',
        "not UTF-8": b'{"prompt": "\xff\xfe"}',
        "ten thousand brackets": b"[" * 10_000,
        "a side of 100,000 px": b'{"prompt": "x", "width": 100000, "height": 100000}',
    }


async def hostile(stack: Stack, scale: Scale) -> Result:
    """Fourteen kinds of files and bodies, each ten times, one after the other."""
    seconds: list[float] = []
    rows: list[dict[str, str]] = []
    let_in = errors = 0
    async with client_of(stack.url, 30) as client:
        await ask(client, "/restore")
        before = {each.name: each.usage().private_kib for each in stack.services}
        kinds = [(name, content, True) for name, content in files().items()]
        kinds += [(name, content, False) for name, content in bodies().items()]
        for name, content, is_file in kinds:
            took, statuses = [], set()
            for _ in range(scale.of(10, 2)):
                response, each = await _send(client, content, is_file)
                took.append(each)
                statuses.add(response.status_code)
            seconds += took
            let_in += sum(status not in _REFUSALS for status in statuses)
            errors += sum(status >= 500 for status in statuses)
            slowest = f"{1000 * max(took):.0f} ms"
            rows.append({"sent": name, "status": ", ".join(map(str, sorted(statuses))), "slowest": slowest})
        grown = {each.name: (each.usage().private_kib - before[each.name]) / 1024 for each in stack.services}
        after = [await ask(client, "/generate", **REQUEST), await ask(client, "/restore")]
    figures: list[Figure] = [
        informs("requests", len(seconds), "", "R9"),
        none_of("kinds that were not refused with 400, 413, 415 or 422", let_in, "R9"),
        none_of("kinds that ended in 5xx", errors, "R9"),
        at_most("refused, p99", 1000 * percentile(seconds, 0.99), 50, "ms", "R9", timed=True),
        none_of("whole requests afterwards that failed", sum(not each.is_whole for each in after), "R9"),
    ]
    figures += [at_most(f"memory more, {name}", mib, GROWTH_MIB, "MiB", "R9") for name, mib in grown.items()]
    return Result(figures, rows)


async def _send(client: httpx.AsyncClient, content: bytes, is_file: bool) -> tuple[httpx.Response, float]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    if is_file:
        response = await client.post("/restore", files={"image": ("a.png", content)})
    else:
        response = await client.post("/generate", content=content, headers=_JSON)
    return response, loop.time() - start
