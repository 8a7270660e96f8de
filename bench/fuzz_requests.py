"""Makes requests that `bench.fuzz` draws at random ones that are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEXT_FILE = "text, in place of a file"
"""What schemathesis puts where a form has a file."""


def make_served(case: Any, jobs: Sequence[str], picture: bytes) -> None:
    """Make a request one that takes little, name a job that there is, and let files be a picture."""
    if jobs and isinstance(case.path_parameters, dict) and "job_id" in case.path_parameters:
        case.path_parameters["job_id"] = jobs[-1]
    if not isinstance(body := case.body, dict):
        return
    case.body = body = {name: _with_file(value, picture) for name, value in body.items()}
    if case.path == "/v1/jobs":
        body |= {"type": "generate", "input": {"prompt": "a cat"}}
    inner = body["input"] if isinstance(body.get("input"), dict) else body
    small = {"width": 256, "height": 256, "size": "256x256", "num_inference_steps": 1, "steps": 1}
    inner.update({name: value for name, value in small.items() if name in inner})
    if case.path in ("/generate", "/v1/jobs", "/sdapi/v1/txt2img"):
        inner |= {"width": 256, "height": 256}


def _with_file(value: Any, picture: bytes) -> Any:
    if isinstance(value, list):
        return [_with_file(each, picture) for each in value]
    return picture if value == TEXT_FILE else value
