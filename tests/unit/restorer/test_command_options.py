"""Flags that make no sense are refused by name, before torch is imported or a file is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from atelier_restorer.__main__ import main
from tests.tiny_restorer import build_set, codeformer_state

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command; return exit code, standard output and standard error."""
    monkeypatch.setattr("atelier_restorer.commands.connection.configure_logging", lambda *_: None)

    def run_command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "in.png").write_bytes(b"never opened")
    return tmp_path / "in.png"


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--fidelity", "2"], ["--fidelity", "from 0 to 1, is 2"]),
        (["--fidelity", "nan", "--quality", "0"], ["--fidelity must", "--quality must"]),
        (["--fidelity", "much"], ["--fidelity: invalid float"]),
        (["--max-faces", "-1", "--min-confidence", "7"], ["--max-faces must", "--min-confidence must"]),
        (["--upscale", "3"], ["--upscale: invalid choice: 3"]),
        (["--aligned", "--rule", "largest"], ["--rule", "aligned"]),
        (["--aligned", "--match-tone"], ["--match-tone", "aligned"]),
        (["--upscaler", "x.pth", "--no-upscaler"], ["--no-upscaler: not allowed with argument --upscaler"]),
        (
            ["--server", "a:1", "--codeformer", "c.pth", "--device", "cpu"],
            ["--codeformer, --device", "--server"],
        ),
        (["--server", "a:1", "--upscaler", "u.pth"], ["--upscaler", "--server"]),
        (["--server", "a:1", "--timeout", "0"], ["--timeout must", "seconds"]),
        (["--timeout", "9"], ["--timeout", "--server"]),
        (["--device", "gpu"], ["--device gpu: String should match"]),
        (["--report", "nowhere/report.json"], ["nowhere", "no such folder"]),
        (["--concurrency", "0"], ["--concurrency must be from 1 to 64, is 0"]),
        (["--server", "a:1", "--concurrency", "65"], ["--concurrency must be from 1 to 64, is 65"]),
    ],
)
def test_bad_flags_of_restore(
    run: Run, image: Path, tmp_path: Path, flags: list[str], messages: list[str]
) -> None:
    code, out, err = run("restore", image, tmp_path / "out.png", *flags)
    assert (code, out) == (2, "")
    assert all(text in err for text in messages), err
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--detect-size", "9"], ["--detect-size must"]),
        (["--min-confidence", "-1"], ["--min-confidence must"]),
        (["--server", "a:1", "--model-set", "demo"], ["--model-set", "--server"]),
    ],
)
def test_bad_flags_of_detect(run: Run, image: Path, flags: list[str], messages: list[str]) -> None:
    code, out, err = run("detect", image, *flags)
    assert (code, out) == (2, "") and all(text in err for text in messages), err


def test_detect_takes_one_image(run: Run, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere.png", "no such file"),
    ):
        code, out, err = run("detect", path)
        assert (code, out) == (2, "") and str(path) in err and message in err


def test_a_report_does_not_overwrite_an_image(run: Run, image: Path, tmp_path: Path) -> None:
    for report in (image, tmp_path / "out.png"):
        code, _, err = run("restore", image, tmp_path / "out.png", "--report", report)
        assert code == 2 and "--report" in err and "overwrite" in err
    assert image.read_bytes() == b"never opened"


@pytest.mark.parametrize("by_flag", [True, False], ids=["a flag", "the environment"])
@pytest.mark.parametrize("setting", ["model_set", "codeformer"])
def test_what_is_read_is_not_overwritten(
    run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, by_flag: bool
) -> None:
    (tmp_path / "set/base").mkdir(parents=True)
    file = tmp_path / ("set/base/manifest.json" if setting == "model_set" else "c.png")
    file.write_bytes(b"read")
    given = tmp_path / "set" if setting == "model_set" else file
    flags = [f"--{setting.replace('_', '-')}", given] if by_flag else []
    if not by_flag:
        monkeypatch.setenv(f"ATELIER_RESTORER_{setting.upper()}", str(given))
    for arguments in (
        ("restore", image, tmp_path / "out.png", "--report", file, *flags),
        ("restore", image, file, "--format", "png", *flags),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and "would overwrite" in err and file.name in err
    assert file.read_bytes() == b"read"


def test_a_folder_without_images_is_a_failure_that_names_its_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    code, out, err = run("restore", tmp_path / "in", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "notes.txt: skipped" in err and "no PNG, JPEG or WebP file" in err


def test_a_missing_network_is_reported_with_its_flag_or_variable(
    run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    empty = build_set(tmp_path / "set", upscaler=False)
    out = tmp_path / "out.png"
    parsing = ["--mask", "parse", "--aligned", "--max-faces", "0", "--model-set", empty]
    for arguments, messages in (
        (["--model-set", tmp_path / "nowhere"], [f"--model-set {tmp_path / 'nowhere'}: there is no file"]),
        (["--model-set", empty], ["--model-set: the set 'tiny'", "a detector", "--detector FILE"]),
        (["--model-set", empty, "--aligned"], ["the set 'tiny'", "a codeformer", "--codeformer FILE"]),
        (parsing, ["the set 'tiny'", "a parser", "--parser FILE"]),
        (["--codeformer", tmp_path / "c.pth"], [f"--codeformer {tmp_path / 'c.pth'}: there is no such file"]),
    ):
        code, _, err = run("restore", image, out, *arguments)
        assert code == 1 and all(text in err for text in messages), err
    monkeypatch.setenv("ATELIER_RESTORER_DETECTOR", str(tmp_path / "d.pth"))
    code, _, err = run("detect", image)
    assert code == 1 and f"ATELIER_RESTORER_DETECTOR={tmp_path / 'd.pth'}: there is no such" in err, err
    assert not out.exists()


def test_help_names_every_flag_and_its_default(run: Run) -> None:
    code, out, _ = run("restore", "--help")
    assert code == 0
    for flag in ("--fidelity W", "--aligned", "--mask {feather,parse}", "--report FILE.json", "--server"):
        assert flag in out
    assert "(default 0.6)" in out and "(default 0.8)" in out and "(default 64)" in out
    code, out, _ = run("detect", "--help")
    assert code == 0 and "(default 640)" in out


def test_an_unexpected_error_fails_one_image_and_not_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a service the interceptor catches unexpected errors; here the command does."""
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    model_set = build_set(tmp_path / "set", codeformer=codeformer_state())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unexpected")

    monkeypatch.setattr("atelier_restorer.pipeline.check_picture", fail)
    Image.new("RGB", (512, 512)).save(tmp_path / "in.png")
    code, out, err = run(
        "restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", model_set
    )
    assert code == 1
    assert "RuntimeError: unexpected" in json.loads(out)["error"]
    assert "in.png: " in err
