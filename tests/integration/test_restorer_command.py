"""`atelier-restorer restore` and `detect`: in this process, and at a real service, which must be the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from atelier_restorer.__main__ import main
from atelier_runtime.images import message_limit_bytes
from tests.integration.restorer_server import Client, photo, png, serve


class Ran(NamedTuple):
    """How a command ended and what it said; `answers` are the JSON objects of its standard output."""

    code: int
    out: str
    err: str

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Here = Callable[..., Ran]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """Run the command in this process, with networks of its own."""
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    monkeypatch.setenv("ATELIER_RESTORER_DEVICE", "cpu")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    yield run
    root.handlers[:], root.level = handlers, level


async def there(client: Client, *arguments: object) -> Ran:
    """Run the command as a process that asks the test's service."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atelier_restorer", *map(str, arguments)),
        *("--server", f"127.0.0.1:{client.server.port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def without_times(answers: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return reports in order, with what differs between two runs taken out."""
    for answer in answers:
        for name in ("output", "mask"):
            if answer.get(name):
                answer[name] = str(Path(answer[name]).relative_to(folder))
        # sorted: the picture is enlarged while its faces are restored, and either may be done first
        answer["stages"] = sorted(stage["stage"] for stage in answer.get("stages", []))
    return sorted(answers, key=lambda answer: str(answer["input"]))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


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


async def test_a_service_and_this_process_give_the_same_pictures_masks_and_reports(
    seeing: Path, album: Path, tmp_path: Path, here: Here
) -> None:
    def arguments(name: str) -> list[object]:
        out = tmp_path / name
        extra = ["--save-mask", out / "masks", "--report", tmp_path / f"{name}.json"]
        return ["restore", album, out / "pictures", *RESTORE_FLAGS, *extra]

    own = await asyncio.to_thread(here, *arguments("here"), "--model-set", seeing)
    async with serve(seeing) as client:
        asked = await there(client, *arguments("there"))
    assert (own.code, asked.code) == (0, 0), own.err + asked.err
    files = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*") if p.is_file())
    assert len(files) == 8, "four pictures and four masks"
    for file in files:
        mine, theirs = (pixels_of(tmp_path / name / file).astype(int) for name in ("here", "there"))
        # faces share batches with those of other pictures, which may round the last bit another way
        limit = 1 if file.suffix == ".png" else 4
        assert mine.shape == theirs.shape and np.abs(mine - theirs).max() <= limit, file
    reports = {}
    for name, ran in (("here", own), ("there", asked)):
        reports[name] = json.loads((tmp_path / f"{name}.json").read_text())
        printed = sorted(ran.answers, key=lambda answer: str(answer["input"]))
        assert sorted(reports[name]["pictures"], key=lambda a: str(a["input"])) == printed
        assert reports[name]["skipped"] == []
        assert [line[:5] for line in ran.err.splitlines() if line.startswith("[")] == [
            f"[{i}/4]" for i in range(1, 5)
        ]
    assert without_times(own.answers, tmp_path / "here") == without_times(asked.answers, tmp_path / "there")
    first = reports["here"]["pictures"][0]
    assert first["model_set"] == "tiny" and first["upscaler"] == "tiny-compact-x2"
    assert [face["restored"] for face in first["faces"]][:3] == [True, True, False]
    assert {face["reason"] for face in first["faces"]} >= {None, "over_limit"}
    assert first["faces"][0]["fidelity"] == 0.3 and first["face_restoration_reason"] is None


async def test_detection_is_the_same_here_and_there_and_nothing_else_is_printed(
    seeing: Path, album: Path, here: Here
) -> None:
    flags = ["detect", album / "b.jpg", "--min-confidence", "0.5", "--detect-size", "512"]
    own = await asyncio.to_thread(here, *flags, "--model-set", seeing)
    async with serve(seeing) as client:
        asked = await there(client, *flags)
    assert own.code == asked.code == 0
    assert own.out == asked.out
    [answer] = own.answers
    assert list(answer) == ["faces"] and len(answer["faces"]) > 2
    for face in answer["faces"]:
        assert list(face) == ["box", "landmarks", "confidence", "size_px", "sharpness", "roll_degrees"]
        assert np.shape(face["box"]) == (4,) and np.shape(face["landmarks"]) == (5, 2)
        x1, y1, x2, y2 = face["box"]
        assert face["size_px"] == min(x2 - x1, y2 - y1) and face["sharpness"] > 0
        assert abs(face["roll_degrees"]) < 1
    assert (own.err, asked.err) == ("", "")


def test_the_reports_of_a_single_picture_are_its_own(seeing: Path, tmp_path: Path, here: Here) -> None:
    source = photo(512, 512)
    (tmp_path / "in.png").write_bytes(png(source))
    ran = here(
        *("restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", seeing),
        *("--save-mask", tmp_path / "mask.png", "--report", tmp_path / "report.json", "--visibility", "0.5"),
    )
    assert ran.code == 0, ran.err
    [answer] = ran.answers
    assert json.loads((tmp_path / "report.json").read_text()) == answer
    assert set(answer) == {
        *("input", "output", "mask", "faces", "face_restoration_applied", "face_restoration_reason"),
        *("tone_matched", "upscale_applied", "upscaler", "warnings", "warning_codes", "stages", "model_set"),
    }
    assert (
        answer["face_restoration_applied"] and answer["upscaler"] is None and answer["upscale_applied"] == 1
    )
    result, mask = pixels_of(tmp_path / "out.png"), pixels_of(tmp_path / "mask.png")
    assert (result != source).any() and mask.max() == 128


def test_a_picture_without_a_face_comes_back_as_it_is(blind: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(300, 200)))
    ran = here("restore", tmp_path / "in.png", tmp_path / "out.png", "--model-set", blind)
    assert ran.code == 0
    assert ran.answers[0]["face_restoration_reason"] == "no_face" and ran.answers[0]["faces"] == []
    assert "0 of 0 faces restored (no_face)" in ran.err
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.png"), photo(300, 200))


