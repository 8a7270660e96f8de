"""`atelier-restorer restore` and `detect`: in this process and at a real service, with equal results."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier_runtime.images import message_limit_bytes
from tests.integration.restorer_command import RunHere, pixels_of, run_at_service
from tests.integration.restorer_server import Client, photo, png, serve


def comparable(reports: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return reports in order, without what differs between two runs."""
    for report in reports:
        for name in ("output", "mask"):
            if report.get(name):
                report[name] = str(Path(report[name]).relative_to(folder))
        # sorted: the image is upscaled while its faces are restored, and either may finish first
        report["stages"] = sorted(stage["stage"] for stage in report.get("stages", []))
    return sorted(reports, key=lambda report: str(report["input"]))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "day 2").mkdir(parents=True)
    (folder / "a.png").write_bytes(png(photo(320, 320)))
    (folder / "b.jpg").write_bytes(png(photo(400, 300), "JPEG", quality=95))
    (folder / "day 2" / "c.webp").write_bytes(png(photo(200, 260), "WEBP", lossless=True))
    (folder / "day 2" / "d.png").write_bytes(png(photo(256, 256)[..., 0]))
    return folder


RESTORE_FLAGS = ["--fidelity", "0.3", "--upscale", "2", "--max-faces", "2", "--min-confidence", "0.5"]


async def test_a_service_and_this_process_give_the_same_images_masks_and_reports(
    seeing: Path, restorer: Client, album: Path, tmp_path: Path, run_here: RunHere
) -> None:
    def arguments(name: str) -> list[object]:
        out = tmp_path / name
        extra = ["--save-mask", out / "masks", "--report", tmp_path / f"{name}.json"]
        return ["restore", album, out / "pictures", *RESTORE_FLAGS, *extra]

    own = await asyncio.to_thread(run_here, *arguments("here"), "--model-set", seeing)
    remote = await run_at_service(restorer, *arguments("there"))
    assert (own.code, remote.code) == (0, 0), own.err + remote.err
    files = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*") if p.is_file())
    assert len(files) == 8, "four images and four masks"
    for file in files:
        mine, theirs = (pixels_of(tmp_path / name / file).astype(int) for name in ("here", "there"))
        # faces share batches with those of other images, which may be rounded differently
        limit = 1 if file.suffix == ".png" else 4
        assert mine.shape == theirs.shape and np.abs(mine - theirs).max() <= limit, file
    reports = {}
    for name, ran in (("here", own), ("there", remote)):
        reports[name] = json.loads((tmp_path / f"{name}.json").read_text())
        printed = sorted(ran.reports, key=lambda report: str(report["input"]))
        assert sorted(reports[name]["pictures"], key=lambda a: str(a["input"])) == printed
        assert reports[name]["skipped"] == []
        assert [line[:5] for line in ran.err.splitlines() if line.startswith("[")] == [
            f"[{i}/4]" for i in range(1, 5)
        ]
    assert comparable(own.reports, tmp_path / "here") == comparable(remote.reports, tmp_path / "there")
    first = reports["here"]["pictures"][0]
    assert first["model_set"] == "tiny" and first["upscaler"] == "tiny-compact-x2"
    assert [face["restored"] for face in first["faces"]][:3] == [True, True, False]
    assert {face["reason"] for face in first["faces"]} >= {None, "over_limit"}
    assert first["faces"][0]["fidelity"] == 0.3 and first["face_restoration_reason"] is None


async def test_detection_is_the_same_in_this_process_and_at_a_service(
    seeing: Path, restorer: Client, album: Path, run_here: RunHere
) -> None:
    flags = ["detect", album / "b.jpg", "--min-confidence", "0.5", "--detect-size", "512"]
    own = await asyncio.to_thread(run_here, *flags, "--model-set", seeing)
    remote = await run_at_service(restorer, *flags)
    assert own.code == remote.code == 0
    assert own.out == remote.out
    [report] = own.reports
    assert set(report) == {"faces"} and len(report["faces"]) > 2
    for face in report["faces"]:
        assert set(face) == {
            *("box", "landmarks", "confidence", "size_px", "sharpness", "roll_degrees"),
            "orientation_unclear",
        }
        assert np.shape(face["box"]) == (4,) and np.shape(face["landmarks"]) == (5, 2)
        x1, y1, x2, y2 = face["box"]
        assert face["size_px"] == min(x2 - x1, y2 - y1) and face["sharpness"] > 0
        assert abs(face["roll_degrees"]) < 1
    assert (own.err, remote.err) == ("", "")


