"""PNG pixels: all filters, several bands, files that lack pixels, and what decoding and encoding cost."""

import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier_runtime import images
from atelier_runtime.errors import InvalidRequest
from tests.unit.runtime.image_files import chunks, filtered, noise, opened, png_of, saved, smooth

KINDS = [(channels, dtype) for channels in (1, 2, 3, 4) for dtype in (np.uint8, np.uint16)]
LARGE = 900, 700  # several bands, whatever the kind
ROOT = Path(__file__).parents[3]


def decode(data: bytes) -> images.Picture:
    return images.decode(data, max_pixels=10**8, deep=True)


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(data)
    return caught.value.fields[0].message


def check(picture: images.Picture, samples: np.ndarray) -> None:
    channels = samples.shape[2]
    colors = samples[..., :1] if channels < 3 else samples[..., :3]
    assert picture.rgb.dtype == samples.dtype and picture.gray == (channels < 3)
    assert np.array_equal(picture.rgb, np.broadcast_to(colors, (*samples.shape[:2], 3)))
    assert (picture.alpha is None) == (channels in (1, 3))
    assert picture.alpha is None or np.array_equal(picture.alpha, samples[..., -1])


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
@pytest.mark.parametrize("chunk_bytes", [1000, 10**9])
def test_every_filter_in_several_bands(channels: int, dtype: type, chunk_bytes: int) -> None:
    samples = noise(*LARGE, channels, dtype)
    samples[::3] = samples[0]  # or Paeth's predictor never has equals to choose from
    samples[:, ::5] = samples[:, :1]
    types = np.random.default_rng(1).integers(0, 5, len(samples)).tolist()
    data = png_of(samples, zlib.compress(filtered(samples, types), 1), chunk_bytes)
    check(decode(data), samples)
    if dtype is np.uint8:
        assert np.array_equal(np.asarray(opened(data)).reshape(samples.shape), samples), "Pillow agrees"


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (4, np.uint16), (1, np.uint8)])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 1), (2, 3)])
def test_small_images_by_every_filter(channels: int, dtype: type, size: tuple[int, int]) -> None:
    samples = noise(*size, channels, dtype)
    for kind in range(5):
        check(decode(png_of(samples, zlib.compress(filtered(samples, [kind] * size[0])))), samples)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (3, np.uint16)])
