"""Compare our image files with those of 0.1, Pillow and OpenCV: PNG of 8 and 16 bits, lossless WebP.

The photo has 1536x1536 px and grain, as from a camera. In each round all encoders take a turn.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Mapping
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from atelier_runtime import images
from atelier_runtime.images import png_writer
from bench.report import machine, print_json, spread

RUNS = 7
SIDE_PX = 1536
GRAIN = 2 / 255  # standard deviation, as a fraction of white

_STRATEGIES = {
    "default": cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
    "rle": cv2.IMWRITE_PNG_STRATEGY_RLE,
    "huffman": cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
}
_FILTERS = {"sub": cv2.IMWRITE_PNG_FILTER_SUB, "best of all": cv2.IMWRITE_PNG_ALL_FILTERS}

Encoders = Mapping[str, Callable[[], bytes]]


def photo(dtype: type[np.uint8] | type[np.uint16]) -> images.PixelArray:
    """Return the photo (SIDE_PX, SIDE_PX, 3) with grain, in 8 or 16 bits."""
    white = np.iinfo(dtype).max
    plain = np.asarray(data.astronaut(), np.float32) * (white / 255)
    large = cv2.resize(plain, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, GRAIN * white, large.shape)
    return np.asarray(np.clip(np.rint(large + grain), 0, white), dtype)


def drawing() -> NDArray[np.uint8]:
    """Return shapes and text (SIDE_PX, SIDE_PX, 3) with smooth edges."""
    rng = np.random.default_rng(0)
    image = np.full((SIDE_PX, SIDE_PX, 3), 250, np.uint8)
    for _ in range(60):
        color = [int(level) for level in rng.integers(0, 255, 3)]
        x, y = (int(place) for place in rng.integers(0, SIDE_PX, 2))
        cv2.circle(image, (x, y), 90, color, 4, cv2.LINE_AA)
        cv2.rectangle(image, (y, x), (y + 200, x + 120), color, cv2.FILLED)
        cv2.putText(image, "A drawing", (x, y), cv2.FONT_HERSHEY_SIMPLEX, 2, color, 3, cv2.LINE_AA)
    return image


def _pillow(rgb: NDArray[np.uint8], file_format: str, **options: object) -> Callable[[], bytes]:
    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode


def _opencv(bgr: images.PixelArray, *options: int) -> Callable[[], bytes]:
    return lambda: cv2.imencode(".png", bgr, options)[1].tobytes()


def _run_lengths(rows: memoryview, window_bits: int, is_last: bool) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return deflate.compress(rows) + deflate.flush(zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH)


def _as_in_0_1(rgb: images.PixelArray) -> bytes:
    """Encode by zlib's run lengths alone; `_PHOTO` 0: bands get no second window."""
    with patch.multiple(png_writer, _deflate=_run_lengths, _PHOTO=0):
        return images.encode(images.Picture(rgb), "png", 92)


def png_encoders(rgb: images.PixelArray) -> Encoders:
    """Return ours first, then the alternatives."""
    encoders: dict[str, Callable[[], bytes]] = {
        "atelier": lambda: images.encode(images.Picture(rgb), "png", 92),
        "atelier 0.1": lambda: _as_in_0_1(rgb),
    }
    if rgb.dtype == np.uint8:
        encoders["pillow, default"] = _pillow(rgb, "PNG")
        encoders["pillow, level 1, rle"] = _pillow(rgb, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    encoders["opencv, default"] = _opencv(bgr)
    for level, strategy in ((1, "rle"), (1, "huffman"), (1, "default"), (3, "default")):
        for name, flag in _FILTERS.items():
            encoders[f"opencv, level {level}, {strategy}, filter {name}"] = _opencv(
                bgr,
                *(cv2.IMWRITE_PNG_COMPRESSION, level),
                *(cv2.IMWRITE_PNG_STRATEGY, _STRATEGIES[strategy]),
                *(cv2.IMWRITE_PNG_FILTER, flag),
            )
    return encoders


def webp_encoders(rgb: NDArray[np.uint8]) -> Encoders:
    """Return our two settings first, then other lossless ones."""
    image = images.Picture(rgb)
    encoders: dict[str, Callable[[], bytes]] = {
        "atelier, quality 100": lambda: images.encode(image, "webp", 100),
        "atelier, quality 92": lambda: images.encode(image, "webp", 92),
    }
    for method, effort in ((1, 0), (2, 0), (4, 75)):
        encoders[f"lossless, method {method}, effort {effort}"] = _pillow(
            rgb, "WEBP", lossless=True, exact=True, method=method, quality=effort
        )
    return encoders


def compare(encoders: Encoders, pixel_bytes: int) -> dict[str, object]:
    """Time encoders in turn; `slower` is each one's time relative to the first, round by round.

    `cpu_seconds`, of all threads, hardly depends on what else is running.
    """
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    cpu: dict[str, list[float]] = {name: [] for name in encoders}
    sizes: dict[str, int] = {}
    for _ in range(RUNS):
        for name, encode in encoders.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            sizes[name] = len(encode())
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": spread(taken),
            "slower": spread([a / b for a, b in zip(taken, first, strict=True)]),
            "slower_of_min": round(min(taken) / min(first), 2),
            "cpu_seconds": spread(cpu[name]),
            "share_of_raw": round(sizes[name] / pixel_bytes, 4),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    """Run the benchmark."""
    eight, sixteen, drawn = photo(np.uint8), photo(np.uint16), drawing()
    print_json(
        {
            "machine": machine(),
            "png, 8 bits": compare(png_encoders(eight), eight.nbytes),
            "png, 16 bits": compare(png_encoders(sixteen), sixteen.nbytes),
            "png, a drawing": compare(png_encoders(drawn), drawn.nbytes),
            "webp": compare(webp_encoders(eight), eight.nbytes),
        }
    )


if __name__ == "__main__":
    main()
