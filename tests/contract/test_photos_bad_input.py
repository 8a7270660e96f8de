"""Bad requests for photos: the right status, every offending field named, nothing done."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest

from atelier_runtime import images
from atelier_runtime.errors import FieldViolation, InvalidRequest
from tests.contract.problem_body import named_fields, problem, stable
from tests.contract.script import file_of, gradient
from tests.contract.scripted_restorer import LANDMARKS
from tests.contract.stack import Stack

PNG = file_of(gradient(64, 48))
IMAGE = base64.b64encode(PNG).decode()
FACE: dict[str, Any] = {"box": [1, 2, 30, 40], "landmarks": LANDMARKS}
EMPTY = "data:image/png;base64,"

BAD_FIELDS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("/restore", {"image": None}, {"image"}),
    ("/restore", {"image": ""}, {"image"}),
    ("/restore", {"image": EMPTY}, {"image"}),
    ("/restore", {"image": 7}, {"image"}),
    ("/restore", {"image": ["a"]}, {"image"}),
    ("/restore", {"image": "no base64!"}, {"image"}),
    ("/restore", {"image": IMAGE[:5]}, {"image"}),
    ("/restore", {"image": IMAGE.rstrip("=") + "==="}, {"image"}),
    ("/restore", {"image": IMAGE + "?"}, {"image"}),
    ("/restore", {"image": "data:image/png," + IMAGE}, {"image"}),
    ("/restore", {"image": IMAGE[:40] + " " + IMAGE[41:]}, {"image"}),  # a form makes a blank of each +
    ("/restore", {"image": "data:image/png;base64" + IMAGE.replace(",", "")}, {"image"}),
    ("/restore", {"image": "https://example.org/a.png"}, {"image"}),
    ("/restore", {"fidelity": 1.01}, {"fidelity"}),
    ("/restore", {"face_restoration_weight": "0.6"}, {"face_restoration_weight"}),
    ("/restore", {"fidelity": 1, "face_restoration_weight": 1}, {"fidelity", "face_restoration_weight"}),
    ("/restore", {"max_faces": 257}, {"max_faces"}),
    (
        "/restore",
        {"max_faces": 1.5, "min_face_px": -1, "max_face_px": "x"},
        {*("max_faces", "min_face_px"), "max_face_px"},
    ),
    ("/restore", {"max_sharpness": -1}, {"max_sharpness"}),
    ("/restore", {"min_confidence": 2, "visibility": True}, {"min_confidence", "visibility"}),
    ("/restore", {"rule": "smallest"}, {"rule"}),
    ("/restore", {"only_center_face": True, "rule": "largest"}, {"rule", "only_center_face"}),
    ("/restore", {"only_center_face": 1}, {"only_center_face"}),
    ("/restore", {"upscale": 3}, {"upscale"}),
    ("/restore", {"aligned": "yes", "use_realesrgan": 0}, {"aligned", "use_realesrgan"}),
    ("/restore", {"mask": "oval"}, {"mask"}),
    ("/restore", {"output_format": "gif", "quality": 101}, {"output_format", "quality"}),
    ("/restore", {"return_mask": "true"}, {"return_mask"}),
    ("/restore", {"fidelities": [0.5]}, {"fidelities"}),
    ("/restore", {"prompt": "a cat"}, {"prompt"}),
    ("/restore", {"faces": {}}, {"faces"}),
    ("/restore", {"faces": {"faces": [FACE], "blur": 1}}, {"faces"}),
    ("/restore", {"faces": {"faces": 7}}, {"faces"}),
    ("/restore", {"faces": {"faces": [FACE, {**FACE, "box": [1]}], "width": 9}}, {"faces[1].box"}),
    ("/restore", {"faces": [FACE] * 1001}, {"faces"}),
    ("/restore", {"faces": [FACE, 7]}, {"faces[1]"}),
    ("/restore", {"faces": [{}]}, {"faces[0].box", "faces[0].landmarks"}),
    ("/restore", {"faces": [{**FACE, "box": [1, 2, 3]}]}, {"faces[0].box"}),
    ("/restore", {"faces": [{**FACE, "box": [1, 2, 3, None]}]}, {"faces[0].box[3]"}),
    ("/restore", {"faces": [FACE, {**FACE, "landmarks": LANDMARKS[:4]}]}, {"faces[1].landmarks"}),
    ("/restore", {"faces": [{**FACE, "fidelity": 2, "skip": "no"}]}, {"faces[0].fidelity", "faces[0].skip"}),
    ("/restore", {"faces": [{**FACE, "weight": 1}], "upscale": 9}, {"faces[0].weight", "upscale"}),
    ("/detect", {"min_confidence": -1, "detect_size": 63}, {"min_confidence", "detect_size"}),
    ("/detect", {"detect_size": 2049}, {"detect_size"}),
    ("/restore", {"detect_size": 63, "look": "twice"}, {"detect_size", "look"}),
    ("/detect", {"fidelity": 1}, {"fidelity"}),
    ("/compare", {}, {"fidelities"}),
    ("/compare", {"fidelities": []}, {"fidelities"}),
    ("/compare", {"fidelities": [0.5] * 9}, {"fidelities"}),
    ("/compare", {"fidelities": [0.5, 1.5, "x"]}, {"fidelities[1]", "fidelities[2]"}),
    ("/compare", {"fidelities": [0.5], "fidelity": 0.5}, {"fidelity"}),
]


@pytest.mark.parametrize(("path", "given", "named"), BAD_FIELDS, ids=lambda value: stable(value)[:60])
def test_bad_fields_are_all_named(stack: Stack, path: str, given: dict[str, Any], named: set[str]) -> None:
    error = problem(stack.client.post(path, json={"image": IMAGE, **given}), 422, "invalid_request")
    assert set(named_fields(error)) == named
    assert all(field["message"] for field in error["fields"])
    assert len(json.dumps(error)) < 2000, "long values are not echoed"
    assert not stack.restorer.requests, "nothing was done"


def test_messages_name_the_limits(stack: Stack) -> None:
    request = {"image": IMAGE, "max_faces": 999, "min_face_px": -1, "faces": [{**FACE, "fidelity": 9}]}
    error = problem(stack.client.post("/restore", json=request), 422, "invalid_request")
    messages = {field["field"]: field["message"] for field in error["fields"]}
    assert "0 to 256" in messages["max_faces"] and "0 or more" in messages["min_face_px"]
    assert "0 to 1" in messages["faces[0].fidelity"]
    error = problem(
        stack.client.post("/detect", json={"image": IMAGE, "detect_size": 9}), 422, "invalid_request"
    )
    assert "0 or" in error["message"] and "64 to 2048" in error["message"]


FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=x"}


def part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
    return head + content + b"\r\n"


FILE = part("image", PNG, '; filename="a.png"')
BAD_FORMS: list[tuple[bytes, int, str | None]] = [
    (b"", 400, None),
    (b"hello", 400, None),
    (FILE, 400, None),  # the last boundary is missing
    (FILE[:200], 400, None),
    (b"--x\r\nContent-Disposition: form-data\r\n\r\nhi\r\n--x--\r\n", 400, None),
    (FILE + part("quality", b"1") * 1001 + b"--x--\r\n", 400, None),
    (b"--x--\r\n", 422, "image"),
    (part("image", b"", '; filename=""') + b"--x--\r\n", 422, "image"),
    (part("image", b"hello") + b"--x--\r\n", 422, "image"),  # text should be base64
    (part("image", b"aGVsbG8=", "\r\nContent-Transfer-Encoding: base64") + b"--x--\r\n", 400, None),
    (FILE + FILE + b"--x--\r\n", 422, "image"),
    (FILE + part("fidelity", b"high") + b"--x--\r\n", 422, "fidelity"),
    (FILE + part("fidelity", b"NaN") + b"--x--\r\n", 422, "fidelity"),
    (FILE + part("fidelity", b"\xff") + b"--x--\r\n", 422, "fidelity"),
    (FILE + part("aligned", b"1") + b"--x--\r\n", 422, "aligned"),
    (FILE + part("faces", b"[{") + b"--x--\r\n", 422, "faces"),
    (FILE + part("faces", b"[" * 100_000) + b"--x--\r\n", 422, "faces"),
    (FILE + part("faces", b'[{"box": 1, "box": 2}]') + b"--x--\r\n", 422, "box"),
    (FILE + part("quality", b"9" * 5000) + b"--x--\r\n", 422, "quality"),
    (FILE + part("qualitty", b"9") + b"--x--\r\n", 422, "qualitty"),
    (FILE + part("\u00fcber", b"9") + b"--x--\r\n", 422, "\u00fcber"),
]


@pytest.mark.parametrize(("body", "status", "named"), BAD_FORMS, ids=lambda value: stable(value)[-50:])
def test_bad_forms(stack: Stack, body: bytes, status: int, named: str | None) -> None:
    response = stack.client.post("/restore", content=body, headers=FORM_TYPE)
    error = problem(response, status, "malformed_body" if status == 400 else "invalid_request")
    assert named_fields(error) == ([named] if named else [])
    assert not stack.restorer.requests
    assert stack.client.post("/detect", content=FILE + b"--x--\r\n", headers=FORM_TYPE).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "image/png"}, 415),
        ({**FORM_TYPE, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "multipart/form-data"}, 400),
        ({"Content-Type": "multipart/form-data; boundary=" + "x" * 300}, 400),
        ({"Content-Type": "multipart/form-data; boundary=y"}, 400),
    ],
    ids=str,
)
def test_other_types(stack: Stack, headers: dict[str, str], status: int) -> None:
    response = stack.client.post("/restore", content=FILE + b"--x--\r\n", headers=headers)
    problem(response, status, "unsupported_media_type" if status == 415 else "malformed_body")


def giant_png() -> bytes:
    """A PNG whose header says 60000x60000, and which contains no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare"])
