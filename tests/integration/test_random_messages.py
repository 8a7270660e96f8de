"""Messages that hypothesis makes from the protos, and bytes that are none, sent to real servers.

`make fuzz` sends thousands, and looks at memory.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grpc

from tests import tiny_loras, tiny_sdxl
from tests.integration.generator_server import serving
from tests.integration.restorer_server import Client
from tests.random_messages import calls, drawn, methods_of, served, status_of

EXAMPLES = {"generator": 30, "restorer": 20}
TIMEOUT_S = 240


async def statuses(channel: grpc.aio.Channel, service: str) -> Counter[grpc.StatusCode]:
    counted = Counter(
        [
            await status_of(*call, channel, TIMEOUT_S)
            for call in drawn(calls(service), EXAMPLES[service], seed=1)
        ]
    )
    for method in methods_of(service):  # and all that is well formed still works
        whole = served(method.request).SerializeToString()
        code = await status_of(method, whole, channel, TIMEOUT_S)
        assert code is grpc.StatusCode.OK, (method.path, code)
    return counted


async def test_the_generator_answers_or_refuses_whatever_is_sent(tmp_path: Path) -> None:
    folder = tiny_sdxl.build_set(tmp_path)
    tiny_loras.write(folder / "loras" / "x.safetensors")
    async with serving(folder, max_pixels=512 * 512) as running:
        counted = await statuses(running.channel, "generator")
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= counted.keys()
        assert running.server.status().running == running.server.status().queue_depth == 0


async def test_the_restorer_answers_or_refuses_whatever_is_sent(restorer: Client) -> None:
    counted = await statuses(restorer.channel, "restorer")
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= counted.keys()
    assert await restorer.running() == 0
