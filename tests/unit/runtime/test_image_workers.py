"""Images are decoded and encoded in processes that can be killed; nothing of an image is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from atelier_runtime import log, metrics
from atelier_runtime.errors import InternalError, InvalidRequest, OutOfMemory
from atelier_runtime.images import (
    EncodedImage,
    InputImage,
    OutputFormat,
    Picture,
    decode_input,
    encode,
    encode_output,
    shared,
)
from atelier_runtime.images import workers as workers_module
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from tests.unit.runtime.image_files import chunk, header

FOREVER = partial(hashlib.pbkdf2_hmac, "sha256", b"", b"", 2**31 - 1)
"""Minutes in C code that holds no lock of Python's and looks at no signal, like a decoder."""


@pytest.fixture
async def workers() -> AsyncIterator[ImageWorkers]:
    workers = ImageWorkers(2, decode_seconds=20, max_pixels=2_000_000)
    yield workers
    workers.close()


def stage() -> Any:
    return StageTimer().stage("test")


def lost(cause: str) -> float:
    return float(metrics.IMAGE_WORKERS_LOST.labels(cause)._value.get())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if any("images.worker" in word for word in child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
    ]


def photo(dtype: type, height: int = 301, width: int = 457) -> Picture:
    random = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    rgb = random.integers(0, top, (height, width, 3), dtype, endpoint=True)
    alpha = random.integers(0, top, (height, width), dtype, endpoint=True)
    return Picture(rgb=rgb, alpha=alpha, icc=b"a profile", exif=b"Exif\0\0" + b"x" * 20, dpi=(300.0, 200.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
async def test_a_decoded_image_is_the_same_as_in_this_process(workers: ImageWorkers, dtype: type) -> None:
    image = InputImage(encode(photo(dtype), "png", 90))
    expected = decode_input(image, max_pixels=2_000_000, deep=True)
    decoded = await workers.decode(image, stage())
    np.testing.assert_array_equal(decoded.rgb, expected.rgb)
    np.testing.assert_array_equal(decoded.alpha, expected.alpha)
    assert decoded.rgb.dtype == dtype
    assert (decoded.icc, decoded.exif, decoded.dpi) == (expected.icc, expected.exif, expected.dpi)
    decoded.rgb[:] = 0  # as a paste in place does


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "raw"])
async def test_an_encoded_image_is_the_same_as_in_this_process(
    workers: ImageWorkers, image_format: OutputFormat
) -> None:
    picture = Picture(rgb=photo(np.uint8).rgb[:, ::-1])  # not contiguous
    encode_it: partial[EncodedImage] = partial(encode_output, picture, image_format, 90)
    assert await workers.encode(encode_it, stage()) == encode_it()


async def test_a_refused_image_is_refused_by_name_and_its_worker_goes_on(workers: ImageWorkers) -> None:
    pids = {await workers.encode(os.getpid, stage()) for _ in range(3)}
    with pytest.raises(InvalidRequest) as refused:
        await workers.decode(InputImage(b"not an image"), stage())
    assert [violation.field for violation in refused.value.fields] == ["image"]
    assert {await workers.encode(os.getpid, stage())} == pids and len(pids) == 1


async def test_workers_run_at_the_same_time_and_the_others_wait(workers: ImageWorkers) -> None:
    calls = [asyncio.create_task(workers.encode(FOREVER, stage())) for _ in range(3)]
    await until(lambda: len(children()) == 2)
    assert (workers.running, workers.waiting) == (2, 1)
    assert metrics.IMAGE_WORKERS_BUSY._value.get() == 2 and metrics.IMAGE_QUEUE_DEPTH._value.get() == 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: workers.running == workers.waiting == 0)


async def test_a_result_is_encoded_while_every_worker_decodes() -> None:
    workers = ImageWorkers(1, decode_seconds=60, max_pixels=2_000_000)
    pid = await workers.encode(os.getpid, stage())
    os.kill(pid, signal.SIGSTOP)  # what it decodes next never ends
    flood = [
        asyncio.create_task(workers.decode(InputImage(encode(photo(np.uint8), "png", 90)), stage()))
        for _ in range(5)
    ]
    await until(lambda: workers.running == 1)
    assert await workers.encode(partial(len, "abc"), stage()) == 3
    assert (workers.running, workers.waiting) == (1, 4)
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    workers.close()


