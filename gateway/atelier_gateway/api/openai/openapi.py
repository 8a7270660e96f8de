"""OpenAI's routes as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from atelier_gateway.api.native.generate_request import ALIASES as GENERATE_ALIASES
from atelier_gateway.api.openai.errors import OpenAIErrorAnswer
from atelier_gateway.api.openai.fields import EDIT_ONLY, EXTENSIONS, EXTRA_BODY, FORM
from atelier_gateway.api.openai.pictures import MOST_IMAGES
from atelier_gateway.api.openai.response import MODEL_HEADER, ImagesAnswer
from atelier_gateway.http import schemas
from atelier_gateway.http.ignored import IGNORED_HEADER, WARNINGS_HEADER

_TAG: dict[str, Any] = {"tags": ["openai"]}
_FAILURES = {
    400: "A field is missing or out of range, or cannot be done here; param is the first one of them.",
    408: "The body arrived too slowly.",
    413: "The body is larger than the limit.",
    415: "The body's content type is not JSON, plain text or multipart/form-data.",
    429: "The queue is full. Retry-After says when to retry.",
    500: "An internal error; the request ID leads to the log line.",
    501: "This gateway has no generator and only restores photos. Retrying does not help.",
    503: "A service is loading, draining or unavailable, or the device does not have enough memory.",
    504: "The deadline expired.",
}
_SIZE = {"pattern": "^(auto|[0-9]{3,4}x[0-9]{3,4})$"}
_EXTRA = {
    EXTRA_BODY: {
        "type": "object",
        "description": "More fields, as if they stood beside it; not together with another value there.",
    }
}
_DATA_URL = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "description": "A data URL."}},
    "required": ["image_url"],
    "additionalProperties": False,
}
_PICTURE = {"type": "string", "format": "byte"}
_EXAMPLES: dict[str, Any] = {
    "portrait": {
        "summary": "As OpenAI's clients send it",
        "value": {"model": "gpt-image-1", "prompt": "professional headshot of a woman", "size": "1024x1024"},
    },
    "extended": {
        "summary": "With fields of /generate beside OpenAI's",
        "value": {
            "prompt": "professional headshot of a woman",
            "size": "512x512",
            "seed": 42,
            "negative_prompt": "blurry",
            "num_inference_steps": 20,
            "face_restoration_weight": 0.7,
        },
    },
}


def generations_route() -> dict[str, Any]:
    """Return the OpenAPI arguments of `POST /v1/images/generations`, for FastAPI's route decorator."""
    return _images_route("Draw images from text.", _body("ImageGeneration", edits=False))


def edits_route() -> dict[str, Any]:
    """Return the OpenAPI arguments of `POST /v1/images/edits`, for FastAPI's route decorator."""
    text = "Draw an image anew: the part that a mask leaves transparent, or without a mask all of it."
    return _images_route(text, _body("ImageEdit", edits=True))


def variations_route() -> dict[str, Any]:
    """Return the OpenAPI arguments of `POST /v1/images/variations`."""
    return {
        **_TAG,
        "description": "Always refused: OpenAI has retired it, and edits draw variations of an image.",
        "deprecated": True,
        "status_code": 400,
        "response_model": None,
        "responses": _failures({400: "Use edits; the code is unsupported_endpoint."}),
    }


def models_route(answer: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI arguments of `GET /v1/models`."""
    failures = {status: _FAILURES[status] for status in (500, 503)}
    return {
        **_TAG,
        "description": "List the loaded model set.",
        "response_model": answer,
        "responses": _failures(failures),
    }


def model_route(answer: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI arguments of `GET /v1/models/{model}`."""
    route = models_route(answer)
    name = {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "As its `id`.",
        "schema": {"type": "string"},
    }
    return {
        **route,
        "description": "Look a model up.",
        "responses": {**route["responses"], **_failures({404: "There is no such model."})},
        "openapi_extra": {"parameters": [name]},
    }


def _images_route(description: str, body: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    return {
        **_TAG,
        "description": description,
        "response_model": None,
        "responses": {
            200: {
                "model": ImagesAnswer,
                "description": "The images; with stream, server-sent events.",
                "headers": {
                    MODEL_HEADER: {"schema": text, "description": "The model set that drew."},
                    IGNORED_HEADER: {"schema": text, "description": "Fields that had no effect."},
                    WARNINGS_HEADER: {"schema": text, "description": "The codes of the answer's warnings."},
                },
                "content": {"text/event-stream": {}},  # checked as objects where there is a schema
            },
            **_failures(_FAILURES),
        },
        "openapi_extra": {"requestBody": body},
    }


def _failures(texts: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": OpenAIErrorAnswer, "description": text} for status, text in texts.items()}


def _body(title: str, *, edits: bool) -> dict[str, Any]:
    """Return the document's part for a body. Fields that are not in it are ignored, not refused."""
    extensions = {name: field for name, field in EXTENSIONS.items() if edits or name not in EDIT_ONLY}
    own = {**FORM.properties, "size": {**FORM.properties["size"], **_SIZE}}
    required = ["prompt", "image"] if edits else ["prompt"]
    schema = {"properties": {**own, **_EXTRA, **extensions}, "required": required}
    in_json = schemas.body_schema(title, schema, {**GENERATE_ALIASES})
    in_form = schemas.form_schema(title, schema, {**GENERATE_ALIASES})
    if edits:
        _add_pictures(in_json["properties"])
    for each in (in_json, in_form):
        each["additionalProperties"] = True
    as_json = {"contentType": "application/json"}
    nested = {
        name: as_json
        for name, field in in_form["properties"].items()
        if field.get("type") in ("array", "object")
    }
    examples = {} if edits else {"examples": _EXAMPLES}
    return {
        "required": True,
        "description": "JSON, or a form with images as files, and lists and objects as JSON.",
        "content": {
            "application/json": {"schema": in_json, **examples},
            "multipart/form-data": {"schema": in_form, "encoding": nested},
        },
    }


def _add_pictures(properties: dict[str, Any]) -> None:
    """Say what JSON may have in place of files."""
    null = {"type": "null"}
    one = {"type": "array", "minItems": MOST_IMAGES, "maxItems": MOST_IMAGES}
    text = properties["image"]["description"]
    properties["image"] = {"anyOf": [_PICTURE, {**one, "items": _PICTURE}], "description": text}
    properties["mask"] = {**properties["mask"], "anyOf": [_PICTURE, _DATA_URL, null]}
    properties["images"] = {
        "anyOf": [{**one, "items": _DATA_URL}, null],
        "description": "In place of image: a list of one object, whose image_url is a data URL.",
    }
