"""This dialect as the OpenAPI document shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atelier_gateway.api.automatic1111 import list_models
from atelier_gateway.api.automatic1111.drawing_answer import DrawingAnswer
from atelier_gateway.api.automatic1111.errors import Automatic1111Error
from atelier_gateway.api.automatic1111.extras import ExtraBatchAnswer, ExtraSingleAnswer
from atelier_gateway.api.automatic1111.fields import (
    EXTRA_BATCH,
    EXTRA_SINGLE,
    IMG2IMG,
    PNG_INFO,
    TXT2IMG,
    Field,
)
from atelier_gateway.api.automatic1111.options import OPTIONS
from atelier_gateway.api.automatic1111.png_info import PngInfoAnswer
from atelier_gateway.http.ignored import IGNORED_HEADER, WARNINGS_HEADER

_TAG: dict[str, Any] = {"tags": ["AUTOMATIC1111"]}
_UNREADABLE = {
    400: "The body is not a JSON object that can be read.",
    408: "The body arrived too slowly.",
    413: "The body is larger than the limit.",
    415: "The body's content type is neither JSON nor plain text.",
    429: "Too much is in flight already, or the queue is full. Retry-After says when to retry.",
    422: "A picture cannot be read, or fields are missing, out of range or not supported; each is named.",
    500: "An internal error; the request ID leads to the log line.",
}
_AWAY = {503: "A service is loading, draining or unavailable. Retry-After says when to retry."}
_WORK = {
    **_UNREADABLE,
    **_AWAY,
    504: "The deadline expired.",
}
_DRAWING = {
    **_WORK,
    400: f"{_UNREADABLE[400]} Or the sampler is unknown.",
    501: "This gateway has no generator and only restores photos. Retrying does not help.",
}
_EXTRAS = {**_WORK, 499: "The request was interrupted."}

_PIXEL = (  # a PNG of one gray pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_PROMPT = {"prompt": "a photo of a (red:1.2) apple", "negative_prompt": "blurry", "width": 256, "height": 256}
_PICTURES: Mapping[str, tuple[str, Mapping[str, Field], type, Mapping[int, str], dict[str, Any]]] = {
    "/txt2img": (
        "Draw pictures from a prompt.",
        TXT2IMG,
        DrawingAnswer,
        _DRAWING,
        {
            "small": {"summary": "With all defaults", "value": {**_PROMPT, "seed": 42}},
            "hires": {
                "summary": "A second pass at twice the size, and restored faces",
                "value": {**_PROMPT, "enable_hr": True, "hr_scale": "2", "restore_faces": True},
            },
        },
    ),
    "/img2img": (
        "Draw pictures from a picture, or a part of it anew.",
        IMG2IMG,
        DrawingAnswer,
        _DRAWING,
        {
            "inpainting": {
                "summary": "All of it",
                "value": {**_PROMPT, "init_images": [_PIXEL], "mask": _PIXEL},
            }
        },
    ),
    "/extra-single-image": (
        "Restore the faces of a picture, or upscale it.",
        EXTRA_SINGLE,
        ExtraSingleAnswer,
        _EXTRAS,
        {
            "faces": {
                "summary": "Its faces, by CodeFormer",
                "value": {"image": _PIXEL, "codeformer_visibility": "1", "codeformer_weight": 0.5},
            }
        },
    ),
    "/extra-batch-images": (
        "Restore the faces of several pictures, or upscale them.",
        EXTRA_BATCH,
        ExtraBatchAnswer,
        _EXTRAS,
        {
            "faces": {
                "summary": "Twice the size",
                "value": {"imageList": [{"data": _PIXEL, "name": "1.png"}], "upscaler_1": "Lanczos"},
            }
        },
    ),
    "/png-info": (
        "Read how a picture was made.",
        PNG_INFO,
        PngInfoAnswer,
        _UNREADABLE,
        {"pixel": {"summary": "Of a picture that does not say", "value": {"image": _PIXEL}}},
    ),
}
_LISTS: Mapping[str, tuple[str, Any]] = {
    "/sd-models": ("The loaded model set.", list[list_models.Automatic1111Model]),
    "/samplers": ("Samplers.", list[list_models.Automatic1111Sampler]),
    "/schedulers": ("Schedules.", list[list_models.Automatic1111Scheduler]),
    "/upscalers": ("Upscalers.", list[list_models.Automatic1111Upscaler]),
    "/realesrgan-models": ("Networks that upscale.", list[list_models.RealesrganModel]),
    "/loras": ("LoRAs.", list[list_models.Automatic1111Lora]),
    "/face-restorers": ("The loaded face restorer.", list[list_models.FaceRestorer]),
    "/scripts": ("There are none.", list_models.ScriptLists),
    "/embeddings": ("There are none.", list_models.EmbeddingLists),
    "/memory": ("Memory of the machine and of the generator's device.", list_models.MemoryAnswer),
    "/cmd-flags": ("What the web UI would have been started with.", dict[str, Any]),
}
_EMPTY = ("There are none: an empty list.", list[dict[str, Any]])


def body_schema(title: str, table: Mapping[str, Field]) -> dict[str, Any]:
    """Return the schema of a body. Fields that are not in the table are ignored, and named in a header."""
    properties: dict[str, Any] = {}
    for name, each in table.items():
        schema = each.kind.schema()
        if each.required:
            schema = next(part for part in schema["anyOf"] if part.get("type") != "null")
        properties[name] = {**schema, "description": each.meaning}
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": [name for name, each in table.items() if each.required],
        "additionalProperties": True,
    }


def picture_route(path: str) -> dict[str, Any]:
    """Return the OpenAPI arguments of a route that takes or returns pictures."""
    description, table, model, failures, examples = _PICTURES[path]
    title = "".join(part.capitalize() for part in path[1:].split("-")) + "Request"
    headers = {IGNORED_HEADER: _header("Fields that were ignored, by name.")}
    if table is not PNG_INFO:
        headers[WARNINGS_HEADER] = _header("Codes of the warnings.")
    content = {"schema": body_schema(title, table), "examples": examples}
    return {
        **_TAG,
        "description": description,
        "response_model": None,
        "responses": {
            200: {"model": model, "description": "Done.", "headers": headers},
            **_problems(failures),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": content}}},
    }


def _header(description: str) -> dict[str, Any]:
    return {"schema": {"type": "string"}, "description": description}


def list_route(path: str) -> dict[str, Any]:
    """Return the OpenAPI arguments of a list."""
    return _get(*_LISTS.get(path, _EMPTY))


def nothing(path: str) -> dict[str, Any]:
    """Return the OpenAPI arguments of a route that does nothing, and says null."""
    return {
        **_TAG,
        "description": "Does nothing: what is loaded stays loaded. A body is not read.",
        "response_model": None,
        "responses": {200: {"model": None, "description": "null.", "content": _NULL}},
    }


def _get(description: str, model: Any) -> dict[str, Any]:
    return {
        **_TAG,
        "description": description,
        "response_model": None,
        "responses": {200: {"model": model}, **_problems(_AWAY)},
    }


def _problems(failures: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Automatic1111Error, "description": text} for status, text in failures.items()}


_NULL: dict[str, Any] = {"application/json": {"schema": {"type": "null"}}}
_OPTIONS_SCHEMA: dict[str, Any] = {
    "title": "Automatic1111Options",
    "type": "object",
    "properties": {
        name: {**option.kind.schema(), "description": option.meaning} for name, option in OPTIONS.items()
    },
    "additionalProperties": True,
}
OPTIONS_GET = _get("The caller's options; another caller has its own.", dict[str, Any])
OPTIONS_POST: dict[str, Any] = {
    **_TAG,
    "description": "Set options of the caller, by its key, otherwise by its address. In memory.",
    "response_model": None,
    "responses": {
        200: {"description": "null.", "content": _NULL},
        **_problems(_UNREADABLE | _AWAY),
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _OPTIONS_SCHEMA}}}
    },
}
PROGRESS: dict[str, Any] = {
    **_get("How far the caller's request is, the oldest of several.", list_models.ProgressAnswer),
    "openapi_extra": {
        "parameters": [
            {
                "name": "skip_current_image",
                "in": "query",
                "description": "Without current_image.",
                "schema": {"type": "boolean", "default": False},
            }
        ]
    },
}
PROGRESS["responses"] |= _problems({422: "skip_current_image is neither true nor false."})
INTERRUPT: dict[str, Any] = {
    **_TAG,
    "description": "End the requests of the caller, and only those. Drawings that are ended return no "
    "images. "
    "A body is not read.",
    "response_model": None,
    "responses": {200: {"model": dict[str, Any]}},
}
PING = {
    **_TAG,
    "description": "The gateway is there.",
    "response_model": None,
    "responses": {200: {"model": dict[str, Any]}},
}
CONFIG = _get("The choices that clients read of the web UI's page.", dict[str, Any])
QUEUE = {**PING, "description": "Gradio's queue, which is always empty."}
LOGIN = {**PING, "description": "Anyone is let in: there are no accounts. A body is not read."}
