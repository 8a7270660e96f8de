"""Compare the PNG settings that we use with Pillow's default, on a photograph of 1536x1536 px."""

from __future__ import annotations

import io
import time

import cv2
import numpy as np
from PIL import Image
from skimage import data

from atelier_runtime import images
from bench.report import machine, print_json, spread

RUNS = 7


def _pillow_default(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Run the bench, the two encoders in turn."""
    rgb = cv2.resize(data.astronaut(), (1536, 1536), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 2, rgb.shape)
    rgb = np.clip(rgb + grain, 0, 255).astype(np.uint8)
    encoders = {
        "atelier": lambda: images.encode(images.Picture(rgb), "png", 92),
        "pillow default": lambda: _pillow_default(rgb),
    }
    samples: dict[str, list[float]] = {name: [] for name in encoders}
    sizes = {}
    for _ in range(RUNS):
        for name, encode in encoders.items():
            start = time.perf_counter()
            sizes[name] = len(encode())
            samples[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(samples["atelier"], samples["pillow default"], strict=True)]
    print_json(
        {
            "machine": machine(),
            "seconds": {name: spread(values) for name, values in samples.items()},
            "bytes": sizes,
            "times_faster": spread(ratios),
        }
    )


if __name__ == "__main__":
    main()
