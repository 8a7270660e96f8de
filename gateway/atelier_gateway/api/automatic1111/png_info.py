"""`png-info`: what a picture says of how it was made, ours and other programs'."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel, Field

from atelier_runtime.recipes import read_marks
from atelier_runtime.recipes.infotext import read as read_infotext
from atelier_runtime.recipes.reading import COMMENT


class PngInfoAnswer(BaseModel):
    """What png-info returns."""

    info: str = Field(description="The infotext; empty where there is none.")
    items: dict[str, Any] = Field(description="All other texts in the file, by their names.")
    parameters: dict[str, Any] = Field(description="The infotext's settings, by name.")


def png_info_body(file: bytes) -> bytes:
    """Return the response as JSON. Reads a file: not for the event loop.

    Raises `InvalidRequest` if it is no PNG, JPEG or WebP file.
    """
    found = read_marks(file)
    info = found.infotext or found.items.get(COMMENT, "")  # any comment, as the web UI does
    items = {name: text for name, text in found.items.items() if name != "parameters"}
    return orjson.dumps({"info": info, "items": items, "parameters": read_infotext(info) if info else {}})
