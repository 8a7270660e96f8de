"""The published networks' full shapes through the whole stage, with made-up weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
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


async def test_an_aligned_crop_comes_back_as_the_reference_restores_it(published: Path) -> None:
    crop = recipe.image("codeformer", 1, 512, 512)
    async with serve(published) as client:
        answer = await client.restore(png(crop), timeout=300, aligned=True)
        assert answer.face_restoration_applied
        assert [face.fidelity for face in answer.faces] == [0.6]
        result = pixels(answer.image)
    golden = recipe.golden("codeformer_s1")["w0.6"].transpose(1, 2, 0)
    expected = np.rint((golden.clip(-1, 1) + 1) * 127.5)
    assert np.abs(result[::8, ::8].astype(int) - expected).max() <= 1


async def test_an_aligned_crop_is_replaced_where_the_parser_sees_a_face(published: Path) -> None:
    crop = recipe.image("codeformer", 1, 512, 512)
    async with serve(published) as client:
        whole = pixels((await client.restore(png(crop), timeout=300, aligned=True)).image)
        answer = await client.restore(
            png(crop), timeout=300, aligned=True, mask=pb.MASK_KIND_PARSE, return_mask=True
        )
    soft = soften_parts(restored_parts(parser(1).classify(whole[None])[0]))
    mask, result = pixels(answer.mask), pixels(answer.image)
    np.testing.assert_array_equal(mask, soft)
    assert (mask == 0).any() and mask.max() > 100
    np.testing.assert_array_equal(result[mask == 0], crop[mask == 0])
    blended = crop + mask[..., None] / 255 * (whole.astype(float) - crop)
    np.testing.assert_allclose(result, blended, atol=0.51)


async def test_a_photograph_with_two_faces_at_most(published: Path) -> None:
    """Random weights see faces anywhere: whatever they see is reported, and at most two are restored."""
    photograph = astronaut()
    async with serve(published) as client:
        least = await _confidence_of_third_face(client, photograph)
        answer = await client.restore(
            png(photograph), timeout=300, max_faces=2, min_confidence=least, return_mask=True
        )
    restored = [face for face in answer.faces if face.restored]
    reasons = [face.reason for face in answer.faces if not face.restored]
    assert len(restored) == 2
    assert answer.face_restoration_applied
    assert skip_reason_pb2.SKIP_REASON_OVER_LIMIT in reasons
    assert set(reasons) <= {
        skip_reason_pb2.SKIP_REASON_OVER_LIMIT,
        skip_reason_pb2.SKIP_REASON_TOO_SMALL,
        skip_reason_pb2.SKIP_REASON_LOW_CONFIDENCE,
    }
    mask, result = pixels(answer.mask), pixels(answer.image)
    assert result.shape == photograph.shape
    np.testing.assert_array_equal(result[mask == 0], photograph[mask == 0])
    assert (result[mask == 255] != photograph[mask == 255]).any()
    confidences = [face.face.confidence for face in answer.faces]
    assert confidences == sorted(confidences, reverse=True)


async def _confidence_of_third_face(client: Client, photograph: np.ndarray) -> float:
    """Return a threshold above which at least three faces with eyes far enough apart are seen."""
    request = pb.DetectFacesRequest(image=image_pb2.Image(data=png(photograph)), min_confidence=0.0)
    faces = (await client.stub.DetectFaces(request, timeout=300)).faces
    assert len(faces) >= 3
    large = [face for face in faces if _eye_distance(face) >= 5]
    return large[2].confidence - 1e-6


def _eye_distance(face: pb.Face) -> float:
    left, right = face.landmarks[:2]
    return float(np.hypot(left.x_px - right.x_px, left.y_px - right.y_px))
