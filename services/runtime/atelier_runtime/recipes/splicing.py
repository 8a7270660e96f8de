"""Adds marks to a file: its pixels and everything else in it stay byte for byte as they are.

A file is copied once, which takes less than a millisecond for a picture of a megapixel. Nothing is left out:
a recipe that is too large for a JPEG's one segment goes into extended XMP, and an infotext that EXIF has no
room for, or that would change the EXIF of a photo, into XMP.
"""

from __future__ import annotations

import struct

from atelier_runtime.images import jpeg, png, png_writer, text, webp, xmp
from atelier_runtime.images.picture import Format, ImageFault
from atelier_runtime.recipes import packet, user_comment
from atelier_runtime.recipes.marks import COMPOSITE, DRAWN, Marks, building_on

PARAMETERS = b"parameters"
"""The keyword of the infotext in PNG files."""

_JPEG_XMP_BYTES = jpeg.MAX_SEGMENT_BYTES - len(jpeg.XMP_PREFIX)
_APP0, _SCAN = 0xE0, 0xDA
_EXIF_FLAG, _XMP_FLAG, _ALPHA_FLAG = 0x08, 0x04, 0x10
_MAX_RIFF_BYTES = 2**32 - 10


def mark(file: bytes, file_format: Format, marks: Marks) -> bytes:
    """Return a file of ours with marks added, in place of the earlier ones of the same kind.

    Raises `ValueError` if it is not such a file. Not for the event loop if the file is large.
    """
    if file_format == "png":
        return _mark_png(file, marks)
    return _mark_jpeg(file, marks) if file_format == "jpeg" else _mark_webp(file, marks)


def _marked_packet(old: bytes | None, marks: Marks, infotext: str | None) -> bytes:
    earlier = packet.read(old) if old is not None else packet.Found()
    recipe = marks.recipe
    if recipe is not None and marks.builds_on:
        recipe = building_on(recipe, earlier.recipe)
    source_type = marks.source_type
    if source_type == COMPOSITE and earlier.source_type == DRAWN:
        source_type = None  # a drawing does not become a photograph when its faces are restored
    return packet.with_properties(old, recipe=recipe, infotext=infotext, source_type=source_type)


# --- PNG ---


def _mark_png(file: bytes, marks: Marks) -> bytes:
    if not file.startswith(png.SIGNATURE):
        raise ValueError("not a PNG file")
    view = memoryview(file)
    old: bytes | None = None
    kept: list[bytes | memoryview] = [png.SIGNATURE]
    place: int | None = None
    position = len(png.SIGNATURE)
    for kind, start, end in png.iterate_chunks(file):
        replaced = False
        if kind in text.KINDS:
            content = file[start:end]
            if text.keyword(content) == png.XMP_KEYWORD:
                old, replaced = old or text.content(kind, content), True
            replaced = replaced or (marks.infotext is not None and text.keyword(content) == PARAMETERS)
        if replaced or (kind == b"IDAT" and place is None):
            kept.append(view[position : start - 8])
            position = end + 4 if replaced else start - 8
        if kind == b"IDAT" and place is None:
            place = len(kept)
    if place is None:
        raise ValueError("a PNG file without pixels")
    kept.append(view[position:])
    added = [png_writer.xmp_chunk(_marked_packet(old, marks, None))]
    if marks.infotext is not None:
        added.insert(0, _text_chunk(PARAMETERS, marks.infotext))
    kept[place:place] = [piece for kind, data in added for piece in png.chunk(kind, data)]
    return b"".join(kept)


def _text_chunk(keyword: bytes, written: str) -> tuple[bytes, bytes]:
    written = written.replace("\0", "")  # which no text of a PNG can contain
    try:
        return b"tEXt", keyword + b"\0" + written.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", keyword + b"\0\0\0\0\0" + written.encode("utf-8", "replace")


# --- JPEG ---


