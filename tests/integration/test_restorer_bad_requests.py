"""What the restorer refuses: every field by name; later requests are unaffected."""

from __future__ import annotations

import ctypes
import gc
import struct
import zlib
from typing import Any

import grpc
import psutil
import pytest

from atelier.common.v1 import image_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.integration.restorer_server import Client, failure, photo, png


def giant_png() -> bytes:
    """Return a PNG whose header says 60000x60000 and which holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def face_edit(at: float = 20.0, **options: Any) -> dict[str, Any]:
    points = [(0, 0), (12, 0), (6, 6), (2, 12), (10, 12)]
    landmarks = [{"x_px": at + x, "y_px": at + y} for x, y in points]
    return {"face": {"landmarks": landmarks}, **options}


SMALL = png(photo(64, 64))
BAD_REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no image": ({}, ["image"]),
    "not an image file": ({"image": {"data": b"hello"}}, ["image"]),
    "truncated": ({"image": {"data": png(photo())[:5000]}}, ["image"]),
    "giant header": ({"image": {"data": giant_png()}}, ["image"]),
    "wrong format": ({"image": {"data": SMALL, "format": image_pb2.IMAGE_FORMAT_JPEG}}, ["image.format"]),
    "unknown format": ({"image": {"data": SMALL, "format": 77}}, ["image.format"]),
    "raw without size": ({"image": {"data": b"abc", "format": 4}}, ["image"]),
    "raw of other size": (
        {"image": {"data": b"abc", "format": 4, "width_px": 9, "height_px": 9}},
        ["image"],
    ),
    "NaN fidelity": ({"fidelity": float("nan")}, ["fidelity"]),
    "negative fidelity": ({"fidelity": -0.1}, ["fidelity"]),
    "many at once": (
        {"fidelity": 2.0, "visibility": -1, "min_confidence": 1.5, "max_faces": 999, "upscale": 3},
        ["fidelity", "max_faces", "min_confidence", "visibility", "upscale"],
    ),
    "infinite size": (
        {"min_face_px": float("inf"), "max_face_px": float("nan")},
        ["min_face_px", "max_face_px"],
    ),
    "unknown rule": ({"rule": 42}, ["rule"]),
    "unknown output format": ({"output": {"format": 42}}, ["output.format"]),
    "quality": ({"output": {"quality": 101}}, ["output.quality"]),
    "aligned of wrong size": ({"aligned": True}, ["aligned"]),
    "aligned with a rule": (
        {"aligned": True, "rule": pb.FACE_RULE_CENTER, "min_face_px": 10},
        ["rule", "min_face_px"],
    ),
    "too large when upscaled": (
        {"image": {"data": png(photo(1000, 800))}, "upscale": 4},
        ["upscale"],
    ),
    "longer than WebP allows": (
        {
            "image": {"data": png(photo(4096, 16))},
            "upscale": 4,
            "output": {"format": image_pb2.IMAGE_FORMAT_WEBP},
        },
        ["output.format"],
    ),
    "face edits with selecting options": (
        {"faces": [face_edit()], "max_sharpness": 5.0, "rule": pb.FACE_RULE_LARGEST, "min_confidence": 0.3},
        ["rule", "min_confidence", "max_sharpness"],
    ),
    "face edits for an aligned face": ({"faces": [face_edit()], "aligned": True}, ["faces"]),
    "invalid face edits": (
        {
            "faces": [
                face_edit(fidelity=1.5),
                face_edit(visibility=-0.5),
                {"skip": True},
                face_edit(at=float("nan")),
            ]
        },
        [
            "faces[0].fidelity",
            "faces[1].visibility",
            "faces[2].face.landmarks",
            "faces[3].face.landmarks",
        ],
    ),
    "a face outside the image": (
        {"faces": [face_edit(), face_edit(at=500.0)]},
        ["faces[1].face.landmarks"],
    ),
    "too many edits": ({"faces": [face_edit()] * 1001}, ["faces"]),
    "sharpness": ({"max_sharpness": -1.0}, ["max_sharpness"]),
    "unknown mask": ({"mask": 9}, ["mask"]),
    "a mask that needs a network that is not loaded": ({"mask": pb.MASK_KIND_PARSE}, ["mask"]),
}


async def test_bad_requests_are_refused_by_field_and_later_ones_are_unaffected(
    blind_restorer: Client,
) -> None:
    for name, (fields, expected) in BAD_REQUESTS.items():
        fields = fields if "image" in fields or name == "no image" else {"image": {"data": SMALL}, **fields}
        request = pb.RestoreFacesRequest(**fields)
        code, reason, named, _ = await failure(blind_restorer.stub.RestoreFaces(request))
        assert (code, reason, named) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            expected,
        ), name
    for detect_fields, expected in (
        ({"min_confidence": float("nan"), "detect_size_px": 9}, ["min_confidence", "detect_size_px"]),
        ({"image": {"data": b"x"}}, ["image"]),
        ({"image": {"data": png(photo(900_000, 1))}, "detect_size_px": 0}, ["detect_size_px"]),
    ):
        call = blind_restorer.stub.DetectFaces(pb.DetectFacesRequest(**detect_fields))
        assert (await failure(call))[2] == expected
    assert (await blind_restorer.restore(SMALL)).reason == skip_reason_pb2.SKIP_REASON_NO_FACE


async def test_bad_comparisons_are_refused_by_field(blind_restorer: Client) -> None:
    refused: dict[str, tuple[dict[str, Any], list[str]]] = {
        "no fidelity": ({"restore": {"image": {"data": SMALL}}}, ["fidelities"]),
        "nine": ({"restore": {"image": {"data": SMALL}}, "fidelities": [0.5] * 9}, ["fidelities"]),
        "out of range": (
            {"restore": {"image": {"data": SMALL}}, "fidelities": [0.5, 1.5, float("nan")]},
            ["fidelities[1]", "fidelities[2]"],
        ),
        "a fidelity of its own": (
            {
                "restore": {"image": {"data": SMALL}, "fidelity": 0.5, "faces": [face_edit(fidelity=0.1)]},
                "fidelities": [0.5],
            },
            ["restore.fidelity", "restore.faces[0].fidelity"],
        ),
        "fields of the restoration": (
            {"restore": {"image": {"data": SMALL}, "upscale": 3}, "fidelities": [0.5]},
            ["restore.upscale"],
        ),
    }
    for name, (fields, expected) in refused.items():
        call = blind_restorer.stub.CompareFidelities(pb.CompareFidelitiesRequest(**fields))
        code, _, named, _ = await failure(call.read())
        assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, expected), name


async def test_a_refused_message_is_freed_at_once(restorer: Client) -> None:
    """Exceptions keep frames, and those the message; a full garbage collection may be minutes away."""
    data = b"not an image" * 2**18  # 3 MB
    call = restorer.stub.RestoreFaces
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=data))
    process = psutil.Process()
    sizes = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(60):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(request)
            ctypes.CDLL(None).malloc_trim(0)
            sizes.append(process.memory_info().rss)
    finally:
        gc.enable()
    assert sizes[-1] - sizes[19] < 40 * 3 * 10**6 / 2, [size >> 20 for size in sizes]
