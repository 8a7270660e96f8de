"""POST /restore: what a request means, and its response; and what all requests with a photo share."""

from __future__ import annotations

import base64
import json
import random
from typing import Any
from urllib.parse import quote

import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_runtime import wire
from atelier_runtime.outcomes import ResponseWarning, SkipReason, WarningCode
from tests.contract.photo_requests import (
    AS_JSON_AND_FORM,
    PNG,
    TWO_FACES,
    base64_of,
    decoded,
    in_form,
    in_json,
)
from tests.contract.problem_body import problem
from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack


@AS_JSON_AND_FORM
def test_the_smallest_request_leaves_every_default_to_the_restorer(stack: Stack, post: Any) -> None:
    assert post(stack, "/restore").status_code == 200
    [sent] = stack.restorer.requests
    assert sent == pb.RestoreFacesRequest(image=image_pb2.Image(data=PNG), output=image_pb2.OutputOptions())
    assert not stack.generator.requests


FIELDS: list[tuple[dict[str, Any], Any]] = [
    ({"fidelity": 0}, lambda r: r.HasField("fidelity") and r.fidelity == 0),
    ({"face_restoration_weight": 0.7}, lambda r: r.fidelity == 0.7),
    ({"rule": "all"}, lambda r: r.rule == pb.FACE_RULE_ALL),
    ({"rule": "largest"}, lambda r: r.rule == pb.FACE_RULE_LARGEST),
    ({"rule": "center"}, lambda r: r.rule == pb.FACE_RULE_CENTER),
    ({"only_center_face": True}, lambda r: r.rule == pb.FACE_RULE_CENTER),
    ({"only_center_face": False, "rule": "largest"}, lambda r: r.rule == pb.FACE_RULE_LARGEST),
    ({"max_faces": 0}, lambda r: r.HasField("max_faces") and r.max_faces == 0),
    ({"max_faces": 256.0}, lambda r: r.max_faces == 256),
    ({"min_face_px": 30.5, "max_face_px": 0}, lambda r: (r.min_face_px, r.max_face_px) == (30.5, 0)),
    ({"max_sharpness": 99.5}, lambda r: r.max_sharpness == 99.5),
    ({"min_confidence": 0}, lambda r: r.HasField("min_confidence") and r.min_confidence == 0),
    ({"visibility": 0.25}, lambda r: r.visibility == 0.25),
    (
        {"upscale": 4, "use_realesrgan": False},
        lambda r: r.upscale == 4 and r.HasField("use_upscaler") and not r.use_upscaler,
    ),
    ({"aligned": True}, lambda r: r.aligned),
    ({"mask": "feather"}, lambda r: r.mask == pb.MASK_KIND_FEATHER),
    ({"mask": "parse"}, lambda r: r.mask == pb.MASK_KIND_PARSE),
    ({"match_tone": True}, lambda r: r.match_tone),
    ({"match_tone": False}, lambda r: r.HasField("match_tone") and not r.match_tone),
    ({"match_tone": None}, lambda r: not r.HasField("match_tone")),
    ({"return_mask": True, "return_crops": True}, lambda r: r.return_mask and r.return_crops),
    (
        {"output_format": "jpeg", "quality": 50},
        lambda r: (r.output.format, r.output.quality) == (image_pb2.IMAGE_FORMAT_JPEG, 50),
    ),
    ({"fidelity": None, "faces": None, "rule": None}, lambda r: not r.HasField("fidelity")),
]


@pytest.mark.parametrize(
    ("given", "holds"), FIELDS, ids=lambda v: json.dumps(v) if isinstance(v, dict) else ""
)
@AS_JSON_AND_FORM
def test_fields(stack: Stack, post: Any, given: dict[str, Any], holds: Any) -> None:
    response = post(stack, "/restore", **given)
    assert response.status_code == 200, response.text
    assert holds(stack.restorer.requests[0])


def test_a_forms_fields_are_read_as_other_programs_write_them(stack: Stack) -> None:
    """Python's str() writes True, browsers send empty fields, curl sends a file for a list."""
    parts: list[tuple[str, Any]] = [
        ("image", ("a.png", PNG, "image/png")),
        ("return_mask", (None, "True")),
        ("aligned", (None, "FALSE")),
        ("fidelity", (None, "")),
        ("visibility", (None, "0.5")),
        ("faces", ("plan.json", b"[]", "application/json")),
    ]
    assert stack.client.post("/restore", files=parts).status_code == 200
    [sent] = stack.restorer.requests
    assert (sent.return_mask, sent.visibility, len(sent.faces)) == (True, 0.5, 0)
    assert not sent.HasField("fidelity") and not sent.aligned