def test_one_broken_picture_does_not_stop_the_rest(
    seeing: Path, album: Path, tmp_path: Path, here: Here
) -> None:
    (album / "broken.png").write_bytes(png(photo())[:3000])
    (album / "notes.txt").write_text("no picture")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "broken.png").write_bytes(b"of an earlier run")
    ran = here(
        *("restore", album, tmp_path / "out", "--model-set", seeing, "--max-faces", "1"),
        *("--report", tmp_path / "report.json"),
    )
    assert ran.code == 1
    report = json.loads((tmp_path / "report.json").read_text())
    by_name = {Path(answer["input"]).name: answer for answer in report["pictures"]}
    assert by_name["broken.png"]["output"] is None
    assert "the image cannot be decoded" in by_name["broken.png"]["error"]
    assert [name for name, answer in by_name.items() if "error" not in answer] == [
        *("a.png", "b.jpg", "c.webp", "d.png")
    ]
    assert report["skipped"] == [str(album / "notes.txt")]
    assert "notes.txt: skipped" in ran.err and "4 of 5 images written, 1 failed" in ran.err
    assert (tmp_path / "out" / "broken.png").read_bytes() == b"of an earlier run"
    assert not list((tmp_path / "out").rglob("*.part"))


def test_formats_are_those_of_the_names(seeing: Path, album: Path, tmp_path: Path, here: Here) -> None:
    (album / "day 2" / "c.webp").rename(album / "day 2" / "no_suffix")
    ran = here(
        "restore", album, tmp_path / "out", "--model-set", seeing, "--max-faces", "0", "--quality", "40"
    )
    assert ran.code == 0, ran.err
    found = {}
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        with Image.open(path) as picture:
            found[path.name] = picture.format
    assert found == {"a.png": "PNG", "b.jpg": "JPEG", "no_suffix": "WEBP", "d.png": "PNG"}
    assert ran.err.count("is lossy") == 2, "told once for each format, not for each picture"
    large = (tmp_path / "out" / "b.jpg").stat().st_size
    ran = here(
        *("restore", album / "a.png", tmp_path / "a.jpg", "--max-faces", "0"),
        *("--model-set", seeing, "--quality", "5"),
    )
    assert ran.code == 0 and (tmp_path / "a.jpg").stat().st_size < large


