from __future__ import annotations

from typing import Any

import pytest

from atelier_gateway.api.native.generate_request import (
    ALIASES,
    GENERATE,
    GenerateRequest,
    ParsedRequest,
    parse_request,
)
from atelier_gateway.core.values import GenerateSpec
from atelier_gateway.http import schemas
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest


def parse(**body: Any) -> ParsedRequest:
    return parse_request({"prompt": "x", **body}, lambda spec: [], max_image_bytes=100)


def test_documented_defaults_are_those_of_the_shared_table() -> None:
    request = parse().request
    assert (request.width, request.height) == (defaults.SIDE_PX, defaults.SIDE_PX)
    assert request.num_inference_steps is request.guidance_scale is None, "set by the model set"
    assert request.face_restoration_weight == defaults.FIDELITY
    assert request.hires_scale == defaults.LANCZOS_SCALE
    assert request.on_restore_failure == defaults.ON_RESTORE_FAILURE
    assert request.prompt_syntax == defaults.PROMPT_SYNTAX
    assert (request.upscale, request.quality) == (defaults.UPSCALE, defaults.QUALITY)


def test_what_is_not_given_or_null_is_left_to_the_services() -> None:
    nulls = dict.fromkeys(set(GenerateRequest.model_fields) - {"prompt"})
    assert parse().spec == parse(**nulls).spec == GenerateSpec("x")


def test_a_given_default_is_sent() -> None:
    spec = parse(width=defaults.SIDE_PX, use_refiner=True, quality=defaults.QUALITY).spec
    assert (spec.width, spec.use_refiner, spec.quality) == (defaults.SIDE_PX, True, defaults.QUALITY)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"prompt_syntax": "weighted"}, "prompt_syntax", "weighted"),
        ({"use_realesrgan": False}, "use_upscaler", False),
        ({"hires_fix_simple": True}, "lanczos_scale", defaults.LANCZOS_SCALE),
        ({"hires_fix_simple": True, "hires_scale": 3}, "lanczos_scale", 3),
        ({"hires_scale": 3}, "lanczos_scale", None),
        ({"use_face_restoration": False}, "restore_faces", False),
        ({"face_restoration_weight": 0}, "fidelity", 0),
        ({"model": "sdxl"}, "model_set", None),
        ({"model": "demo"}, "model_set", "demo"),
        ({"det_model": "retinaface"}, "face_detector", "retinaface"),
    ],
)
def test_the_contracts_names_become_the_specs(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse(**body).spec, field) == value


@pytest.mark.parametrize(("alias", "full"), ALIASES.items())
def test_an_alias_is_the_same_field(alias: str, full: str) -> None:
    value = True if full == "hires_fix" else 2
    parsed = parse(**{alias: value})
    assert getattr(parsed.request, full) == value
    assert parsed.uses_alias and parsed.names(full) == alias
    assert not parse(**{full: value}).uses_alias


@pytest.mark.parametrize(
    ("body", "spec_field", "client_field"),
    [
        ({}, "width", "width"),
        ({"steps": 2}, "num_inference_steps", "steps"),
        ({}, "fidelity", "face_restoration_weight"),
        ({}, "use_upscaler", "use_realesrgan"),
        ({}, "lanczos_scale", "hires_scale"),
        ({}, "model_set", "model"),
        ({}, "face_detector", "det_model"),
    ],
)
def test_the_specs_names_become_the_clients(body: dict[str, Any], spec_field: str, client_field: str) -> None:
    assert parse(**body).names(spec_field) == client_field


def test_violations_of_the_spec_are_reported_with_all_others() -> None:
    body = {"prompt": "x", "upscale_factor": 2, "hires_fix_simple": True, "wdth": 1}
    found = [FieldViolation(field, "is too large") for field in ("width", "upscale", "lanczos_scale")]
    with pytest.raises(InvalidRequest) as refused:
        parse_request(body, lambda spec: found, max_image_bytes=100)
    fields = [violation.field for violation in refused.value.fields]
    assert fields == ["wdth", "width", "upscale_factor", "hires_scale"]


def test_the_documented_schema_has_every_field_under_every_name() -> None:
    schema = schemas.body_schema("GenerateRequest", GENERATE.schema, GENERATE.aliases)
    assert set(schema["properties"]) == set(GenerateRequest.model_fields) | set(ALIASES)
    for name, field in schema["properties"].items():
        assert name == "prompt" or {"type": "null"} in field["anyOf"]


def test_what_an_image_is_drawn_from_is_sent() -> None:
    spec = parse(image="aW1hZ2U=", mask=memoryview(b"mask"), strength=0).spec
    assert (spec.image, spec.mask, spec.strength) == (b"image", b"mask", 0.0)
    assert (spec.width, spec.height) == (None, None) and spec.own_size
    assert not parse(image="aW1hZ2U=", width=512, height=256).spec.own_size


def test_faces_are_restored_by_default_but_with_a_mask() -> None:
    given = {"image": "aW1hZ2U="}
    assert parse(**given).spec.restore_faces and parse(**given, use_face_restoration=True).spec.restore_faces
    given["mask"] = "bWFzaw=="
    assert not parse(**given).spec.restore_faces
    assert not parse(**given, use_face_restoration=False).spec.restore_faces


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"strength": 0.5}, {"strength": "requires an image"}),
        ({"mask": "bWFzaw=="}, {"mask": "requires an image"}),
        ({"image": "aW1hZ2U=", "strength": 1.1}, {"strength": "from 0 to 1"}),
        ({"image": "aW1hZ2U=", "use_hires_fix": True}, {"use_hires_fix": "hires_fix_simple can"}),
        (
            {"image": "aW1hZ2U=", "mask": "bWFzaw==", "use_face_restoration": True},
            {"use_face_restoration": "cannot be used with a mask"},
        ),
        ({"image": "aW1hZ2U=", "width": 512}, {"height": "is required with width"}),
        ({"image": "aW1hZ2U=", "height": 512, "width": None}, {"width": "is required with height"}),
        ({"image": "#"}, {"image": "is not base64"}),
        ({"image": "aW1hZ2U=", "mask": ""}, {"mask": "is empty"}),
        ({"image": memoryview(b"i" * 101)}, {"image": "101 bytes, the limit is 100"}),
        (
            {"image": memoryview(b"i" * 60), "mask": memoryview(b"m" * 60)},
            {"mask": "120 bytes, the limit is 100"},
        ),
    ],
)
def test_what_does_not_go_with_an_image_is_named(body: dict[str, Any], problems: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**body)
    found = {violation.field: violation.message for violation in refused.value.fields}
    assert found.keys() == problems.keys()
    assert all(part in found[field] for field, part in problems.items())
