"""What is written into a file is read again, and its pixels and everything else stay as they were."""

from __future__ import annotations

import io
import json
from typing import Any
from xml.sax.saxutils import unescape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier_runtime.images import FORMATS, Format, Picture, decode, encode, jpeg, metadata, png, xmp
from atelier_runtime.recipes import COMPOSITE, DRAWN, Marks, mark, packet, read_marks, user_comment
from atelier_runtime.recipes.marks import MAX_PREVIOUS

RECIPE = {"version": 1, "kind": "drawing", "request": {"prompt": "ein Fuchs 🦊 <&]]>\r\n", "seed": 3}}
INFOTEXT = "ein Füchslein 狐\nNegative prompt: x\nSteps: 2, Sampler: Euler, Seed: 3"

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=12,
)
_recipes = st.dictionaries(st.text(max_size=20), _json, max_size=5)


def picture(side: int = 9, *, alpha: bool = False, **parts: Any) -> Picture:
    generator = np.random.default_rng(side)
    rgb = generator.integers(0, 256, (side, side + 2, 3), np.uint8)
    opacity = generator.integers(0, 256, rgb.shape[:2], np.uint8) if alpha else None
    return Picture(rgb=rgb, alpha=opacity, **parts)


def pixels(file: bytes) -> bytes:
    with Image.open(io.BytesIO(file)) as image:
        return image.convert("RGBA").tobytes()


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=25, deadline=None)
@given(recipe=_recipes, infotext=_texts, side=st.integers(1, 12), alpha=st.booleans())
def test_what_is_marked_is_read_again(
    file_format: Format, recipe: dict[str, Any], infotext: str, side: int, alpha: bool
) -> None:
    plain = encode(picture(side, alpha=alpha), file_format, 100 if alpha else 90)
    marked = mark(plain, file_format, Marks(recipe, infotext or None, DRAWN))
    found = read_marks(marked)
    assert found.recipe == recipe
    assert (found.infotext or "") == infotext
    assert found.source_type == DRAWN
    assert found.format == file_format
    assert not found.omitted
    assert pixels(marked) == pixels(plain)
    assert mark(marked, file_format, Marks(recipe, infotext or None, DRAWN)) == marked


@pytest.mark.parametrize("file_format", FORMATS)
def test_everything_else_stays(file_format: Format) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    full = picture(icc=b"\0" * 16 + b"RGB " + b"\0" * 200, exif=exif.tobytes(), xmp=OWN_XMP)
    plain = encode(full, file_format, 90)
    marked = mark(plain, file_format, Marks(RECIPE, INFOTEXT, COMPOSITE))
    before, after = decode(plain, max_pixels=10_000), decode(marked, max_pixels=10_000)
    assert after.exif == before.exif
    assert metadata.without_prefix(exif.tobytes())[:40] == metadata.without_prefix(after.exif or b"")[:40]
    assert after.icc == before.icc
    assert (after.rgb == before.rgb).all()
    found = read_marks(marked)
    assert found.items["XMP:Rating"] == "4"
    assert found.items["EXIF:Make"] == "a camera"
    assert found.source_type == COMPOSITE, "in place of the file's own"
    assert marked.count(b"DigitalSourceType>") == 2, "one element"
    # EXIF that is a photo's own is not changed: the text is elsewhere.
    assert (found.infotext, found.recipe) == (INFOTEXT, RECIPE)


OWN_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    b'xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:Rating="4" '
    b'ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def test_chunks_that_are_not_ours_are_the_same_bytes() -> None:
    plain = encode(picture(texts=((b"tEXt", b"Title\0t"), (b"zTXt", b"Odd\0\0broken"))), "png", 90)
    marked = mark(plain, "png", Marks(RECIPE, INFOTEXT, DRAWN))
    chunks = [marked[start - 8 : end + 4] for _, start, end in png.iterate_chunks(marked)]
    ours = [chunk for chunk in chunks if b"parameters" in chunk[:20] or b"XML:com.adobe" in chunk[:30]]
    assert len(ours) == 2
    for chunk in ours:
        marked = marked.replace(chunk, b"")
    assert marked == plain


def test_the_web_ui_reads_its_text_with_pillow() -> None:
    marked = mark(encode(picture(), "png", 90), "png", Marks(RECIPE, "a fox\nSteps: 1", DRAWN))
    assert b"tEXtparameters\0a fox\nSteps: 1" in marked
    with Image.open(io.BytesIO(marked)) as image:
        assert image.info["parameters"] == "a fox\nSteps: 1"
    for file_format in ("jpeg", "webp"):
        marked = mark(encode(picture(), file_format, 90), file_format, Marks(RECIPE, INFOTEXT, DRAWN))
        with Image.open(io.BytesIO(marked)) as image:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment == b"UNICODE\0" + INFOTEXT.encode("utf-16-be")