async def test_what_a_decoder_writes_to_standard_error_is_a_log_line(
    workers: ImageWorkers, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    token = log.request_id.set("the-request")
    lines: list[str] = []

    def render(record: logging.LogRecord) -> bool:
        lines.append(log.JsonFormatter().format(record))
        return True

    caplog.handler.addFilter(render)
    # 16 bits, interlaced, and too few rows: libpng, in OpenCV, writes an error to standard error.
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    data = header(40, 40, 16, 2, interlaced=True) + pixels + chunk(b"IEND", b"")
    with pytest.raises(InvalidRequest):
        await workers.decode(InputImage(data), stage())
    log.request_id.reset(token)
    [record] = [r for r in caplog.records if "standard error" in r.getMessage()]
    assert "libpng" in vars(record)["text"]
    assert any("libpng" in line and '"request_id": "the-request"' in line for line in lines)
    caplog.handler.removeFilter(render)
    assert capfd.readouterr().err == ""
    assert await workers.encode(partial(os.write, 2, b"x" * 200_000), stage()) <= 2**16, "not blocked"
    assert len(vars(caplog.records[-1])["text"]) <= 1000
    assert await workers.encode(partial(os.write, 2, b""), stage()) == 0


async def test_cancelled_calls_occupy_nothing(workers: ImageWorkers) -> None:
    before = lost("cancelled")
    for _ in range(3):
        calls = [asyncio.create_task(workers.encode(FOREVER, stage())) for _ in range(6)]
        await until(lambda: workers.running == 2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(10):
            assert await workers.encode(partial(len, "abc"), stage()) == 3
    await until(lambda: len(children()) <= 2)
    assert lost("cancelled") >= before + 6


async def test_an_image_that_takes_too_long_is_refused() -> None:
    workers = ImageWorkers(1, decode_seconds=0.001, max_pixels=2_000_000)
    before = lost("time")
    image = InputImage(encode(photo(np.uint16, 900, 900), "png", 90))
    with pytest.raises(InvalidRequest, match=r"image: takes more than 0.001 s to decode"):
        await workers.decode(image, stage())
    assert lost("time") == before + 1
    assert await workers.encode(partial(len, "abc"), stage()) == 3
    workers.close()


async def test_a_worker_that_was_stopped_is_killed_by_the_parents_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers_module, "_GRACE_SECONDS", 0.3)
    workers = ImageWorkers(1, decode_seconds=0.3, max_pixels=2_000_000)
    os.kill(await workers.encode(os.getpid, stage()), signal.SIGSTOP)
    with pytest.raises(InvalidRequest, match="takes more than"):
        await workers.decode(InputImage(encode(photo(np.uint8), "png", 90)), stage())
    assert await workers.encode(partial(len, "abc"), stage()) == 3
    workers.close()


def test_half_a_message_leaves_no_descriptor_behind() -> None:
    """A worker may be killed after its pixels have arrived, and before the rest of the message has."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as pixels, ours:
        before = psutil.Process().num_fds()
        socket.send_fds(theirs, [struct.pack("<QI", 1000, 1)], [pixels.fileno()])
        theirs.close()
        with pytest.raises(EOFError):
            shared.receive(ours)
        assert psutil.Process().num_fds() == before - 1, "their end"


async def test_a_worker_does_not_reserve_memory_for_each_cpu_of_the_machine(workers: ImageWorkers) -> None:
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        assert await workers.encode(partial(os.getenv, variable), stage()) == "1"


async def test_memory_is_limited(workers: ImageWorkers) -> None:
    with pytest.raises(OutOfMemory):
        await workers.encode(partial(bytes, 10**9), stage())
    assert len(await workers.encode(partial(bytes, 10**8), stage())) == 10**8


@pytest.mark.parametrize("mib", [64, 128, 191])
async def test_an_image_that_needs_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, mib: int
) -> None:
    """Its pixels alone take 192 MiB."""
    workers = ImageWorkers(1, decode_seconds=20, max_pixels=2**26)
    monkeypatch.setattr(workers, "_memory_bytes", mib * 2**20)
    file = io.BytesIO()
    Image.new("RGB", (8192, 8192)).save(file, "PNG", compress_level=1)
    with pytest.raises(InvalidRequest, match=f"image: takes more than {mib} MiB of memory"):
        await workers.decode(InputImage(file.getvalue()), stage())
    workers.close()


async def test_a_crash_ends_one_call(workers: ImageWorkers) -> None:
    before = lost("crashed")
    with pytest.raises(InternalError):
        await workers.encode(os.abort, stage())
    assert lost("crashed") == before + 1
    assert await workers.encode(partial(len, "abc"), stage()) == 3


async def test_an_unforeseen_error_is_logged_and_internal(
    workers: ImageWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError):
        await workers.encode(partial(divmod, 1, 0), stage())
    assert "ZeroDivisionError" in vars(caplog.records[-1])["traceback"]


async def test_a_cancellation_that_comes_too_late_does_not_harm_another_call(workers: ImageWorkers) -> None:
    """The worker is free again, perhaps at work for somebody else, when its caller continues."""
    call = asyncio.create_task(workers.encode(os.getpid, stage()))
    await until(lambda: workers.running == 1)
    await until_free_again(workers)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert await workers.encode(partial(len, "abc"), stage()) == 3
    assert len(children()) == 1


async def until_free_again(workers: ImageWorkers) -> None:
    """Return in the iteration of the event loop in which a call ends, before its caller continues."""
    while workers.running:
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_for_the_whole_group_are_left_to_the_parent(
    workers: ImageWorkers, number: signal.Signals
) -> None:
    pid = await workers.encode(os.getpid, stage())
    os.kill(pid, number)
    assert await workers.encode(os.getpid, stage()) == pid


@pytest.mark.parametrize("is_busy", [False, True])
async def test_the_call_of_a_worker_that_somebody_killed_is_repeated(
    workers: ImageWorkers, is_busy: bool
) -> None:
    before = lost("killed")
    pid = await workers.encode(os.getpid, stage())
    work = partial(hashlib.pbkdf2_hmac, "sha256", b"", b"", 10**6 if is_busy else 1)
    if is_busy:
        call = asyncio.create_task(workers.encode(work, stage()))
        await until(lambda: workers.running == 1)
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert await call == work()
    else:
        os.kill(pid, signal.SIGKILL)
        assert await workers.encode(work, stage()) == work()
    assert lost("killed") == before + 1


async def test_a_worker_that_cannot_start_is_not_the_files_fault(
    workers: ImageWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lost("failed")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InternalError):
        await workers.decode(InputImage(b"a file"), stage())
    assert lost("failed") == before + 1


async def test_a_worker_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "PIL", "struct", "atelier_runtime"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')\nraise ImportError")
    monkeypatch.chdir(tmp_path)
    workers = ImageWorkers(1, decode_seconds=20, max_pixels=2_000_000)
    picture = await workers.decode(InputImage(encode(photo(np.uint8), "png", 90)), stage())
    workers.close()
    assert picture.width == 457 and not (tmp_path / "executed").exists()


async def test_close_ends_workers_that_are_busy_or_idle() -> None:
    workers = ImageWorkers(2, decode_seconds=20, max_pixels=2_000_000)
    busy = asyncio.create_task(workers.encode(FOREVER, stage()))
    await until(lambda: workers.running == 1)
    await workers.encode(os.getpid, stage())
    workers.close()
    with pytest.raises(InternalError):
        await busy
    await until(lambda: not children())


@pytest.mark.parametrize("work", ["time.sleep, 0", "hashlib.pbkdf2_hmac, 'sha256', b'', b'', 2**31 - 1"])
def test_a_worker_ends_with_its_parent(work: str) -> None:
    program = f"""
import asyncio, hashlib, os, time
from functools import partial
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.metrics import StageTimer
from tests.unit.runtime.image_files import chunk, header
async def main():
    workers = ImageWorkers(1, decode_seconds=20, max_pixels=65536)
    print(await workers.encode(os.getpid, StageTimer().stage("test")), flush=True)
    asyncio.create_task(workers.encode(partial({work}), StageTimer().stage("test")))
    await asyncio.sleep(0.3)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    worker = int(ran.stdout)
    psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=20)
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
