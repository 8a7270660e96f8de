"""What is written into a picture, and what is found in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atelier_runtime.images.picture import Format

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""IPTC's vocabulary of where a picture comes from."""
DRAWN = f"{SOURCE_TYPES}trainedAlgorithmicMedia"
"""All of it was made by a network."""
COMPOSITE = f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
"""A photograph, parts of which were made by a network."""

VERSION = 1
"""Of recipes. Whoever reads a higher one than they know leaves it alone."""
MAX_PREVIOUS = 8
"""So many earlier recipes are kept in one that builds on them; `of` of the last is then null."""


@dataclass(frozen=True)
class Marks:
    """What `mark` adds to a file.

    `recipe`: a JSON object. `infotext`: see `infotext`. `source_type`: a term of IPTC's, which replaces that
    of the file, but a picture that was drawn stays one; None: the file's own stays. `builds_on`: an earlier
    recipe of the file becomes `of` of the new one.
    """

    recipe: Mapping[str, Any] | None = None
    infotext: str | None = None
    source_type: str | None = None
    builds_on: bool = False


@dataclass(frozen=True)
class FoundMarks:
    """What a file says of how it was made. Anyone may have written it: nothing of it is trusted.

    `format`: the file's. `recipe`: ours, a JSON object. `infotext`: AUTOMATIC1111's. `items`: every text by
    its name, such as ComfyUI's `prompt` and `workflow`. `source_type`: IPTC's. `has_credentials`: there is a
    C2PA manifest in it, which is not verified here. `omitted`: names of what is too large to show, or
    corrupt.
    """

    format: Format
    recipe: dict[str, Any] | None = None
    infotext: str | None = None
    items: dict[str, str] = field(default_factory=dict)
    source_type: str | None = None
    has_credentials: bool = False
    omitted: tuple[str, ...] = ()


def building_on(recipe: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a recipe with an earlier one as its `of`, of which at most `MAX_PREVIOUS` are kept."""
    if earlier is None:
        return dict(recipe)
    chain: list[Mapping[str, Any]] = []
    while isinstance(earlier, Mapping) and len(chain) < MAX_PREVIOUS:
        chain.append(earlier)
        earlier = earlier.get("of")
    kept: dict[str, Any] | None = None
    for number, link in enumerate(reversed(chain)):
        is_last = number == 0
        kept = {**link, "of": kept} if "of" in link or not is_last else dict(link)
    return {**recipe, "of": kept}
