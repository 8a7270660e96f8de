"""Photos through a real gateway to a real restorer with narrow networks: results as over gRPC."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atelier.restorer.v1 import restorer_service_pb2 as pb
from tests.contract.problem_body import problem
from tests.integration.gateway_client import file_of, serve_gateway
from tests.integration.restorer_server import photo, pixels, png

SOURCE = photo(320, 240)
FILE = png(SOURCE)


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.array(opened)


async def test_a_restored_photo_is_the_same_over_grpc_in_json_and_as_a_file(seeing: Path) -> None:
    async with serve_gateway(seeing) as client:
        direct = await client.restorer.restore(FILE, return_mask=True, max_faces=2)
        in_form = await client.post("/restore", FILE, return_mask=True, max_faces=2)
        body = {"image": base64.b64encode(FILE).decode(), "max_faces": 2}
        in_json = (await client.http.post("/restore", json=body)).json()
        file = await client.http.post("/restore", json=body, headers={"Accept": "image/*"})
    assert file_of(in_form["image"]) == file_of(in_json["image"]) == file.content == direct.image.data
    assert file_of(in_form["mask"]) == direct.mask.data
    result, mask = pixels_of(file.content), pixels(direct.mask)
    np.testing.assert_array_equal(result[mask == 0], SOURCE[mask == 0])
    assert (result[mask > 0] != SOURCE[mask > 0]).any()
    assert (in_form["final_resolution"], in_form["model_set"]) == ("320x240", "tiny")
    assert (in_form["face_restoration_applied"], in_form["face_restoration_reason"]) == (True, None)
    assert [face["restored"] for face in in_form["faces"]].count(True) == 2
    assert {face["reason"] for face in in_form["faces"]} == {None, "over_limit", "low_confidence"}
    assert [face["fidelity"] for face in in_form["faces"] if face["restored"]] == [0.6, 0.6]
    stages = [stage["stage"] for stage in in_form["stages"]]
    assert stages == ["decode", "detect", "align", "restore", "paste", "encode"]
    report = json.loads(file.headers["X-Atelier-Report"])
    assert report["face_restoration_applied"] and report["final_resolution"] == "320x240"


async def test_formats_enlargement_and_warnings(seeing: Path, blind: Path) -> None:
    async with serve_gateway(seeing) as client:
        jpeg = await client.post("/restore", png(SOURCE, "JPEG", quality=95))
        webp = await client.post("/restore", FILE, output_format="webp", quality=80, upscale=2)
    assert jpeg["image"].startswith("data:image/jpeg;base64,"), "the input's format"
    assert "lossy" in jpeg["warnings"][0]
    assert webp["image"].startswith("data:image/webp;base64,")
    assert pixels_of(file_of(webp["image"])).shape == (480, 640, 3)
    assert (webp["upscaler"], webp["upscale_applied"]) == ("tiny-compact-x2", 2)
    async with serve_gateway(blind) as client:
        unseen = await client.post("/restore", FILE)
        enlarged = await client.post("/restore", FILE, max_faces=0, upscale=2, use_realesrgan=False)
    assert (unseen["success"], unseen["faces"], unseen["face_restoration_reason"]) == (True, [], "no_face")
    assert file_of(unseen["image"]) and enlarged["face_restoration_reason"] is None
    assert enlarged["upscaler"] == "lanczos"


async def test_detection(seeing: Path) -> None:
    async with serve_gateway(seeing) as client:
        all_found = await client.post("/detect", FILE, min_confidence=0.5)
        confident = await client.post("/detect", FILE)
        direct = await client.restorer.stub.DetectFaces(pb.DetectFacesRequest(image={"data": FILE}))
    assert (all_found["width"], all_found["height"]) == (320, 240)
    assert len(all_found["faces"]) > len(confident["faces"]) == len(direct.faces) > 0
    for found, face in zip(confident["faces"], direct.faces, strict=True):
        assert found["box"] == [face.box.x1_px, face.box.y1_px, face.box.x2_px, face.box.y2_px]
        assert found["landmarks"] == [[point.x_px, point.y_px] for point in face.landmarks]
        assert (found["index"], found["confidence"]) == (face.index, face.confidence)
        assert (found["size_px"], found["sharpness"]) == (face.size_px, face.sharpness)


async def test_what_detect_gives_is_restored_without_another_detection(seeing: Path) -> None:
    async with serve_gateway(seeing) as client:
        by_default = await client.post("/restore", FILE, metadata="none")
        faces = (await client.post("/detect", FILE))["faces"]
        by_edits = await client.post("/restore", FILE, faces=faces, metadata="none")
        edited = await client.post(
            "/restore", FILE, faces=[{**faces[0], "fidelity": 0.0}, *({**f, "skip": True} for f in faces[1:])]
        )
    assert file_of(by_edits["image"]) == file_of(by_default["image"])
    assert "detect" not in [stage["stage"] for stage in by_edits["stages"]]
    assert [face["reason"] for face in edited["faces"]] == [None] + ["skipped"] * (len(faces) - 1)
    assert edited["faces"][0]["fidelity"] == 0.0
    assert file_of(edited["image"]) != file_of(by_edits["image"])


async def test_compared_images_are_those_of_single_requests(seeing: Path) -> None:
    async with serve_gateway(seeing) as client:
        compared = await client.post("/compare", FILE, fidelities=[0.0, 1.0], max_faces=1, return_mask=True)
        single = [await client.post("/restore", FILE, fidelity=w, max_faces=1) for w in (0.0, 1.0)]
    assert [result["fidelity"] for result in compared["results"]] == [0.0, 1.0]
    for result, alone in zip(compared["results"], single, strict=True):
        # Not byte by byte: what shares a batch may round differently, by one level.
        different = pixels_of(file_of(result["image"])).astype(int) - pixels_of(file_of(alone["image"]))
        assert np.abs(different).max() <= 1
        assert result["mask"] is not None
    assert file_of(compared["results"][0]["image"]) != file_of(compared["results"][1]["image"])


async def test_crops_before_and_after(seeing: Path) -> None:
    async with serve_gateway(seeing) as client:
        response = await client.post("/restore", FILE, return_crops=True, max_faces=1)
    [face] = [face for face in response["faces"] if face["restored"]]
    before, after = pixels_of(file_of(face["crop_before"])), pixels_of(file_of(face["crop_after"]))
    assert before.shape == after.shape == (512, 512, 3) and (before != after).any()


async def test_one_of_several_faces_fails_and_it_alone_is_reported(seeing: Path) -> None:
    source = np.full((640, 1500, 3), 90, np.uint8)
    source[:, :200] = 250

    def raises(network: object, inputs: tuple[object, ...], output: object) -> None:
        if (np.asarray(inputs[0]).max(axis=(1, 2, 3)) > 0.9).any():
            raise RuntimeError("a bright face")

    async with serve_gateway(seeing) as client:
        found = (await client.post("/detect", png(source)))["faces"]
        bright = [face for face in found if face["box"][0] < 150][:1]
        plain = [face for face in found if face["box"][0] > 450][:2]
        edits = [*bright, {**plain[0], "visibility": 0.5}, plain[1], *plain]
        client.restorer.codeformer.register_forward_hook(raises)
        response = await client.post("/restore", png(source), faces=edits)
    assert [face["restored"] for face in response["faces"]] == [False, True, True, True, True]
    assert [face["reason"] for face in response["faces"]] == ["failed", None, None, None, None]
    assert response["face_restoration_applied"] is True


BAD_REQUESTS: list[tuple[str, bytes, dict[str, Any], str]] = [
    ("/restore", b"hello", {}, "image"),
    ("/restore", FILE[:400], {}, "image"),
    ("/detect", FILE[:400], {}, "image"),
    ("/restore", png(photo(2000, 1001)), {}, "image"),
    ("/restore", png(photo(1000, 800)), {"upscale": 4}, "upscale"),
    ("/restore", FILE, {"aligned": True}, "aligned"),
    ("/restore", png(photo(4096, 16)), {"upscale": 4, "output_format": "webp"}, "output_format"),
    ("/restore", png(photo(512, 512)), {"aligned": True, "only_center_face": True}, "only_center_face"),
]


async def test_what_the_restorer_refuses_names_the_clients_fields(blind: Path) -> None:
    async with serve_gateway(blind) as client:
        for path, file, fields, named in BAD_REQUESTS:
            error = problem(await client.send(path, file, **fields), 422, "invalid_request")
            assert [field["field"] for field in error["fields"]] == [named], (path, fields)
        assert (await client.post("/restore", FILE))["success"] is True


async def test_faults_of_a_file_and_what_is_dropped_are_warnings(seeing: Path) -> None:
    text = b"tEXtComment\0x"
    bad = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text) ^ 1)
    damaged = FILE[:33] + bad + FILE[33:]
    jpeg = png(SOURCE, "JPEG", quality=95)
    motion = jpeg + b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    async with serve_gateway(seeing) as client:
        restored = await client.post("/restore", damaged)
        found = await client.post("/detect", damaged)
        still = await client.post("/restore", motion)
        cut = await client.send("/restore", jpeg[: len(jpeg) // 2] + b"\xff\xd9")
    assert restored["warning_codes"] == found["warning_codes"] == ["image_damaged"]
    assert "tEXt" in restored["warnings"][0]
    assert still["warning_codes"] == ["lossy_output", "metadata_dropped"]
    assert b"ftyp" not in file_of(still["image"])
    assert "cut short" in problem(cut, 422, "invalid_request")["fields"][0]["message"]


async def test_without_a_generator_photos_are_restored_and_prompts_refused_by_name(seeing: Path) -> None:
    async with serve_gateway(seeing, generator="none") as client:
        restored = await client.post("/restore", FILE, max_faces=1)
        refused = [
            await client.http.post("/generate", json={"prompt": "a face", **more})
            for more in ({}, {"model": "tiny"}, {"dry_run": True})
        ]
        health, ready = await client.http.get("/health"), await client.http.get("/readyz")
    assert restored["face_restoration_applied"]
    for response in refused:
        message = problem(response, 501, "not_served")["message"]
        assert "this gateway has no generator" in message
        assert "the model set 'tiny'" in message
    assert health.status_code == ready.status_code == 200
    assert (health.json()["status"], health.json()["restores_only"]) == ("healthy", True)
    assert (health.json()["model_loaded"], health.json()["generator_load"]) == (False, None)
