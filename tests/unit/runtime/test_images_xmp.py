"""XMP and its extension are kept, without what it says of dropped parts or of the image as it was."""

from __future__ import annotations

import hashlib
import struct
from xml.etree import ElementTree

import pytest

from atelier_runtime import images
from atelier_runtime.images import xmp
from tests.unit.runtime.image_files import (
    PHOTO,
    XMP_HEADER,
    chunk,
    jpeg,
    opened,
    packet,
    png_16,
    saved,
    segment,
    smooth,
)
from tests.unit.runtime.metadata_seen import FORMATS, decode, dropped

EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"


def extended(main: bytes, extension: bytes, *, parts: int = 3, guid: bytes | None = None) -> list[bytes]:
    digest = guid or hashlib.md5(extension).hexdigest().upper().encode()
    size = -(-len(extension) // parts)
    return [
        segment(0xE1, XMP_HEADER + main.replace(b"GUID", digest)),
        *(
            segment(
                0xE1,
                EXTENSION
                + digest
                + struct.pack(">II", len(extension), start)
                + extension[start : start + size],
            )
            for start in reversed(range(0, len(extension), size))  # in any order
        ),
    ]


DEPTH = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    b'xmlns:a="urn:a&amp;b"><rdf:Description rdf:about="" '
    b'xmlns:G="http://ns.google.com/photos/1.0/depthmap/" G:Data="%s" a:x="1"/></rdf:RDF></x:xmpmeta>'
    % (b"QUJD" * 40_000)
)


def test_extended_xmp_is_kept() -> None:
    picture = decode(jpeg(*extended(packet('xmpNote:HasExtendedXMP="GUID"'), DEPTH)))
    written = images.encode(picture, "jpeg", 92)
    assert picture.extended_xmp == decode(written).extended_xmp == DEPTH
    assert hashlib.md5(DEPTH).hexdigest().upper().encode() in opened(written).info["xmp"]
    assert not dropped(picture, "jpeg")


@pytest.mark.parametrize("output", ["png", "webp"])
def test_where_xmp_is_not_limited_the_extension_becomes_a_part_of_it(output: images.Format) -> None:
    picture = decode(jpeg(*extended(packet('xmpNote:HasExtendedXMP="GUID"'), DEPTH)))
    merged = opened(images.encode(picture, output, 100)).info["xmp"]
    assert b"HasExtendedXMP" not in merged
    [first, second] = ElementTree.fromstring(merged)[0]
    assert first.attrib["{http://purl.org/dc/elements/1.1/}source"] == "kept"
    assert second.attrib["{http://ns.google.com/photos/1.0/depthmap/}Data"] == "QUJD" * 40_000
    assert second.attrib["{urn:a&b}x"] == "1"
    assert not dropped(picture, output)


@pytest.mark.parametrize("between", ["png", "webp"])
def test_xmp_that_is_too_large_for_a_jpegs_packet_gets_an_extension(between: images.Format) -> None:
    picture = decode(jpeg(*extended(packet('xmpNote:HasExtendedXMP="GUID"'), DEPTH)))
    merged = decode(images.encode(picture, between, 100))
    assert not dropped(merged, "jpeg")
    written = decode(images.encode(merged, "jpeg", 92))
    again = opened(images.encode(written, between, 100)).info["xmp"]
    descriptions = {
        name: text for element in ElementTree.fromstring(again)[0] for name, text in element.items()
    }
    assert descriptions["{http://purl.org/dc/elements/1.1/}source"] == "kept"
    assert descriptions["{http://ns.google.com/photos/1.0/depthmap/}Data"] == "QUJD" * 40_000
    assert b"HasExtendedXMP" not in again


def test_properties_of_other_namespaces_are_kept_and_those_of_dropped_credentials_not() -> None:
    properties = "xmlns:my='urn:my' my:MotionPhotoNote='mine' xmlns:dcterms='http://purl.org/dc/terms/'"
    for provenance, is_kept in (("self#jumbf=/c2pa/urn:uuid:1", False), ("https://example.org/a", True)):
        picture = decode(
            jpeg(segment(0xE1, XMP_HEADER + packet(f"{properties} dcterms:provenance='{provenance}'")))
        )
        assert picture.xmp is not None and b"mine" in picture.xmp
        assert (provenance.encode() in picture.xmp) == is_kept