@pytest.mark.parametrize("size", [30_000, 70_000, 200_000])
def test_what_a_jpeg_has_no_segment_for_is_in_its_extension(size: int) -> None:
    recipe, infotext = {**RECIPE, "long": "x" * size}, "y" * size
    plain = encode(picture(), "jpeg", 90)
    marked = mark(plain, "jpeg", Marks(recipe, infotext, DRAWN))
    found = read_marks(marked)
    assert (found.recipe, found.infotext, found.source_type) == (recipe, infotext, DRAWN)
    assert (decode(marked, max_pixels=10_000).rgb == decode(plain, max_pixels=10_000).rgb).all()
    again = mark(marked, "jpeg", Marks(RECIPE, None, DRAWN))
    assert read_marks(again).recipe == RECIPE
    assert b"xxxxxxxxxx" not in again


def test_a_photo_with_extended_xmp_keeps_it() -> None:
    extension = OWN_XMP.replace(b'xmp:Rating="4"', b'xmp:Label="far"')
    packet_of_photo, whole = OWN_XMP, b""
    note = b'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="%s" xmp:Rating'
    packet_of_photo = packet_of_photo.replace(b"xmp:Rating", note % xmp.guid(extension), 1)
    whole = encode(picture(xmp=packet_of_photo, extended_xmp=extension), "jpeg", 90)
    assert jpeg.EXTENSION_PREFIX in whole
    for size in (10, 70_000):
        marked = mark(whole, "jpeg", Marks({"long": "x" * size}, None, COMPOSITE))
        found = read_marks(marked)
        assert found.items["XMP:Label"] == "far"
        assert found.items["XMP:Rating"] == "4"
        assert found.recipe == {"long": "x" * size}
        assert found.source_type == COMPOSITE


def test_a_restoration_builds_on_what_was_there() -> None:
    plain = encode(picture(), "png", 90)
    drawn = mark(plain, "png", Marks(RECIPE, INFOTEXT, DRAWN))
    restored = mark(drawn, "png", Marks({"kind": "restoration"}, None, COMPOSITE, builds_on=True))
    found = read_marks(restored)
    assert found.recipe == {"kind": "restoration", "of": RECIPE}
    assert found.infotext == INFOTEXT
    assert found.source_type == DRAWN, "a drawing does not become a photograph"
    for _ in range(MAX_PREVIOUS + 3):
        restored = mark(restored, "png", Marks({"kind": "restoration"}, None, COMPOSITE, builds_on=True))
    depth, recipe = 0, read_marks(restored).recipe
    while recipe is not None:
        depth, recipe = depth + 1, recipe.get("of")
    assert depth == MAX_PREVIOUS + 1


def test_a_packet_of_another_encoding_stays_readable() -> None:
    declared = b'<?xml version="1.0" encoding="iso-8859-1"?>' + OWN_XMP.replace(b'"4"', b'"\xe4"')
    new = packet.read(packet.with_properties(declared, recipe=RECIPE, source_type=DRAWN))
    assert (new.recipe, new.texts["XMP:Rating"], new.source_type) == (RECIPE, "ä", DRAWN)
    wide = packet.read(packet.with_properties(OWN_XMP.decode().encode("utf-16"), recipe=RECIPE))
    assert (wide.recipe, wide.texts["XMP:Rating"]) == (RECIPE, "4")


@given(_texts)
def test_comments_of_exif(text: str) -> None:
    read = user_comment.read(user_comment.write(text))
    assert read.get("UserComment", "") == text


def test_json_is_what_other_tools_find() -> None:
    marked = mark(encode(picture(), "webp", 90), "webp", Marks(RECIPE, None, DRAWN))
    with Image.open(io.BytesIO(marked)) as image:
        written = image.info["xmp"].decode()
    start, end = written.index("<atelier:Recipe>") + 16, written.index("</atelier:Recipe>")
    assert json.loads(unescape(written[start:end])) == RECIPE


def description(attributes: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {attributes}/></rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ('xmlfs:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlfs:note="kept"', "kept"),
        ('tiff:Make="kept"', "kept"),
        ('xmlns:a="urn:u" xmlns:b="urn:u" a:x="1" b:x="2"', None),  # one name twice, once it is resolved
        ('xmlns:xml="urn:u" xml:x="1"', None),
    ],
)
def test_a_mark_is_found_in_a_photo_whose_xmp_only_lenient_readers_accept(
    file_format: Format, attributes: str, kept: str | None
) -> None:
    photo = encode(picture(xmp=description(attributes)), file_format, 90)
    found = read_marks(mark(photo, file_format, Marks(RECIPE, None, DRAWN)))
    assert (found.recipe, found.source_type, found.omitted) == (RECIPE, DRAWN, ())
    assert kept is None or kept in found.items.values()


def test_a_mark_is_found_behind_any_number_of_other_properties() -> None:
    many = " ".join(f'dc:x{number}="{number}"' for number in range(600))
    photo = encode(picture(xmp=description(f'xmlns:dc="urn:u" {many}')), "png", 90)
    found = read_marks(mark(photo, "png", Marks(RECIPE, None, DRAWN)))
    assert (found.recipe, found.source_type) == (RECIPE, DRAWN)
