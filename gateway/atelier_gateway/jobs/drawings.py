"""The images of a job that were drawn: PNG files among its outputs, and what the generator said of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from pydantic import TypeAdapter

from atelier_gateway.core.drawings import Drawings, Finish
from atelier_gateway.core.values import GeneratedImage
from atelier_gateway.jobs.blobs import BlobMissing, BlobStore
from atelier_gateway.jobs.store import JobStore
from atelier_gateway.jobs.values import Claim, Output
from atelier_runtime.images import EncodedImage, InputImage, decode_input, encode_output

_FACTS = TypeAdapter(GeneratedImage)
_QUALITY = 100  # has no effect on PNG
PREFIX = "drawn"


class StoredDrawings(Drawings):
    """Kept with the job, for its next attempt and for other jobs.

    A PNG file has the very pixels, whatever it says of itself; the restorer is sent them raw, as the
    generator would have.
    """

    def __init__(self, store: JobStore, blobs: BlobStore, claim: Claim, *, max_pixels: int) -> None:
        self._store = store
        self._blobs = blobs
        self._claim = claim
        self._max_pixels = max_pixels
        self._outputs = {output.name: output for output in claim.job.outputs}

    async def load(self, number: int) -> GeneratedImage | None:
        """Return what an earlier attempt has drawn; None: none has, or its file is lost."""
        output = self._outputs.get(_name(number))
        if output is None:
            return None
        try:
            file = await self._blobs.get(output.blob)
            facts = await self._blobs.get(_facts_of(output.blob))
        except BlobMissing:
            return None
        raw = await asyncio.to_thread(self._to_raw, file)
        return replace(_FACTS.validate_python(json.loads(facts)), image=raw)

    async def keep(self, number: int, drawn: GeneratedImage, finish: Finish) -> None:
        """Keep an image as a PNG file, and record it as an output."""
        name = _name(number)
        blob = f"{self._claim.job.id}/{self._claim.fence}_{name}.png"
        file = await finish(await asyncio.to_thread(self._to_png, drawn.image))
        facts = _FACTS.dump_python(replace(drawn, image=replace(drawn.image, data=b"")), mode="json")
        await self._blobs.put(_facts_of(blob), json.dumps(facts).encode())
        await self._blobs.put(blob, file.data)
        self._outputs[name] = Output(name, blob, "image/png", len(file.data), file.width, file.height)
        await self._store.keep(self._claim, list(self._outputs.values()))

    def _to_png(self, image: EncodedImage) -> EncodedImage:
        pixels = decode_input(
            InputImage(image.data, image.format, image.width, image.height), max_pixels=self._max_pixels
        )
        return encode_output(pixels, "png", _QUALITY)

    def _to_raw(self, file: bytes) -> EncodedImage:
        return encode_output(decode_input(InputImage(file), max_pixels=self._max_pixels), "raw", _QUALITY)


def _name(number: int) -> str:
    return PREFIX if number == 0 else f"{PREFIX}_{number + 1}"


def _facts_of(blob: str) -> str:
    return blob.removesuffix(".png") + ".json"
