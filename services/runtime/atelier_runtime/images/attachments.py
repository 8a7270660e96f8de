"""What a file contains besides its image and is dropped, as sentences for the client."""

from __future__ import annotations

from collections.abc import Iterable

from atelier_runtime.images import xmp

CREDENTIALS = "content credentials (C2PA)"
_DROPPED = "Dropped from the file's metadata: "
_NAMED = 8
_SEARCHED_BYTES = 2**20  # a second image's header, or a video's
_GAIN_MAP_WORDS = (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496:-1")
_SAMSUNG_END = b"SEFT"
_PADDING = b"\0\xff \t\r\n"


def sentences(
    names: Iterable[str], trailer: bytes, announced: Iterable[str] = (), *, has_gain_map: bool = False
) -> tuple[str, ...]:
    """Return a sentence for each kind of thing that is dropped.

    Args:
        names: Parts of the file that are not kept.
        trailer: What follows the image.
        announced: What its XMP says there is besides the image, of `xmp`'s names.
        has_gain_map: Whether a segment announces one.
    """
    found = []
    rest = trailer.strip(_PADDING)
    announced = set(announced)
    if has_gain_map or xmp.GAIN_MAP in announced or any(word in rest for word in _GAIN_MAP_WORDS):
        found.append("The gain map was dropped: it belongs to the old image. The result is not HDR.")
    if xmp.VIDEO in announced or _has_video(trailer):
        found.append("The video of the motion photo was dropped.")
    if not found and rest:
        what = "data"
        if b"\xff\xd8\xff" in trailer[:_SEARCHED_BYTES]:
            what = "further images (previews, depth maps)"
        found.append(f"{len(rest)} bytes after the end of the image, {what}, were dropped.")
    elif not found and xmp.FURTHER_IMAGES in announced:
        found.append("The further images that XMP announces were dropped.")
    names = list(dict.fromkeys(names))
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found.append(f"{_DROPPED}{', '.join(names[:_NAMED])}{more}.")
    return tuple(found)


def without_credentials(sentence: str) -> str | None:
    """Return a sentence of `sentences` that does not call content credentials dropped.

    None: it says nothing else.
    """
    if not sentence.startswith(_DROPPED):
        return sentence
    if sentence == f"{_DROPPED}{CREDENTIALS}.":
        return None
    for named in (f"{CREDENTIALS}, ", f", {CREDENTIALS}"):
        if named in sentence:
            return sentence.replace(named, "", 1)
    return sentence


def _has_video(trailer: bytes) -> bool:
    padding = len(trailer) - len(trailer.lstrip(_PADDING))
    # The box begins with its length, which may look like padding.
    if b"ftyp" in trailer[padding : padding + 8]:
        return True
    return trailer.rstrip(_PADDING).endswith(_SAMSUNG_END) and b"MotionPhoto_Data" in trailer
