"""Requests that schemathesis makes up from our own OpenAPI document, good and bad: never our fault."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.formats import unregister_string_format

from atelier_runtime import images
from tests.contract.script import picture
from tests.contract.scripted_stages import House

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_made_up_orders(house: House, mode: GenerationMode) -> None:
    house.generator.draws = (8, 8)  # what is asked for is checked here, not what is drawn
    document = schemathesis.openapi.from_url(house.url + "/openapi.json")
    orders = document["/generate"]["POST"].as_strategy(generation_mode=mode)
    statuses: Counter[int] = Counter()

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=orders)
    def answered(case: schemathesis.Case) -> None:
        response = case.call_and_validate(checks=CHECKS)
        statuses[response.status_code] += 1

    answered()
    expected = {200, 422} if mode is GenerationMode.POSITIVE else {400, 415, 422}
    assert statuses and set(statuses) <= expected, statuses
    assert mode is GenerationMode.NEGATIVE or statuses[200] > 20, "good orders are served"


FORM = "multipart/form-data"
IMAGE = images.encode(images.Picture(picture(32, 24)), "png", 92)


@pytest.fixture
def pictures_for_schemathesis() -> Iterator[None]:
    """What the document calls a picture: of it schemathesis knows only that it is base64, or bytes."""
    schemathesis.openapi.format("byte", st.just(base64.b64encode(IMAGE).decode()))
    schemathesis.openapi.format("binary", st.just(IMAGE))
    yield
    for name in ("byte", "binary"):
        unregister_string_format(name)


@pytest.mark.usefixtures("pictures_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare"])
def test_made_up_orders_for_photographs(house: House, path: str, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(house.url + "/openapi.json")
    orders = document[path]["POST"].as_strategy(generation_mode=mode)
    statuses: Counter[tuple[str, int]] = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=orders)
    def answered(case: schemathesis.Case) -> None:
        # a form holds text, and of an empty list nothing: what is wrong in JSON may be right in a form
        checks = [c for c in CHECKS if c is not negative_data_rejection or case.media_type != FORM]
        response = case.call_and_validate(checks=checks)
        statuses[case.media_type or "", response.status_code] += 1

    answered()
    assert {media_type for media_type, _ in statuses} == {"application/json", FORM}
    if mode is GenerationMode.POSITIVE:
        # 422: only_center_face together with rule, which a schema cannot say
        assert {status for _, status in statuses} <= {200, 422}, statuses
        assert min(statuses["application/json", 200], statuses[FORM, 200]) > 20, "good orders are served"
    else:
        assert {status for _, status in statuses} <= {200, 400, 415, 422}, statuses
        assert statuses["application/json", 200] == 0 and statuses[FORM, 422] > 20, statuses
