"""What differs from what was asked for is told: in answers, in events, and in a header."""

from __future__ import annotations

from typing import Any

import pytest

from atelier_runtime import wire
from atelier_runtime.errors import OutOfMemory
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from tests.contract.openai_client import answer, events_in, generate, sdk
from tests.contract.stack import Stack

WARNINGS = wire.warnings_to_proto(
    ResponseWarning(code, message)
    for code, message in (
        (WarningCode.SIZE_LIMITED, "one"),
        (WarningCode.OPTION_LIMITED, "other"),
        (WarningCode.SIZE_LIMITED, "third"),
    )
)


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
@pytest.mark.parametrize("asked", [{}, {"use_face_restoration": True}])
def test_a_restorer_that_fails_is_told(stack: Stack, response_format: str, asked: dict[str, Any]) -> None:
    stack.restorer.error = OutOfMemory()
    response = generate(stack, response_format=response_format, n=2, **asked)
    content = answer(response)
    assert response.headers["x-atelier-warnings"] == "restorer_failed"
    assert content["warning_codes"] == ["restorer_failed"], "once, of two images"
    assert "faces were not restored" in content["warnings"][0]
    for each in content["data"]:
        assert each["faces"] == [] and each["face_restoration_applied"] is False
        assert each["face_restoration_reason"] == "out_of_memory"


def test_a_restorer_that_fails_is_told_in_events(stack: Stack) -> None:
    stack.restorer.error = OutOfMemory()
    [data, _] = [data for _, data in events_in(generate(stack, stream=True))]
    assert data["face_restoration_applied"] is False and data["warning_codes"] == ["restorer_failed"]
    native = stack.generate().json()
    assert data["warnings"] == native["warnings"]
    assert data["face_restoration_reason"] == native["face_restoration_reason"]


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_every_warning_of_the_services_is_told(stack: Stack, response_format: str) -> None:
    stack.generator.result = {"warnings": WARNINGS}
    response = generate(stack, response_format=response_format)
    assert response.headers["x-atelier-warnings"] == "size_limited, option_limited"
    assert answer(response)["warnings"] == ["one", "other", "third"]
    assert answer(response)["warning_codes"] == ["size_limited", "option_limited", "size_limited"]


def test_without_warnings_there_is_no_header(stack: Stack) -> None:
    response = generate(stack)
    assert answer(response)["warnings"] == [] == answer(response)["warning_codes"]
    assert "x-atelier-warnings" not in response.headers


def test_the_sdk_reads_the_header(stack: Stack) -> None:
    stack.restorer.error = OutOfMemory()
    with sdk(stack.url) as client:
        raw = client.images.with_raw_response.generate(prompt="x", size="256x256")
    assert raw.headers["x-atelier-warnings"] == "restorer_failed"


def test_pages_may_read_the_header() -> None:
    with Stack(cors_origins="http://localhost:3000") as stack:
        response = generate(stack, headers={"Origin": "http://localhost:3000"})
        assert "X-Atelier-Warnings" in response.headers["access-control-expose-headers"]
