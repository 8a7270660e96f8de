"""Photographs through a real gateway to a real restorer with narrow networks: what gRPC gives."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier_gateway.__main__ import listen
from atelier_gateway.app import create_app
from atelier_gateway.settings import GatewaySettings
from tests.contract.problem_body import problem
from tests.integration.restorer_server import Client, photo, pixels, png, serve

SOURCE = photo(320, 240)
FILE = png(SOURCE)


class Desk:
    """A client of the gateway, and one of the restorer behind it."""

    def __init__(self, http: httpx.AsyncClient, restorer: Client) -> None:
        self.http = http
        self.restorer = restorer

    async def ask(self, path: str, file: bytes = FILE, **fields: Any) -> httpx.Response:
        """Send a picture in a form, its fields as JSON but for strings."""
        data = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
        return await self.http.post(path, files={"image": ("a", file)}, data=data)

    async def answer(self, path: str, file: bytes = FILE, **fields: Any) -> dict[str, Any]:
        response = await self.ask(path, file, **fields)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def desk(model_set: Path) -> AsyncIterator[Desk]:
    async with serve(model_set) as restorer:
        settings = GatewaySettings(restorer=f"127.0.0.1:{restorer.server.port}", max_pixels=2_000_000)
        listener = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
                yield Desk(http, restorer)
        finally:
            server.should_exit = True
            await serving


def file_of(data_uri: str) -> bytes:
    return base64.b64decode(data_uri.partition(",")[2])


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        return np.array(opened)


async def test_a_photograph_comes_back_as_over_grpc_in_json_and_as_a_file(seeing: Path) -> None:
    async with desk(seeing) as at:
        direct = await at.restorer.restore(FILE, return_mask=True, max_faces=2)
        told = await at.answer("/restore", return_mask=True, max_faces=2)
        order = {"image": base64.b64encode(FILE).decode(), "max_faces": 2}
        in_json = (await at.http.post("/restore", json=order)).json()
        file = await at.http.post("/restore", json=order, headers={"Accept": "image/*"})
    assert file_of(told["image"]) == file_of(in_json["image"]) == file.content == direct.image.data
    assert file_of(told["mask"]) == direct.mask.data
    result, mask = pixels_of(file.content), pixels(direct.mask)
    np.testing.assert_array_equal(result[mask == 0], SOURCE[mask == 0])
    assert (result[mask > 0] != SOURCE[mask > 0]).any()
    assert (told["final_resolution"], told["model_set"]) == ("320x240", "tiny")
    assert (told["face_restoration_applied"], told["face_restoration_reason"]) == (True, None)
    assert [face["restored"] for face in told["faces"]].count(True) == 2
    assert {face["reason"] for face in told["faces"]} == {None, "over_limit", "low_confidence"}
    assert [face["fidelity"] for face in told["faces"] if face["restored"]] == [0.6, 0.6]
    stages = [stage["stage"] for stage in told["stages"]]
    assert stages == ["decode", "detect", "align", "restore", "paste", "encode"]
    report = json.loads(file.headers["X-Atelier-Report"])
    assert report["face_restoration_applied"] and report["final_resolution"] == "320x240"


async def test_formats_enlargement_and_warnings(seeing: Path, blind: Path) -> None:
    async with desk(seeing) as at:
        jpeg = await at.answer("/restore", png(SOURCE, "JPEG", quality=95))
        webp = await at.answer("/restore", output_format="webp", quality=80, upscale=2)
    assert jpeg["image"].startswith("data:image/jpeg;base64,"), "the input's format"
    assert "lossy" in jpeg["warnings"][0]
    assert webp["image"].startswith("data:image/webp;base64,")
    assert pixels_of(file_of(webp["image"])).shape == (480, 640, 3)
    assert (webp["upscaler"], webp["upscale_applied"]) == ("tiny-compact-x2", 2)
    async with desk(blind) as at:
        unseen = await at.answer("/restore")
        enlarged = await at.answer("/restore", max_faces=0, upscale=2, use_realesrgan=False)
    assert (unseen["success"], unseen["faces"], unseen["face_restoration_reason"]) == (True, [], "no_face")
    assert file_of(unseen["image"]) and enlarged["face_restoration_reason"] is None
    assert enlarged["upscaler"] == "lanczos"


async def test_detection(seeing: Path) -> None:
    async with desk(seeing) as at:
        found = await at.answer("/detect", min_confidence=0.5)
        surer = await at.answer("/detect")
        direct = await at.restorer.stub.DetectFaces(pb.DetectFacesRequest(image={"data": FILE}))
    assert (found["width"], found["height"]) == (320, 240)
    assert len(found["faces"]) > len(surer["faces"]) == len(direct.faces) > 0
    for told, face in zip(surer["faces"], direct.faces, strict=True):
        assert told["box"] == [face.box.x1_px, face.box.y1_px, face.box.x2_px, face.box.y2_px]
        assert told["landmarks"] == [[point.x_px, point.y_px] for point in face.landmarks]
        assert (told["index"], told["confidence"]) == (face.index, face.confidence)
        assert (told["size_px"], told["sharpness"]) == (face.size_px, face.sharpness)


async def test_what_detect_gives_is_restored_without_another_detection(seeing: Path) -> None:
    async with desk(seeing) as at:
        by_rule = await at.answer("/restore")
        faces = (await at.answer("/detect"))["faces"]
        by_plan = await at.answer("/restore", faces=faces)
        others = await at.answer(
            "/restore", faces=[{**faces[0], "fidelity": 0.0}, *({**f, "skip": True} for f in faces[1:])]
        )
    assert file_of(by_plan["image"]) == file_of(by_rule["image"])
    assert "detect" not in [stage["stage"] for stage in by_plan["stages"]]
    assert [face["reason"] for face in others["faces"]] == [None] + ["skipped"] * (len(faces) - 1)
    assert others["faces"][0]["fidelity"] == 0.0
    assert file_of(others["image"]) != file_of(by_plan["image"])


async def test_compared_pictures_are_those_of_single_orders(seeing: Path) -> None:
    async with desk(seeing) as at:
        compared = await at.answer("/compare", fidelities=[0.0, 1.0], max_faces=1, return_mask=True)
        single = [await at.answer("/restore", fidelity=w, max_faces=1) for w in (0.0, 1.0)]
    assert [result["fidelity"] for result in compared["results"]] == [0.0, 1.0]
    for result, alone in zip(compared["results"], single, strict=True):
        # Not byte by byte: what shares a batch may round differently, by one level.
        different = pixels_of(file_of(result["image"])).astype(int) - pixels_of(file_of(alone["image"]))
        assert np.abs(different).max() <= 1
        assert result["mask"] is not None
    assert file_of(compared["results"][0]["image"]) != file_of(compared["results"][1]["image"])


async def test_crops_before_and_after(seeing: Path) -> None:
    async with desk(seeing) as at:
        told = await at.answer("/restore", return_crops=True, max_faces=1)
    [face] = [face for face in told["faces"] if face["restored"]]
    before, after = pixels_of(file_of(face["crop_before"])), pixels_of(file_of(face["crop_after"]))
    assert before.shape == after.shape == (512, 512, 3) and (before != after).any()


async def test_one_of_several_faces_fails_and_its_order_alone_is_reported(seeing: Path) -> None:
    source = np.full((640, 1500, 3), 90, np.uint8)
    source[:, :200] = 250

    def raises(network: object, inputs: tuple[object, ...], output: object) -> None:
        if (np.asarray(inputs[0]).max(axis=(1, 2, 3)) > 0.9).any():
            raise RuntimeError("a bright face")

    async with desk(seeing) as at:
        found = (await at.answer("/detect", png(source)))["faces"]
        bright = [face for face in found if face["box"][0] < 150][:1]
        plain = [face for face in found if face["box"][0] > 450][:2]
        orders = [*bright, {**plain[0], "visibility": 0.5}, plain[1], *plain]
        at.restorer.codeformer.register_forward_hook(raises)
        told = await at.answer("/restore", png(source), faces=orders)
    assert [face["restored"] for face in told["faces"]] == [False, True, True, True, True]
    assert [face["reason"] for face in told["faces"]] == ["failed", None, None, None, None]
    assert told["face_restoration_applied"] is True


BAD_ORDERS: list[tuple[str, bytes, dict[str, Any], str]] = [
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
    async with desk(blind) as at:
        for path, file, fields, named in BAD_ORDERS:
            error = problem(await at.ask(path, file, **fields), 422, "invalid_request")
            assert [field["field"] for field in error["fields"]] == [named], (path, fields)
        assert (await at.answer("/restore"))["success"] is True
