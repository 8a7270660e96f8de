"""`dry_run` of `POST /generate`: the same checks, and what the request would take instead of an image."""

from __future__ import annotations

from typing import Any

import pytest

from atelier_runtime.errors import AtelierError, FieldViolation, InvalidRequest, QueueFull, ServiceNotReady
from tests.contract.problem_body import problem
from tests.contract.stack import Stack

SECONDS = {"expected": 12.5, "low": 11.0, "high": 15.0}


def estimate(stack: Stack, **body: Any) -> dict[str, Any]:
    response = stack.generate(dry_run=True, **body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_it_returns_what_the_request_would_take(stack: Stack) -> None:
    answer = estimate(stack, use_face_restoration=False, num_images=2, sampler="heun", hires_fix=True)
    assert answer["request_id"]
    del answer["request_id"]
    assert answer == {
        "success": True,
        "dry_run": True,
        "model": "demo",
        "sampler": "heun",
        "schedule": "trailing",
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
        "num_images": 2,
        "final_resolution": "384x384",
        "passes": [{"stage": "base", "resolution": "256x192", "steps": 3}],
        "seconds": SECONDS,
        "queue_wait_seconds": 40.25,
        "generation": {
            "seconds": SECONDS,
            "observations": 3,
            "peak_vram_bytes": 7 * 2**30,
            "stages": [{"stage": "base", "seconds": SECONDS}],
        },
        "restoration": None,
        "warnings": [],
        "warning_codes": [],
    }
    [message] = stack.generator.requests
    assert message.request.sampler == "heun" and message.request.num_images == 2
    assert not stack.restorer.requests


def test_the_restoration_is_estimated_from_the_calls_that_were_made() -> None:
    with Stack() as stack:
        answer = estimate(stack)
        assert answer["restoration"] == {"seconds": None, "observations": 0}
        assert answer["seconds"] == SECONDS, "of what is known"
        assert not stack.restorer.requests
        assert stack.generate().status_code == 200
        answer = estimate(stack, num_images=4)
        restoration = answer["restoration"]
        assert restoration["observations"] == 1
        for name, value in SECONDS.items():
            assert answer["seconds"][name] == pytest.approx(value + restoration["seconds"][name], abs=0.002)
        assert len(stack.restorer.requests) == 1
        assert estimate(stack, use_face_restoration=False)["restoration"] is None
        assert estimate(stack, upscale=2)["final_resolution"] == "512x512"


@pytest.mark.parametrize("accept", ["image/png", "image/*"])
def test_it_is_json_whatever_accept_prefers(stack: Stack, accept: str) -> None:
    response = stack.generate(headers={"Accept": accept}, dry_run=True)
    assert response.headers["content-type"] == "application/json" and response.json()["dry_run"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"width": 100}, "width"),
        ({"hires_fix": True, "hires_fix_simple": True}, "hires_fix"),
        ({"num_images": 8, "width": 2048, "height": 2048, "upscale": 2}, "num_images"),
        ({"model": "another"}, "model"),
    ],
)
def test_it_refuses_what_generating_refuses(stack: Stack, body: dict[str, Any], field: str) -> None:
    error = problem(stack.generate(dry_run=True, **body), 422, "invalid_request")
    assert field in [violation["field"] for violation in error["fields"]]
    without = problem(stack.generate(**body), 422, "invalid_request")
    assert error["fields"] == without["fields"]
    assert not stack.generator.requests


def test_the_fields_that_the_generator_refuses_have_the_clients_names(stack: Stack) -> None:
    stack.generator.error = InvalidRequest([FieldViolation("num_inference_steps", "must be at most 50")])
    error = problem(stack.generate(dry_run=True, steps=60), 422, "invalid_request")
    assert [violation["field"] for violation in error["fields"]] == ["steps"]


@pytest.mark.parametrize(
    ("failure", "status"), [(ServiceNotReady(retry_after_s=7), 503), (QueueFull(retry_after_s=3), 429)]
)
def test_errors_are_those_of_every_call(stack: Stack, failure: AtelierError, status: int) -> None:
    stack.generator.error = failure
    response = stack.generate(dry_run=True)
    assert response.status_code == status and response.headers["retry-after"] in ("3", "7")


def test_only_a_boolean_is_one(stack: Stack) -> None:
    error = problem(stack.generate(dry_run="perhaps"), 422, "invalid_request")
    assert [violation["field"] for violation in error["fields"]] == ["dry_run"]
