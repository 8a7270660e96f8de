"""Likeness over gRPC and on the command line: reported, guarded, refused where it cannot be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import safetensors.torch
import torch

from atelier.common.v1 import service_status_pb2, skip_reason_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_restorer.identity import FaceIdentifier, OnnxIdentifier
from atelier_restorer.identity_arcface import ArcFaceIdentifier
from tests.integration.restorer_command import RunHere, pixels_of, run_at_service
from tests.integration.restorer_server import Client, failure, photo, pixels, png, serve, shown, stage_names
from tests.tiny_identity import add_identity, arcface_state, mean_color_network
from tests.tiny_restorer import FACES_OF_512_PX, build_set, codeformer_state, detector_state

FILE = png(photo())
CROP = png(photo(512, 512))
OFF, REPORT, GUARD = pb.IDENTITY_MODE_OFF, pb.IDENTITY_MODE_REPORT, pb.IDENTITY_MODE_GUARD
LADDER = [0.4, 0.6, 0.8, 1.0]


def tiny_set(folder: Path) -> Path:
    return build_set(folder, detector=detector_state({FACES_OF_512_PX: 0.99}), codeformer=codeformer_state())


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_set(tmp_path_factory.mktemp("knowing"))
    return add_identity(folder, mean_color_network(), min_similarity=-1.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain_restorer(without: Path) -> AsyncIterator[Client]:
    async with serve(without) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restorer(knowing: Path) -> AsyncIterator[Client]:
    async with serve(knowing) as client:
        yield client


def likenesses(response: pb.RestoreFacesResponse) -> list[float]:
    return [face.identity_similarity for face in response.faces if face.restored]


async def sweep(client: Client, fidelities: list[float], **fields: Any) -> list[pb.RestoreFacesResponse]:
    request = pb.CompareFidelitiesRequest(restore=pb.RestoreFacesRequest(**fields), fidelities=fidelities)
    return [each.result async for each in client.stub.CompareFidelities(request)]


async def test_it_is_reported_by_default_and_changes_no_pixel(
    restorer: Client, plain_restorer: Client
) -> None:
    by_default = await restorer.restore(FILE, max_faces=2)
    asked = await restorer.restore(FILE, max_faces=2, identity=REPORT)
    off = await restorer.restore(FILE, max_faces=2, identity=OFF)
    plain = await plain_restorer.restore(FILE, max_faces=2)
    assert shown(by_default.image) == shown(asked.image) == shown(off.image) == shown(plain.image)
    assert likenesses(by_default) == likenesses(asked) and len(likenesses(asked)) == 2
    assert all(-1 <= value <= 1 for value in likenesses(asked))
    for response, measured in ((by_default, True), (off, False), (plain, False)):
        assert ("identity" in stage_names(response)) is measured
        assert {face.HasField("identity_similarity") for face in response.faces if face.restored} == {
            measured
        }
        assert not response.HasField("min_similarity")


async def test_what_is_measured_is_the_crops_that_are_returned(restorer: Client) -> None:
    response = await restorer.restore(FILE, max_faces=1, return_crops=True)
    [face] = [face for face in response.faces if face.restored]
    identifier = OnnxIdentifier(mean_color_network())
    before, after = (identifier.embed(pixels(crop)) for crop in (face.crop_before, face.crop_after))
    assert face.identity_similarity == pytest.approx(before.similarity(after), abs=1e-5)


async def test_the_network_is_among_those_loaded(restorer: Client) -> None:
    status = (await restorer.stub.GetStatus(pb.GetStatusRequest())).status
    assert ("tiny-identity", service_status_pb2.NETWORK_ROLE_IDENTITY) in [
        (network.name, network.role) for network in status.networks
    ]


async def test_the_guard_returns_what_the_lowest_faithful_fidelity_gives(restorer: Client) -> None:
    swept = await sweep(restorer, LADDER, image={"data": CROP}, aligned=True)
    values = [likenesses(result)[0] for result in swept]
    assert len({round(value, 6) for value in values}) == len(LADDER), "every value has its own likeness"
    for limit in (min(values), sorted(values)[1], max(values)):
        response = await restorer.restore(
            CROP, aligned=True, fidelity=LADDER[0], identity=GUARD, min_similarity=limit
        )
        [face] = response.faces
        expected = next(number for number, value in enumerate(values) if value >= limit)
        assert shown(response.image) == shown(swept[expected].image) and response.min_similarity == limit
        assert face.restored and face.fidelity == pytest.approx(LADDER[expected])
        assert face.identity_similarity == pytest.approx(values[expected], abs=1e-6)
        assert face.HasField("fidelity_requested") is (expected > 0)
        if expected:
            assert face.fidelity_requested == pytest.approx(LADDER[0])


async def test_a_face_that_would_be_somebody_else_is_left_as_it_was(restorer: Client) -> None:
    source = photo()
    response = await restorer.restore(
        FILE, max_faces=2, identity=GUARD, min_similarity=1.0, return_mask=True, return_crops=True
    )
    changed = skip_reason_pb2.SKIP_REASON_IDENTITY_CHANGED
    assert response.reason == changed and not response.face_restoration_applied
    for face in response.faces[:2]:
        assert face.reason == changed and not face.restored and not face.HasField("fidelity")
        assert face.identity_similarity < 1 and not face.HasField("fidelity_requested")
        assert (pixels(face.crop_before) != pixels(face.crop_after)).any(), "what was not let through"
    np.testing.assert_array_equal(pixels(response.image), source)
    assert not pixels(response.mask).any()


@pytest.mark.parametrize("crops", [False, True])
async def test_a_guarded_face_of_visibility_0_is_not_visible(restorer: Client, *, crops: bool) -> None:
    unseen = skip_reason_pb2.SKIP_REASON_NOT_VISIBLE
    guard = {"identity": GUARD, "min_similarity": 1.0, "visibility": 0.0, "return_crops": crops}
    for file, fields in ((FILE, {"max_faces": 1}), (CROP, {"aligned": True})):
        response = await restorer.restore(file, **guard, **fields)
        face = response.faces[0]
        assert (face.restored, face.reason, response.reason) == (False, unseen, unseen)
        assert face.HasField("crop_after") is crops


async def test_with_the_sets_own_limit(restorer: Client) -> None:
    response = await restorer.restore(FILE, max_faces=1, identity=GUARD)
    plain = await restorer.restore(FILE, max_faces=1)
    assert response.min_similarity == -1
    difference = pixels(response.image).astype(int) - pixels(plain.image)
    assert np.abs(difference).max() <= 1, "a batch of more decodes rounds otherwise"


async def test_a_face_too_ruined_to_tell(tmp_path: Path) -> None:
    folder = add_identity(tiny_set(tmp_path), mean_color_network(), min_similarity=0.9, min_certainty=1.0)
    async with serve(folder) as client:
        reported = await client.restore(FILE, max_faces=1)
        guarded = await client.restore(FILE, max_faces=1, identity=GUARD)
    for response in (reported, guarded):
        [face] = [face for face in response.faces if face.restored]
        assert face.identity_unknown and not face.HasField("identity_similarity")
    assert np.abs(pixels(reported.image).astype(int) - pixels(guarded.image)).max() <= 1


async def test_what_cannot_be_told_is_refused(
    restorer: Client, plain_restorer: Client, without: Path
) -> None:
    for mode in (REPORT, GUARD):
        _, _, fields, _ = await failure(plain_restorer.restore(FILE, identity=mode))
        assert fields == ["identity"]
    off = await plain_restorer.restore(FILE, max_faces=1, identity=OFF, look=pb.LOOK_ONCE)
    assert off.face_restoration_applied, "what /generate sends"
    for fields_given, named in (
        ({"min_similarity": 0.5}, ["min_similarity"]),
        ({"identity": REPORT, "min_similarity": 0.5}, ["min_similarity"]),
        ({"identity": GUARD, "min_similarity": 1.5}, ["min_similarity"]),
        ({"identity": 77}, ["identity"]),
    ):
        _, _, fields, _ = await failure(restorer.restore(FILE, **fields_given))
        assert fields == named
    _, _, fields, _ = await failure(sweep(restorer, [0.5], image={"data": FILE}, identity=GUARD))
    assert fields == ["restore.identity"]


async def test_a_network_from_a_file_has_no_limit_of_its_own(without: Path, tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes(mean_color_network())
    async with serve(without, identity=str(tmp_path / "own.onnx")) as client:
        _, _, fields, _ = await failure(client.restore(FILE, identity=GUARD))
        response = await client.restore(FILE, max_faces=1, identity=GUARD, min_similarity=-1.0)
    assert fields == ["min_similarity"] and response.face_restoration_applied
    async with serve(without, identity=str(tmp_path / "own.onnx"), min_similarity=-0.5) as client:
        response = await client.restore(FILE, max_faces=1, identity=GUARD)
    assert response.min_similarity == -0.5


async def test_the_settings_certainty_stands_above_the_sets(
    knowing: Path, without: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.onnx").write_bytes(mean_color_network())
    for folder, file in ((knowing, ""), (without, str(tmp_path / "own.onnx"))):
        for certainty, unknown in ((2.0, True), (0.0, False)):
            async with serve(folder, identity=file, min_certainty=certainty) as client:
                response = await client.restore(CROP, aligned=True)
            assert response.faces[0].identity_unknown is unknown


@pytest.fixture(scope="module")
def arcface_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("arcface") / "recognition_arcface_ir_se50.pth"
    torch.save(arcface_state(), file)
    return file


async def test_arcface_from_a_file_reports_and_guards(without: Path, arcface_file: Path) -> None:
    identifier: FaceIdentifier = ArcFaceIdentifier(arcface_state(), torch.device("cpu"))
    async with serve(without, identity=str(arcface_file), dtype="float32") as client:
        reported = await client.restore(CROP, aligned=True, fidelity=LADDER[0], return_crops=True)
        swept = await sweep(client, LADDER, image={"data": CROP}, aligned=True)
        values = [likenesses(result)[0] for result in swept]
        _, _, fields, _ = await failure(client.restore(CROP, aligned=True, identity=GUARD))
        middle = sorted(values)[1]
        guard = {"aligned": True, "fidelity": LADDER[0], "identity": GUARD}
        guarded = await client.restore(CROP, **guard, min_similarity=middle)
        stopped = await client.restore(CROP, **guard, min_similarity=1.0)
        status = (await client.stub.GetStatus(pb.GetStatusRequest())).status
    [face] = reported.faces
    before, after = (identifier.embed(pixels(crop)) for crop in (face.crop_before, face.crop_after))
    assert face.identity_similarity == pytest.approx(before.similarity(after), abs=1e-5)
    assert stage_names(reported).count("identity") == 1
    assert fields == ["min_similarity"], "nothing was measured for it"
    expected = next(number for number, value in enumerate(values) if value >= middle)
    assert shown(guarded.image) == shown(swept[expected].image) and guarded.faces[0].restored
    assert stopped.faces[0].reason == skip_reason_pb2.SKIP_REASON_IDENTITY_CHANGED
    np.testing.assert_array_equal(pixels(stopped.image), photo(512, 512))
    assert ("recognition_arcface_ir_se50", service_status_pb2.NETWORK_ROLE_IDENTITY) in [
        (network.name, network.role) for network in status.networks
    ]


async def test_arcface_in_a_set_has_the_sets_limit(tmp_path: Path) -> None:
    content = safetensors.torch.save(arcface_state())
    folder = add_identity(tiny_set(tmp_path), content, min_similarity=-0.75, file="arcface.safetensors")
    async with serve(folder) as client:
        response = await client.restore(CROP, aligned=True, identity=GUARD)
    assert response.min_similarity == -0.75 and response.faces[0].restored


async def test_on_the_command_line_in_process_and_at_a_service(
    knowing: Path, without: Path, restorer: Client, tmp_path: Path, run_here: RunHere
) -> None:
    (tmp_path / "in.png").write_bytes(FILE)
    (tmp_path / "own.onnx").write_bytes(mean_color_network())

    def arguments(name: str, *flags: object) -> list[object]:
        return ["restore", tmp_path / "in.png", tmp_path / name, "--max-faces", 1, *flags]

    guard = ("--identity", "guard", "--min-similarity", -1)
    own = await asyncio.to_thread(run_here, *arguments("own.png", *guard), "--model-set", knowing)
    remote = await run_at_service(restorer, *arguments("remote.png", *guard))
    file = await asyncio.to_thread(
        run_here, *arguments("file.png"), "--model-set", without, "--identity-network", tmp_path / "own.onnx"
    )
    off = await asyncio.to_thread(
        run_here, *arguments("off.png", "--identity", "off"), "--model-set", knowing
    )
    values = [
        [face["identity_similarity"] for face in run.reports[0]["faces"] if face["restored"]]
        for run in (own, remote, file, off)
    ]
    assert values[0] == values[1] == pytest.approx(values[2], abs=1e-4) and values[3] == [None]
    assert [run.reports[0]["min_similarity"] for run in (own, remote, file)] == [-1, -1, None]
    np.testing.assert_array_equal(pixels_of(tmp_path / "off.png"), pixels_of(tmp_path / "file.png"))
    refused = await asyncio.to_thread(
        run_here, *arguments("no.png", "--identity", "guard"), "--model-set", without
    )
    assert refused.code != 0 and "--identity guard needs an identity network" in refused.err


@pytest.mark.parametrize("own_network", [False, True], ids=["no network", "no limit"])
def test_a_folder_is_refused_as_a_whole_before_its_first_image(
    *, without: Path, tmp_path: Path, run_here: RunHere, own_network: bool
) -> None:
    for name in ("in/1.png", "in/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILE)
    (tmp_path / "own.onnx").write_bytes(mean_color_network())
    flags = ["--identity-network", tmp_path / "own.onnx"] if own_network else []
    guard = ["--identity", "guard", "--model-set", without, *flags]
    refused = run_here("restore", tmp_path / "in", tmp_path / "out", *guard)
    expected = "--min-similarity is required" if own_network else "--identity guard needs an identity network"
    assert (refused.code, refused.reports, refused.err.count(expected)) == (2, [], 1), refused.err
    assert ".png" not in refused.err and not list((tmp_path / "out").rglob("*.png"))


async def test_a_service_that_refuses_a_guard_is_not_asked_for_every_image(
    plain_restorer: Client, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"in/{number}.png").write_bytes(FILE)
    flags = ["--identity", "guard", "--concurrency", 1]
    run = await run_at_service(plain_restorer, "restore", tmp_path / "in", tmp_path / "out", *flags)
    assert run.code == 1 and run.err.count("--identity guard needs an identity network") == 1, run.err
    assert "1 failed, 3 not attempted" in run.err


NO_FACES = [("--faces", "plan.json"), ("--max-faces", 0)]


@pytest.mark.parametrize("mode", ["report", "guard"])
@pytest.mark.parametrize("none", NO_FACES, ids=["empty plan", "max faces 0"])
async def test_without_a_face_to_restore_the_command_line_is_refused_where_the_service_is(
    *,
    knowing: Path,
    without: Path,
    restorer: Client,
    tmp_path: Path,
    run_here: RunHere,
    mode: str,
    none: tuple[str, Any],
) -> None:
    (tmp_path / "in.png").write_bytes(FILE)
    (tmp_path / "plan.json").write_text('{"faces": []}')
    few = [tmp_path / value if value == "plan.json" else value for value in none]
    source = ["restore", tmp_path / "in.png"]
    flags = [*few, "--identity", mode]
    own = await asyncio.to_thread(run_here, *source, tmp_path / "a.png", *flags, "--model-set", knowing)
    remote = await run_at_service(restorer, *source, tmp_path / "b.png", *flags)
    assert (own.code, remote.code) == (0, 0), own.err + remote.err
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), pixels_of(tmp_path / "in.png"))
    refused = await asyncio.to_thread(run_here, *source, tmp_path / "c.png", *flags, "--model-set", without)
    assert refused.code != 0 and f"--identity {mode} needs an identity network" in refused.err


@pytest.mark.parametrize("none", NO_FACES, ids=["empty plan", "max faces 0"])
def test_a_comparison_without_a_face_is_refused_only_where_there_is_no_network(
    knowing: Path, without: Path, tmp_path: Path, run_here: RunHere, none: tuple[str, Any]
) -> None:
    (tmp_path / "in.png").write_bytes(FILE)
    (tmp_path / "plan.json").write_text('{"faces": []}')
    few = [tmp_path / value if value == "plan.json" else value for value in none]
    flags = [*few, "--fidelities", 0.5, "--identity", "report", "--model-set"]
    ran = run_here("compare", tmp_path / "in.png", tmp_path / "a", *flags, knowing)
    assert ran.code == 0, ran.err
    refused = run_here("compare", tmp_path / "in.png", tmp_path / "b", *flags, without)
    assert refused.code != 0 and "--identity report needs an identity network" in refused.err
