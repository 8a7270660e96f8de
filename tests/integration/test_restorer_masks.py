"""The parsed mask over a real socket: only the face and its hair are replaced, or the face is left alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.common.v1 import skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer import parse
from tests.integration.restorer_server import Client, failure, photo, pixels, png, serve
from tests.tiny_restorer import (
    FACES_OF_512_PX,
    NarrowParseNet,
    build_set,
    codeformer_state,
    detector_state,
    parser_state,
)

PARSE = pb.MASK_KIND_PARSE


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "ParseNet", NarrowParseNet)


@pytest.fixture(scope="module")
def parsing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that sees a few large faces in every picture and can tell their parts."""
    return build_set(
        tmp_path_factory.mktemp("parsing"),
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        parser=parser_state(),
    )


def network_of(client: Client) -> torch.nn.Module:
    parser = client.server.service.models.parser
    assert parser is not None
    return parser()._network


async def test_only_the_faces_parts_are_replaced(parsing: Path) -> None:
    async with serve(parsing) as client:
        source = photo()
        feathered = await client.restore(png(source), return_mask=True, max_faces=1)
        parsed = await client.restore(png(source), return_mask=True, max_faces=1, mask=PARSE)
    square, parts = pixels(feathered.mask), pixels(parsed.mask)
    assert [face.restored for face in parsed.faces] == [face.restored for face in feathered.faces]
    assert parsed.face_restoration_applied
    assert (parts <= square).all(), "a part lies within the square"
    assert 0.1 < (parts > 0).sum() / (square > 0).sum() < 0.99
    result = pixels(parsed.image)
    np.testing.assert_array_equal(result[parts == 0], source[parts == 0])
    assert (result[parts > 0] != source[parts > 0]).any()
    np.testing.assert_array_equal(result[parts == 255], pixels(feathered.image)[parts == 255])
    stages = [stage.stage for stage in parsed.stages]
    assert stages == ["decode", "detect", "align", "restore", "parse", "paste", "encode"]
    assert "parse" not in [stage.stage for stage in feathered.stages]


async def test_the_parser_is_loaded_when_first_asked_for_and_sees_faces_in_batches(
    parsing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    original = parse.FaceParser.classify

    def noting(self: parse.FaceParser, crops: np.ndarray) -> np.ndarray:
        batches.append(len(crops))
        return original(self, crops)

    monkeypatch.setattr(parse.FaceParser, "classify", noting)
    networks: list[weakref.ref[torch.nn.Module]] = []

    def remembered(**options: Any) -> torch.nn.Module:
        network = NarrowParseNet(**options)
        networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(parse, "ParseNet", remembered)

    def held() -> int:
        gc.collect()
        return sum(network() is not None for network in networks)

    async with serve(parsing, max_batch=2) as client:
        await client.restore(png(photo()), max_faces=5)
        assert (batches, held(), len(networks)) == ([], 0, 1), "looked at when the service started, let go"
        for _ in range(2):
            await client.restore(png(photo()), max_faces=5, mask=PARSE)
        assert (batches, held()) == ([2, 2, 1] * 2, 1)


async def test_16_bits_and_an_enlarged_picture(parsing: Path) -> None:
    deep = photo()[..., 0].astype(np.uint16) * 257 + 3
    async with serve(parsing) as client:
        answer = await client.restore(png(deep), return_mask=True, max_faces=2, mask=PARSE)
        result, mask = pixels(answer.image), pixels(answer.mask)
        assert result.dtype == deep.dtype
        np.testing.assert_array_equal(result[mask == 0], deep[mask == 0])
        assert (result[mask > 0] != deep[mask > 0]).any()
        twice = await client.restore(png(deep), return_mask=True, max_faces=2, mask=PARSE, upscale=2)
        assert pixels(twice.image).shape == pixels(twice.mask).shape == (1280, 1280)
        assert warning_pb2.WARNING_CODE_BIT_DEPTH_REDUCED in {warning.code for warning in twice.warnings}


async def test_an_aligned_crop(parsing: Path) -> None:
    source = photo(512, 512)
    async with serve(parsing) as client:
        answer = await client.restore(png(source), aligned=True, mask=PARSE, return_mask=True)
        half = await client.restore(
            png(source), aligned=True, mask=PARSE, return_mask=True, visibility=0.5, upscale=2
        )
    mask, result = pixels(answer.mask), pixels(answer.image)
    assert answer.face_restoration_applied
    assert (mask == 0).any() and (mask > 200).any()
    assert (mask[:10] == 0).all(), "the rim stays as it was"
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    assert pixels(half.mask).shape == (1024, 1024)
    assert 100 <= pixels(half.mask).max() <= 128


def raise_error(crops: torch.Tensor) -> None:
    raise RuntimeError("this face")


def run_out(crops: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("this face")


class Poison:
    """A fault that befalls the first face that the network is shown, alone or among others."""

    def __init__(self, fault: Callable[[torch.Tensor], None] | None) -> None:
        self.fault = fault
        self.victim: torch.Tensor | None = None

    def __call__(self, network: torch.nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        crops = inputs[0]
        if self.victim is None:
            self.victim = crops[0].clone()
        struck = [number for number, crop in enumerate(crops) if torch.equal(crop, self.victim)]
        if struck and self.fault is not None:
            self.fault(crops)
        for number in struck:
            output[0][number] = float("nan")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raise_error, skip_reason_pb2.SKIP_REASON_FAILED),
        (run_out, skip_reason_pb2.SKIP_REASON_OUT_OF_MEMORY),
        (None, skip_reason_pb2.SKIP_REASON_NOT_FINITE),
    ],
)
async def test_a_face_whose_parts_are_not_found_is_reported_and_left_as_it_was(
    parsing: Path, fault: Callable[[torch.Tensor], None] | None, reason: int
) -> None:
    source = photo()
    async with serve(parsing) as client:
        whole = await client.restore(png(source), return_mask=True, max_faces=3, mask=PARSE)
        hook = network_of(client).register_forward_hook(Poison(fault))
        answer = await client.restore(png(source), return_mask=True, max_faces=3, mask=PARSE)
        hook.remove()
        again = await client.restore(png(source), max_faces=3, mask=PARSE)
    tried = [face for face in answer.faces if face.restored or face.reason == reason]
    assert [face.restored for face in tried] == [False, True, True]
    assert not tried[0].HasField("fidelity")
    assert answer.face_restoration_applied
    mask, result = pixels(answer.mask), pixels(answer.image)
    assert mask.sum(dtype=int) < pixels(whole.mask).sum(dtype=int)
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])
    np.testing.assert_array_equal(pixels(again.image), pixels(whole.image))


async def test_what_the_parser_takes_for_no_face_is_not_called_restored(tmp_path: Path) -> None:
    model_set = build_set(
        tmp_path,
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=codeformer_state(),
        parser=parser_state(sees_a_face=False),
    )
    source = photo()
    async with serve(model_set) as client:
        answer = await client.restore(png(source), mask=PARSE, max_faces=2)
    assert not answer.face_restoration_applied
    assert answer.reason == skip_reason_pb2.SKIP_REASON_NO_FACE
    assert answer.faces and not any(face.restored for face in answer.faces)
    np.testing.assert_array_equal(pixels(answer.image), source)


async def test_a_set_without_a_parser_refuses_and_says_which(seeing: Path) -> None:
    async with serve(seeing) as client:
        with pytest.raises(Exception, match=r"mask.*face parser.*tiny"):
            await client.restore(png(photo(64, 64)), mask=PARSE)
        assert (await failure(client.restore(png(photo(64, 64)), mask=PARSE)))[2] == ["mask"]
