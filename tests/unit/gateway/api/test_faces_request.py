from __future__ import annotations

import base64
from typing import Any

import pytest

from atelier_gateway.api.native.faces_request import COMPARE, DETECT, RESTORE, ParsedRequest, parse_request
from atelier_gateway.core.values import CompareSpec, DetectSpec, RestoreSpec
from atelier_gateway.http import schemas
from atelier_gateway.http.validation import Validator
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import InputImage

FILE = InputImage(b"a file")
IMAGE = base64.b64encode(FILE.data).decode()
FACE: dict[str, Any] = {"box": [0, 0, 1, 1], "landmarks": [[0, 0]] * 5}
VALIDATORS = pytest.mark.parametrize(
    "validator", [RESTORE, DETECT, COMPARE], ids=lambda validator: validator.model.__name__
)


def parse(validator: Validator[Any], **body: Any) -> ParsedRequest[Any]:
    return parse_request(validator, body, max_image_bytes=100)


def restore_spec(**body: Any) -> RestoreSpec:
    spec: RestoreSpec = parse(RESTORE, image=IMAGE, **body).request.to_restore_spec(None)
    return spec


def test_documented_defaults_are_those_of_the_shared_table() -> None:
    request = parse(RESTORE, image=IMAGE).request
    assert (request.fidelity, request.max_faces) == (defaults.FIDELITY, defaults.MAX_FACES)
    assert (request.min_face_px, request.min_confidence) == (defaults.MIN_FACE_PX, defaults.MIN_CONFIDENCE)
    assert (request.visibility, request.upscale) == (defaults.VISIBILITY, defaults.UPSCALE)
    assert (request.use_realesrgan, request.quality) == (defaults.USE_UPSCALER, defaults.QUALITY)
    detect = parse(DETECT, image=IMAGE).request
    assert (detect.min_confidence, detect.detect_size) == (defaults.MIN_CONFIDENCE, defaults.DETECT_SIZE_PX)


@VALIDATORS
def test_null_is_the_default_for_every_option(validator: Validator[Any]) -> None:
    required = {"image": IMAGE, "fidelities": [0.5]}
    needed = {name: required[name] for name in validator.schema["required"]}
    options = set(validator.properties) - set(needed)
    request = parse(validator, **needed, **dict.fromkeys(options)).request
    assert request.model_fields_set == set(needed)


def test_what_is_not_given_is_left_to_the_restorer() -> None:
    assert restore_spec() == RestoreSpec(FILE)
    assert parse(DETECT, image=IMAGE).request.to_spec() == DetectSpec(FILE)
    compare = parse(COMPARE, image=IMAGE, fidelities=[0.5]).request.to_spec()
    assert compare == CompareSpec(RestoreSpec(FILE), (0.5,))


def test_what_is_given_is_sent() -> None:
    spec = restore_spec(
        fidelity=0, use_realesrgan=False, only_center_face=True, mask="parse", output_format="webp"
    )
    assert (spec.fidelity, spec.use_upscaler, spec.rule, spec.mask) == (0, False, "center", "parse")
    assert spec.output_format == "webp"


@pytest.mark.parametrize(
    ("given", "accepted", "output_format"),
    [(None, None, None), (None, "webp", "webp"), ("png", "webp", "png")],
)
def test_the_body_goes_before_accept(given: str | None, accepted: Any, output_format: str | None) -> None:
    request = parse(RESTORE, image=IMAGE, output_format=given).request
    assert request.to_restore_spec(accepted).output_format == output_format


def test_face_edits() -> None:
    first, second = restore_spec(faces=[FACE, {**FACE, "index": 7, "confidence": 0.5, "skip": True}]).faces
    assert (first.face.index, first.face.confidence, first.skip) == (0, 1.0, None)
    assert (second.face.index, second.face.confidence, second.skip) == (7, 0.5, True)


@VALIDATORS
def test_the_documented_schema_has_every_field_under_every_name(validator: Validator[Any]) -> None:
    schema = schemas.body_schema("x", validator.schema, validator.aliases)
    assert set(schema["properties"]) == set(validator.properties) | set(validator.aliases)
    for name, field in schema["properties"].items():
        assert (name in schema["required"]) == ({"type": "null"} not in field.get("anyOf", ()))


@VALIDATORS
def test_the_documented_form_has_a_file_and_nothing_null(validator: Validator[Any]) -> None:
    properties = schemas.form_schema("x", validator.schema, validator.aliases)["properties"]
    assert properties["image"]["format"] == "binary"
    for field in properties.values():
        assert {"type": "null"} not in field.get("anyOf", ()) and field.get("default", 0) is not None


@pytest.mark.parametrize("size", [0, 64, 640, 2048])
def test_detect_sizes(size: int) -> None:
    assert parse(DETECT, image=IMAGE, detect_size=size).request.detect_size == size


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
def test_the_largest_file(size: int, fits: bool) -> None:
    image = base64.b64encode(b"x" * size).decode()
    if fits:
        assert len(parse(DETECT, image=image).request.image) == size
    else:
        with pytest.raises(InvalidRequest, match="101"):
            parse(DETECT, image=image)


def test_an_image_is_not_in_what_is_printed() -> None:
    assert "a file" not in repr(parse(RESTORE, image=IMAGE).request)


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    face = {"box": [0, 0, 1], "landmarks": [[0, 0]] * 5, "fidelity": 2}
    with pytest.raises(InvalidRequest) as refused:
        parse(RESTORE, image="?", faces=[face, None], quality=0, fidelty=1)
    fields = {violation.field for violation in refused.value.fields}
    assert fields == {"image", "faces[0].box", "faces[0].fidelity", "faces[1]", "quality", "fidelty"}
    assert "fidelity?" in refused.value.message, "a hint"


def test_names_for_the_client() -> None:
    names = parse(RESTORE, image=IMAGE, face_restoration_weight=0.5, only_center_face=True).names
    assert (names("fidelity"), names("rule")) == ("face_restoration_weight", "only_center_face")
    assert names("use_upscaler") == "use_realesrgan"
    assert parse(RESTORE, image=IMAGE, rule="all").names("rule") == "rule"