def test_rows_longer_than_a_band(channels: int, dtype: type) -> None:
    samples = noise(2, 300_000, channels, dtype)
    check(decode(png_of(samples, zlib.compress(filtered(samples, [4, 3]), 1))), samples)


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
@pytest.mark.parametrize("black", [False, True])
@pytest.mark.parametrize("is_ended", [False, True])
def test_missing_pixels_are_refused_wherever_they_are(
    channels: int, dtype: type, black: bool, is_ended: bool
) -> None:
    samples = np.zeros((*LARGE, channels), dtype) if black else noise(*LARGE, channels, dtype)
    rows = filtered(samples, [3] * len(samples))
    row_bytes = len(rows) // len(samples)
    for there in (0, 1, row_bytes, len(rows) // 2, len(rows) - row_bytes, len(rows) - 1):
        deflate = zlib.compressobj(1)
        stream = deflate.compress(rows[:there]) + deflate.flush(
            zlib.Z_FINISH if is_ended else zlib.Z_SYNC_FLUSH
        )
        message = refusal(png_of(samples, stream))
        if dtype is np.uint8 and channels != 2:
            assert "cut short (truncated), pixels are missing" in message
        else:
            assert "truncated" in message


@pytest.mark.parametrize("chunk_bytes", [1, 4, 7, 10**9])
def test_a_wrong_checksum_is_found_in_whatever_chunk_it_is(chunk_bytes: int) -> None:
    samples = noise(5, 6, 3)
    stream = zlib.compress(filtered(samples, [1] * 5))
    check(decode(png_of(samples, stream, chunk_bytes)), samples)
    assert "corrupt" in refusal(png_of(samples, stream[:-1] + bytes([stream[-1] ^ 1]), chunk_bytes))


def test_what_follows_the_last_pixel_is_not_looked_at() -> None:
    samples = noise(5, 6, 3)
    rows = filtered(samples, [1] * 5)
    stream = zlib.compress(rows)
    check(decode(png_of(samples, stream + b"more")), samples)
    check(decode(png_of(samples, stream[:-2])), samples)  # its checksum is not all there
    zeros = zlib.compressobj(9)
    bomb = zeros.compress(rows) + b"".join(zeros.compress(bytes(2**20)) for _ in range(200)) + zeros.flush()
    tracemalloc.start()
    check(decode(png_of(samples, bomb)), samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_an_unknown_filter_is_corrupt() -> None:
    samples = noise(*LARGE, 3)
    rows = bytearray(filtered(samples, [1] * len(samples)))
    rows[-len(rows) // len(samples)] = 5
    assert "corrupt" in refusal(png_of(samples, zlib.compress(rows, 1)))


@pytest.mark.parametrize("stream", [b"\x78", b"\x78\x9c", bytes(50), b"\x79\x9c" + bytes(50)])
def test_a_stream_that_is_none(stream: bytes) -> None:
    assert "truncated" in refusal(png_of(noise(5, 6, 3), stream, 1))


def run(code: str) -> str:
    """Return what Python prints in a process of its own."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout


def test_16_bits_are_read_without_opencv(tmp_path: Path) -> None:
    """Of OpenCV only the restorer knows."""
    samples = noise(30, 20, 3, np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(png_of(samples, zlib.compress(filtered(samples, [2] * 30))))
    code = (
        "import sys; sys.modules['cv2'] = None; from pathlib import Path; from atelier_runtime import images;"
        f"picture = images.decode(Path({str(path)!r}).read_bytes(), max_pixels=1000, deep=True);"
        "print(picture.rgb.tobytes().hex())"
    )
    assert bytes.fromhex(run(code)) == samples.tobytes()


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="the kernel does not keep peaks of memory (/proc/self/clear_refs)",
)
def test_decoding_holds_little_more_than_the_pixels(tmp_path: Path) -> None:
    side = 3000
    path = tmp_path / "photo.png"
    path.write_bytes(saved(Image.fromarray(smooth(side, side)), "PNG", compress_level=1))
    code = (
        "from pathlib import Path; from atelier_runtime import images\n"
        "from bench.phases import reset_high_water_mark, resident_kib\n"
        f"data = Path({str(path)!r}).read_bytes()\n"
        "images.decode(data, max_pixels=10**8)\n"
        "reset_high_water_mark(); held = resident_kib('VmRSS')\n"
        "images.decode(data, max_pixels=10**8)\n"
        "print(resident_kib('VmHWM') - held)"
    )
    assert int(run(code)) * 1024 < 1.5 * 3 * side**2


@pytest.mark.parametrize("kind", ["photo", "photo with alpha", "16 bits", "drawing", "two colors"])
def test_files_are_hardly_larger_than_by_zlibs_run_lengths(kind: str) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:600, 0:800] / 100
    photo = np.dstack([np.sin(x + y), np.cos(x * y / 3), np.sin(y) * np.cos(x)]) * 90 + 128
    rgb = (photo + rng.normal(0, 2, photo.shape)).clip(0, 255).astype(np.uint8)
    alpha = None
    if kind == "photo with alpha":
        alpha = np.clip(x * 32, 0, 255).astype(np.uint8)
    elif kind == "16 bits":
        rgb = (rgb * np.uint16(257)) ^ rng.integers(0, 255, rgb.shape, np.uint16)
    elif kind == "drawing":
        rgb = np.repeat(np.repeat(rgb[::20, ::20], 20, axis=0), 20, axis=1)
    elif kind == "two colors":
        rgb = np.where(photo > 150, np.uint8(200), np.uint8(30))
    pixels = pixel_stream(images.encode(images.Picture(rgb, alpha), "png", 92))
    rows = zlib.decompress(pixels)
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    by_zlib = deflate.compress(rows) + deflate.flush()
    assert len(pixels) < 1.1 * len(by_zlib) + len(rows) / 100


def pixel_stream(data: bytes) -> bytes:
    """Return the contents of all pixel chunks; checks every checksum."""
    assert b"IDAT" in chunks(data)
    start, stream = 8, b""
    while start < len(data):
        length = int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] == b"IDAT":
            stream += data[start + 8 : start + 8 + length]
        start += 12 + length
    return stream
