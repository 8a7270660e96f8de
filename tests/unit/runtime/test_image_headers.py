"""Sizes that are read from headers: as stored, and as programs show the image."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from PIL import Image, ImageOps

from atelier_runtime.images import displayed_size, stored_size
from tests.unit.runtime.image_files import chunk, opened, saved

ORIENTATION = 0x0112


def file_of(file_format: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(Image.new("RGB", (40, 24), "white"), file_format, exif=exif, **options)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_displayed_size_is_that_of_the_upright_image(file_format: str, orientation: int) -> None:
    file = file_of(file_format, orientation)
    assert stored_size(file) == (40, 24)
    assert displayed_size(file) == ImageOps.exif_transpose(opened(file)).size


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHxx", ORIENTATION, 3, 1, 6)
    exif = mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    file = saved(Image.new("RGB", (40, 24)), "JPEG", exif=b"Exif\0\0" + exif)
    assert displayed_size(file) == (24, 40)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_without_exif_it_is_the_stored_size(file_format: str) -> None:
    assert displayed_size(saved(Image.new("RGB", (40, 24)), file_format)) == (40, 24)


def test_exif_after_a_png_s_pixels_counts() -> None:
    file = saved(Image.new("RGB", (40, 24)), "PNG")
    entry = struct.pack(">HHIHxx", ORIENTATION, 3, 1, 8)
    exif = chunk(b"eXIf", b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4))
    end = file.rindex(b"IEND") - 4
    assert displayed_size(file[:end] + exif + file[end:]) == (24, 40)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"nonsense" * 20])
def test_exif_that_cannot_be_read_turns_nothing(exif: bytes) -> None:
    file = saved(Image.new("RGB", (40, 24)), "JPEG", exif=b"Exif\0\0" + exif)
    assert displayed_size(file) == (40, 24)


@pytest.mark.parametrize("file", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"])
def test_what_has_no_size_has_none(file: bytes) -> None:
    assert displayed_size(file) is None
