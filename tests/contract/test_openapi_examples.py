"""Requests that schemathesis makes up from our own OpenAPI document, good and bad: never our fault."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

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