@pytest.mark.parametrize("content_type", ["application/json", "text/plain;charset=UTF-8", None])
@pytest.mark.parametrize(
    "image",
    [
        base64_of(PNG),
        "data:image/png;base64," + base64_of(PNG),
        "data:;base64," + base64_of(PNG),
        base64.encodebytes(PNG).decode(),
        base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        " Data:image/png; Base64, " + base64_of(PNG),
        "data:image/png;base64," + quote(base64_of(PNG), safe=""),
    ],
    ids=[
        "plain",
        "data URI",
        "data URI without a type",
        "lines",
        "URL-safe without padding",
        "loose",
        "escapes",
    ],
)
def test_images_in_json(stack: Stack, image: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    content = json.dumps({"image": image}).encode()
    assert stack.client.post("/restore", content=content, headers=headers).status_code == 200
    assert stack.restorer.requests[0].image.data == PNG


@pytest.mark.parametrize("size", [200_001, 6_000_001], ids=["in memory", "in a temporary file"])
def test_large_images(stack: Stack, size: int) -> None:
    image = PNG + random.Random(size).randbytes(size)
    forms_and_json: list[dict[str, Any]] = [
        {"files": {"image": image}},
        {"json": {"image": base64_of(image)}},
        {"json": {"image": "data:image/png;base64," + base64.encodebytes(image).decode()}},
        {
            "content": b'{"image":"%s"}'
            % base64.b64encode(image).replace(b"+", b"\\u002B").replace(b"/", b"\\/")
        },
        {"json": {"image": "data:image/png;base64," + quote(base64_of(image), safe="")}},
        {"files": {"image": (None, base64.urlsafe_b64encode(image))}},
        {"files": {"image": (None, image)}},
    ]
    for request in forms_and_json:
        response = stack.client.post("/detect", **request)
        assert response.status_code == 200, response.text[:300]
        assert stack.restorer.requests.pop().image.data == image


def test_base64_in_a_form(stack: Stack) -> None:
    answer = stack.client.post("/restore", files={"image": (None, base64_of(PNG))})
    assert answer.status_code == 200
    assert stack.restorer.requests[0].image.data == PNG


def test_the_response_has_these_fields_and_no_other(stack: Stack) -> None:
    stack.restorer.faces = TWO_FACES
    answer = in_json(stack, "/restore", upscale=2).json()
    assert set(answer) == {
        *("success", "image", "mask", "request_id", "final_resolution", "total_time_seconds", "model_set"),
        *("face_restoration_applied", "face_restoration_reason", "tone_matched", "faces"),
        *("upscale_applied", "upscaler", "warnings", "warning_codes", "stages", "min_similarity"),
    }
    assert (answer["success"], answer["mask"], answer["model_set"]) == (True, None, "demo")
    assert (answer["final_resolution"], answer["upscale_applied"]) == ("128x96", 2)
    assert answer["upscaler"] == "demo_x2" and answer["warnings"] == []
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (True, None)
    assert 0 < answer["total_time_seconds"] < 30
    assert answer["faces"][0] == {
        "index": 0,
        "box": [10.0, 20.0, 110.04, 140.0],
        "landmarks": [[40.33, 60.0], [80.33, 60.0], [60.33, 80.0], [45.33, 110.0], [75.33, 110.0]],
        "confidence": 0.99,
        "size_px": 100.04,
        "sharpness": 41.75,
        "roll_degrees": -0.12,
        "orientation_unclear": False,
        "fidelity_requested": None,
        "visibility": None,
        "visibility_requested": None,
        "identity_similarity": None,
        "identity_unknown": False,
        "restored": True,
        "reason": None,
        "fidelity": 0.0,
        "crop_before": None,
        "crop_after": None,
    }
    left = answer["faces"][1]
    assert (left["restored"], left["reason"], left["fidelity"]) == (False, "low_confidence", None)
    assert left["sharpness"] is None
    assert answer["stages"][0] == {"stage": "detect", "seconds": 0.5, "peak_vram_bytes": None}


def test_image_mask_and_crops_are_the_restorers(stack: Stack) -> None:
    answer = in_form(stack, "/restore", return_mask=True, return_crops=True).json()
    image = decoded(answer["image"])
    assert (image.size, image.format) == ((64, 48), "PNG"), "the input's format"
    assert image.getpixel((0, 0))[0] == 255 and image.getpixel((63, 0))[0] == 0, "inverted"
    mask = decoded(answer["mask"])
    assert (mask.mode, mask.size, mask.getpixel((5, 5))) == ("L", (64, 48), 128)
    [face] = answer["faces"]
    before, after = decoded(face["crop_before"]), decoded(face["crop_after"])
    assert before.size == (8, 8) and before.getpixel((0, 0))[0] == 255 - after.getpixel((0, 0))[0]


@pytest.mark.parametrize("reason", list(SkipReason))
def test_every_reason_reaches_the_client(stack: Stack, reason: SkipReason) -> None:
    stack.restorer.faces = [(0.9, False, reason)]
    stack.restorer.result = {"reason": wire.skip_reason_to_proto(reason)}
    answer = in_json(stack, "/restore").json()
    assert (answer["success"], answer["face_restoration_applied"]) == (True, False)
    assert answer["face_restoration_reason"] == answer["faces"][0]["reason"] == reason.value


@pytest.mark.parametrize("code", list(WarningCode))
def test_every_warning_reaches_the_client_with_its_code(stack: Stack, code: WarningCode) -> None:
    warnings = [ResponseWarning(WarningCode.LOSSY_OUTPUT, "the first"), ResponseWarning(code, "the second")]
    stack.restorer.result = {"warnings": wire.warnings_to_proto(warnings)}
    as_json = in_json(stack, "/restore").json()
    [compared] = in_json(stack, "/compare", fidelities=[0.5]).json()["results"]
    file = in_json(stack, "/restore", {"Accept": "image/*"})
    for answer in (as_json, compared, json.loads(file.headers["X-Atelier-Report"])):
        assert answer["warnings"] == ["the first", "the second"]
        assert answer["warning_codes"] == ["lossy_output", code.value]


@pytest.mark.parametrize("matched", [True, False])
def test_whether_tones_were_matched_reaches_the_client(stack: Stack, matched: bool) -> None:
    stack.restorer.result = {"tone_matched": matched}
    assert in_json(stack, "/restore").json()["tone_matched"] is matched
    assert in_json(stack, "/compare", fidelities=[0.5]).json()["results"][0]["tone_matched"] is matched
    report = json.loads(in_json(stack, "/restore", {"Accept": "image/*"}).headers["X-Atelier-Report"])
    assert report["tone_matched"] is matched
    assert stack.generate(prompt="a red apple").json()["tone_matched"] is matched


def test_without_requested_faces_there_is_no_reason(stack: Stack) -> None:
    answer = in_json(stack, "/restore", max_faces=0, upscale=2).json()
    assert (answer["face_restoration_applied"], answer["face_restoration_reason"]) == (False, None)
    assert answer["final_resolution"] == "128x96"


@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare"])
def test_request_id_and_the_time_that_is_left(stack: Stack, path: str) -> None:
    fields = {"fidelities": [0.5]} if path == "/compare" else {}
    response = in_json(stack, path, headers={"X-Request-ID": "photo-66"}, **fields)
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == "photo-66"
    assert stack.restorer.request_ids == ["photo-66"]
    assert 290 < stack.restorer.seconds_left[0] <= 301


def test_an_image_larger_than_other_bodies_may_be(stack: Stack) -> None:
    """Six megabytes as a file, eight as base64; the limit of /generate is four."""
    data = PNG + b"\0" * 6 * 2**20  # decoders stop at the end of the image
    assert stack.client.post("/detect", files={"image": ("a.png", data)}).status_code == 200
    assert stack.client.post("/detect", json={"image": base64_of(data)}).status_code == 200
    assert [len(request.image.data) for request in stack.restorer.requests] == [len(data)] * 2


@pytest.mark.parametrize("variant", ["URL-safe", "unpadded", "in lines", "URL-safe, unpadded, in lines"])
def test_variants_of_base64(stack: Stack, variant: str) -> None:
    data = file_of(gradient(64, 49))  # a PNG with all 64 characters, and padding
    encoded = base64.b64encode(data).decode()
    assert "+" in encoded and "/" in encoded
    if "URL-safe" in variant:
        encoded = base64.urlsafe_b64encode(data).decode()
    if "unpadded" in variant:
        encoded = encoded.rstrip("=")
    if "in lines" in variant:
        encoded = "\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    for text in (encoded, "data:image/png;base64," + encoded):
        assert stack.client.post("/detect", json={"image": text}).status_code == 200
    assert [request.image.data for request in stack.restorer.requests] == [data, data]


def test_the_likeness_is_passed_on_and_reported(stack: Stack) -> None:
    stack.restorer.faces = TWO_FACES
    answer = in_json(stack, "/restore", identity="guard", min_similarity=-0.25)
    [message] = stack.restorer.requests
    assert answer.status_code == 200
    assert (message.identity, message.min_similarity) == (pb.IDENTITY_MODE_GUARD, -0.25)
    assert answer.json()["min_similarity"] == -0.25
    assert in_json(stack, "/compare", fidelities=[0.5], identity="guard").status_code == 422
    assert in_json(stack, "/restore", identity="guard", min_similarity=1.5).status_code == 422


def test_faces_that_an_older_restorer_did_not_guard_are_not_returned(stack: Stack) -> None:
    stack.restorer.guardless = True
    assert in_json(stack, "/restore", identity="report").status_code == 200
    problem(in_json(stack, "/restore", identity="guard"), 500, "internal")
