"""Networks of the published shapes with random weights, through the complete service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from skimage.data import astronaut

from atelier.common.v1 import image_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.paste import restored_parts, soften_parts
from tests.integration.restorer_server import Client, pixels, png, serve
from tests.parity import recipe
from tests.parity.face_parts import parser
from tests.tiny_restorer import build_set

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("published")
    yield build_set(
        folder,
        detector=recipe.state_dict("retinaface_resnet50", 1),
        codeformer=recipe.state_dict("codeformer", 1),
        parser=recipe.state_dict("parsenet", 1),
        upscaler=False,
    )
    for file in folder.iterdir():
        file.unlink()  # half a gigabyte


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def published_restorer(published: Path) -> AsyncIterator[Client]:
    async with serve(published) as client:
        yield client


async def test_an_aligned_crop_is_restored_as_by_the_reference(published_restorer: Client) -> None:
    crop = recipe.image("codeformer", 1, 512, 512)
    response = await published_restorer.restore(png(crop), timeout=300, aligned=True)
    assert response.face_restoration_applied
    assert [face.fidelity for face in response.faces] == [0.6]
    result = pixels(response.image)
    golden = recipe.golden("codeformer_s1")["w0.6"].transpose(1, 2, 0)
    expected = np.rint((golden.clip(-1, 1) + 1) * 127.5)
    assert np.abs(result[::8, ::8].astype(int) - expected).max() <= 1


async def test_an_aligned_crop_is_replaced_where_the_parser_finds_a_face(published_restorer: Client) -> None:
    crop = recipe.image("codeformer", 1, 512, 512)
    whole = pixels((await published_restorer.restore(png(crop), timeout=300, aligned=True)).image)
    response = await published_restorer.restore(
        png(crop), timeout=300, aligned=True, mask=pb.MASK_KIND_PARSE, return_mask=True
    )
    soft = soften_parts(restored_parts(parser(1).classify(whole[None])[0]))
    mask, result = pixels(response.mask), pixels(response.image)
    np.testing.assert_array_equal(mask, soft)
    assert (mask == 0).any() and mask.max() > 100
    np.testing.assert_array_equal(result[mask == 0], crop[mask == 0])
    blended = crop + mask[..., None] / 255 * (whole.astype(float) - crop)
    np.testing.assert_allclose(result, blended, atol=0.51)


async def test_a_photo_with_at_most_two_faces(published_restorer: Client) -> None:
    """Random weights find faces anywhere: all of them are reported, and at most two are restored."""
    photo = astronaut()
    least = await _confidence_of_third_face(published_restorer, photo)
    response = await published_restorer.restore(
        png(photo), timeout=300, max_faces=2, min_confidence=least, return_mask=True, look=pb.LOOK_ONCE
    )
    restored = [face for face in response.faces if face.restored]
    reasons = [face.reason for face in response.faces if not face.restored]
    assert len(restored) == 2
    assert response.face_restoration_applied
    assert skip_reason_pb2.SKIP_REASON_OVER_LIMIT in reasons
    assert set(reasons) <= {
        skip_reason_pb2.SKIP_REASON_OVER_LIMIT,
        skip_reason_pb2.SKIP_REASON_TOO_SMALL,
        skip_reason_pb2.SKIP_REASON_LOW_CONFIDENCE,
    }
    mask, result = pixels(response.mask), pixels(response.image)
    assert result.shape == photo.shape
    np.testing.assert_array_equal(result[mask == 0], photo[mask == 0])
    assert (result[mask == 255] != photo[mask == 255]).any()
    confidences = [face.face.confidence for face in response.faces]
    assert confidences == sorted(confidences, reverse=True)


async def _confidence_of_third_face(client: Client, photo: np.ndarray) -> float:
    """Return a threshold above which at least three faces with eyes far enough apart are detected."""
    image = image_pb2.Image(data=png(photo))
    request = pb.DetectFacesRequest(image=image, min_confidence=0.0, look=pb.LOOK_ONCE)
    response: pb.DetectFacesResponse = await client.stub.DetectFaces(request, timeout=300)
    faces = response.faces
    assert len(faces) >= 3
    large = [face for face in faces if _eye_distance(face) >= 5]
    return large[2].confidence - 1e-6


def _eye_distance(face: pb.Face) -> float:
    left, right = face.landmarks[:2]
    return float(np.hypot(left.x_px - right.x_px, left.y_px - right.y_px))
