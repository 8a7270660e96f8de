"""Compare how we read PNG files with version 0.1, Pillow and OpenCV: photos, alpha, a drawing, 16 bits.

The images are those of `bench.encode`, written by us and by Pillow at its default level. In each round all
decoders take a turn.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier_runtime import images
from atelier_runtime.images import png_pixels
from bench.encode import drawing, photo
from bench.report import machine, print_json, spread

RUNS = 9

Decoders = Mapping[str, Callable[[], object]]


def _by_pillow(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> Mapping[str, bytes]:
    """Return the files by name."""
    plain, drawn = photo(np.uint8), drawing()
    alpha = cv2.GaussianBlur(drawn[..., 0], (0, 0), 20)
    return {
        "photo, ours": images.encode(images.Picture(plain), "png", 92),
        "photo, pillow": _by_pillow(plain),
        "photo with alpha, pillow": _by_pillow(np.dstack([plain, alpha])),
        "drawing, ours": images.encode(images.Picture(drawn), "png", 92),
        "drawing, pillow": _by_pillow(drawn),
        "photo of 16 bits, opencv": cv2.imencode(".png", photo(np.uint16))[1].tobytes(),
    }


def decoders(file: bytes) -> Decoders:
    """Return ours first, then the alternatives."""

    def ours() -> images.Picture:
        return images.decode(file, max_pixels=2**31, deep=True)

    def as_in_0_1() -> images.Picture:
        with patch.object(png_pixels, "read", return_value=None):  # Pillow, or OpenCV for 16 bits
            return ours()

    array = np.frombuffer(file, np.uint8)
    return {
        "atelier": ours,
        "atelier 0.1": as_in_0_1,
        "pillow": lambda: np.asarray(Image.open(io.BytesIO(file))),
        "opencv": lambda: cv2.imdecode(array, cv2.IMREAD_UNCHANGED),
    }


def compare(file: bytes) -> dict[str, object]:
    """Time decoders in turn; `slower` is each one's time relative to the first, round by round.

    `cpu_seconds`, of all threads, hardly depends on what else is running.
    """
    every = decoders(file)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    cpu: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(RUNS):
        for name, decode in every.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            decode()
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    first = seconds["atelier"]
    return {
        name: {
            "seconds": spread(taken),
            "slower": spread([a / b for a, b in zip(taken, first, strict=True)]),
            "slower_of_min": round(min(taken) / min(first), 2),
            "cpu_seconds": spread(cpu[name]),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    """Run the benchmark."""
    print_json({"machine": machine(), **{name: compare(file) for name, file in files().items()}})


if __name__ == "__main__":
    main()
