"""Finds what a file says of how it was made: ours, and what other programs write.

Files are from anyone: what they may cost is bounded, and a part that is broken is named and left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import jpeg, metadata, png, sniffing, structure, text, webp, xmp
from atelier_runtime.images.picture import Format, ImageFault
from atelier_runtime.recipes import infotext, packet, user_comment
from atelier_runtime.recipes.marks import FoundMarks

MAX_TEXT_BYTES = 2**20
"""Of one text; ComfyUI's workflows take some hundred kilobytes at most."""
_MAX_UNPACKED_BYTES = 2**23
_MAX_ITEMS = 200
_MAX_SHOWN_CHARS = 2**23
_MAX_PACKET_BYTES = structure.MAX_METADATA_BYTES
_MAX_OMITTED = 20
COMMENT = "EXIF:UserComment"
"""The name of EXIF's comment among the items."""
_INFOTEXT = "parameters"
_COMMENT_MARKER = 0xFE
_APP11 = 0xEB


@dataclass
class _Texts:
    """What has been found so far."""

    items: dict[str, str] = field(default_factory=dict)
    omitted: list[str] = field(default_factory=list)
    packet: bytes | None = None
    extension: bytes | None = None
    exif: bytes | None = None
    has_credentials: bool = False
    unpacked: int = 0
    chars: int = 0

    def add(self, name: str, content: str) -> None:
        """Keep a text; of several of one name the first."""
        chars = self.chars + len(name) + len(content)
        if len(self.items) >= _MAX_ITEMS or len(content) > MAX_TEXT_BYTES or chars > _MAX_SHOWN_CHARS:
            self.omit(name)
        elif content and name not in self.items:
            self.items[name], self.chars = content, chars

    def omit(self, name: str) -> None:
        """Remember the name of what is not shown."""
        if len(self.omitted) < _MAX_OMITTED and name not in self.omitted:
            self.omitted.append(name)


def read_marks(file: bytes, *, field: str = "image") -> FoundMarks:
    """Return what a PNG, JPEG or WebP file says of how it was made. Its pixels are not decoded.

    Takes milliseconds, or a tenth of a second for a file made to take long: not for the event loop. Raises
    `InvalidRequest` naming `field` if it is not such a file or has more parts than `structure` allows.
    """
    if not file:
        raise InvalidRequest.of(field, "is empty; a PNG, JPEG or WebP file is required")
    if (problem := structure.problem_of(file)) is not None:
        raise InvalidRequest.of(field, problem)
    found = _Texts()
    file_format: Format
    if file.startswith(png.SIGNATURE):
        file_format = "png"
        _read_png(file, found)
    elif file.startswith(jpeg.START):
        file_format = "jpeg"
        _read_jpeg(file, found)
    elif webp.is_webp(file):
        file_format = "webp"
        _read_webp(file, found)
    else:
        name = sniffing.name_of(file)
        raise InvalidRequest.of(field, f"is {name + ', ' if name else ''}not a PNG, JPEG or WebP file")
    return _marks_of(file_format, found)


def describe_marks(found: FoundMarks) -> dict[str, Any]:
    """Return what was found as a JSON object, with the infotext's parameters by their names."""
    return {
        "format": found.format,
        "recipe": found.recipe,
        "infotext": found.infotext,
        "parameters": None if found.infotext is None else infotext.read(found.infotext),
        "source_type": found.source_type,
        "items": found.items,
        "has_credentials": found.has_credentials,
        "omitted": list(found.omitted),
    }


def _marks_of(file_format: Format, found: _Texts) -> FoundMarks:
    written = found.items.get(_INFOTEXT)
    if found.exif is not None:
        block = metadata.without_prefix(found.exif)
        for name, content in user_comment.read(block).items():
            found.add(f"EXIF:{name}", content)
        comment = found.items.get(COMMENT)
        if comment is not None and (user_comment.is_ours(block) or infotext.has_parameters(comment)):
            written = written or comment  # others' are what a photographer has to say
    recipe = source_type = None
    for data in (found.packet, found.extension):
        if data is None:
            continue
        if len(data) > _MAX_PACKET_BYTES:
            found.omit("XMP")
            continue
        said = packet.read(data)
        if not said.is_readable:
            found.omit("XMP")
        recipe = recipe if recipe is not None else said.recipe
        written = written or said.infotext
        source_type = source_type or said.source_type
        for name, content in said.texts.items():
            found.add(name, content)
    return FoundMarks(
        format=file_format,
        recipe=recipe,
        infotext=written,
        items=found.items,
        source_type=source_type,
        has_credentials=found.has_credentials,
        omitted=tuple(found.omitted),
    )


