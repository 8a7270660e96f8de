from __future__ import annotations

from typing import Any

import pytest

from atelier_gateway.api.native.generate_request import (
    ALIASES,
    GenerateRequest,
    ParsedRequest,
    parse_request,
    request_schema,
)
from atelier_gateway.core.values import GenerateSpec
from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest


def parse(**body: Any) -> ParsedRequest:
    return parse_request({"prompt": "x", **body}, lambda spec: [])


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
        parse_request(body, lambda spec: found)
    fields = [violation.field for violation in refused.value.fields]
    assert fields == ["wdth", "width", "upscale_factor", "hires_scale"]


def test_the_documented_schema_has_every_field_under_every_name() -> None:
    schema = request_schema()
    assert set(schema["properties"]) == set(GenerateRequest.model_fields) | set(ALIASES)
    for name, field in schema["properties"].items():
        assert name == "prompt" or {"type": "null"} in field["anyOf"]
