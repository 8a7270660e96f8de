"""The OpenAPI document and the page that shows it; the page's scripts come from this process, not a CDN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from atelier_gateway.answers import REPORT_HEADER, GenerateAnswer, Problem
from atelier_gateway.schema import openapi_request_schema

DESCRIPTION = """
Draws pictures from words with SDXL and restores the faces in them, and in photographs, with CodeFormer.

From a shell:
```
curl -s http://localhost:7860/generate -H 'Content-Type: application/json' \\
  -H 'Accept: image/png' -o portrait.png -d '{"prompt": "professional headshot of a woman", "seed": 42}'
```

A photograph, as a file or in JSON (`/detect` and `/compare` take the same):
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

_ASSETS = "/docs/assets"

FAILURES = {
    400: "The body is no JSON object.",
    413: "The body is larger than the limit.",
    415: "The body's content type is not JSON or plain text.",
    422: "Fields are missing, unknown or out of range; each of them is named.",
    429: "Every place in the queue is taken. Retry-After says when to come back.",
    500: "Something went wrong on our side; the request id leads to the log line.",
    503: "A stage is loading, draining or away, or the device's memory does not suffice.",
    504: "The deadline passed.",
}

_EXAMPLES: dict[str, Any] = {
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
    "older": {
        "summary": "Older names; the answer has image_base64 too",
        "value": {"prompt": "sunset over mountains", "steps": 30, "cfg_scale": 7.5, "use_hires_fix": False},
    },
}


def generate_route() -> dict[str, Any]:
    """Return the OpenAPI arguments of `POST /generate`, for FastAPI's route decorator."""
    return {
        "response_model": None,
        "responses": {
            200: picture_answer(GenerateAnswer, "The answer without picture and prompt, ASCII JSON."),
            **{status: {"model": Problem, "description": text} for status, text in FAILURES.items()},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "description": "JSON, whether Content-Type is application/json, text/plain or absent.",
                "content": {"application/json": {"schema": openapi_request_schema(), "examples": _EXAMPLES}},
            }
        },
    }


def picture_answer(model: type[BaseModel], header: str) -> dict[str, Any]:
    """Describe an answer that is JSON or a picture's file."""
    file = {"schema": {"type": "string", "format": "binary"}}
    return {
        "model": model,
        "description": "The picture: as JSON, or as a file where Accept prefers an image type.",
        "headers": {REPORT_HEADER: {"schema": {"type": "string"}, "description": header}},
        "content": {"image/png": file, "image/jpeg": file, "image/webp": file},
    }


def add_docs_page(app: FastAPI) -> None:
    """Serve Swagger UI at /docs."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} - API",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon.png",
        )

    app.mount(_ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))
