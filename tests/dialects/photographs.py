"""A photograph for the tests of dialects."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

RUINED = Path(__file__).parents[2] / "docs" / "ruined.png"


def photograph() -> Image.Image:
    """Return a photograph of a face in pixels without alpha, and without texts in its file."""
    with Image.open(RUINED) as image:
        found = image.convert("RGB")
    found.info = {}
    return found
