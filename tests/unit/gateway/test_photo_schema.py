import base64
from typing import Any

import pytest

from atelier_gateway.checking import Checker
from atelier_gateway.photo_schema import COMPARE, DETECT, RESTORE, openapi_json_schema, read_photo_order
from atelier_runtime import defaults
from atelier_runtime.errors import InvalidRequest

IMAGE = base64.b64encode(b"a file").decode()
CHECKERS = [RESTORE, DETECT, COMPARE]


def read(checker: Checker[Any], **body: Any) -> Any:
    return read_photo_order(checker, body, max_image_bytes=100).request


def test_defaults_are_those_of_the_shared_table() -> None:
    request = read(RESTORE, image=IMAGE)
    assert (request.fidelity, request.max_faces) == (defaults.FIDELITY, defaults.MAX_FACES)
    assert (request.min_face_px, request.min_confidence) == (defaults.MIN_FACE_PX, defaults.MIN_CONFIDENCE)
    assert (request.visibility, request.upscale) == (defaults.VISIBILITY, defaults.UPSCALE)
    assert (request.use_realesrgan, request.quality) == (defaults.USE_UPSCALER, defaults.QUALITY)
    found = read(DETECT, image=IMAGE)
    assert (found.min_confidence, found.detect_size) == (defaults.MIN_CONFIDENCE, defaults.DETECT_SIZE_PX)


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.model.__name__)
def test_null_is_the_default_for_every_option(checker: Checker[Any]) -> None:
    required = {"image": IMAGE, "fidelities": [0.5]}
    needed = {name: required[name] for name in checker.schema["required"]}
    options = set(checker.properties) - set(needed)
    request = read(checker, **needed, **dict.fromkeys(options))
    assert request.model_fields_set == set(needed), "what was not given is left to the restorer"


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.model.__name__)
def test_the_documented_schema_has_every_field_under_every_name(checker: Checker[Any]) -> None:
    schema = openapi_json_schema(checker)
    assert set(schema["properties"]) == set(checker.properties) | set(checker.aliases)
    for name, field in schema["properties"].items():
        assert (name in schema["required"]) == ({"type": "null"} not in field.get("anyOf", ()))


@pytest.mark.parametrize("size", [0, 64, 640, 2048])
def test_detect_sizes(size: int) -> None:
    assert read(DETECT, image=IMAGE, detect_size=size).detect_size == size


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
def test_the_largest_file(size: int, fits: bool) -> None:
    image = base64.b64encode(b"x" * size).decode()
    if fits:
        assert len(read(DETECT, image=image).image) == size
    else:
        with pytest.raises(InvalidRequest, match="has 101 bytes, the limit is 100"):
            read(DETECT, image=image)


def test_a_picture_is_not_in_what_is_printed() -> None:
    assert "a file" not in repr(read(RESTORE, image=IMAGE))


def test_all_that_is_wrong_is_told_at_once() -> None:
    face = {"box": [0, 0, 1], "landmarks": [[0, 0]] * 5, "fidelity": 2}
    with pytest.raises(InvalidRequest) as refused:
        read(RESTORE, image="?", faces=[face, None], quality=0, fidelty=1)
    fields = {violation.field for violation in refused.value.fields}
    assert fields == {"image", "faces[0].box", "faces[0].fidelity", "faces[1]", "quality", "fidelty"}
    assert "did you mean fidelity?" in refused.value.message
