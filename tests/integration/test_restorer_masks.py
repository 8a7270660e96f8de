"""The parsed mask over a real socket: only the face and its hair are replaced, or nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from atelier.common.v1 import skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import parse
from tests.integration.restorer_server import (
    Client,
    failure,
    forward_hook,
    photo,
    pixels,
    png,
    serve,
    stage_names,
    warning_codes,
)
from tests.tiny_restorer import (
    FACES_OF_512_PX,
    NarrowParseNet,
    build_set,
    codeformer_state,
    detector_state,
    parser_state,
)

PARSE = pb.MASK_KIND_PARSE


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "ParseNet", NarrowParseNet)
        yield


@pytest.fixture(scope="module")
def parsing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that detects a few large faces in every image and has a parser."""
    return build_set(
        tmp_path_factory.mktemp("parsing"),
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        parser=parser_state(),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parsing_restorer(parsing: Path, narrow: None) -> AsyncIterator[Client]:
    async with serve(parsing) as client:
        yield client


def network_of(client: Client) -> torch.nn.Module:
    parser = client.server.service.models.parser
    assert parser is not None
    network: torch.nn.Module = parser()._network
    return network


async def test_only_the_faces_parts_are_replaced(parsing_restorer: Client) -> None:
    source = photo()
    feathered = await parsing_restorer.restore(png(source), return_mask=True, max_faces=1)
    parsed = await parsing_restorer.restore(png(source), return_mask=True, max_faces=1, mask=PARSE)
    square, parts = pixels(feathered.mask), pixels(parsed.mask)
    assert [face.restored for face in parsed.faces] == [face.restored for face in feathered.faces]
    assert parsed.face_restoration_applied
    assert (parts <= square).all(), "parts are within the square"
    assert 0.1 < (parts > 0).sum() / (square > 0).sum() < 0.99
    result = pixels(parsed.image)
    np.testing.assert_array_equal(result[parts == 0], source[parts == 0])
    assert (result[parts > 0] != source[parts > 0]).any()
    np.testing.assert_array_equal(result[parts == 255], pixels(feathered.image)[parts == 255])
    stages = stage_names(parsed)
    assert stages == ["decode", "detect", "align", "restore", "parse", "paste", "encode"]
    assert "parse" not in stage_names(feathered)


async def test_the_parser_is_loaded_on_its_first_use_and_runs_in_batches(
    parsing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    original = parse.FaceParser.classify

    def recording(self: parse.FaceParser, crops: np.ndarray) -> np.ndarray:
        batches.append(len(crops))
        return original(self, crops)

    monkeypatch.setattr(parse.FaceParser, "classify", recording)
    networks: list[weakref.ref[torch.nn.Module]] = []

    def build(**options: Any) -> torch.nn.Module:
        network: torch.nn.Module = NarrowParseNet(**options)
        networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(parse, "ParseNet", build)

    def in_memory() -> int:
        gc.collect()
        return sum(network() is not None for network in networks)

    async with serve(parsing, max_batch=2) as client:
        await client.restore(png(photo()), max_faces=5)
        assert (batches, in_memory(), len(networks)) == ([], 0, 1), "checked at the start, then released"
        for _ in range(2):
            await client.restore(png(photo()), max_faces=5, mask=PARSE)
        assert (batches, in_memory()) == ([2, 2, 1] * 2, 1)


async def test_16_bits_and_an_upscaled_image(parsing_restorer: Client) -> None:
    deep = photo()[..., 0].astype(np.uint16) * 257 + 3
    response = await parsing_restorer.restore(png(deep), return_mask=True, max_faces=2, mask=PARSE)
    result, mask = pixels(response.image), pixels(response.mask)
    assert result.dtype == deep.dtype
    np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
    assert (result[mask > 0] != deep[mask > 0]).any()
    twice = await parsing_restorer.restore(png(deep), return_mask=True, max_faces=2, mask=PARSE, upscale=2)
    assert pixels(twice.image).shape == pixels(twice.mask).shape == (1280, 1280)
    assert warning_pb2.WARNING_CODE_BIT_DEPTH_REDUCED in warning_codes(twice)


async def test_an_aligned_crop(parsing_restorer: Client) -> None:
    source = photo(512, 512)
    response = await parsing_restorer.restore(png(source), aligned=True, mask=PARSE, return_mask=True)
    half = await parsing_restorer.restore(
        png(source), aligned=True, mask=PARSE, return_mask=True, visibility=0.5, upscale=2
    )
    mask, result = pixels(response.mask), pixels(response.image)
    assert response.face_restoration_applied
    assert (mask == 0).any() and (mask > 200).any()
    assert (mask[:10] == 0).all(), "the border is unchanged"
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    assert pixels(half.mask).shape == (1024, 1024)
    assert 100 <= pixels(half.mask).max() <= 128


def raise_error(crops: torch.Tensor) -> None:
    raise RuntimeError("this face")


def run_out(crops: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("this face")


class Poison:
    """A fault of the first face that the network is given, alone or in a batch."""

    def __init__(self, fault: Callable[[torch.Tensor], None] | None) -> None:
        self.fault = fault
        self.victim: torch.Tensor | None = None

    def __call__(self, network: torch.nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        crops = inputs[0]
        if self.victim is None:
            self.victim = crops[0].clone()
        affected = [number for number, crop in enumerate(crops) if torch.equal(crop, self.victim)]
        if affected and self.fault is not None:
            self.fault(crops)
        for number in affected:
            output[0][number] = float("nan")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raise_error, skip_reason_pb2.SKIP_REASON_FAILED),
        (run_out, skip_reason_pb2.SKIP_REASON_OUT_OF_MEMORY),
        (None, skip_reason_pb2.SKIP_REASON_NOT_FINITE),
    ],
)
async def test_a_face_whose_parts_are_not_found_is_reported_and_unchanged(
    parsing_restorer: Client, fault: Callable[[torch.Tensor], None] | None, reason: int
) -> None:
    source = photo()
    whole = await parsing_restorer.restore(png(source), return_mask=True, max_faces=3, mask=PARSE)
    with forward_hook(network_of(parsing_restorer), Poison(fault)):
        response = await parsing_restorer.restore(png(source), return_mask=True, max_faces=3, mask=PARSE)
    again = await parsing_restorer.restore(png(source), max_faces=3, mask=PARSE)
    tried = [face for face in response.faces if face.restored or face.reason == reason]
    assert [face.restored for face in tried] == [False, True, True]
    assert not tried[0].HasField("fidelity")
    assert response.face_restoration_applied
    mask, result = pixels(response.mask), pixels(response.image)
    assert mask.sum(dtype=int) < pixels(whole.mask).sum(dtype=int)
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    np.testing.assert_array_equal(pixels(again.image), pixels(whole.image))


async def test_a_face_in_which_the_parser_finds_nothing_is_not_restored(tmp_path: Path) -> None:
    model_set = build_set(
        tmp_path,
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        parser=parser_state(finds_a_face=False),
    )
    source = photo()
    async with serve(model_set) as client:
        response = await client.restore(png(source), mask=PARSE, max_faces=2)
    assert not response.face_restoration_applied
    assert response.reason == skip_reason_pb2.SKIP_REASON_NO_FACE
    assert response.faces and not any(face.restored for face in response.faces)
    np.testing.assert_array_equal(pixels(response.image), source)


async def test_a_set_without_a_parser_refuses_a_parsed_mask(restorer: Client) -> None:
    with pytest.raises(Exception, match=r"mask.*face parser.*tiny"):
        await restorer.restore(png(photo(64, 64)), mask=PARSE)
    assert (await failure(restorer.restore(png(photo(64, 64)), mask=PARSE)))[2] == ["mask"]
