"""The OpenAPI document's part on `POST /restore`, `/detect` and `/compare`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from atelier_gateway.answers import Problem
from atelier_gateway.checking import Checker
from atelier_gateway.documentation import FAILURES, picture_answer
from atelier_gateway.photo_answers import CompareAnswer, DetectAnswer, RestoreAnswer
from atelier_gateway.photo_schema import COMPARE, DETECT, RESTORE, openapi_form_schema, openapi_json_schema

_FAILURES = {
    **FAILURES,
    400: "The body is no JSON object and no form that can be read.",
    415: "The body's content type is not JSON, plain text or multipart/form-data.",
    422: "The picture cannot be read, or fields are missing, unknown or out of range; each of them is named.",
}
_PIXEL = (  # a PNG of one gray pixel, for the examples
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_FACE: dict[str, Any] = {
    "index": 0,
    "box": [210.5, 120.25, 310.5, 255.75],
    "landmarks": [[238.1, 172.4], [283.9, 172.0], [261.2, 201.3], [243.0, 224.8], [280.1, 224.5]],
    "confidence": 0.998,
    "size_px": 100.0,
    "sharpness": 41.7,
    "roll_degrees": -0.5,
}
_RESTORE_EXAMPLES: dict[str, Any] = {
    "all": {"summary": "Every face, with all defaults", "value": {"image": _PIXEL}},
    "plan": {
        "summary": "The faces of /detect sent back: one nearer to the original, one left alone",
        "value": {
            "image": _PIXEL,
            "faces": [{**_FACE, "fidelity": 0.9}, {**_FACE, "index": 1, "skip": True}],
            "return_mask": True,
        },
    },
    "rule": {
        "summary": "The largest face only, half of it the original, twice the size",
        "value": {"image": _PIXEL, "rule": "largest", "visibility": 0.5, "upscale": 2},
    },
}
_DETECT_EXAMPLES: dict[str, Any] = {
    "all": {"summary": "With all defaults", "value": {"image": _PIXEL}},
    "unsure": {
        "summary": "Unsure faces too, looked for in the picture's own size",
        "value": {"image": _PIXEL, "min_confidence": 0.5, "detect_size": 0},
    },
}
_COMPARE_EXAMPLES: dict[str, Any] = {
    "sweep": {"summary": "Four looks", "value": {"image": _PIXEL, "fidelities": [0.2, 0.5, 0.8, 1.0]}}
}


def photo_route(path: str) -> dict[str, Any]:
    """Return the OpenAPI arguments of one of the three routes, for FastAPI's route decorator."""
    checker, examples, answer = _ROUTES[path]
    return {
        "response_model": None,
        "responses": {
            200: answer,
            **{status: {"model": Problem, "description": text} for status, text in _FAILURES.items()},
        },
        "openapi_extra": {"requestBody": _request_body(checker, examples)},
    }


def _request_body(checker: Checker[Any], examples: dict[str, Any]) -> dict[str, Any]:
    form = openapi_form_schema(checker)
    as_json = {"contentType": "application/json"}
    nested = {name: as_json for name, field in form["properties"].items() if field.get("type") == "array"}
    return {
        "required": True,
        "description": "JSON, whether Content-Type is application/json, text/plain or absent, the picture "
        "as base64 or data URI; or a form with the picture as a file, lists written as JSON.",
        "content": {
            "application/json": {"schema": openapi_json_schema(checker), "examples": examples},
            "multipart/form-data": {"schema": form, **({"encoding": nested} if nested else {})},
        },
    }


def _json_answer(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"model": model, "description": f"{description} JSON, whatever Accept says."}


_ROUTES: dict[str, tuple[Checker[Any], dict[str, Any], dict[str, Any]]] = {
    "/restore": (
        RESTORE,
        _RESTORE_EXAMPLES,
        picture_answer(RestoreAnswer, "The answer without the pictures, ASCII JSON."),
    ),
    "/detect": (DETECT, _DETECT_EXAMPLES, _json_answer(DetectAnswer, "The faces.")),
    "/compare": (
        COMPARE,
        _COMPARE_EXAMPLES,
        _json_answer(CompareAnswer, "The picture at each fidelity."),
    ),
}
