"""What the face stage refuses: every field by name, and nothing is harmed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import grpc

from atelier.common.v1 import error_reason_pb2, image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.integration.face_stage import failure, photo, png, serve


def giant_png() -> bytes:
    """Return a PNG whose header says 60000x60000 and which holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


SMALL = png(photo(64, 64))
BAD_REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no picture": ({}, ["image"]),
    "no picture file": ({"image": {"data": b"hello"}}, ["image"]),
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
    "endless size": (
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
    "too large enlarged": (
        {"image": {"data": png(photo(1000, 800))}, "upscale": 4},
        ["upscale"],
    ),
    "longer than webp can hold": (
        {
            "image": {"data": png(photo(4096, 16))},
            "upscale": 4,
            "output": {"format": image_pb2.IMAGE_FORMAT_WEBP},
        },
        ["output.format"],
    ),
    "not built yet": (
        {
            "faces": [{"skip": True}],
            "max_sharpness": 5.0,
            "return_crops": True,
        },
        ["faces", "max_sharpness", "return_crops"],
    ),
    "unknown mask": ({"mask": 9}, ["mask"]),
    "a mask that needs a network the set lacks": ({"mask": pb.MASK_KIND_PARSE}, ["mask"]),
}


async def test_bad_requests_are_refused_by_field_and_harm_nothing(blind: Path) -> None:
    async with serve(blind) as client:
        for name, (fields, expected) in BAD_REQUESTS.items():
            fields = (
                fields if "image" in fields or name == "no picture" else {"image": {"data": SMALL}, **fields}
            )
            request = pb.RestoreFacesRequest(**fields)
            code, reason, named, _ = await failure(client.stub.RestoreFaces(request))
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
            call = client.stub.DetectFaces(pb.DetectFacesRequest(**detect_fields))
            assert (await failure(call))[2] == expected
        assert (await client.restore(SMALL)).reason == error_reason_pb2.NOT_DONE_REASON_NO_FACE
