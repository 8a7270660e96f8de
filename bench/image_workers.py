"""Compare decoding and encoding in image workers with the same functions in a thread of this process.

In each round both take a turn at every size. What the workers cost is the transfer: the pixels' copy into
shared memory, the file through a socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import cv2
import numpy as np
from skimage import data

from atelier_runtime.images import EncodedImage, InputImage, Picture, decode_input, encode, encode_output
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from bench.report import machine, print_json, spread

ROUNDS = 7
SIDES_PX = (512, 1024, 3464, 7000)
MAX_PIXELS = 50_000_000


def photo(side: int) -> Picture:
    """Return a photo of so many pixels a side, with grain."""
    large = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = np.random.default_rng(0).normal(0, 2, (side, side, 1)).astype(np.int16)
    return Picture(rgb=np.clip(large + grain, 0, 255).astype(np.uint8))


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    await call()
    return time.perf_counter() - start


async def decode(workers: ImageWorkers, image: InputImage) -> Picture:
    """Decode in a worker."""
    return await workers.decode(image, StageTimer().stage("decode"))


async def encode_there(workers: ImageWorkers, function: Callable[[], EncodedImage]) -> EncodedImage:
    """Encode in a worker."""
    return await workers.encode(function, StageTimer().stage("encode"))


async def measure() -> dict[str, object]:
    """Return, for each size and direction, the times of both ways and the ratio of their medians."""
    workers = ImageWorkers(1, decode_seconds=60, max_pixels=MAX_PIXELS)
    report: dict[str, object] = {}
    for side in SIDES_PX:
        picture = photo(side)
        image = InputImage(encode(picture, "jpeg", 92))
        decode_here = partial(decode_input, image, max_pixels=MAX_PIXELS, deep=True)
        encode_here = partial(encode_output, picture, "png", 92)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "decode in a thread": partial(asyncio.to_thread, decode_here),
            "decode in a worker": partial(decode, workers, image),
            "encode in a thread": partial(asyncio.to_thread, encode_here),
            "encode in a worker": partial(encode_there, workers, encode_here),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):  # the first warms up
            for name, call in ways.items():
                seconds[name].append(await timed(call))
        times = {name: spread(values[1:]) for name, values in seconds.items()}
        ratios = {
            what: round(
                float(
                    np.median(seconds[f"{what} in a worker"][1:])
                    / np.median(seconds[f"{what} in a thread"][1:])
                ),
                3,
            )
            for what in ("decode", "encode")
        }
        report[f"{side}x{side}"] = {"seconds": times, "worker_over_thread": ratios}
    workers.close()
    return report


if __name__ == "__main__":
    print_json({"machine": machine(), "images": asyncio.run(measure())})
