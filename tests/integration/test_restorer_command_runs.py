"""Runs of `atelier-restorer` that do not go to plan: signals, full disks, readers that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.restorer_command import run_at_service
from tests.integration.restorer_server import Client, photo, png, serve

LIMIT_S = 120
RESTORE = ("restore", "--max-faces", 1)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png(photo(200 + number, 200)))
    return folder


@asynccontextmanager
async def command(
    client: Client | None, *arguments: Any, **streams: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the command as a process, which calls the test's service or loads networks of its own."""
    server = ["--server", f"127.0.0.1:{client.server.port}"] if client is not None else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atelier_restorer", *map(str, arguments), *server),
        **streams,
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(LIMIT_S):
        return await process.wait()


def left(report: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["input"]).name: entry["reason"] for entry in report["skipped"]}


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Whoever runs the tests may have ignored SIGHUP, as nohup does, which processes inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_run_with_a_report(
    restorer: Client, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "in").mkdir()
    for name in range(80):
        (tmp_path / "in" / f"{name:02}.png").write_bytes(png(photo(400, 400)))
    report, out = tmp_path / "report.json", tmp_path / "out"
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    async with command(restorer, *RESTORE, tmp_path / "in", out, "--report", report, **streams) as process:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            first = json.loads(await process.stdout.readline())
            process.send_signal(number)
            _, err = await process.communicate()
    assert process.returncode == 128 + number and f"interrupted by {number.name}" in err.decode()
    written = json.loads(report.read_text())
    assert first in written["pictures"] and len(written["pictures"]) < 80
    assert len(written["pictures"]) + len(written["skipped"]) == 80
    assert set(left(written).values()) == {f"not attempted: interrupted by {number.name}"}
    done = sorted(Path(result["output"]) for result in written["pictures"])
    assert sorted(out.iterdir()) == done, "what was written is reported, and there is no partial file"


