import pytest

from atelier_gateway.schema import ALIASES, GenerateRequest, openapi_request_schema, read_order
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest

MAX_PIXELS = 50_000_000


def test_defaults_are_those_of_the_shared_table() -> None:
    request = read_order({"prompt": "x"}, max_pixels=MAX_PIXELS).request
    assert (request.width, request.height) == (defaults.SIDE_PX, defaults.SIDE_PX)
    assert request.num_inference_steps == defaults.NUM_INFERENCE_STEPS
    assert request.guidance_scale == defaults.GUIDANCE_SCALE
    assert request.face_restoration_weight == defaults.FIDELITY
    assert request.on_restore_failure == defaults.ON_RESTORE_FAILURE
    assert (request.upscale, request.quality) == (defaults.UPSCALE, defaults.QUALITY)


def test_null_is_the_default_for_every_option() -> None:
    nulls = dict.fromkeys(set(GenerateRequest.model_fields) - {"prompt"})
    assert read_order({"prompt": "x", **nulls}, max_pixels=MAX_PIXELS).request == GenerateRequest(prompt="x")


@pytest.mark.parametrize(("older", "full"), ALIASES.items())
def test_an_older_name_is_the_same_field(older: str, full: str) -> None:
    value = True if full == "hires_fix" else 2
    order = read_order({"prompt": "x", older: value}, max_pixels=MAX_PIXELS)
    assert getattr(order.request, full) == value
    assert order.older_client and order.name_of(full) == older
    assert not read_order({"prompt": "x", full: value}, max_pixels=MAX_PIXELS).older_client


@pytest.mark.parametrize(
    ("asked", "drawn", "final"),
    [
        ({}, (1024, 1024), (1024, 1024)),
        ({"hires_fix": True}, (1536, 1536), (1536, 1536)),
        ({"width": 264, "height": 1000, "hires_fix": True}, (392, 1496), (392, 1496)),
        ({"hires_fix_simple": True}, (1536, 1536), (1536, 1536)),
        (
            {"width": 1000, "height": 1000, "hires_fix_simple": True, "hires_scale": 1.1},
            (1096, 1096),
            (1096, 1096),
        ),
        ({"hires_scale": 4}, (1024, 1024), (1024, 1024)),
        ({"hires_fix": True, "upscale": 2}, (1536, 1536), (3072, 3072)),
    ],
)
def test_sizes(asked: dict[str, object], drawn: tuple[int, int], final: tuple[int, int]) -> None:
    request = read_order({"prompt": "x", **asked}, max_pixels=MAX_PIXELS).request
    assert (request.drawn_size(), request.final_size()) == (drawn, final)


def test_max_pixels_is_a_limit_and_not_one_less() -> None:
    body = {"prompt": "x", "width": 256, "height": 256}
    read_order(body, max_pixels=256 * 256)
    with pytest.raises(InvalidRequest, match=r"256x256 = 65536 px, the limit is 65535"):
        read_order(body, max_pixels=256 * 256 - 1)


def test_the_documented_schema_has_every_field_under_every_name() -> None:
    schema = openapi_request_schema()
    assert set(schema["properties"]) == set(GenerateRequest.model_fields) | set(ALIASES)
    for name, field in schema["properties"].items():
        assert name == "prompt" or {"type": "null"} in field["anyOf"]
