"""`png-info`: what a picture says of how it was made, ours and other programs'."""

from __future__ import annotations

import io
import re
from typing import Any

import orjson
from PIL import Image
from pydantic import BaseModel, Field

from atelier_runtime.errors import InvalidRequest

_SETTING = re.compile(r'\s*([\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


class PngInfoAnswer(BaseModel):
    """What png-info returns."""

    info: str = Field(description="The infotext; empty where there is none.")
    items: dict[str, Any] = Field(description="All texts in the file.")
    parameters: dict[str, Any] = Field(description="The infotext's settings, by name.")


def png_info_body(file: bytes) -> bytes:
    """Return the response as JSON. Reads a file: not for the event loop."""
    info, items = read_texts(file)
    return orjson.dumps({"info": info, "items": items, "parameters": read_parameters(info)})


def read_texts(file: bytes) -> tuple[str, dict[str, str]]:
    """Return the infotext of a file, and all its texts. Raises `InvalidRequest` if it is no picture."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            texts = {
                name: value
                for name, value in image.info.items()
                if isinstance(name, str) and isinstance(value, str)
            }
    except (OSError, ValueError, SyntaxError):
        raise InvalidRequest.of("image", "cannot be read: it is no PNG, JPEG or WebP file") from None
    return texts.get("parameters", ""), texts


def read_parameters(infotext: str) -> dict[str, str]:
    """Return the settings of an infotext, the prompts among them."""
    lines = infotext.strip().split("\n")
    settings = lines.pop() if len(_SETTING.findall(lines[-1])) > 2 else ""
    text = "\n".join(lines)
    prompt, _, negative = text.partition("Negative prompt:")
    found = {name.strip(): value.strip('"') for name, value in _SETTING.findall(settings)}
    return {"Prompt": prompt.strip(), "Negative prompt": negative.strip(), **found} if infotext else {}
