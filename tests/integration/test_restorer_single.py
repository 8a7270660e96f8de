"""A face restorer without a fidelity over a real socket: what has no effect is said."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from atelier.common.v1 import image_pb2, service_status_pb2, skip_reason_pb2, warning_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.integration.gateway_client import serve_gateway
from tests.integration.restorer_command import RunHere
from tests.integration.restorer_server import (
    Client,
    forward_hook,
    photo,
    pixels,
    png,
    serve,
    shown,
    stage_names,
    warning_codes,
)
from tests.tiny_identity import add_identity, mean_color_network
from tests.tiny_restorer import FACES_OF_512_PX, build_set, detector_state, gfpgan_state

IGNORED = [warning_pb2.WARNING_CODE_FIDELITY_IGNORED]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose face restorer is a GFPGAN, under the name that the role has had since CodeFormer."""
    return build_set(
        tmp_path_factory.mktemp("single"),
        detector=detector_state({FACES_OF_512_PX: 0.99}),
        codeformer=gfpgan_state(),
        upscaler=False,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def single_restorer(single: Path) -> AsyncIterator[Client]:
    async with serve(single, dtype="bfloat16") as client:
        yield client


async def test_a_request_that_leaves_the_fidelity_open_is_not_warned(single_restorer: Client) -> None:
    data = png(photo())
    response = await single_restorer.restore(data, max_faces=1)
    assert response.face_restoration_applied and warning_codes(response) == []
    [face] = [face for face in response.faces if face.restored]
    assert not face.HasField("fidelity"), "none was used"
    assert (pixels(response.image) != photo()).any()


async def test_a_fidelity_that_is_given_is_said_to_have_no_effect(single_restorer: Client) -> None:
    data = png(photo())
    plain = await single_restorer.restore(data, max_faces=1)
    for fidelity in (0.5, 1.0):  # also that which would be the default
        response = await single_restorer.restore(data, max_faces=1, fidelity=fidelity)
        assert warning_codes(response) == IGNORED
        assert "GFPGAN has no fidelity" in response.warnings[0].message
        assert (pixels(response.image) == pixels(plain.image)).all()
    edit = pb.FaceEdit(face=plain.faces[0].face, fidelity=0.9)
    assert warning_codes(await single_restorer.restore(data, faces=[edit])) == IGNORED


async def test_visibility_acts(single_restorer: Client) -> None:
    data = png(photo())
    change = [
        np.abs(pixels(response.image).astype(int) - photo()).mean()
        for visibility in (1.0, 0.5)
        if (response := await single_restorer.restore(data, max_faces=1, visibility=visibility))
    ]
    assert 0.4 < change[1] / change[0] < 0.6


async def test_the_guard_returns_what_the_highest_faithful_visibility_gives(
    single: Path, tmp_path: Path
) -> None:
    folder = add_identity(Path(shutil.copytree(single, tmp_path / "knowing")), mean_color_network())
    crop, steps = png(photo(512, 512)), [0.8, 0.6, 0.4, 0.2]
    async with serve(folder, dtype="float32") as client:
        asked = [await client.restore(crop, aligned=True, visibility=step) for step in steps]
        values = [response.faces[0].identity_similarity for response in asked]
        assert values == sorted(values) and len(set(values)) == len(steps)
        for number, value in enumerate(values):
            guard = {"identity": pb.IDENTITY_MODE_GUARD, "min_similarity": value}
            response = await client.restore(crop, aligned=True, visibility=steps[0], **guard)
            [face] = response.faces
            assert shown(response.image) == shown(asked[number].image)
            assert face.restored and not face.HasField("fidelity") and warning_codes(response) == []
            assert face.visibility == pytest.approx(steps[number])
            assert face.identity_similarity == pytest.approx(value, abs=1e-6)
            assert face.HasField("visibility_requested") is (number > 0)
            assert face.visibility_requested in (0, steps[0]) and not face.HasField("fidelity_requested")
        guard = {"identity": pb.IDENTITY_MODE_GUARD, "min_similarity": 1.0}
        left = await client.restore(crop, aligned=True, **guard)
    assert left.reason == skip_reason_pb2.SKIP_REASON_IDENTITY_CHANGED
    assert not left.faces[0].HasField("visibility")
    np.testing.assert_array_equal(pixels(left.image), photo(512, 512))


async def test_a_comparison_says_that_its_images_are_the_same(single_restorer: Client) -> None:
    restore = pb.RestoreFacesRequest(image=image_pb2.Image(data=png(photo())), max_faces=1)
    request = pb.CompareFidelitiesRequest(restore=restore, fidelities=[0.0, 0.5, 1.0])
    runs: list[int] = []
    with forward_hook(single_restorer.codeformer, lambda _, given, output: runs.append(len(given[0]))):
        responses = [r async for r in single_restorer.stub.CompareFidelities(request, timeout=60)]
    assert runs == [1], "one face, once"
    assert [response.fidelity for response in responses] == [0.0, 0.5, 1.0]
    results = [response.result for response in responses]
    assert len({pixels(result.image).tobytes() for result in results}) == 1
    for result in results:
        assert warning_codes(result) == IGNORED
        assert "the images of all values are the same" in result.warnings[0].message
        assert not any(face.HasField("fidelity") for face in result.faces)
        assert "restore" in stage_names(result)


async def test_values_that_are_not_finite_are_reported_as_codeformers_are(single_restorer: Client) -> None:
    def ruin(module: torch.nn.Module, given: Any, output: Any) -> None:
        output[0][0, 0, 0, 0] = torch.nan

    with forward_hook(single_restorer.codeformer, ruin):
        response = await single_restorer.restore(png(photo()), max_faces=1)
    assert not response.face_restoration_applied
    assert response.reason == skip_reason_pb2.SKIP_REASON_NOT_FINITE
    np.testing.assert_array_equal(pixels(response.image), photo())


async def test_the_status_tells_the_network_and_its_dtype(single_restorer: Client) -> None:
    response = await single_restorer.stub.GetStatus(pb.GetStatusRequest())
    names = {network.role: network.name for network in response.status.networks}
    assert names[service_status_pb2.NETWORK_ROLE_FACE_RESTORER] == "tiny-codeformer (GFPGAN)"
    assert response.status.dtype == "float32"


async def test_the_gateway_passes_it_on(single: Path) -> None:
    async with serve_gateway(single) as client:
        plain = await client.post("/restore", png(photo()), max_faces=1, metadata="none")
        given = await client.post("/restore", png(photo()), max_faces=1, fidelity=0.6, metadata="none")
        compared = await client.post("/compare", png(photo()), max_faces=1, fidelities=[0.2, 0.8])
        health = (await client.http.get("/health")).json()
    assert plain["warning_codes"] == []
    assert [face["fidelity"] for face in plain["faces"] if face["restored"]] == [None]
    assert given["warning_codes"] == ["fidelity_ignored"] and given["image"] == plain["image"]
    assert [result["warning_codes"] for result in compared["results"]] == [["fidelity_ignored"]] * 2
    assert health["codeformer_available"]


def test_the_command_line_says_it_only_where_a_fidelity_is_given(
    single: Path, tmp_path: Path, run_here: RunHere
) -> None:
    source = tmp_path / "in.png"
    source.write_bytes(png(photo()))
    common = ("--model-set", single, "--metadata", "none")
    plain = run_here("restore", source, tmp_path / "a.png", *common)
    given = run_here("restore", source, tmp_path / "b.png", *common, "--fidelity", "0.5")
    assert (plain.code, given.code) == (0, 0)
    assert "has no fidelity" in given.out and "has no fidelity" not in plain.out
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
