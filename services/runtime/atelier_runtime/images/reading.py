"""Decodes files: the header is checked first, pixels are turned upright, and no sample is lost."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from PIL import Image

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import (
    attachments,
    jpeg,
    metadata,
    photoshop,
    png,
    png_pixels,
    sniffing,
    structure,
    text,
    webp,
    xmp,
)
from atelier_runtime.images.picture import Format, ImageFault, Picture, PixelArray, over_limit

Image.MAX_IMAGE_PIXELS = None  # `decode` checks the header against the caller's own limit

_BAND_PIXELS = 2**19
_ANIMATED = "is animated; an image with a single frame is required"
_RAW_METADATA = (b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp")


@dataclass
class _Parts:
    """A file's metadata, whatever its format, before it is cleaned. `dropped` is added to."""

    exif: bytes = b""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    icc: bytes | None = None
    photoshop: bytes = b""
    dropped: list[str] = field(default_factory=list)
    has_gain_map: bool = False
    extension: Callable[[bytes], bytes | None] = lambda guid: None
    has_unnamed_extension: bool = False


def decode(data: bytes, *, max_pixels: int, field: str = "image", deep: bool = False) -> Picture:
    """Decode a PNG, JPEG or WebP file. Of a camera's JPEG with several images (MPO) the first is used.

    The header is read first: an image above `max_pixels` is rejected before its pixels are decoded. A palette
    is replaced by its colors; grays of 1, 2 and 4 bits are scaled to 8; a transparent color becomes alpha.
    `deep`: 16-bit PNG is accepted, as uint16, and decoded by OpenCV, on which the caller's package must
    depend; otherwise it is rejected. What a browser would show in spite of a fault is decoded; `faults` and
    `dropped` of the result say what was wrong and what is not kept.

    Raises `InvalidRequest` naming `field` if pixels are missing or cannot be decoded, or if the file is too
    large, animated, CMYK, too deep, of another format, or has more parts than `structure` allows.
    """
    if not data:
        raise InvalidRequest.of(field, "is empty; a PNG, JPEG or WebP file is required")
    if (problem := structure.problem_of(data)) is not None:
        raise InvalidRequest.of(field, problem)
    try:
        if data.startswith(png.SIGNATURE):
            return _decode_png(data, max_pixels, deep)
        if data.startswith(jpeg.START):
            return _decode_jpeg(data, max_pixels)
        if webp.is_webp(data):
            return _decode_webp(data, max_pixels)
    except ImageFault as fault:
        raise InvalidRequest.of(field, str(fault)) from None
    except (
        OSError,
        SyntaxError,
        zlib.error,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        if "truncated" in str(error):
            raise InvalidRequest.of(field, "cannot be decoded: the file is cut short (truncated)") from None
        raise InvalidRequest.of(field, "cannot be decoded: the file is corrupt or truncated") from None
    if sniffing.is_start_of_accepted(data):
        raise InvalidRequest.of(
            field, "cannot be decoded: the file is cut short (truncated) within its header"
        )
    name = sniffing.name_of(data)
    raise InvalidRequest.of(field, f"is {name + ', ' if name else ''}not a PNG, JPEG or WebP file")


def _decode_png(data: bytes, max_pixels: int, deep: bool) -> Picture:
    _check_size(*png.size(data), max_pixels)
    chunks = png.read_chunks(data)
    if chunks.is_animated:
        raise ImageFault(_ANIMATED)
    _take_raw_profiles(chunks)
    parts = _Parts(
        exif=metadata.without_prefix(chunks.first.get(b"eXIf", b"")),
        xmp=chunks.xmp,
        dpi=chunks.resolution,
        icc=chunks.profile,
        dropped=chunks.dropped,
    )
    parts.dropped += _uneven_pixels(*chunks.pixel_shape)
    if b"iCCP" in chunks.first and not parts.icc:
        parts.dropped.append("an ICC profile that cannot be unpacked")
    profiles = [t for t in chunks.texts if text.keyword(t[1]) in photoshop.PNG_KEYWORDS]
    unpacked = {t: profile for t in profiles if (profile := text.raw_profile(*t)) is not None}
    parts.photoshop = b"".join(photoshop.from_profile(profile) for profile in unpacked.values())
    if chunks.depth > 8:
        _reject_too_deep(png.size(data), deep)
    gray = chunks.color_type in (0, 4)
    pixels = png_pixels.read(data, chunks)
    if pixels is not None:
        rgb, alpha = pixels
    elif chunks.depth > 8:
        rgb, alpha = png_pixels.read_16_bit(data, chunks)
    else:
        with Image.open(io.BytesIO(png.without_metadata(data, chunks)), formats=["PNG"]) as image:
            rgb, alpha, gray = _eight_bit_pixels(image, chunks)
            if chunks.is_interlaced or not np.asarray(image.crop((0, image.height - 1, *image.size))).any():
                png_pixels.check_pixels(data, chunks)
    picture = _picture("png", rgb, alpha, gray, parts, chunks.trailer)
    return replace(
        picture,
        png_color=chunks.color,
        texts=tuple(t for t in chunks.texts if t not in unpacked),
        faults=(*chunks.faults, *picture.faults),
    )


def _take_raw_profiles(chunks: png.Chunks) -> None:
    """Take EXIF and XMP from where ImageMagick writes them, in hexadecimal, if they are nowhere else."""
    for chunk in [t for t in chunks.texts if text.keyword(t[1]) in _RAW_METADATA]:
        profile = text.raw_profile(*chunk)
        if not profile:
            continue
        chunks.texts.remove(chunk)
        if profile.startswith(metadata.EXIF_PREFIX) or text.keyword(chunk[1]).endswith(b"exif"):
            chunks.first.setdefault(b"eXIf", profile)
        elif chunks.xmp is None:
            chunks.xmp = profile.removeprefix(jpeg.XMP_PREFIX)
        else:
            chunks.dropped.append("a second XMP packet")


def _decode_jpeg(data: bytes, max_pixels: int) -> Picture:
    found = jpeg.read(data)
    assert found.frame is not None, "checked by `read`"
    _check_size(found.frame.width, found.frame.height, max_pixels)
    try:
        with Image.open(io.BytesIO(found.file), formats=["JPEG"]) as image:
            rgb, faults = jpeg.decode(found)
            if rgb is None:
                rgb, _, _ = _eight_bit_pixels(image, None)
            info = image.info
    except OSError:
        if found.has_end:
            raise
        raise ImageFault("cannot be decoded: the JPEG file is cut short (truncated)") from None
    parts = _Parts(
        exif=metadata.without_prefix(info.get("exif", b"")),
        xmp=found.xmp,
        dpi=info.get("dpi"),
        icc=info.get("icc_profile"),
        photoshop=found.photoshop,
        dropped=found.dropped,
        has_gain_map=found.has_gain_map,
        extension=partial(jpeg.extension_of, found),
        has_unnamed_extension=bool(found.extension),
    )
    if found.has_profile and not parts.icc:
        parts.dropped.append("an ICC profile of which parts are missing")
    if info.get("jfif_unit") == 0:
        x, y = info["jfif_density"]
        parts.dropped += _uneven_pixels(y, x)
    if info.get("jfif_unit") not in (1, 2) and not metadata.has_tag(parts.exif, metadata.X_RESOLUTION):
        parts.dpi = None  # Pillow reports 72 for a JPEG without a resolution
    gray = len(found.frame.channels) == 1
    picture = _picture("jpeg", rgb, None, gray, parts, found.trailer)
    return replace(picture, comments=tuple(found.comments), faults=(*faults, *picture.faults))


def _decode_webp(data: bytes, max_pixels: int) -> Picture:
    found = webp.read(data)
    _check_size(found.width, found.height, max_pixels)
    if found.frames > 1:
        raise ImageFault(_ANIMATED)
    with Image.open(io.BytesIO(found.file), formats=["WEBP"]) as image:
        rgb, alpha, gray = _eight_bit_pixels(image, None)
        info = image.info
    webp.check_pixels(found)
    parts = _Parts(
        exif=metadata.without_prefix(info.get("exif", b"")),
        xmp=info.get("xmp"),
        icc=info.get("icc_profile"),
        dropped=found.dropped,
    )
    return _picture("webp", rgb, alpha, gray, parts, found.trailer)


def _uneven_pixels(width: int, height: int) -> list[str]:
    """Return what is lost of pixels that are not square; no number is 0."""
    uneven = 0 < width != height > 0
    return [f"the shape of its pixels, {width}:{height}"] if uneven else []


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) == 0:
        raise ImageFault(f"has a header that says {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageFault(over_limit(width, height, max_pixels))


def _reject_too_deep(size: tuple[int, int], deep: bool) -> None:
    if not deep:
        raise ImageFault("has more than 8 bits per channel; the limit is 8")
    if max(size) > png.LARGEST_16_BIT_SIDE_PX:
        raise ImageFault(
            f"has a side of {max(size)} px; the limit for 16 bits is {png.LARGEST_16_BIT_SIDE_PX} px"
        )


def _eight_bit_pixels(
    image: Image.Image, chunks: png.Chunks | None
) -> tuple[PixelArray, PixelArray | None, bool]:
    image.load()
    gray = image.mode in ("1", "L", "LA")
    transparent = image.info.get("transparency")
    if chunks is not None and image.mode == "L" and chunks.depth < 8 and isinstance(transparent, int):
        # Pillow scales the samples to 0..255, but not the one that is transparent.
        image.info["transparency"] = transparent * 255 // (2**chunks.depth - 1)
    has_alpha = "A" in image.getbands() or transparent is not None
    mode = "RGBA" if has_alpha else "RGB"
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    # In bands of rows: Pillow makes several copies of what it converts.
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        pixels = np.asarray(band if band.mode == mode else band.convert(mode))
        rgb[top : top + rows] = pixels[:, :, :3]
        if alpha is not None:
            alpha[top : top + rows] = pixels[:, :, 3]
    return rgb, alpha, gray


def _picture(
    file_format: Format, rgb: PixelArray, alpha: PixelArray | None, gray: bool, parts: _Parts, trailer: bytes
) -> Picture:
    """Add the metadata, and turn the pixels upright: as EXIF says, else as XMP does."""
    exif, dpi = parts.exif, parts.dpi
    orientation, exif = metadata.normalize_orientation(exif) if exif else (None, exif)
    cleaned, extension = _cleaned_xmp(parts)
    orientation = orientation or (cleaned.orientation if cleaned else None) or 1
    if exif and orientation != 1 and (turned := metadata.without_subject(exif)) != exif:
        exif = turned
        parts.dropped.append("the subject's place in EXIF (the image was turned)")
    if cleaned is not None and orientation != 1:
        cleaned, extension = _without_regions(cleaned, extension, parts)
    if dpi is not None and not (min(dpi) > 0 and math.isfinite(sum(dpi))):
        dpi = None
    if orientation >= 5 and dpi:
        dpi = dpi[1], dpi[0]
    announced = cleaned.announced if cleaned else ()
    return Picture(
        rgb=_upright(rgb, orientation),
        alpha=None if alpha is None else _upright(alpha, orientation),
        gray=gray,
        icc=parts.icc or None,
        exif=metadata.EXIF_PREFIX + exif if exif else None,
        xmp=cleaned.packet if cleaned else None,
        extended_xmp=extension,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
        photoshop=photoshop.kept(parts.photoshop, turned=orientation != 1) or None,
        dropped=attachments.sentences(parts.dropped, trailer, announced, has_gain_map=parts.has_gain_map),
        format=file_format,
    )


def _without_regions(
    cleaned: xmp.Cleaned, extension: bytes | None, parts: _Parts
) -> tuple[xmp.Cleaned, bytes | None]:
    """Drop the places of faces: in the turned image they would be on others."""
    packet = xmp.without_regions(cleaned.packet)
    rest = None if extension is None else xmp.without_regions(extension)
    if (packet, rest) == (cleaned.packet, extension):
        return cleaned, extension
    parts.dropped.append("face regions in XMP (the image was turned)")
    return replace(cleaned, packet=packet if rest is None else xmp.with_extension(packet, rest)), rest


def _cleaned_xmp(parts: _Parts) -> tuple[xmp.Cleaned | None, bytes | None]:
    """Return the packet as it may be written, and its extension; what cannot be read is dropped."""
    if not parts.xmp:
        if parts.has_unnamed_extension:
            parts.dropped.append("extended XMP without its packet")
        return None, None
    try:
        cleaned = xmp.clean(parts.xmp)
    except ImageFault as fault:
        parts.dropped.append(str(fault))
        return None, None
    if cleaned.extended is None:
        if parts.has_unnamed_extension:
            parts.dropped.append("extended XMP that its packet does not name")
        return cleaned, None
    extension = parts.extension(cleaned.extended)
    try:
        if extension is None:
            raise ImageFault("extended XMP of which parts are missing")
        extended = xmp.clean(extension)
        announced = cleaned.announced | extended.announced
        packet = cleaned.packet
        if extended.packet != extension:
            packet = xmp.with_extension(packet, extended.packet)
        return replace(cleaned, packet=packet, announced=announced), extended.packet
    except ImageFault as fault:
        parts.dropped.append(f"{fault} (the extension)" if extension else str(fault))
        return replace(cleaned, packet=xmp.without_extension(cleaned.packet)), None


def _upright(pixels: PixelArray, orientation: int) -> PixelArray:
    """Return pixels (H, W) or (H, W, 3) rotated and flipped by an EXIF orientation, 1 to 8."""
    if orientation == 1:
        return pixels
    # As one item per pixel this is three times as fast.
    whole = np.dtype((np.void, pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)))
    rotated = np.ascontiguousarray(pixels).view(whole).reshape(pixels.shape[:2])
    rotated = rotated[
        :: -1 if orientation in (3, 4, 6, 7) else 1, :: -1 if orientation in (2, 3, 7, 8) else 1
    ]
    if orientation >= 5:
        rotated = rotated.T
    return np.ascontiguousarray(rotated).view(pixels.dtype).reshape(*rotated.shape, *pixels.shape[2:])
