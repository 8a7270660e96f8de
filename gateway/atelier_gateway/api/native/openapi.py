"""The contract as the OpenAPI document shows it: descriptions, failures, examples."""

from __future__ import annotations

from types import UnionType
from typing import Any

from pydantic import BaseModel

from atelier_gateway.api.native.errors import Problem
from atelier_gateway.api.native.estimate_response import EstimateAnswer
from atelier_gateway.api.native.faces_request import COMPARE, DETECT, RESTORE
from atelier_gateway.api.native.faces_response import CompareAnswer, DetectAnswer, RestoreAnswer
from atelier_gateway.api.native.generate_request import GENERATE
from atelier_gateway.api.native.generate_response import GenerateAnswer
from atelier_gateway.api.native.report import REPORT_HEADER
from atelier_gateway.http import schemas
from atelier_gateway.http.validation import Validator

DESCRIPTION = """
Generates images from text with SDXL and restores the faces in them, and in photos, with CodeFormer.

From a shell:
```
curl -s http://localhost:7860/generate -H 'Content-Type: application/json' \\
  -H 'Accept: image/png' -o portrait.png -d '{"prompt": "professional headshot of a woman", "seed": 42}'
```

A photo, as a file or in JSON (`/detect` and `/compare` take the same):
```
curl -s http://localhost:7860/restore -F image=@portrait.png -F fidelity=0.7 \\
  -H 'Accept: image/*' -o restored.png
```

From a React page (its origin must be in `ATELIER_GATEWAY_CORS_ORIGINS`):
```
const response = await fetch('http://localhost:7860/generate', {
  method: 'POST',
  body: JSON.stringify({prompt: 'professional headshot of a woman', hires_fix: true}),
});
const answer = await response.json();
if (!answer.success) throw new Error(answer.error.message);
setImage(answer.image);   // <img src={image} />
```
"""

_FAILURES = {
    400: "The body is neither a JSON object nor a form that can be read.",
    408: "The body arrived too slowly.",
    413: "The body is larger than the limit.",
    415: "The body's content type is not JSON, plain text or multipart/form-data.",
    422: "An image cannot be read, or fields are missing, unknown or out of range; each of them is named.",
    429: "The queue is full. Retry-After says when to retry.",
    500: "An internal error; the request ID leads to the log line.",
    503: "A service is loading, draining or unavailable, or the device does not have enough memory.",
    504: "The deadline expired.",
}

_NO_GENERATOR = {
    501: "This gateway has no generator and only restores photos; see restores_only in /health. Retrying "
    "does not help."
}

_PIXEL = (  # a PNG of one gray pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_GENERATE_EXAMPLES: dict[str, Any] = {
    "portrait": {
        "summary": "A portrait with all defaults",
        "value": {"prompt": "professional headshot of a woman", "seed": 42},
    },
    "hires": {
        "summary": "1024 -> 1536 with restored faces",
        "value": {
            "prompt": "businessman in suit",
            "negative_prompt": "blurry",
            "hires_fix": True,
            "face_restoration_weight": 0.7,
        },
    },
    "several": {
        "summary": "Four images with the seeds 42 to 45, in images",
        "value": {"prompt": "professional headshot of a woman", "seed": 42, "num_images": 4},
    },
    "dry_run": {
        "summary": "What it would take; nothing is generated",
        "value": {"prompt": "professional headshot of a woman", "hires_fix": True, "dry_run": True},
    },
    "inpainting": {
        "summary": "A part of an image drawn anew; a white mask of the image's size is all of it",
        "value": {"prompt": "sharp eyes", "image": _PIXEL, "mask": _PIXEL, "width": 512, "height": 512},
    },
    "older": {
        "summary": "Aliases; the response has image_base64 too",
        "value": {"prompt": "sunset over mountains", "steps": 30, "cfg_scale": 7.5, "use_hires_fix": False},
    },
}

