"""Clients of a cluster: what they ask for, and what each request came to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

from drawing import draw
from tests.k8s.runner.cluster import Cluster

DRAWING: dict[str, Any] = {
    "prompt": "portrait of a woman with red hair",
    "width": 256,
    "height": 256,
    "num_inference_steps": 2,
    "use_refiner": False,
    "seed": 1,
}
"""A picture with one face, of two steps."""


NO_FACES = (None, "no_face")
"""Why no face of a picture is restored where nothing is wrong: nobody asked for it, or it has none."""


def photograph(faces: int = 1) -> bytes:
    """A PNG with that many faces of 256 px beside one another."""
    rng = np.random.default_rng(4)
    drawn = np.concatenate([draw(rng, 256, "portrait").image for _ in range(faces)], axis=1)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "png")
    return file.getvalue()


@dataclass(frozen=True)
class Outcome:
    """One request: its path, when it began and ended, and its response, or why there is none."""

    path: str
    began: float
    ended: float
    response: httpx.Response | None
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether it was carried out whole: a picture with faces that were not restored was not."""
        if self.response is None or self.response.status_code != 200:
            return False
        if self.path != "/generate":
            return True
        answer = self.response.json()
        reason = answer["face_restoration_reason"]
        return bool(answer["face_restoration_applied"]) or reason in NO_FACES

    def __str__(self) -> str:
        response = self.response
        said = f"{response.status_code} {response.text[:300]}" if response is not None else self.error
        return f"{said} ({self.ended - self.began:.1f} s)"


class Client:
    """A client of the gateway's Service, such as an app that keeps its connections open."""

    def __init__(self, cluster: Cluster) -> None:
        limits = httpx.Limits(max_connections=None)
        self.http = httpx.AsyncClient(base_url=cluster.url, timeout=300, trust_env=False, limits=limits)

    async def draw(self, **fields: Any) -> Outcome:
        """Ask for a picture."""
        return await self.ask("/generate", json=DRAWING | fields)

    async def restore(self, photo: bytes) -> Outcome:
        """Have a photograph's faces restored."""
        return await self.ask("/restore", files={"image": ("photo.png", photo)})

    async def detect(self, photo: bytes) -> Outcome:
        """Have a photograph's faces found."""
        return await self.ask("/detect", files={"image": ("photo.png", photo)})

    async def ask(self, path: str, **request: Any) -> Outcome:
        """POST once."""
        began = time.monotonic()
        try:
            response = await self.http.post(path, **request)
        except httpx.TransportError as error:
            return Outcome(path, began, time.monotonic(), None, repr(error))
        return Outcome(path, began, time.monotonic(), response)

    async def submit(self, kind: str, **given: Any) -> str:
        """Submit a job; return its ID."""
        response = await self.http.post("/v1/jobs", json={"type": kind, "input": given})
        assert response.status_code == 202, response.text
        job_id: str = response.json()["id"]
        return job_id

    async def status(self, job_id: str) -> str:
        """Return the status of a job."""
        response = await self.http.get(f"/v1/jobs/{job_id}")
        found: str = response.json()["status"] if response.status_code == 200 else str(response.status_code)
        return found


@dataclass
class Load:
    """What steady clients have come to so far."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """Those that were not carried out."""
        return [outcome for outcome in self.outcomes if not outcome.good]


@asynccontextmanager
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """A client, whose connections are closed at the end."""
    opened = Client(cluster)
    try:
        yield opened
    finally:
        await opened.http.aclose()


@asynccontextmanager
async def steady(cluster: Cluster, *, pause_s: float = 1, clients: int = 2) -> AsyncIterator[Load]:
    """Ask for pictures and for faces in a photograph, in turn, for as long as the block lasts."""
    load, photo, stopped = Load(), photograph(), asyncio.Event()

    async def ask() -> None:
        async with client(cluster) as opened:
            while not stopped.is_set():
                load.outcomes.append(await opened.draw())
                load.outcomes.append(await opened.detect(photo))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), pause_s)

    asking = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield load
    finally:
        stopped.set()
        await asyncio.gather(*asking)


def picture(outcome: Outcome) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of a picture that was asked for, of shape (height, width, 3)."""
    assert outcome.good and outcome.response is not None, str(outcome)
    file = base64.b64decode(outcome.response.json()["image"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def restored(outcome: Outcome) -> bool:
    """Whether faces of a picture that was asked for were restored."""
    assert outcome.good and outcome.response is not None, str(outcome)
    return bool(outcome.response.json()["face_restoration_applied"])