def test_the_report_of_a_single_image_is_the_printed_one(
    seeing: Path, tmp_path: Path, run_here: RunHere
) -> None:
    source = photo(512, 512)
    (tmp_path / "in.png").write_bytes(png(source))
    ran = run_here(
        *("restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", seeing),
        *("--save-mask", tmp_path / "mask.png", "--report", tmp_path / "report.json", "--visibility", "0.5"),
    )
    assert ran.code == 0, ran.err
    [report] = ran.reports
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert set(report) == {
        *("input", "output", "mask", "faces", "face_restoration_applied", "face_restoration_reason"),
        "min_similarity",
        *("tone_matched", "upscale_applied", "upscaler", "warnings", "warning_codes", "stages", "model_set"),
    }
    assert report["face_restoration_applied"]
    assert report["upscaler"] is None and report["upscale_applied"] == 1
    result, mask = pixels_of(tmp_path / "out.png"), pixels_of(tmp_path / "mask.png")
    assert (result != source).any() and mask.max() == 128


def test_an_image_without_a_face_is_returned_unchanged(
    blind: Path, tmp_path: Path, run_here: RunHere
) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(300, 200)))
    ran = run_here("restore", tmp_path / "in.png", tmp_path / "out.png", "--model-set", blind)
    assert ran.code == 0
    assert ran.reports[0]["face_restoration_reason"] == "no_face" and ran.reports[0]["faces"] == []
    assert "0 of 0 faces restored (no_face)" in ran.err
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.png"), photo(300, 200))