async def until_handled(pid: int, number: signal.Signals) -> None:
    """Wait until a process handles a signal; see SigCgt in proc_pid_status(5)."""

    def handled() -> int:
        [mask] = re.findall(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
        return int(mask, 16) >> (number - 1) & 1

    while not handled():
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("moment", ["importing", "loading", "working"])
async def test_two_signals_end_a_run_with_its_own_networks_without_a_traceback(
    album: Path, tmp_path: Path, moment: str
) -> None:
    """A service manager often sends two, and a thread may be in the middle of a network."""
    arguments = (*RESTORE, album, tmp_path / "out", "--verbose", "--device", "cpu")
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    async with command(None, *arguments, **streams) as process, asyncio.timeout(LIMIT_S):
        assert process.stdout is not None and process.stderr is not None
        if moment == "importing":
            await until_handled(process.pid, signal.SIGTERM)  # before torch is imported, which takes seconds
        elif moment == "loading":
            line = b"of what comes before"
            while line and b"verified" not in line:
                line = await process.stderr.readline()
            assert line, "the weights are read"
        else:
            assert await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
        _, err = await process.communicate()
    # Where both were there at once, by either.
    ended_by = re.search("interrupted by (SIGTERM|SIGHUP)\n", err.decode())
    assert ended_by and process.returncode == 128 + signal.Signals[ended_by[1]], err.decode()
    assert "Traceback" not in err.decode() and "terminate" not in err.decode()


async def test_the_run_goes_on_when_nobody_reads_its_results(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    streams = {"stdout": writing, "stderr": asyncio.subprocess.PIPE}
    async with command(restorer, *RESTORE, album, tmp_path / "out", **streams) as process:
        os.close(writing)
        with os.fdopen(reading) as results:
            first = await asyncio.wait_for(asyncio.to_thread(results.readline), LIMIT_S)
        assert json.loads(first)["output"]
        async with asyncio.timeout(LIMIT_S):
            _, err = await process.communicate()
    assert process.returncode == 0 and "8 of 8 images written, 0 failed" in err.decode()
    assert "Broken" not in err.decode() and len(list((tmp_path / "out").iterdir())) == 8


async def test_the_run_goes_on_when_nobody_reads_anything(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": writing, "stderr": writing}
    async with command(restorer, *RESTORE, album, tmp_path / "out", **streams) as process:
        os.close(writing)
        assert await ended(process) == 0
    assert len(list((tmp_path / "out").iterdir())) == 8


async def test_results_that_cannot_be_printed_are_a_failure(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full:
        streams = {"stdout": full, "stderr": asyncio.subprocess.PIPE}
        async with command(restorer, *RESTORE, album, tmp_path / "out", **streams) as process:
            async with asyncio.timeout(LIMIT_S):
                _, err = await process.communicate()
    assert process.returncode == 1
    assert "cannot be printed any more: No space left" in err.decode() and "8 of 8" in err.decode()


@pytest.mark.parametrize("with_report", [True, False])
async def test_a_full_disk_ends_the_run_and_names_what_is_left(
    restorer: Client, album: Path, tmp_path: Path, with_report: bool
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    out.mkdir()
    (out / "3.png").symlink_to("/dev/full")
    flags = ["--report", report] if with_report else []
    ran = await run_at_service(restorer, *RESTORE, album, out, "--concurrency", 1, *flags)
    assert ran.code == 1 and "3 of 8 images written, 1 failed, 4 not attempted" in ran.err
    assert [Path(result["input"]).name for result in ran.reports] == [f"{n}.png" for n in range(4)]
    assert "3.png cannot be written: No space left" in ran.reports[3]["error"]
    names = [f"{n}.png" for n in range(4, 8)]
    if with_report:
        why = "not attempted: No space left on device"
        assert left(json.loads(report.read_text())) == dict.fromkeys(names, why)
    assert all(f"{album / name}: not attempted: No space left" in ran.err for name in names)


async def test_a_full_disk_does_not_hide_what_is_left_when_the_report_does_not_fit_either(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").symlink_to("/dev/full")
    flags = ["--concurrency", 1, "--report", "/dev/full"]
    ran = await run_at_service(restorer, *RESTORE, album, out, *flags)
    assert ran.code == 1 and "--report /dev/full cannot be written: No space left" in ran.err
    assert f"{album / '7.png'}: not attempted" in ran.err


async def test_a_server_that_dies_ends_the_run_with_all_accounted_for(
    seeing: Path, album: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    async with serve(seeing) as client:
        arguments = (*RESTORE, album, tmp_path / "out", "--report", report, "--concurrency", 1)
        async with command(client, *arguments, "--timeout", 20, **streams) as process:
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT_S):
                assert await process.stdout.readline()
                await client.server.drain()
                _, err = await process.communicate()
    assert process.returncode == 1
    written = json.loads(report.read_text())
    names = {Path(result["input"]).name for result in written["pictures"]} | set(left(written))
    assert names == {f"{n}.png" for n in range(8)} and "of 8 images written" in err.decode()


async def test_commands_read_a_pipe(restorer: Client, tmp_path: Path) -> None:
    data = png(photo(400, 300), "JPEG")
    found = {}
    for name in ("file", "pipe"):
        (tmp_path / "in.jpg").write_bytes(data)
        source = "/dev/stdin" if name == "pipe" else tmp_path / "in.jpg"
        for arguments in (
            ("detect", source),
            ("compare", source, tmp_path / name, "--fidelities", 0.5, *RESTORE[1:]),
        ):
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
            async with command(restorer, *arguments, **streams) as process, asyncio.timeout(LIMIT_S):
                out, err = await process.communicate(data if name == "pipe" else None)
            assert process.returncode == 0, err.decode()
            found[name, arguments[0]] = json.loads(out)["faces"]
    assert found["pipe", "detect"] == found["file", "detect"] != []
    assert len(found["pipe", "compare"]) == len(found["file", "compare"])
    assert [path.name for path in (tmp_path / "pipe").iterdir()] == ["stdin_w0.5.png"]


async def test_a_link_and_a_device_stay_what_they_are(restorer: Client, album: Path, tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    ran = await run_at_service(
        *(restorer, *RESTORE, album / "0.png", tmp_path / "link.png"),
        *("--save-mask", os.devnull, "--report", os.devnull),
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").read_bytes().startswith(
        b"\x89PNG"
    )
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


async def test_parts_of_a_folder_that_were_not_read_are_reported(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    (album / "._0.png").write_bytes(b"AppleDouble")
    flags = ("--report", tmp_path / "report.json")
    ran = await run_at_service(restorer, *RESTORE, album, tmp_path / "out", *flags)
    assert ran.code == 0 and "8 of 8 images written, 0 failed, 1 skipped" in ran.err
    (album / "linked").symlink_to(tmp_path)
    ran = await run_at_service(restorer, *RESTORE, album, tmp_path / "out", *flags)
    assert ran.code == 1 and "8 of 8 images written, 0 failed, 2 skipped" in ran.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert left(report) == {
        "._0.png": "is hidden",
        "linked": "is a link to a folder, which is not followed",
    }


async def test_a_terminal_shows_rate_and_time_left_between_whole_lines(
    restorer: Client, album: Path, tmp_path: Path
) -> None:
    (album / "corrupt.png").write_bytes(png(photo())[:3000])
    ours, theirs = pty.openpty()
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": theirs}
    async with command(restorer, *RESTORE, album, tmp_path / "out", **streams) as process:
        os.close(theirs)
        shown = asyncio.create_task(asyncio.to_thread(read_terminal, ours))
        async with asyncio.timeout(LIMIT_S):
            out, _ = await process.communicate()
            text = await shown
    assert process.returncode == 1
    assert len([json.loads(line) for line in out.splitlines()]) == 9
    assert "9/9" in text and ("image/s" in text or "s/image" in text) and "<00:" in text
    assert f"{album / 'corrupt.png'}: the image" in text and "[9/9]" not in text
    assert text.rstrip().endswith("8 of 9 images written, 1 failed")


def read_terminal(descriptor: int) -> str:
    data = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
        while chunk := os.read(descriptor, 65536):
            data += chunk
    os.close(descriptor)
    return data.decode()
