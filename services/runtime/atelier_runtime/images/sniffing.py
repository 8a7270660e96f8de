"""Names what a file is that is neither PNG nor JPEG nor WebP, by its first bytes."""

from __future__ import annotations

import re

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"GIF87a", "a GIF"),
    (b"GIF89a", "a GIF"),
    (b"II*\0", "a TIFF, or a camera's raw file"),
    (b"MM\0*", "a TIFF, or a camera's raw file"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"IIRO", "a camera's raw file"),
    (b"IIU\0", "a camera's raw file"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"II\xbc\x01", "a JPEG XR"),
    (b"BM", "a BMP"),
    (b"%PDF-", "a PDF"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an ICO"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x8aMNG\r\n\x1a\n", "an MNG"),
    (b"\x8bJNG\r\n\x1a\n", "a JNG"),
    (b"v/1\1", "an OpenEXR"),
    (b"#?RADIANCE", "a Radiance HDR"),
    (b"DDS ", "a DDS"),
    (b"qoif", "a QOI"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"data:image/", "a data URI"),
)
_BRANDS: tuple[tuple[bytes, str], ...] = (  # of ISO base media files, in the order in which they decide
    (b"avif", "an AVIF"),
    (b"avis", "an AVIF"),
    (b"heic", "a HEIC"),
    (b"heix", "a HEIC"),
    (b"hevc", "a HEIC"),
    (b"heim", "a HEIC"),
    (b"heis", "a HEIC"),
    (b"hevx", "a HEIC"),
    (b"mif1", "a HEIF"),
    (b"msf1", "a HEIF"),
    (b"crx ", "a camera's raw file"),
    (b"qt  ", "a QuickTime video"),
)
_ACCEPTED = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!--|!doctype|[a-z])", re.IGNORECASE)
_HEAD_BYTES = 1024


def name_of(data: bytes) -> str | None:
    """Return the name of a file's format with its article, such as "a GIF"; None if it is not known."""
    head = data[:_HEAD_BYTES]
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(64, int.from_bytes(head[:4])), 4))}
        return next((name for brand, name in _BRANDS if brand in brands), "an MP4 video")
    if head.startswith(b"RIFF"):
        return "a RIFF file (AVI or WAV)" if len(head) >= 12 else None
    found = next((name for signature, name in _SIGNATURES if head.startswith(signature)), None)
    if found is None and _TEXT.match(head):
        lower = head.lower()
        found = "an SVG" if b"<svg" in lower else "an HTML page" if b"<html" in lower else "an XML file"
        if b"<!doctype html" in lower:
            found = "an HTML page"
    if found is None and data and not data.strip(b"\0"):
        found = "zeros only"
    return found


def is_start_of_accepted(data: bytes) -> bool:
    """Return whether so few bytes are the start of a PNG, JPEG or WebP file."""
    if any(signature.startswith(data) for signature in _ACCEPTED):
        return True
    return len(data) < 12 and b"RIFF".startswith(data[:4]) and b"WEBP".startswith(data[8:])