def test_an_extension_with_missing_parts_is_no_longer_announced() -> None:
    segments = extended(packet('xmpNote:HasExtendedXMP="GUID"'), DEPTH)
    for present in (
        segments[:-1],
        segments[:1],
        segments[:1] + extended(packet(""), DEPTH, guid=b"A" * 32)[1:],
    ):
        picture = decode(jpeg(*present))
        assert "extended XMP" in dropped(picture, "jpeg")
        xmp = opened(images.encode(picture, "jpeg", 92)).info["xmp"]
        assert b"HasExtendedXMP" not in xmp and b'dc:source="kept"' in xmp


def test_what_an_extension_announces_is_cut_out_of_it_too() -> None:
    extension = packet('GCamera:MotionPhoto="1"')
    picture = decode(jpeg(*extended(packet('xmpNote:HasExtendedXMP="GUID"'), extension)))
    written = decode(images.encode(picture, "jpeg", 92))
    assert written.extended_xmp is not None and b"MotionPhoto" not in written.extended_xmp
    assert b"kept" in written.extended_xmp and not written.dropped
    assert "motion photo" in dropped(picture, "jpeg")


@pytest.mark.parametrize(
    "bad",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b"<x><y></x>",
        b"<x>" * 200 + b"</x>" * 200,
        b"\xff\xfe<\0x\0",
    ],
    ids=["entities", "external", "not well-formed", "deep", "UTF-16"],
)
@pytest.mark.parametrize("source", FORMATS)
def test_xmp_that_cannot_be_read_is_dropped_with_a_warning(bad: bytes, source: images.Format) -> None:
    if source == "png":
        data = png_16(
            images.to_depth(smooth(), 16), before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bad)
        )
    else:
        data = saved(PHOTO, source, xmp=bad)
    picture = decode(data)
    assert picture.xmp is None
    assert "XMP" in dropped(picture)


def test_xmp_in_utf_16_is_kept() -> None:
    text = packet('tiff:Orientation="3" hdrgm:Version="1"').decode().replace('begin="\ufeff"', 'begin=""')
    picture = decode(saved(PHOTO, "WEBP", xmp=b"\xff\xfe" + text.encode("utf-16-le")))
    assert picture.xmp is not None
    assert b'tiff:Orientation="1"' in picture.xmp and b"hdrgm" not in picture.xmp


def test_the_preview_in_xmp_is_cut_out() -> None:
    preview = "<xmp:Thumbnails><rdf:Alt><rdf:li>x</rdf:li></rdf:Alt></xmp:Thumbnails>"
    picture = decode(saved(PHOTO, "JPEG", xmp=packet('xmlns:xmp="http://ns.adobe.com/xap/1.0/"', preview)))
    assert picture.xmp is not None and b"Thumbnails" not in picture.xmp and b"Alt" not in picture.xmp
    assert not dropped(picture)


def test_a_packet_with_too_many_elements_is_dropped() -> None:
    """The cost is bounded by the number of elements, wherever they are."""
    for inside in ("<hdrgm:x/>" * 150_000, "<a>" * 99 + "</a>" * 99):
        data = png_16(
            images.to_depth(smooth(), 16),
            before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet("", inside)),
        )
        assert "too many elements" in dropped(decode(data))


def test_an_element_may_have_many_attributes() -> None:
    """A search that began anew for each of them would take hours."""
    attributes = " ".join(f'hdrgm:a{number}="1"' for number in range(90_000)).encode()
    assert xmp.clean(b"<x " + attributes + b"/>").packet == b"<x/>"


@pytest.mark.parametrize("orientation", [1, 6])
def test_face_regions_do_not_stay_where_the_image_was_before_it_was_turned(orientation: int) -> None:
    regions = "<mwg-rs:Regions><rdf:Bag><rdf:li mwg-rs:Name='Ann'/></rdf:Bag></mwg-rs:Regions>"
    namespace = "xmlns:mwg-rs='http://www.metadataworkinggroup.com/schemas/regions/'"
    source = packet(f"{namespace} tiff:Orientation='{orientation}'", regions)
    picture = decode(jpeg(segment(0xE1, XMP_HEADER + source)))
    assert picture.xmp is not None and b"kept" in picture.xmp
    assert (b"Ann" in picture.xmp) == (orientation == 1)
    assert ("face regions" in dropped(picture)) == (orientation != 1)
