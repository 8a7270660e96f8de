"""Matched tones over the JSON API are those over gRPC."""

from __future__ import annotations

from pathlib import Path

from tests.integration.gateway_client import file_of, serve_gateway
from tests.integration.restorer_server import photo, png
from tests.tiny_restorer import FACES_OF_512_PX, build_set, codeformer_state, detector_state

FILE = png(photo())


async def test_over_json_as_over_grpc(tmp_path: Path) -> None:
    model_set = build_set(
        tmp_path, detector=detector_state({FACES_OF_512_PX: 0.99}), codeformer=codeformer_state()
    )
    async with serve_gateway(model_set) as client:
        direct = await client.restorer.restore(FILE, max_faces=1, match_tone=True)
        matched = await client.post("/restore", FILE, max_faces=1, match_tone=True)
        plain = await client.post("/restore", FILE, max_faces=1)
        compared = await client.post("/compare", FILE, max_faces=1, match_tone=True, fidelities=[0.6, 1])
    assert file_of(matched["image"]) == direct.image.data != file_of(plain["image"])
    assert (matched["tone_matched"], plain["tone_matched"]) == (True, False)
    assert [result["tone_matched"] for result in compared["results"]] == [True, True]
    assert file_of(compared["results"][1]["image"]) != file_of(compared["results"][0]["image"])