async def test_many_pictures_do_not_overrun_a_small_queue(seeing: Path, tmp_path: Path) -> None:
    """A full queue says when to come back, and the command does."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(png(photo(300 + number, 300)))
    async with serve(seeing, queue_capacity=0) as client:
        ran = await there(client, "restore", tmp_path / "in", tmp_path / "out", "--max-faces", "3")
    assert ran.code == 0, ran.err
    assert len(ran.answers) == len(list((tmp_path / "out").iterdir())) == 12
    for number in range(12):
        with Image.open(tmp_path / "out" / f"{number:02}.png") as result:
            assert result.size == (300 + number, 300), "no picture under another's name"


async def test_a_services_refusals_are_told_in_the_commands_words(blind: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(1000, 900)))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "huge.png").write_bytes(bytes(message_limit_bytes(2_000_000) + 1))
    async with serve(blind) as client:
        out = tmp_path / "out.png"
        cases = (
            (["in.png", "--upscale", "2"], "--upscale 2 makes 2000x1800"),
            (["in.png", "--aligned"], "--aligned requires an image of 512x512 px, this one is 1000x900"),
            (["in.png", "--mask", "parse"], "--mask parse needs a face parser"),
            (["text.png"], "the image is not a PNG, JPEG or WebP file"),
            (["huge.png"], "exceeds the message limit"),
        )
        for (name, *flags), says in cases:
            ran = await there(client, "restore", tmp_path / name, out, *flags)
            assert ran.code == 1 and says in ran.err, ran.err
            assert says in ran.answers[0]["error"] and not out.exists()
        ran = await there(client, "restore", tmp_path / "in.png", out, "--timeout", "0.001")
        # a service that is quick enough sees that the time is up and says so before the client does
        assert ran.code == 1 and (
            "did not respond within 0.001 s" in ran.err or "after the deadline" in ran.err
        ), ran.err
        ran = await there(client, "detect", tmp_path / "text.png")
        assert (ran.code, ran.out) == (1, "") and "the image is not a PNG" in ran.err


async def test_an_unreachable_service_ends_the_run_at_once(blind: Path, album: Path, tmp_path: Path) -> None:
    async with serve(blind) as client:
        gone = client
    ran = await there(gone, "restore", album, tmp_path / "out", "--report", tmp_path / "report.json")
    assert ran.code == 1
    assert f"127.0.0.1:{gone.server.port} cannot be reached" in ran.err
    tried = len(json.loads((tmp_path / "report.json").read_text())["pictures"])
    assert f"0 of 4 images written, {tried} failed" in ran.err
    assert not (tmp_path / "out").exists()


def test_what_is_loaded_is_logged_for_those_who_ask(seeing: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "in.png").write_bytes(png(photo(512, 512)))
    arguments = ("restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", seeing)
    assert "CodeFormer loaded successfully" not in here(*arguments).err
    told = here(*arguments, "--verbose").err
    assert f"info: CodeFormer loaded successfully file={seeing / 'codeformer.safetensors'}" in told
    assert "detector" not in told, "an aligned picture needs none"


def test_an_interrupted_run_reports_what_it_did_and_leaves_nothing_half_written(
    seeing: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(60):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(png(photo(640, 640)))
    # where tests run in the background of a shell, it has switched interrupts off
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
        assert pixels_of(path).shape == (640, 640, 3), "whole"
