"""A face counts as restored only if a pixel may have changed; otherwise there is a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from atelier.common.v1 import skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.integration.restorer_server import Client, photo, pixels, png

NOT_VISIBLE = skip_reason_pb2.SKIP_REASON_NOT_VISIBLE
BOX = {"x1_px": 10, "y1_px": 10, "x2_px": 200, "y2_px": 200}
Points = Sequence[tuple[float, float]]
POINTS: Points = [(60, 80), (140, 80), (100, 120), (70, 160), (130, 160)]


def edit(points: Points, **options: Any) -> dict[str, Any]:
    landmarks = [{"x_px": x, "y_px": y} for x, y in points]
    return {"face": {"box": BOX, "landmarks": landmarks}, **options}


def moved(by: float) -> Points:
    return [(x + by, y + by) for x, y in POINTS]


SEEN = edit(POINTS)
UNSEEN: dict[str, tuple[dict[str, Any], int]] = {
    "off the image": (edit(moved(5000)), NOT_VISIBLE),
    "off the image on the other side": (edit(moved(-5000)), NOT_VISIBLE),
    "coincident": (edit([(100, 100)] * 5), skip_reason_pb2.SKIP_REASON_FAILED),
    "nearly coincident": (edit([(100 + i * 1e-4, 100 + i * i * 1e-4) for i in range(5)]), NOT_VISIBLE),
    "invisible": (edit(POINTS, visibility=0.0), NOT_VISIBLE),
    "less than a level of the mask": (edit(POINTS, visibility=0.001), NOT_VISIBLE),
}


@pytest.mark.parametrize("case", UNSEEN)
@pytest.mark.parametrize("scale", [1, 2])
async def test_a_face_without_a_pixel_is_not_restored(restorer: Client, case: str, scale: int) -> None:
    face, reason = UNSEEN[case]
    fields = {"return_mask": True, "upscale": scale, "use_upscaler": False}
    alone = await restorer.restore(png(photo()), faces=[face], **fields)
    assert not alone.face_restoration_applied and alone.reason == reason
    assert [(f.restored, f.reason, f.HasField("fidelity")) for f in alone.faces] == [(False, reason, False)]
    assert not alone.tone_matched
    assert not pixels(alone.mask).any()
    if scale == 1:
        assert np.array_equal(pixels(alone.image), photo())
    both = await restorer.restore(png(photo()), faces=[face, SEEN], **fields)
    assert both.face_restoration_applied and not both.reason
    assert [f.restored for f in both.faces] == [False, True]
    assert pixels(both.mask).any()


async def test_the_visibility_of_the_whole_request(restorer: Client) -> None:
    response = await restorer.restore(png(photo()), visibility=0.0, return_mask=True)
    assert response.faces and not response.face_restoration_applied and response.reason == NOT_VISIBLE
    assert {face.reason for face in response.faces if not face.restored} >= {NOT_VISIBLE}
    assert not any(face.restored for face in response.faces)


async def test_crops_of_a_face_that_is_not_pasted_are_returned(restorer: Client) -> None:
    response = await restorer.restore(png(photo()), faces=[edit(POINTS, visibility=0.0)], return_crops=True)
    [face] = response.faces
    assert (face.restored, face.reason) == (False, NOT_VISIBLE)
    assert not np.array_equal(pixels(face.crop_before), pixels(face.crop_after))


async def test_an_aligned_face_that_is_invisible(restorer: Client) -> None:
    for fields in ({}, {"return_crops": True}):
        source = photo(512, 512)
        response = await restorer.restore(
            png(source), aligned=True, visibility=0.0, return_mask=True, **fields
        )
        assert not response.face_restoration_applied and response.reason == NOT_VISIBLE
        assert np.array_equal(pixels(response.image), source) and not pixels(response.mask).any()


async def test_every_fidelity_of_a_comparison(restorer: Client) -> None:
    request = pb.CompareFidelitiesRequest(
        restore=pb.RestoreFacesRequest(image={"data": png(photo())}, faces=[edit(moved(5000))]),
        fidelities=[0.2, 0.8],
    )
    reasons = [response.result.reason async for response in restorer.stub.CompareFidelities(request)]
    assert reasons == [NOT_VISIBLE, NOT_VISIBLE]