@pytest.mark.parametrize(
    "data",
    [b"hello", PNG[:200], giant_png()],
    ids=["text", "truncated", "giant"],
)
def test_images_that_the_restorer_refuses(stack: Stack, path: str, data: bytes) -> None:
    fields = {"fidelities": "[0.5]"} if path == "/compare" else {}
    response = stack.client.post(path, files={"image": ("a.png", data)}, data=fields)
    error = problem(response, 422, "invalid_request")
    assert named_fields(error) == ["image"] and error["message"]


SERVICE_FIELDS = [
    ("/restore", {}, "image.format", "image"),
    ("/restore", {"output_format": "webp"}, "output.format", "output_format"),
    ("/restore", {"quality": 5}, "output.quality", "quality"),
    ("/restore", {"face_restoration_weight": 1}, "fidelity", "face_restoration_weight"),
    ("/restore", {"only_center_face": True}, "rule", "only_center_face"),
    ("/restore", {"aligned": True}, "aligned", "aligned"),
    ("/restore", {"use_realesrgan": True}, "use_upscaler", "use_realesrgan"),
    ("/restore", {"only_center_face": False}, "rule", "rule"),
    ("/restore", {"faces": [FACE]}, "faces[0].face.box", "faces[0].box"),
    ("/restore", {"faces": [FACE]}, "faces[0].fidelity", "faces[0].fidelity"),
    ("/detect", {"detect_size": 640}, "detect_size_px", "detect_size"),
    ("/compare", {"fidelities": [0.5]}, "restore.upscale", "upscale"),
    ("/compare", {"fidelities": [0.5]}, "restore.faces[0].face", "faces[0]"),
    ("/compare", {"fidelities": [0.5]}, "fidelities", "fidelities"),
]


