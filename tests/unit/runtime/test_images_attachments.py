"""IPTC, comments and texts are kept, sizes updated; gain maps, videos and the like are dropped aloud."""

from __future__ import annotations

import io
import struct
import zlib
from xml.etree import ElementTree

import pytest
from PIL import ExifTags, Image, IptcImagePlugin, PngImagePlugin

from atelier_runtime import images
from tests.unit.runtime.image_files import (
    PHOTO,
    XMP_HEADER,
    chunk,
    chunks,
    jpeg,
    opened,
    packet,
    png,
    png_16,
    saved,
    segment,
    smooth,
)
from tests.unit.runtime.metadata_seen import FORMATS, decode, dropped

VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(range(1, 200))


def iptc(**records: int) -> bytes:
    """Return Photoshop's resources: a thumbnail, IPTC with these texts by data set, and a path."""
    data = b"".join(
        struct.pack(">BBBH", 0x1C, 2, number, len(t)) + t.encode() for t, number in records.items()
    )
    return b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + b"\0" * (len(content) % 2)
        for number, content in ((0x040C, b"old thumbnail"), (0x0404, data), (0x07D0, b"a path"))
    )


def read_iptc(data: bytes) -> dict[tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as image:
        info = IptcImagePlugin.getiptcinfo(image)
    assert info is not None
    return {key: value for key, value in info.items() if isinstance(value, bytes)}


# Kept


def test_iptc_and_comments_of_a_jpeg_are_kept() -> None:
    resources = iptc(caption=120, Somebody=116)
    data = jpeg(
        segment(0xED, b"Photoshop 3.0\0" + resources),
        *(segment(0xFE, text) for text in (b"first", "zweiter \u00fc".encode(), b"latin \xfc")),
    )
    picture = decode(data)
    written = images.encode(picture, "jpeg", 92)
    assert read_iptc(written) == {(2, 120): b"caption", (2, 116): b"Somebody"}
    assert b"old thumbnail" not in written and b"a path" in written
    assert (
        decode(written).comments == picture.comments == (b"first", "zweiter \u00fc".encode(), b"latin \xfc")
    )
    assert not dropped(picture, "jpeg") and not dropped(picture, "png")
    lost = dropped(picture, "webp")
    assert "IPTC" in lost and "Comment" in lost


def test_iptc_and_comments_survive_a_png_in_between() -> None:
    resources = iptc(caption=120)
    data = jpeg(segment(0xED, b"Photoshop 3.0\0" + resources), segment(0xFE, "gr\u00fc\u00df".encode()))
    png = images.encode(decode(data), "png", 92)
    assert opened(png).info["Comment"] == "gr\u00fc\u00df"
    again = images.encode(decode(png), "png", 92)
    jpeg_again = images.encode(decode(again), "jpeg", 92)
    assert read_iptc(jpeg_again) == {(2, 120): b"caption"}
    assert opened(jpeg_again).info["comment"] == "gr\u00fc\u00df".encode()


def test_iptc_in_several_segments_is_joined_and_split_again() -> None:
    resources = iptc(**{"x" * 30_000: 120}) + iptc(**{"y" * 30_000: 25}) + iptc(**{"z" * 30_000: 116})
    parts = [resources[i : i + 60_000] for i in range(0, len(resources), 60_000)]
    data = jpeg(*(segment(0xED, b"Photoshop 3.0\0" + part) for part in parts))
    written = decode(images.encode(decode(data), "jpeg", 92))
    assert written.photoshop == decode(data).photoshop
    assert written.photoshop is not None and b"z" * 30_000 in written.photoshop


def test_a_path_does_not_stay_where_the_image_was_before_it_was_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(jpeg(segment(0xED, b"Photoshop 3.0\0" + iptc(caption=120)), exif=exif))
    assert turned.photoshop is not None
    assert b"a path" not in turned.photoshop and b"caption" in turned.photoshop


@pytest.mark.parametrize("resources", [b"", b"8BIM", b"8BIM\4\4\0\0\xff\xff\xff\xff", b"no resources"])
def test_corrupt_resources_are_neither_lost_nor_fatal(resources: bytes) -> None:
    picture = decode(jpeg(segment(0xED, b"Photoshop 3.0\0" + resources)))
    assert (picture.photoshop or b"") == resources
    for output in FORMATS:
        images.encode(picture, output, 92)


@pytest.mark.parametrize("deep", [False, True])
def test_the_texts_of_a_png_are_kept(deep: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ada")
    info.add_text("Description", "long " * 1000, zip=True)
    info.add_itxt("Title", "\u00dcbung", lang="de", tkey="Titel")
    info.add_text("Comment", "caf\u00e9")
    data = saved(PHOTO, "PNG", pnginfo=info)
    if deep:
        before = b"".join(chunk(kind, content) for kind, content in _texts(data))
        data = png_16(images.to_depth(smooth(), 16), after=before)
    picture = decode(data)
    assert sorted(_texts(images.encode(picture, "png", 92))) == sorted(_texts(data))
    assert not dropped(picture)
    written = opened(images.encode(picture, "jpeg", 92))
    assert written.info["comment"] == "caf\u00e9".encode()
    assert "Author, Description, Title)" in dropped(picture, "jpeg")
    assert "Comment" in dropped(picture, "webp")


def _texts(data: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], 8
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            found.append((kind, data[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def test_imagemagicks_xmp_and_iptc_as_hexadecimal_text() -> None:
    def raw(name: bytes, content: bytes) -> bytes:
        text = b"\n%s\n%8d\n%s\n" % (name, len(content), content.hex().encode())
        return chunk(b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(text))

    plain = saved(PHOTO, "PNG")
    alone = struct.pack(">BBBH", 0x1C, 2, 120, 7) + b"caption"
    more = raw(b"iptc", alone) + raw(b"xmp", packet('tiff:Orientation="6"'))
    picture = decode(plain[:33] + more + plain[33:])
    assert (picture.width, picture.height) == (40, 60), "as XMP says"
    written = images.encode(picture, "jpeg", 92)
    assert read_iptc(written) == {(2, 120): b"caption"}
    assert b'tiff:Orientation="1"' in opened(written).info["xmp"]


@pytest.mark.parametrize("size", [0x18, 0x20])
def test_a_video_without_xmp_is_named(size: int) -> None:
    video = size.to_bytes(4, "big") + b"ftypmp42" + bytes(range(1, 200))
    assert "video of the motion photo" in dropped(decode(jpeg(after=video)))


# Dropped

ITEMS = (
    "<Container:Directory><rdf:Seq>"
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"/></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="%s" Item:Mime="image/jpeg"'
    ' Item:Length="%d"/></rdf:li></rdf:Seq></Container:Directory>'
)
SECOND = saved(Image.new("RGB", (8, 8)), "JPEG")
ULTRA_HDR = jpeg(
    segment(0xE1, XMP_HEADER + packet('hdrgm:Version="1.0"', ITEMS % ("GainMap", len(SECOND)))),
    segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)),
    after=SECOND[:2] + segment(0xE1, XMP_HEADER + packet('hdrgm:GainMapMax="2"')) + SECOND[2:],
)


@pytest.mark.parametrize("output", FORMATS)
def test_a_gain_map_is_dropped_and_no_longer_announced(output: images.Format) -> None:
    picture = decode(ULTRA_HDR)
    written = images.encode(picture, output, 100)
    for word in (b"hdrgm", b"GainMap", b"Container", b"21496"):
        assert word not in written
    xmp = opened(written).info["xmp"]
    assert b'dc:source="kept"' in xmp
    ElementTree.fromstring(xmp)
    assert "gain map" in dropped(picture, output)
    assert not decode(written).dropped


@pytest.mark.parametrize(
    "xmp",
    [
        packet('GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" GCamera:MicroVideoOffset="224"'),
        packet("", "<GCamera:MotionPhoto>1</GCamera:MotionPhoto>" + ITEMS % ("MotionPhoto", len(VIDEO))),
        packet("GCamera:MicroVideo = '1'").replace(b"GCamera", b"cam"),
    ],
    ids=["attributes", "elements", "another prefix"],
)
@pytest.mark.parametrize("output", FORMATS)
def test_the_video_of_a_motion_photo_is_dropped_and_no_longer_announced(
    output: images.Format, xmp: bytes
) -> None:
    picture = decode(jpeg(segment(0xE1, XMP_HEADER + xmp), after=VIDEO))
    written = images.encode(picture, output, 100)
    for word in (b"Motion", b"MicroVideo", b"ftyp", b"Container:"):
        assert word not in written
    assert b'dc:source="kept"' in opened(written).info["xmp"]
    assert "video" in dropped(picture, output)


def test_what_follows_the_image_is_dropped_with_a_warning() -> None:
    png, webp = saved(PHOTO, "PNG"), saved(PHOTO, "WEBP")
    for data in (jpeg(after=b"more"), png + b"more", webp + b"more"):
        assert "4 bytes after the end" in dropped(decode(data))
    for data in (jpeg(after=bytes(500)), png + bytes(500), webp + bytes(500)):
        assert not dropped(decode(data)), "padding"
    assert "further images" in dropped(decode(jpeg(after=SECOND)))
    assert "video" in dropped(decode(jpeg(after=b"x" * 50 + b"MotionPhoto_Data" + VIDEO + b"SEFT")))


def test_parts_that_are_not_kept_are_named() -> None:
    credentials = segment(0xEB, b"JP\0\1\0\0\0\1jumb c2pa")
    assert "C2PA" in dropped(decode(jpeg(credentials)))
    assert "APP4 (FLIR" in dropped(decode(jpeg(segment(0xE4, b"FLIR camera"))))
    assert not dropped(decode(jpeg(segment(0xEC, b"Ducky\0\1"), segment(0xE0, b"JFXX\0"))))
    png = saved(PHOTO, "PNG")
    assert "C2PA, the chunk prVt" in dropped(
        decode(png[:33] + chunk(b"caBX", b"x") + chunk(b"prVt", b"") + png[33:])
    ).replace("content credentials (C2PA)", "C2PA")
    assert not dropped(decode(png[:33] + chunk(b"tIME", bytes(7)) + chunk(b"bKGD", bytes(6)) + png[33:]))
    webp = saved(PHOTO, "WEBP")
    more = b"C2PA\4\0\0\0abcdXYZ!\0\0\0\0"
    data = webp[:4] + struct.pack("<I", len(webp) - 8 + len(more)) + webp[8:] + more
    assert "C2PA" in dropped(decode(data)) and "XYZ!" in dropped(decode(data))


# The size

SIZES = (0x0100, 0x0101, 0xA002, 0xA003)


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["short", "long"])
def test_the_size_in_exif_and_xmp_follows_the_image(
    output: images.Format, orientation: int, kind: str
) -> None:
    size = 60 if kind == "short" else 70_000  # Pillow writes the smallest type
    exif = Image.Exif()
    exif[0x0112], exif[0x0100], exif[0x0101] = orientation, size, 40
    exif.get_ifd(ExifTags.IFD.Exif).update({0xA002: size, 0xA003: 40, 0x9003: "2020:01:01 00:00:00"})
    sizes = (
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:PixelXDimension="60" tiff:ImageWidth="60" '
        'tiff:ImageLength="40"'
    )
    xmp = packet(sizes, "<exif:PixelYDimension>40</exif:PixelYDimension>")
    picture = decode(saved(PHOTO, "JPEG", exif=exif, xmp=xmp))
    width, height = 2 * picture.width, 2 * picture.height
    upscaled = picture.with_pixels(picture.rgb.repeat(2, axis=0).repeat(2, axis=1), None)
    written = opened(images.encode(upscaled, output, 92))
    assert written.size == (width, height) == ((120, 80) if orientation == 1 else (80, 120))
    block = written.getexif()
    detail = block.get_ifd(ExifTags.IFD.Exif)
    assert [block[0x0100], block[0x0101], detail[0xA002], detail[0xA003]] == [width, height, width, height]
    assert detail[0x9003] == "2020:01:01 00:00:00"
    text = written.info["xmp"].decode()
    assert f'PixelXDimension="{width}" tiff:ImageWidth="{width}" tiff:ImageLength="{height}"' in text
    assert f"<exif:PixelYDimension>{height}<" in text


def test_no_size_is_invented() -> None:
    exif = Image.Exif()
    exif[0x010E] = "described"
    written = opened(images.encode(decode(saved(PHOTO, "JPEG", exif=exif)), "jpeg", 92))
    assert not {*SIZES} & {*written.getexif(), *written.getexif().get_ifd(ExifTags.IFD.Exif)}
    assert chunks(images.encode(decode(saved(PHOTO, "PNG")), "png", 92)).keys() == {b"IHDR", b"IDAT", b"IEND"}


def test_the_shape_of_pixels_that_are_not_square_is_not_lost_without_a_word() -> None:
    file = jpeg()
    assert file[:2] == b"\xff\xd8" and file[6:11] == b"JFIF\0"
    uneven = file[:13] + b"\0" + struct.pack(">HH", 2, 1) + file[18:]
    assert "shape of its pixels, 1:2" in dropped(decode(uneven))
    assert not dropped(decode(file))
    square = png(("pHYs", struct.pack(">IIB", 3, 3, 0)))
    assert not dropped(decode(square), "jpeg")
    assert "shape of its pixels, 2:1" in dropped(decode(png(("pHYs", struct.pack(">IIB", 1, 2, 0)))), "jpeg")


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_subjects_place_in_exif_does_not_stay_where_it_was(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769).update({0x9214: (3, 4), 0x9286: b"kept", 0xA214: (3, 4), 0xA434: "a lens"})
    picture = decode(jpeg(exif=exif))
    assert ("subject's place" in dropped(picture)) == (orientation != 1)
    directory = opened(images.encode(picture, "jpeg", 92)).getexif().get_ifd(0x8769)
    assert (0x9214 in directory, 0xA214 in directory) == (
        (True, True) if orientation == 1 else (False, False)
    )
    assert directory[0x9286] == b"kept" and directory[0xA434] == "a lens"
