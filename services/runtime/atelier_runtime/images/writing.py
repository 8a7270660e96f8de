"""Encodes files with all the metadata that their format can store, and reports what it cannot."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier_runtime.images import jpeg, metadata, png_writer, text, xmp
from atelier_runtime.images.picture import Format, ImageFault, Picture, to_eight_bit
from atelier_runtime.outcomes import ResponseWarning, WarningCode

_JPEG_EXIF_BYTES = jpeg.MAX_SEGMENT_BYTES
_JPEG_XMP_BYTES = jpeg.MAX_SEGMENT_BYTES - len(jpeg.XMP_PREFIX)
_JPEG_ICC_BYTES = 255 * (jpeg.MAX_SEGMENT_BYTES - 14)
_JPEG_DPI = 65_535
_NAMED_TEXTS = 8
_SRGB = {  # chunks that mean sRGB, which is what a program without support for them assumes anyway
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"cICP": bytes([1, 13, 0, 1]),
}

_WEBP_OUT_OF_MEMORY = "encoding error 1"  # VP8_ENC_ERROR_OUT_OF_MEMORY, as Pillow reports it


def encode(picture: Picture, file_format: Format, quality: int) -> bytes:
    """Encode an image. `quality` (1 to 100) is for JPEG and WebP; 100 makes WebP lossless.

    PNG keeps every sample, 8 or 16 bits. What a format cannot store is left out; `losses` says what. The size
    in EXIF and XMP becomes the picture's.
    """
    picture = _with_size(_merged(picture, file_format))
    if file_format == "png":
        return _png(picture)
    rgb = to_eight_bit(picture.rgb)
    single_channel = picture.gray and file_format == "jpeg"
    image = Image.fromarray(rgb[:, :, 0] if single_channel else rgb)
    if picture.alpha is not None and file_format == "webp":
        image.putalpha(Image.fromarray(to_eight_bit(picture.alpha)))
    options: dict[str, object] = {"quality": quality}
    if picture.icc is not None and _profile_fits(picture, file_format):
        options["icc_profile"] = picture.icc
    if picture.exif is not None and _fits(picture.exif, _JPEG_EXIF_BYTES, file_format):
        options["exif"] = picture.exif
    if picture.xmp is not None and _fits(picture.xmp, _JPEG_XMP_BYTES, file_format):
        options["xmp"] = picture.xmp
    if file_format == "jpeg":
        if _resolution_fits(picture, file_format):
            options["dpi"] = picture.dpi
        if quality >= 90:
            options["subsampling"] = 0
    elif is_lossless(file_format, quality):
        # Here `quality` is effort: 0 and method 0 take a quarter of the time, for files a sixth larger.
        options |= {"lossless": True, "exact": True, "quality": 0, "method": 0}
    else:
        options["exact"] = True  # keep the colors of transparent pixels
        options["method"] = 2  # a third of the default's time
    buffer = io.BytesIO()
    try:
        image.save(buffer, file_format.upper(), **options)
    except ValueError as error:
        if str(error) == _WEBP_OUT_OF_MEMORY:
            raise MemoryError from error
        raise
    file = buffer.getvalue()
    if file_format != "jpeg":
        return file
    extension = picture.extended_xmp if "xmp" in options else None
    more = jpeg.metadata_segments(
        extension=extension,
        guid=xmp.guid(extension) if extension else b"",
        resources=picture.photoshop,
        comments=_jpeg_comments(picture),
    )
    return jpeg.insert(file, more) if more else file


def encode_gray_png(mask: NDArray[np.uint8]) -> bytes:
    """Encode one 8-bit channel (H, W) as a gray PNG."""
    return png_writer.write(mask[:, :, None], None, gray=True)


def is_lossless(image_format: Format | Literal["raw"], quality: int) -> bool:
    """Return whether 8-bit pixels are stored exactly."""
    return image_format in ("png", "raw") or (image_format == "webp" and quality == 100)


def losses(picture: Picture, image_format: Format | Literal["raw"], quality: int) -> list[ResponseWarning]:
    """Return a warning for everything that the response's format does not keep.

    Raw pixels never carry metadata, so for them the warnings are about pixels only.
    """
    found: list[ResponseWarning] = []

    def warn(code: WarningCode, message: str) -> None:
        found.append(ResponseWarning(code, message))

    for fault in picture.faults:
        warn(WarningCode.IMAGE_DAMAGED, fault)
    name = "raw RGB8" if image_format == "raw" else image_format
    if not is_lossless(image_format, quality):
        warn(
            WarningCode.LOSSY_OUTPUT, f"{name} is lossy: pixels outside the mask are not exactly the input's."
        )
    if picture.bits > 8 and image_format != "png":
        warn(
            WarningCode.BIT_DEPTH_REDUCED,
            f"The image's {picture.bits} bits per channel were rounded to the 8 that {name} supports.",
        )
    if picture.alpha is not None and image_format in ("jpeg", "raw"):
        warn(WarningCode.ALPHA_DROPPED, f"Transparency was dropped: {name} does not support it.")
    if image_format == "raw":
        return found
    picture = _merged(picture, image_format)
    for sentence in picture.dropped:
        warn(WarningCode.METADATA_DROPPED, sentence)
    if picture.icc is not None and not _profile_fits(picture, image_format):
        warn(
            WarningCode.METADATA_DROPPED,
            f"The ICC profile was dropped: it does not fit into this {name} file.",
        )
    if picture.exif is not None and not _fits(picture.exif, _JPEG_EXIF_BYTES, image_format):
        warn(
            WarningCode.METADATA_DROPPED,
            f"EXIF was dropped: its {len(picture.exif)} bytes do not fit into a JPEG file.",
        )
    if picture.xmp is not None and not _fits(picture.xmp, _JPEG_XMP_BYTES, image_format):
        warn(
            WarningCode.METADATA_DROPPED,
            f"XMP was dropped: its {len(picture.xmp)} bytes do not fit into a JPEG file.",
        )
    if picture.dpi is not None and not _resolution_fits(picture, image_format):
        warn(
            WarningCode.METADATA_DROPPED,
            f"The resolution of {picture.dpi[0]:.0f} dpi was dropped: {name} cannot store it.",
        )
    if image_format != "png" and _color_matters(picture):
        warn(
            WarningCode.METADATA_DROPPED,
            f"The PNG's own description of its colors was dropped: {name} cannot store it.",
        )
    if picture.photoshop is not None and image_format == "webp":
        warn(WarningCode.METADATA_DROPPED, "IPTC (Photoshop's resources) was dropped: webp cannot store it.")
    if unstored := _unstored_texts(picture, image_format):
        more = f" and {len(unstored) - _NAMED_TEXTS} more" if len(unstored) > _NAMED_TEXTS else ""
        names = ", ".join(unstored[:_NAMED_TEXTS]) + more
        warn(WarningCode.METADATA_DROPPED, f"Texts were dropped: {name} cannot store them ({names}).")
    return found


def _merged(picture: Picture, file_format: Format) -> Picture:
    """Return the picture with one XMP packet, or as JPEG with an extension of what is too large for one."""
    if picture.xmp is None:
        return picture
    if file_format == "jpeg":
        if picture.extended_xmp is not None or len(picture.xmp) <= _JPEG_XMP_BYTES:
            return picture
        try:
            packet, extension = xmp.split(xmp.with_size(picture.xmp, picture.width, picture.height))
        except ImageFault:
            return picture  # and dropped
        return replace(picture, xmp=packet, extended_xmp=extension)
    if picture.extended_xmp is None:
        return picture
    try:
        return replace(picture, xmp=xmp.merge(picture.xmp, picture.extended_xmp), extended_xmp=None)
    except ImageFault:
        packet = xmp.without_extension(picture.xmp)
        dropped = (*picture.dropped, "Extended XMP was dropped: it cannot be added to the main packet.")
        return replace(picture, xmp=packet, extended_xmp=None, dropped=dropped)


def _with_size(picture: Picture) -> Picture:
    exif = picture.exif and metadata.with_size(picture.exif, picture.width, picture.height)
    try:
        packet = picture.xmp and xmp.with_size(picture.xmp, picture.width, picture.height)
    except ImageFault:  # not one that a file of ours was read with
        packet = picture.xmp
    return replace(picture, exif=exif, xmp=packet)


def _jpeg_comments(picture: Picture) -> list[bytes]:
    return [*picture.comments, *(c for chunk in picture.texts if (c := _jpeg_comment(*chunk)) is not None)]


def _jpeg_comment(kind: bytes, data: bytes) -> bytes | None:
    comment = text.as_comment(kind, data)
    return comment if comment is not None and len(comment) <= jpeg.MAX_SEGMENT_BYTES else None


def _unstored_texts(picture: Picture, file_format: Format) -> list[str]:
    """Return the names of the texts that a file of the format does not contain."""
    if file_format == "png":
        unstored = [c for c in picture.comments if text.comment_chunk(c) is None]
    else:
        unstored = [] if file_format == "jpeg" else list(picture.comments)
    names = ["Comment"] * len(unstored)
    if file_format != "png":
        for kind, data in picture.texts:
            if file_format != "jpeg" or _jpeg_comment(kind, data) is None:
                names.append(_printable(text.keyword(data)))
    return list(dict.fromkeys(names))


def _printable(keyword: bytes) -> str:
    characters = keyword[:79].decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in characters)


def _png(picture: Picture) -> bytes:
    chunks = []
    if picture.icc is not None:
        chunks.append(png_writer.profile_chunk(picture.icc))
    # A file may have a profile or an sRGB chunk, not both.
    chunks += [chunk for chunk in picture.png_color if picture.icc is None or chunk[0] != b"sRGB"]
    if picture.exif is not None:
        chunks.append((b"eXIf", metadata.without_prefix(picture.exif)))
    if picture.xmp is not None:
        chunks.append(png_writer.xmp_chunk(picture.xmp))
    if picture.photoshop is not None:
        chunks.append(text.raw_profile_chunk(b"iptc", picture.photoshop))
    chunks += picture.texts
    chunks += [chunk for comment in picture.comments if (chunk := text.comment_chunk(comment)) is not None]
    resolution = png_writer.resolution_chunk(picture.dpi) if picture.dpi else None
    if resolution:
        chunks.append(resolution)
    return png_writer.write(picture.rgb, picture.alpha, gray=picture.gray, before_pixels=chunks)


def _fits(data: bytes, jpeg_bytes: int, file_format: Format) -> bool:
    return file_format != "jpeg" or len(data) <= jpeg_bytes


def _profile_fits(picture: Picture, file_format: Format) -> bool:
    assert picture.icc is not None
    if file_format == "webp" and picture.gray:
        return picture.icc[16:20] != b"GRAY"  # WebP does not have gray pixels that it could apply to
    return _fits(picture.icc, _JPEG_ICC_BYTES, file_format)


def _resolution_fits(picture: Picture, file_format: Format) -> bool:
    if picture.dpi is None:
        return False
    if file_format == "png":
        return png_writer.resolution_chunk(picture.dpi) is not None
    if file_format == "jpeg":
        return min(map(round, picture.dpi)) >= 1 and max(picture.dpi) <= _JPEG_DPI
    return picture.exif is not None and metadata.has_tag(picture.exif, metadata.X_RESOLUTION)


def _color_matters(picture: Picture) -> bool:
    """Return whether a PNG's chunks define anything but sRGB that an ICC profile does not override."""
    chunks = dict(picture.png_color)
    if b"cICP" in chunks:  # cICP overrides an ICC profile, which overrides sRGB, which overrides the rest
        return chunks[b"cICP"] != _SRGB[b"cICP"]
    if picture.icc is not None or b"sRGB" in chunks:
        return False
    return any(chunks[kind] != srgb for kind, srgb in _SRGB.items() if kind in chunks)