_FACE: dict[str, Any] = {
    "index": 0,
    "box": [210.5, 120.25, 310.5, 255.75],
    "landmarks": [[238.1, 172.4], [283.9, 172.0], [261.2, 201.3], [243.0, 224.8], [280.1, 224.5]],
    "confidence": 0.998,
    "size_px": 100.0,
    "sharpness": 41.7,
    "roll_degrees": -0.5,
    "orientation_unclear": False,
}
_RESTORE_EXAMPLES: dict[str, Any] = {
    "all": {"summary": "Every face, with all defaults", "value": {"image": _PIXEL}},
    "plan": {
        "summary": "The faces of /detect sent back: one closer to the original, one left alone",
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
        "summary": "Faces of low confidence too, detected at full resolution",
        "value": {"image": _PIXEL, "min_confidence": 0.5, "detect_size": 0},
    },
}
_COMPARE_EXAMPLES: dict[str, Any] = {
    "sweep": {"summary": "Four fidelities", "value": {"image": _PIXEL, "fidelities": [0.2, 0.5, 0.8, 1.0]}}
}


ONE_PICTURE: dict[str, Any] = {"one": {"summary": "A picture", "value": {"image": _PIXEL}}}


def failures() -> dict[int, dict[str, Any]]:
    """Return the document's part for what can be wrong with a request that needs no service's answer."""
    return problems({status: text for status, text in _FAILURES.items() if status not in (503,)})


def generate_route() -> dict[str, Any]:
    """Return the OpenAPI arguments of `POST /generate`, for FastAPI's route decorator."""
    return {
        "description": "Generate images, restore their faces, and return them with a report.",
        "tags": ["pictures"],
        "response_model": None,
        "responses": {
            200: _image_or_json(
                GenerateAnswer | EstimateAnswer, "The response without image and prompt, ASCII JSON."
            ),
            **problems(_FAILURES | _NO_GENERATOR),
        },
        "openapi_extra": {"requestBody": request_body(GENERATE, _GENERATE_EXAMPLES)},
    }


def photo_route(path: str) -> dict[str, Any]:
    """Return the OpenAPI arguments of `/restore`, `/detect` or `/compare`, for FastAPI's route decorator."""
    description, validator, examples, response = _PHOTO_ROUTES[path]
    return {
        "description": description,
        "tags": ["photographs"],
        "response_model": None,
        "responses": {200: response, **problems(_FAILURES)},
        "openapi_extra": {"requestBody": request_body(validator, examples)},
    }


def request_body(validator: Validator[Any], examples: dict[str, Any]) -> dict[str, Any]:
    """Return the document's part for a body that is JSON or a form."""
    arguments = validator.model.__name__, validator.schema, validator.aliases
    form = schemas.form_schema(*arguments)
    as_json = {"contentType": "application/json"}
    types = ("array", "object")
    nested = {name: as_json for name, field in form["properties"].items() if field.get("type") in types}
    return {
        "required": True,
        "description": "JSON, whether Content-Type is application/json, text/plain or absent, with images as "
        "base64 or data URIs; or a form with images as files and lists as JSON.",
        "content": {
            "application/json": {"schema": schemas.body_schema(*arguments), "examples": examples},
            "multipart/form-data": {"schema": form, **({"encoding": nested} if nested else {})},
        },
    }


def problems(failures: dict[int, str]) -> dict[int, dict[str, Any]]:
    """Return the document's part for failures, by their status."""
    return {status: {"model": Problem, "description": text} for status, text in failures.items()}


def _image_or_json(model: type[BaseModel] | UnionType, report: str) -> dict[str, Any]:
    file = {"schema": {"type": "string", "format": "binary"}}
    return {
        "model": model,
        "description": "The image: as JSON, or as a file if Accept prefers an image type.",
        "headers": {REPORT_HEADER: {"schema": {"type": "string"}, "description": report}},
        "content": {"image/png": file, "image/jpeg": file, "image/webp": file},
    }


def _json_only(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"model": model, "description": f"{description} JSON, whatever Accept prefers."}


_PHOTO_ROUTES: dict[str, tuple[str, Validator[Any], dict[str, Any], dict[str, Any]]] = {
    "/restore": (
        "Restore the faces of a photo, and return it with a report.",
        RESTORE,
        _RESTORE_EXAMPLES,
        _image_or_json(RestoreAnswer, "The response without the images, ASCII JSON."),
    ),
    "/detect": (
        "Find the faces of a photo and change nothing.",
        DETECT,
        _DETECT_EXAMPLES,
        _json_only(DetectAnswer, "The faces."),
    ),
    "/compare": (
        "Restore a photo at up to 8 fidelities, for little more than the cost of one.",
        COMPARE,
        _COMPARE_EXAMPLES,
        _json_only(CompareAnswer, "The image at each fidelity."),
    ),
}
