from __future__ import annotations

import pytest

from atelier_gateway.core.faces import Faces
from atelier_gateway.core.values import CompareSpec, DetectSpec, RestoreSpec
from atelier_runtime.errors import InternalError
from atelier_runtime.images import InputImage
from atelier_runtime.outcomes import SkipReason
from tests.unit.gateway.core.fakes import FakeRestorer

IMAGE = InputImage(b"a file")


@pytest.fixture
def restorer() -> FakeRestorer:
    restorer = FakeRestorer()
    restorer.applied, restorer.reason = False, SkipReason.NO_FACE
    return restorer


async def test_why_no_face_was_restored(restorer: FakeRestorer) -> None:
    restoration = await Faces(restorer).restore(RestoreSpec(IMAGE), deadline=0)
    assert restoration.face_restoration_reason is SkipReason.NO_FACE


async def test_no_reason_where_no_face_was_requested(restorer: FakeRestorer) -> None:
    spec = RestoreSpec(IMAGE, max_faces=0)
    assert (await Faces(restorer).restore(spec, deadline=0)).face_restoration_reason is None
    [compared] = await Faces(restorer).compare(CompareSpec(spec, (0.5,)), deadline=0)
    assert compared.face_restoration_reason is None


async def test_a_comparison_has_a_result_for_each_fidelity(restorer: FakeRestorer) -> None:
    spec = CompareSpec(RestoreSpec(IMAGE), (0.1, 0.5, 0.9))
    assert len(await Faces(restorer).compare(spec, deadline=0)) == 3
    restorer.results = 2
    with pytest.raises(InternalError):
        await Faces(restorer).compare(spec, deadline=0)


async def test_detect(restorer: FakeRestorer) -> None:
    assert len((await Faces(restorer).detect(DetectSpec(IMAGE), deadline=0)).faces) == 1
