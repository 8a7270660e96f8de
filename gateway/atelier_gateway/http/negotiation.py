"""Decides by the Accept header whether the response is JSON, or an image file or a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import FORMATS, Format

MEDIA_TYPES: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

_FORMAT_OF: dict[str, Format | Literal["any"]] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/webp": "webp",
    "image/*": "any",
}
_QUALITY = re.compile(r"[01](\.\d{0,3})?")


def preferred_format(accept: str | None) -> Format | None:
    """Return the image format that an Accept header prefers to JSON, png for `image/*`; None for JSON.

    Raises like `preferred_image`.
    """
    preferred = preferred_image(accept)
    return "png" if preferred == "any" else preferred


def preferred_image(accept: str | None) -> Format | Literal["any"] | None:
    """Return the image format that an Accept header prefers to JSON, "any" for `image/*`; None for JSON.

    An image is preferred if its type or `image/*` has a higher quality than JSON (RFC 9110, section 12.5.1);
    at equal quality JSON wins where it is named, the image where JSON is only covered by `*/*`. Among image
    types the higher quality wins, then a full name over `image/*`, then the first.

    Raises:
        InvalidRequest: only image types that cannot be written are accepted.
    """
    qualities = _qualities(accept or "*/*")
    json_quality, is_named = _json_quality(qualities)
    offers = [(quality, media) for media, quality in qualities.items() if media in _FORMAT_OF and quality > 0]
    if offers:
        quality, media = max(offers, key=lambda offer: (offer[0], offer[1] != "image/*"))
        if quality > json_quality or (quality == json_quality and not is_named):
            return _FORMAT_OF[media]
    elif json_quality == 0:
        accepted = (media for media, q in qualities.items() if media.startswith("image/") and q > 0)
        unknown = next(accepted, None)
        if unknown is not None:
            raise InvalidRequest.of("Accept", f"{unknown[:40]} cannot be written; {', '.join(FORMATS)} can")
    return None


def prefers_html(accept: str | None) -> bool:
    """Return whether an Accept header prefers a page to JSON, as browsers' do when they open an address.

    HTML must be named (`text/html`, `text/*`), with a higher quality than JSON; at equal quality JSON wins
    where it is named, HTML where JSON is only covered by `*/*`.
    """
    qualities = _qualities(accept or "*/*")
    json_quality, is_named = _json_quality(qualities)
    quality = qualities.get("text/html", qualities.get("text/*", 0.0))
    return quality > 0 and (quality > json_quality or (quality == json_quality and not is_named))


def _json_quality(qualities: Mapping[str, float]) -> tuple[float, bool]:
    """Return JSON's quality, and whether it is named rather than covered by `*/*`."""
    named = qualities.get("application/json", qualities.get("application/*"))
    return (qualities.get("*/*", 0.0), False) if named is None else (named, True)


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    qualities = _qualities(accept_encoding or "")
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _qualities(accept: str) -> dict[str, float]:
    """Return media range -> quality, in the header's order. An invalid quality counts as 1."""
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q" and _QUALITY.fullmatch(value.strip()):
                quality = min(1.0, float(value))
        if media:
            qualities.setdefault(media, quality)
    return qualities
