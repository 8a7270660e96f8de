"""Compare our image files with Pillow's and OpenCV's: PNG of 8 and 16 bits, lossless WebP.

The photo has 1536x1536 px and grain, as from a camera. In each round all encoders take a turn.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from atelier_runtime import images
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


def _pillow(rgb: NDArray[np.uint8], file_format: str, **options: object) -> Callable[[], bytes]:
    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode


def _opencv(bgr: images.PixelArray, *options: int) -> Callable[[], bytes]:
    return lambda: cv2.imencode(".png", bgr, options)[1].tobytes()


def png_encoders(rgb: images.PixelArray) -> Encoders:
    """Return ours first, then the alternatives."""
    encoders = {"atelier": lambda: images.encode(images.Picture(rgb), "png", 92)}
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
    """Time encoders in turn; `slower` is each one's time relative to the first, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    sizes: dict[str, int] = {}
    for _ in range(RUNS):
        for name, encode in encoders.items():
            start = time.perf_counter()
            sizes[name] = len(encode())
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": spread(taken),
            "slower": spread([a / b for a, b in zip(taken, first, strict=True)]),
            "share_of_raw": round(sizes[name] / pixel_bytes, 4),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    """Run the benchmark."""
    eight, sixteen = photo(np.uint8), photo(np.uint16)
    print_json(
        {
            "machine": machine(),
            "png, 8 bits": compare(png_encoders(eight), eight.nbytes),
            "png, 16 bits": compare(png_encoders(sixteen), sixteen.nbytes),
            "webp": compare(webp_encoders(eight), eight.nbytes),
        }
    )


if __name__ == "__main__":
    main()