@pytest.mark.parametrize(("path", "given", "service_field", "client_field"), SERVICE_FIELDS, ids=str)
def test_the_restorers_refusals_name_the_clients_fields(
    stack: Stack, path: str, given: dict[str, Any], service_field: str, client_field: str
) -> None:
    stack.restorer.error = InvalidRequest(
        [FieldViolation(service_field, "cannot be"), FieldViolation("x", "y")]
    )
    response = stack.client.post(path, json={"image": IMAGE, **given})
    error = problem(response, 422, "invalid_request")
    assert named_fields(error) == [client_field, "x"]


def test_what_a_single_file_cannot_hold_is_refused_and_not_dropped(stack: Stack) -> None:
    request = {"image": IMAGE, "return_mask": True, "return_crops": True}
    response = stack.client.post("/restore", json=request, headers={"Accept": "image/png"})
    error = problem(response, 422, "invalid_request")
    assert named_fields(error) == ["return_mask", "return_crops"]
    assert not stack.restorer.requests
    gif = stack.client.post("/restore", json={"image": IMAGE}, headers={"Accept": "image/gif"})
    assert named_fields(problem(gif, 422, "invalid_request")) == ["Accept"]


def test_sizes_follow_from_max_pixels() -> None:
    """The largest file is what a message to the restorer holds, less 2 MiB for the face edits."""
    with Stack(max_pixels=65_536, max_body_bytes=2**20) as stack:
        largest = images.message_limit_bytes(65_536) - 2 * 2**20
        for data, status in ((PNG + b"\0" * (largest - len(PNG)), 200), (b"\0" * (largest + 1), 422)):
            forms = stack.client.post("/detect", files={"image": ("a.png", data)})
            jsons = stack.client.post("/detect", json={"image": base64.b64encode(data).decode()})
            assert (forms.status_code, jsons.status_code) == (status, status)
        error = problem(forms, 422, "invalid_request")
        assert named_fields(error) == ["image"] and str(largest) in error["message"]
        data = b"\0" * (largest + 2**20)
        problem(stack.client.post("/detect", files={"image": ("a.png", data)}), 413, "body_too_large")
        image = base64.b64encode(data).decode()
        problem(stack.client.post("/detect", json={"image": image}), 413, "body_too_large")
        assert len(stack.restorer.requests) == 2


@pytest.mark.parametrize("name", ["file", "photo", "image[]", "Image"])
def test_a_file_under_another_name_is_no_field_and_the_image_is_missing(stack: Stack, name: str) -> None:
    response = stack.client.post("/restore", files={name: ("a.png", PNG, "image/png")})
    assert set(named_fields(problem(response, 422, "invalid_request"))) == {name, "image"}
    assert "UTF-8" not in response.text
    assert stack.restorer.requests == []


def test_the_guards_limit_in_a_comparison_is_answered_with_where_it_belongs(stack: Stack) -> None:
    body = {"image": IMAGE, "fidelities": [0.5], "min_similarity": 0.4, "visibilty": 1}
    error = problem(stack.client.post("/compare", json=body), 422, "invalid_request")
    messages = {field["field"]: field["message"] for field in error["fields"]}
    assert messages == {
        "min_similarity": "is the limit of the guard of /restore; a comparison takes no guard",
        "visibilty": "is not a field of this request; did you mean visibility?",
    }
