"""Takes our own marks out of a picture again: what a photo said of itself before is not touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atelier_runtime.images import metadata, text, xmp
from atelier_runtime.images.picture import ImageFault, Picture
from atelier_runtime.recipes import packet, user_comment
from atelier_runtime.recipes.drawing import KIND
from atelier_runtime.recipes.marks import COMPOSITE, DRAWN
from atelier_runtime.recipes.splicing import PARAMETERS

_OUR_END = re.compile(r"\bVersion: Atelier [^,\n]*\s*\Z")


def without_own_marks(picture: Picture) -> Picture:
    """Return a picture without recipes, infotexts and source types that Atelier has written into its file.

    A source type is ours if a recipe says that we made what it says. Other programs' texts stay.
    """
    texts = tuple(chunk for chunk in picture.texts if not _is_our_text(*chunk))
    exif = picture.exif
    if exif is not None and _is_our_block(metadata.without_prefix(exif)):
        exif = None
    return _without_properties(replace(picture, texts=texts, exif=exif))


def _is_our_text(kind: bytes, data: bytes) -> bool:
    if text.keyword(data) != PARAMETERS:
        return False
    said = text.content(kind, data) or b""
    return _is_our_infotext(said.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace"))


def _is_our_block(block: bytes) -> bool:
    return user_comment.is_ours(block) and _is_our_infotext(user_comment.read(block).get("UserComment", ""))


def _is_our_infotext(said: str) -> bool:
    return _OUR_END.search(said) is not None


def _without_properties(picture: Picture) -> Picture:
    written, extension = picture.xmp, picture.extended_xmp
    if written is None:
        return picture
    marker = packet.NAMESPACE.encode()
    try:
        if extension is not None and marker in extension:
            written, extension = xmp.merge(written, extension), None
        if marker not in written:
            return picture
        found = packet.read(written)
        removed = {packet.RECIPE}
        if found.infotext is not None and _is_our_infotext(found.infotext):
            removed.add(packet.INFOTEXT)
        if _is_ours(found.source_type, found.recipe):
            removed.add(packet.SOURCE_TYPE)
        return replace(picture, xmp=packet.without(written, removed), extended_xmp=extension)
    except ImageFault:  # a packet that cannot be read: nobody finds a recipe in it
        return picture


def _is_ours(source_type: str | None, recipe: Mapping[str, Any] | None) -> bool:
    if source_type == COMPOSITE:
        return recipe is not None
    while source_type == DRAWN and isinstance(recipe, Mapping):
        if recipe.get("kind") == KIND:
            return True
        recipe = recipe.get("of")
    return False
