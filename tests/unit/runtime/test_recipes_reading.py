"""What is read in files from anyone: other programs' texts, damage, and what is made to cost much."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import FORMATS, Format, Picture, encode, png
from atelier_runtime.recipes import DRAWN, Marks, describe_marks, mark, read_marks

INFOTEXT = "a fox\nSteps: 1, Sampler: Euler, Seed: 3"


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = encode(Picture(rgb=np.zeros((4, 4, 3), np.uint8)), "png", 90)
    place = plain.index(b"IDAT") - 4
    return plain[:place] + b"".join(p for c in chunks for p in png.chunk(*c)) + plain[place:]


def marked(file_format: Format) -> bytes:
    plain = encode(Picture(rgb=np.full((5, 6, 3), 90, np.uint8)), file_format, 90)
    return mark(plain, file_format, Marks({"kind": "drawing", "n": 1}, INFOTEXT, DRAWN))


def test_texts_of_other_programs() -> None:
    texts = PngInfo()
    texts.add_text("prompt", '{"3": {"class_type": "KSampler"}}')
    texts.add_text("workflow", '{"nodes": []}', zip=True)
    texts.add_itxt("Comment", '{"uc": "schlecht, 狐"}', zip=True)
    texts.add_text("Description", "NovelAI's prompt")
    texts.add_itxt("invokeai_metadata", '{"seed": 1}')
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG", pnginfo=texts)
    found = read_marks(buffer.getvalue())
    assert found.items == {
        "prompt": '{"3": {"class_type": "KSampler"}}',
        "workflow": '{"nodes": []}',
        "Comment": '{"uc": "schlecht, 狐"}',
        "Description": "NovelAI's prompt",
        "invokeai_metadata": '{"seed": 1}',
    }
    assert (found.recipe, found.infotext, found.source_type) == (None, None, None)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_comments_in_either_order_of_bytes(file_format: str, order: str) -> None:
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x8769] = {0x9286: b"UNICODE\0" + INFOTEXT.encode("utf-16-be")}
    exif[0x010E] = "a description"
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, file_format.upper(), exif=exif.tobytes())
    found = read_marks(buffer.getvalue())
    assert found.infotext == INFOTEXT
    assert found.items["EXIF:ImageDescription"] == "a description"


def test_a_comment_of_a_jpeg() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "JPEG", comment="schön".encode())
    assert read_marks(buffer.getvalue()).items == {"Comment": "schön"}


def test_bombs_are_named_and_left_out() -> None:
    bomb = zlib.compress(bytes(2**24))
    chunks = [(b"zTXt", b"bomb%d\0\0" % n + bomb) for n in range(20)]
    chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb))
    found = read_marks(png_with(*chunks, (b"tEXt", b"parameters\0" + INFOTEXT.encode())))
    assert found.infotext == INFOTEXT
    assert "bomb0" in found.omitted
    assert not found.items.keys() - {"parameters"}
    assert len(found.omitted) <= 20


def test_a_huge_text_is_named_and_left_out() -> None:
    found = read_marks(png_with((b"tEXt", b"workflow\0" + b"x" * (2**20 + 1)), (b"tEXt", b"prompt\0p")))
    assert found.items == {"prompt": "p"}
    assert found.omitted == ("workflow",)


def test_all_texts_together_are_bounded() -> None:
    chunks = [(b"tEXt", b"text%d\0" % n + b"x" * 2**20) for n in range(12)]
    found = read_marks(png_with(*chunks))
    assert sum(map(len, found.items.values())) <= 2**23
    assert len(found.items) + len(found.omitted) == 12


def test_document_types_are_not_read() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    found = read_marks(png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bomb)))
    assert found.omitted == ("XMP",)


@pytest.mark.parametrize(
    "recipe",
    [
        *("[]", "3", "[" * 5000, "{", '{"a":' + "[" * 100 + "]" * 100 + "}", '{"a":' * 3000),
        *('{"a": NaN}', "NaN", '{"a": 1e999}', '{"a": [{"b": -1.5e400}]}', '{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_a_recipe_that_is_no_object_or_cannot_be_written_again_is_none(recipe: str) -> None:
    file = png_with_recipe(recipe)
    assert read_marks(file).recipe is None
    again = read_marks(mark(file, "png", Marks({"kind": "restoration"}, builds_on=True)))
    assert again.recipe == {"kind": "restoration"}


def test_halves_of_surrogate_pairs_do_not_leave_the_reader() -> None:
    halves = json.dumps({"\ud800": ["x\udc00", {"a": "\ud83e\udd8a"}]})
    infotext_ = json.dumps("a\ud800\nSteps: 1, Sampler: Euler, Seed: 3")
    found = read_marks(png_with_recipe(halves, infotext_))
    assert found.recipe == {"\ufffd": ["x\ufffd", {"a": "🦊"}]}
    assert found.infotext == "a\ufffd\nSteps: 1, Sampler: Euler, Seed: 3"
    text = b'parameters\0x\nSteps: 1, Model: "a\\ud800", Seed: 3'
    parameters = describe_marks(read_marks(png_with((b"tEXt", text))))["parameters"]
    assert parameters["Model"] == "a\ufffd"


def png_with_recipe(recipe: str, written: str = '""') -> bytes:
    packet = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:a="urn:atelier:recipe/1.0/"><a:Recipe>{recipe}</a:Recipe><a:Infotext>{written}</a:Infotext>'
        "</rdf:Description></rdf:RDF>"
    )
    return png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode()))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"x" * 100, b"\0" * 10])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_marks(data, field="picture")
    assert error.value.fields[0].field == "picture"


def test_many_parts_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="chunks"):
        read_marks(png_with(*[(b"tEXt", b"k\0v")] * 2001))


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_never_crash(file_format: Format, data: st.DataObject) -> None:
    damaged = bytearray(marked(file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["byte", "cut", "insert", "length"]))
        if kind == "byte":
            damaged[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[place : place + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            damaged[place:place] = data.draw(st.binary(max_size=20))
        else:
            damaged[place : place + 4] = struct.pack(">I", data.draw(st.sampled_from([0, 2**31, 2**32 - 1])))
        if not damaged:
            break
    with contextlib.suppress(InvalidRequest):
        read_marks(bytes(damaged))


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\xff\xff\0\0WEBP"])
@given(rest=st.binary(max_size=300))
def test_nonsense_never_crashes(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        read_marks(start + rest)
