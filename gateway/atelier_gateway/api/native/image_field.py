"""The field of a request that holds an image: a file in a form, base64 or a data URI in JSON."""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from atelier_gateway.http.long_text import LongText
from atelier_gateway.http.schemas import AN_IMAGE
from atelier_gateway.http.validation import field_error

_DATA_URI = re.compile(rb"data:([^,]{0,200}),", re.IGNORECASE)

# The program base64 wraps lines at 76 characters; browsers' and Python's URL-safe variants use - and _.
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LINE_ENDS = b"\r\n"
_ESCAPE_LENGTH = 3  # of %2B, in the characters of a data URI


def _to_file(value: object) -> bytes:
    """Return the image file: a form's file, or decoded base64."""
    if isinstance(value, memoryview):
        value = bytes(value)
    elif isinstance(value, str):
        value = _decode([value.encode("ascii", "replace")])
    elif isinstance(value, LongText):
        value = _decode(value.pieces())
    if not isinstance(value, bytes):
        raise field_error(f"is not a string: it must be {AN_IMAGE}")
    if not value:
        raise field_error(f"is empty: it must be {AN_IMAGE}")
    return value


def _decode(pieces: Iterable[bytes]) -> bytes:
    """Decode base64, or a data URI, that comes in pieces; the first has all that comes before the data."""
    try:
        remaining = iter(pieces)
        first = next(remaining).lstrip(b" ")
        data_uri = _DATA_URI.match(first)
        if data_uri:
            if not data_uri[1].lower().replace(b" ", b"").endswith(b";base64"):
                raise field_error(f"is a data URI without ;base64: it must be {AN_IMAGE}")
            first = first[data_uri.end() :].lstrip(b" ")
            return _decode_base64(_percent_decoded(chain([first], remaining)))
        if first[:5].lower() == b"data:":
            raise field_error(f"is a data URI without a comma: it must be {AN_IMAGE}")
        return _decode_base64(chain([first], remaining))
    except PydanticCustomError:  # a ValueError too
        raise
    except ValueError:
        raise field_error(f"is not base64: it must be {AN_IMAGE}") from None


def _percent_decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a data URI's data without escapes, which may lie across two pieces."""
    rest = b""
    for piece in pieces:
        text = rest + piece
        begun = text.rfind(b"%", max(0, len(text) - _ESCAPE_LENGTH + 1))
        end = begun if begun >= 0 else len(text)
        yield unquote_to_bytes(text[:end])
        rest = text[end:]
    yield rest


def _decode_base64(pieces: Iterable[bytes]) -> bytes:
    """Decode standard or URL-safe base64, in lines or not. Raises `ValueError` at any other character."""
    decoded = io.BytesIO()
    rest = b""
    for piece in pieces:
        encoded = rest + piece.translate(_URL_SAFE, _LINE_ENDS)
        whole = len(encoded) - len(encoded) % 4
        whole = max(0, whole - 4)  # the last four characters wait: only at the end may there be padding
        if b"=" in encoded[:whole]:
            raise ValueError("data after the padding")
        decoded.write(binascii.a2b_base64(encoded[:whole], strict_mode=True))
        rest = encoded[whole:]
    if not rest.endswith(b"="):
        rest += b"=" * (-len(rest) % 4)  # the padding may be left out (RFC 4648, 3.2)
    decoded.write(binascii.a2b_base64(rest, strict_mode=True))
    return decoded.getvalue()


ImageField = Annotated[bytes, BeforeValidator(_to_file), WithJsonSchema({"type": "string", "format": "byte"})]