def test_one_corrupt_image_does_not_stop_the_rest(
    seeing: Path, album: Path, tmp_path: Path, run_here: RunHere
) -> None:
    (album / "corrupt.png").write_bytes(png(photo())[:3000])
    (album / "notes.txt").write_text("not an image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "corrupt.png").write_bytes(b"of an earlier run")
    ran = run_here(
        *("restore", album, tmp_path / "out", "--model-set", seeing, "--max-faces", "1"),
        *("--report", tmp_path / "report.json"),
    )
    assert ran.code == 1
    report = json.loads((tmp_path / "report.json").read_text())
    by_name = {Path(result["input"]).name: result for result in report["pictures"]}
    assert by_name["corrupt.png"]["output"] is None
    assert "cannot be decoded" in by_name["corrupt.png"]["error"]
    done = [name for name, result in by_name.items() if "error" not in result]
    assert done == ["a.png", "b.jpg", "c.webp", "d.png"]
    [skipped] = report["skipped"]
    assert skipped["input"] == str(album / "notes.txt") and "not a PNG" in skipped["reason"]
    assert "notes.txt: skipped" in ran.err and "4 of 5" in ran.err and "1 failed" in ran.err
    assert (tmp_path / "out" / "corrupt.png").read_bytes() == b"of an earlier run"
    assert not list((tmp_path / "out").rglob("*.part"))


def test_formats_follow_the_names(seeing: Path, album: Path, tmp_path: Path, run_here: RunHere) -> None:
    (album / "day 2" / "c.webp").rename(album / "day 2" / "no_suffix")
    ran = run_here(
        "restore", album, tmp_path / "out", "--model-set", seeing, "--max-faces", "0", "--quality", "40"
    )
    assert ran.code == 0, ran.err
    found = {}
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        with Image.open(path) as picture:
            found[path.name] = picture.format
    assert found == {"a.png": "PNG", "b.jpg": "JPEG", "no_suffix": "WEBP", "d.png": "PNG"}
    assert ran.err.count("is lossy") == 2, "once for each format, not for each image"
    large = (tmp_path / "out" / "b.jpg").stat().st_size
    ran = run_here(
        *("restore", album / "a.png", tmp_path / "a.jpg", "--max-faces", "0"),
        *("--model-set", seeing, "--quality", "5"),
    )
    assert ran.code == 0 and (tmp_path / "a.jpg").stat().st_size < large


async def test_many_images_do_not_exceed_a_small_queue(seeing: Path, tmp_path: Path) -> None:
    """A full queue says when to retry, and the command does."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(png(photo(300 + number, 300)))
    async with serve(seeing, queue_capacity=0) as client:
        ran = await run_at_service(client, "restore", tmp_path / "in", tmp_path / "out", "--max-faces", "3")
    assert ran.code == 0, ran.err
    assert len(ran.reports) == len(list((tmp_path / "out").iterdir())) == 12
    for number in range(12):
        with Image.open(tmp_path / "out" / f"{number:02}.png") as result:
            assert result.size == (300 + number, 300), "no image under another's name"


async def test_a_services_refusals_name_the_commands_flags(blind_restorer: Client, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(1000, 900)))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "huge.png").write_bytes(bytes(message_limit_bytes(2_000_000) + 1))
    out = tmp_path / "out.png"
    cases = (
        (["in.png", "--upscale", "2"], "--upscale.*2000x1800"),
        (["in.png", "--aligned"], "--aligned.*512x512.*1000x900"),
        (["in.png", "--mask", "parse"], "--mask.*face parser"),
        (["text.png"], "not a PNG"),
        (["huge.png"], "limit"),
    )
    for (name, *flags), problem in cases:
        ran = await run_at_service(blind_restorer, "restore", tmp_path / name, out, *flags)
        assert ran.code == 1 and re.search(f"{name}: .*{problem}", ran.err), ran.err
        assert re.search(problem, ran.reports[0]["error"]) and not out.exists()
    ran = await run_at_service(blind_restorer, "restore", tmp_path / "in.png", out, "--timeout", "0.001")
    # a service that is fast enough reports the expired deadline before the client does
    assert ran.code == 1 and ("within 0.001 s" in ran.err or "deadline" in ran.err), ran.err
    ran = await run_at_service(blind_restorer, "detect", tmp_path / "text.png")
    assert (ran.code, ran.out) == (1, "") and "not a PNG" in ran.err


async def test_an_unreachable_service_ends_the_run_at_once(blind: Path, album: Path, tmp_path: Path) -> None:
    async with serve(blind) as client:
        gone = client
    ran = await run_at_service(gone, "restore", album, tmp_path / "out", "--report", tmp_path / "report.json")
    assert ran.code == 1
    assert f"127.0.0.1:{gone.server.port} cannot be reached" in ran.err
    tried = len(json.loads((tmp_path / "report.json").read_text())["pictures"])
    assert "0 of 4" in ran.err and f"{tried} failed" in ran.err
    assert not (tmp_path / "out").exists()


def test_verbose_logs_what_is_loaded(seeing: Path, tmp_path: Path, run_here: RunHere) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(512, 512)))
    arguments = ("restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", seeing)
    assert "CodeFormer loaded successfully" not in run_here(*arguments).err
    log = run_here(*arguments, "--verbose").err
    assert f"info: CodeFormer loaded successfully file={seeing / 'codeformer.safetensors'}" in log
    assert "detector" not in log, "an aligned image needs none"


def test_an_interrupted_run_reports_what_it_did_and_leaves_no_partial_file(
    seeing: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(60):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(png(photo(640, 640)))
    # a shell that runs tests in the background has disabled interrupts
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from atelier_restorer.__main__ import main; raise SystemExit(main())"
    )
    command = ["restore", tmp_path / "in", tmp_path / "out", "--report", tmp_path / "report.json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command), "--model-set", str(seeing)],
        env={**os.environ, "ATELIER_RESTORER_CPU_THREADS": "1", "ATELIER_RESTORER_DEVICE": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err
    pictures = json.loads((tmp_path / "report.json").read_text())["pictures"]
    assert first in pictures and len(pictures) < 60
    assert not list((tmp_path / "out").glob(".*"))
    for path in (tmp_path / "out").iterdir():
        assert pixels_of(path).shape == (640, 640, 3), "complete"