def _mark_jpeg(file: bytes, marks: Marks) -> bytes:
    if not file.startswith(jpeg.START):
        raise ValueError("not a JPEG file")
    parts = jpeg.Jpeg()
    view = memoryview(file)
    kept: list[bytes | memoryview] = []
    position, place, has_exif = 0, len(jpeg.START), False
    for segment in jpeg.segments(file):
        if segment.kind == _SCAN:
            break
        content = file[segment.start : segment.end] if segment.kind == jpeg.APP1 else b""
        is_exif = content.startswith(jpeg.EXIF_PREFIX)
        if is_exif and marks.infotext is not None and user_comment.is_ours(content[len(jpeg.EXIF_PREFIX) :]):
            kept.append(view[position : segment.marker])
            position = segment.end
        elif segment.kind == _APP0 or is_exif:
            place = segment.end if not kept else place
            has_exif = has_exif or is_exif
        elif content.startswith((jpeg.XMP_PREFIX, jpeg.EXTENSION_PREFIX)):
            jpeg.add_metadata(parts, segment.kind, content)
            kept.append(view[position : segment.marker])
            position = segment.end
    else:
        raise ValueError("a JPEG file without pixels")
    kept.append(view[position:])
    exif = b""
    if marks.infotext is not None and not has_exif:
        block = jpeg.EXIF_PREFIX + user_comment.write(marks.infotext)
        exif = jpeg.make_segment(jpeg.APP1, block) if len(block) <= jpeg.MAX_SEGMENT_BYTES else b""
    infotext = None if exif else marks.infotext
    added = exif + _jpeg_packets(parts, marks, infotext)
    first = kept[0]
    return b"".join([first[:place], added, first[place:], *kept[1:]])


def _jpeg_packets(parts: jpeg.Jpeg, marks: Marks, infotext: str | None) -> bytes:
    """Return the segments of the packet, and of its extension if there is one or has to be."""
    old, extension = parts.xmp, None
    guid = _extension_guid(old)
    if old is not None and guid is not None:
        extension = jpeg.extension_of(parts, guid)
        if extension is not None and packet.NAMESPACE.encode() in extension:
            old, extension = _merged(old, extension), None
    new = _marked_packet(old, marks, infotext)
    if len(new) > _JPEG_XMP_BYTES:
        whole = new if extension is None else _merged(new, extension)
        new, extension = xmp.split(whole)
        source_type = packet.read(whole).source_type  # where everyone looks for it
        new = packet.with_properties(new, source_type=source_type)
    segments = jpeg.make_segment(jpeg.APP1, jpeg.XMP_PREFIX + new)
    if extension is None:
        return segments
    return segments + jpeg.metadata_segments(
        extension=extension, guid=xmp.guid(extension), resources=None, comments=()
    )


def _extension_guid(old: bytes | None) -> bytes | None:
    try:
        return None if old is None else xmp.clean(old).extended
    except ImageFault:
        return None


def _merged(new: bytes, extension: bytes) -> bytes:
    try:
        return xmp.merge(new, extension)
    except ImageFault:  # an extension that nobody can read
        return new


# --- WebP ---


def _mark_webp(file: bytes, marks: Marks) -> bytes:
    if not webp.is_webp(file):
        raise ValueError("not a WebP file")
    view = memoryview(file)
    kept: list[bytes | memoryview] = []
    old: bytes | None = None
    header: bytearray | None = None
    size, has_alpha, has_exif, end_of_chunks = None, False, False, len(file)
    for kind, start, end in webp.chunks(file):
        end_of_chunks = min(len(file), end + (end - start) % 2)
        if kind == b"XMP ":
            old = old or file[start:end]
            continue
        if kind == b"EXIF" and marks.infotext is not None and user_comment.is_ours(file[start:end]):
            continue
        if kind == b"VP8X" and end - start == 10 and header is None:
            header = bytearray(file[start:end])
            continue
        has_exif = has_exif or kind == b"EXIF"
        if size is None:
            size = webp.size_in(file, kind, start, end)
            has_alpha = kind == b"VP8L" and size is not None and bool(file[start + 4] & 0x10)
        kept.append(view[start - 8 : end_of_chunks])
    if header is None:
        if size is None:
            raise ValueError("a WebP file without pixels")
        header = bytearray(10)
        header[0] = _ALPHA_FLAG if has_alpha else 0
        header[4:7] = (size.width - 1).to_bytes(3, "little")
        header[7:10] = (size.height - 1).to_bytes(3, "little")
    infotext = marks.infotext if has_exif else None
    if marks.infotext is not None and not has_exif:
        kept.append(_webp_chunk(b"EXIF", user_comment.write(marks.infotext)))
        has_exif = True
    kept.append(_webp_chunk(b"XMP ", _marked_packet(old, marks, infotext)))
    header[0] |= _XMP_FLAG | (_EXIF_FLAG if has_exif else 0)
    body = b"".join([b"WEBP", _webp_chunk(b"VP8X", bytes(header)), *kept])
    if len(body) > _MAX_RIFF_BYTES:
        raise ValueError("a WebP file that is too large")
    return b"".join([b"RIFF", struct.pack("<I", len(body)), body, view[end_of_chunks:]])


def _webp_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
