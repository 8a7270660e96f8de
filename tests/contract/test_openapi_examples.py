"""Requests that schemathesis generates from our own OpenAPI document, valid and invalid: never our fault."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any

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

from tests.contract.script import file_of, gradient
from tests.contract.stack import Stack

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


JSON = "application/json"
FORM = "multipart/form-data"
IMAGE = file_of(gradient(32, 24))


@pytest.fixture
def images_for_schemathesis(mode: GenerationMode) -> Iterator[None]:
    """Of an image, schemathesis knows from the document only that it is base64, or bytes.

    Invalid forms hold text in its place: schemathesis 4.32 cannot validate bytes, and raises `ValueError`
    ("Unsupported type: 'Binary'") for about one in 20 seeds where it looks for what is invalid.
    """
    schemathesis.openapi.format("byte", st.just(base64.b64encode(IMAGE).decode()))
    schemathesis.openapi.format("binary", st.just(IMAGE if mode is GenerationMode.POSITIVE else "text"))
    yield
    for name in ("byte", "binary"):
        unregister_string_format(name)


def checks_of(case: schemathesis.Case[Any]) -> list[Any]:
    """A form holds text, and nothing for an empty list: what is invalid as JSON may be valid as a form."""
    return [check for check in CHECKS if check is not negative_data_rejection or case.media_type != FORM]


def statuses_of(
    stack: Stack,
    path: str,
    mode: GenerationMode,
    *,
    media_types: tuple[str, ...] = (JSON, FORM),
    examples: int = 200,
) -> Counter[tuple[str, int]]:
    """Send requests that are made from the schema; return how many had which media type and status."""
    document = schemathesis.openapi.from_url(stack.url + "/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=document[path]["POST"].as_strategy(generation_mode=mode))
    def respond(case: schemathesis.Case[Any]) -> None:
        response = case.call_and_validate(checks=checks_of(case))
        statuses[case.media_type or "", response.status_code] += 1

    respond()
    assert {media_type for media_type, _ in statuses} == set(media_types)
    return statuses


@pytest.mark.usefixtures("images_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_generated_requests(stack: Stack, mode: GenerationMode) -> None:
    stack.generator.size = (8, 8)  # requests are checked here, not images
    statuses = statuses_of(stack, "/generate", mode)
    expected = {200, 422} if mode is GenerationMode.POSITIVE else {200, 400, 415, 422}
    assert {status for _, status in statuses} <= expected, statuses
    assert mode is GenerationMode.NEGATIVE or statuses["application/json", 200] > 20, (
        "valid requests are served"
    )
    assert mode is GenerationMode.POSITIVE or statuses["application/json", 200] == 0, statuses


@pytest.mark.usefixtures("images_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("path", ["/restore", "/detect", "/compare", "/v1/inspect"])
def test_generated_requests_for_photos(stack: Stack, path: str, mode: GenerationMode) -> None:
    statuses = statuses_of(stack, path, mode)
    if mode is GenerationMode.POSITIVE:
        # 422: only_center_face together with rule, which a schema cannot express
        assert {status for _, status in statuses} <= {200, 422}, statuses
        fewest = 0 if path == "/v1/inspect" else 20  # there is one form of one field
        served = min(statuses["application/json", 200], statuses[FORM, 200])
        assert served > fewest, "valid requests are served"
    else:
        assert {status for _, status in statuses} <= {200, 400, 415, 422}, statuses
        assert statuses["application/json", 200] == 0 and statuses[FORM, 422] > 20, statuses


@pytest.mark.usefixtures("images_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_generated_requests_for_jobs(mode: GenerationMode) -> None:
    with Stack(jobs_at_once=0, jobs_waiting=10_000, jobs_waiting_per_key=10_000) as stack:
        statuses = statuses_of(stack, "/v1/jobs", mode)
    # 422: what the input says, which is another schema's
    expected = {202, 422} if mode is GenerationMode.POSITIVE else {202, 400, 415, 422}
    assert {status for _, status in statuses} <= expected, statuses
    assert mode is GenerationMode.POSITIVE or statuses["application/json", 202] == 0, statuses


@pytest.mark.usefixtures("images_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
def test_generated_requests_of_openai(stack: Stack, path: str, mode: GenerationMode) -> None:
    stack.generator.size = (8, 8)
    statuses = statuses_of(stack, path, mode, examples=100)
    # 400 of valid ones: sizes, contradictions and pictures that a schema cannot express
    expected = {200, 400} if mode is GenerationMode.POSITIVE else {200, 400, 415}
    assert {status for _, status in statuses} <= expected, statuses
    if mode is GenerationMode.NEGATIVE:
        assert statuses["application/json", 200] == 0 and statuses["application/json", 400] > 20, statuses
    else:
        assert statuses["application/json", 200] + statuses[FORM, 200] > 5, "valid requests are served"


@pytest.mark.usefixtures("images_for_schemathesis")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(
    "path", ["txt2img", "img2img", "extra-single-image", "extra-batch-images", "png-info", "options"]
)
def test_generated_requests_of_automatic1111s_dialect(path: str, mode: GenerationMode) -> None:
    with Stack() as stack:  # options last
        stack.generator.size = (8, 8)
        statuses = statuses_of(stack, f"/sdapi/v1/{path}", mode, media_types=(JSON,), examples=60)
        read_back = stack.client.get("/sdapi/v1/options")
    assert read_back.status_code == 200, "whatever was set"
    if mode is GenerationMode.POSITIVE:
        # 422: strings that spell numbers out of range, contradictions, and what is not loaded
        assert {status for _, status in statuses} <= {200, 400, 422}, statuses
        assert statuses[JSON, 200] > 10, statuses
    else:
        assert {status for _, status in statuses} <= {400, 415, 422}, statuses


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/{job_id}"),
        ("DELETE", "/v1/jobs/{job_id}"),
        ("POST", "/v1/jobs/{job_id}/cancel"),
        ("POST", "/v1/jobs/{job_id}/expire"),
        ("GET", "/v1/jobs/{job_id}/events"),
        ("GET", "/v1/jobs/{job_id}/outputs/{name}"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("GET", "/sdapi/v1/progress"),
        ("POST", "/sdapi/v1/interrupt"),
        ("GET", "/sdapi/v1/options"),
        ("GET", "/sdapi/v1/sd-models"),
        ("GET", "/sdapi/v1/samplers"),
        ("GET", "/sdapi/v1/upscalers"),
    ],
)
def test_generated_requests_without_a_body(stack: Stack, method: str, path: str) -> None:
    document = schemathesis.openapi.from_url(stack.url + "/openapi.json")
    checks = [check for check in CHECKS if check is not negative_data_rejection]

    @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy())
    def respond(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=checks)

    respond()
