"""Which part of a mask is drawn anew, and soft edges."""

from __future__ import annotations

import numpy as np
import pytest

from atelier_generator.request import GenerateRequest, MaskKind
from atelier_generator.source import MaskArray
from atelier_generator.source_reading import read_source
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.images import Picture

IMAGE = Picture(rgb=np.full((256, 256, 3), 128, np.uint8))


def mask_of(plane: MaskArray, alpha: MaskArray | None = None) -> Picture:
    return Picture(rgb=np.repeat(plane[..., None], 3, 2), alpha=alpha)


def read(mask: Picture, kind: MaskKind | None = None, blur: float | None = None) -> MaskArray:
    request = GenerateRequest("a cat", image=b"x", mask=b"x", mask_kind=kind, mask_blur_px=blur)
    plane = read_source(request, IMAGE, mask).mask
    assert plane is not None
    return plane


def halves(left: int, right: int) -> MaskArray:
    return np.repeat(np.array([[left] * 128 + [right] * 128], np.uint8), 256, 0)


@pytest.mark.parametrize("kind", [None, "white"])
def test_white_is_drawn_anew_and_transparent_parts_are_kept(kind: MaskKind | None) -> None:
    assert np.array_equal(read(mask_of(halves(0, 200)), kind), halves(0, 200))
    assert np.array_equal(read(mask_of(halves(255, 255), halves(0, 255)), kind), halves(0, 255))


def test_black_is_drawn_anew_and_transparent_parts_are_kept() -> None:
    assert np.array_equal(read(mask_of(halves(0, 200)), "black"), halves(255, 55))
    assert np.array_equal(read(mask_of(halves(0, 0), halves(0, 255)), "black"), halves(0, 255))


def test_what_is_transparent_is_drawn_anew_whatever_its_colors() -> None:
    alpha = halves(0, 255)
    for color in (0, 255):
        assert np.array_equal(read(mask_of(halves(color, color), alpha), "transparent"), halves(255, 0))


def test_a_mask_without_transparency_has_nothing_to_say_about_it() -> None:
    with pytest.raises(InvalidRequest, match="alpha channel") as caught:
        read(mask_of(halves(0, 255)), "transparent")
    assert [violation.field for violation in caught.value.fields] == ["mask"]


def test_edges_are_blurred_by_a_gaussian() -> None:
    edge = read(mask_of(halves(0, 255)), blur=8.0)[128].astype(float) / 255
    assert edge[100] < 0.01 and edge[156] > 0.99
    assert edge[127] == pytest.approx(0.5, abs=0.05)
    assert edge[119] == pytest.approx(0.159, abs=0.02), "one standard deviation from the edge"
    assert (np.diff(edge) >= 0).all()
