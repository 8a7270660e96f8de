"""LoRAs over gRPC: listed by GetStatus, named in a request or its prompt, refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from safetensors.torch import save_file

from atelier.generator.v1 import generator_service_pb2 as pb
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.rpc_errors import from_rpc_error
from tests import tiny_loras
from tests.integration.generator_server import Running, failure_of, request, result_of, serving
from tests.tiny_sdxl import build_set


@pytest.fixture(scope="module")
def set_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_set(tmp_path_factory.mktemp("set"), upscaler=False)
    tiny_loras.write(folder / "loras/ink.safetensors", metadata={"modelspec.trigger_phrase": "inkstyle, ink"})
    tiny_loras.write(folder / "loras/charcoal.safetensors", "comfy", seed=2)
    broken = tiny_loras.tensors("peft", tiny_loras.pairs())
    next(iter(broken.values())).fill_(float("nan"))
    save_file(broken, folder / "loras/broken.safetensors")
    (folder / "loras/page.safetensors").write_text("<html>")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(set_folder: Path) -> AsyncIterator[Running]:
    async with serving(set_folder) as running:
        yield running


async def image(running: Running, **options: object) -> bytes:
    return (await result_of(running.generator.GenerateImage(request(**options)))).image.data


async def violations(running: Running, **options: object) -> list[tuple[str, str]]:
    error = await failure_of(running.generator.GenerateImage(request(**options)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    refused = from_rpc_error(error)
    assert isinstance(refused, InvalidRequest)
    return [(violation.field, violation.message) for violation in refused.fields]


@pytest.mark.asyncio(loop_scope="module")
async def test_they_are_applied_to_the_requests_that_name_them(running: Running) -> None:
    plain = await image(running)
    ink = await image(running, loras=[pb.Lora(name="ink")])
    both = await image(running, loras=[pb.Lora(name="ink"), pb.Lora(name="charcoal", weight=0.5)])
    assert len({plain, ink, both}) == 3
    assert await image(running, prompt="a cat<lora:ink:1.0>") == ink
    assert await image(running, loras=[pb.Lora(name="ink", weight=0.0)]) == plain
    tagged = await image(running, prompt="a cat<lora:charcoal:0.5>", loras=[pb.Lora(name="ink")])
    assert tagged == both
    assert await image(running) == plain


@pytest.mark.asyncio(loop_scope="module")
async def test_the_status_lists_them(running: Running) -> None:
    status = await running.generator.GetStatus(pb.GetStatusRequest())
    listed = {lora.name: list(lora.trigger_words) for lora in status.loras}
    listed.pop("broken", None)  # until it has been asked for
    assert listed == {"charcoal": [], "ink": ["inkstyle", "ink"]}
    assert status.status.ready


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_name_is_refused_with_the_list(running: Running) -> None:
    [(field, message)] = await violations(running, loras=[pb.Lora(name="none")])
    assert field == "loras" and "there is no 'none'; there are " in message and "'charcoal'" in message
    [(field, _)] = await violations(running, prompt="a cat <lora:none>")
    assert field == "prompt"
    [(field, message)] = await violations(running, loras=[pb.Lora(name="page")])
    assert field == "loras" and "HTML page" in message
    [(field, _)] = await violations(running, loras=[pb.Lora(name="ink", weight=5.0)])
    assert field == "loras[0].weight"
    [(field, _)] = await violations(running, loras=[pb.Lora(name="ink"), pb.Lora(name="ink")])
    assert field == "loras"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_broken_file_fails_its_own_request(running: Running) -> None:
    for _ in range(2):
        [(field, message)] = await violations(running, prompt="a cat <lora:broken>")
        assert field == "prompt" and "'broken' cannot be used: its file has values that are not" in message
    assert await image(running)
    status = await running.generator.GetStatus(pb.GetStatusRequest())
    assert "broken" not in {lora.name for lora in status.loras}