def text_of_png(texts: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the infotext among the text chunks (type, data) of a PNG file, if there is one."""
    found = _Texts()
    for kind, data in texts:
        _read_text(kind, data, found)
    return found.items.get(_INFOTEXT)


def _read_png(file: bytes, found: _Texts) -> None:
    for kind, start, end in png.iterate_chunks(file):
        if kind == b"caBX":
            found.has_credentials = True
        elif kind == b"eXIf" and found.exif is None:
            found.exif = file[start:end]
        elif kind in text.KINDS:
            _read_text(kind, file[start:end], found)


def _read_text(kind: bytes, data: bytes, found: _Texts) -> None:
    keyword = text.keyword(data)[:79].decode("latin-1")
    content = _content(kind, data, found)
    if content is None:
        found.omit(keyword)
    elif keyword.encode("latin-1") == png.XMP_KEYWORD:
        found.packet = found.packet or content
    else:
        found.add(keyword, _decoded(content, "utf-8" if kind == b"iTXt" else "latin-1"))


def _content(kind: bytes, data: bytes, found: _Texts) -> bytes | None:
    """Return what a text chunk says; None if it is corrupt, or if too much has been unpacked already."""
    _, separator, rest = data.partition(b"\0")
    if not separator:
        return None
    packed: bytes | None = rest[1:] if kind == b"zTXt" else None
    if kind == b"iTXt":
        fields = rest[2:].split(b"\0", 2)
        if len(fields) != 3:
            return None
        packed = fields[2] if rest[:1] != b"\0" else None
        rest = fields[2]
    if packed is None:
        return rest if len(rest) <= MAX_TEXT_BYTES else None
    return _inflate(packed, found)


def _inflate(packed: bytes, found: _Texts) -> bytes | None:
    decompressor = zlib.decompressobj()
    room = min(MAX_TEXT_BYTES, _MAX_UNPACKED_BYTES - found.unpacked)
    if room <= 0:
        return None
    try:
        content = decompressor.decompress(packed, room)
    except zlib.error:
        return None
    found.unpacked += len(content)
    return content if decompressor.eof else None


def _decoded(content: bytes, encoding: str) -> str:
    return content.decode(encoding, "replace").replace("\0", "")


def _read_jpeg(file: bytes, found: _Texts) -> None:
    parts = jpeg.Jpeg()
    for segment in jpeg.segments(file):
        content = file[segment.start : segment.end]
        if segment.kind == _APP11 and b"c2pa" in content[:200]:
            found.has_credentials = True
        elif content.startswith(jpeg.EXIF_PREFIX) and segment.kind == jpeg.APP1:
            found.exif = found.exif or content
        elif content.startswith((jpeg.XMP_PREFIX, jpeg.EXTENSION_PREFIX)) and segment.kind == jpeg.APP1:
            jpeg.add_metadata(parts, segment.kind, content)
        elif segment.kind == _COMMENT_MARKER:
            encoding = "utf-8" if _is_utf_8(content) else "latin-1"
            found.add("Comment", _decoded(content, encoding))
    found.packet = parts.xmp
    if parts.xmp is None or not parts.extension:
        return
    try:
        guid = xmp.clean(parts.xmp).extended
    except ImageFault:
        return
    found.extension = None if guid is None else jpeg.extension_of(parts, guid)


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_webp(file: bytes, found: _Texts) -> None:
    try:
        for kind, start, end in webp.chunks(file):
            if kind == b"EXIF":
                found.exif = found.exif or file[start:end]
            elif kind == b"XMP ":
                found.packet = found.packet or file[start:end]
            elif kind == b"C2PA":
                found.has_credentials = True
    except struct.error:
        return
