"""The field of a request that holds an image: a file in a form, base64 or a data URI in JSON."""

from __future__ import annotations

import binascii
import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from atelier_gateway.http.schemas import AN_IMAGE
from atelier_gateway.http.validation import field_error

_DATA_URI = re.compile(r"data:([^,]{0,200}),")

_URL_SAFE = str.maketrans("-_", "+/")


def _to_file(value: object) -> bytes:
    """Return the image file: bytes from a form, or decoded base64."""
    if isinstance(value, str):
        value = _decode(value)
    if not isinstance(value, bytes):
        raise field_error(f"is not a string: it must be {AN_IMAGE}")
    if not value:
        raise field_error(f"is empty: it must be {AN_IMAGE}")
    return value


def _decode(text: str) -> bytes:
    data_uri = _DATA_URI.match(text)
    if data_uri and not data_uri[1].lower().endswith(";base64"):
        raise field_error(f"is a data URI without ;base64: it must be {AN_IMAGE}")
    encoded = text[data_uri.end() :] if data_uri else text
    if encoded.startswith("data:"):
        raise field_error(f"is a data URI without a comma: it must be {AN_IMAGE}")
    # The program base64 wraps lines at 76 characters; browsers' and Python's URL-safe variants use - and _.
    encoded = encoded.replace("\r\n", "").replace("\n", "").translate(_URL_SAFE)
    if not encoded.endswith("="):
        encoded += "=" * (-len(encoded) % 4)  # the padding may be left out (RFC 4648, 3.2)
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)  # any other character is an error
    except ValueError:
        raise field_error(f"is not base64: it must be {AN_IMAGE}") from None


ImageField = Annotated[bytes, BeforeValidator(_to_file), WithJsonSchema({"type": "string", "format": "byte"})]
