"""Flags that make no sense are told by their names, before torch is imported or a file is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
        told = capsys.readouterr()
        return code, told.out, told.err

    return run_command


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "in.png").write_bytes(b"never opened")
    return tmp_path / "in.png"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--fidelity", "2"], ["--fidelity must be from 0 to 1, is 2"]),
        (["--fidelity", "nan", "--quality", "0"], ["--fidelity must be", "--quality must be"]),
        (["--fidelity", "much"], ["--fidelity: invalid float"]),
        (["--max-faces", "-1", "--min-confidence", "7"], ["--max-faces must", "--min-confidence must"]),
        (["--upscale", "3"], ["--upscale: invalid choice: 3"]),
        (["--aligned", "--rule", "largest"], ["--rule selects among detected faces, but an aligned"]),
        (["--aligned", "--match-tone"], ["--match-tone cannot be used with an aligned face"]),
        (["--upscaler", "x.pth", "--no-upscaler"], ["--no-upscaler: not allowed with argument --upscaler"]),
        (["--server", "a:1", "--codeformer", "c.pth", "--device", "cpu"], ["--codeformer, --device choose"]),
        (["--server", "a:1", "--upscaler", "u.pth"], ["--upscaler chooses networks of this process"]),
        (["--server", "a:1", "--timeout", "0"], ["--timeout must be a number of seconds above 0"]),
        (["--timeout", "9"], ["--timeout is for --server"]),
        (["--device", "gpu"], ["--device gpu: String should match"]),
        (["--report", "nowhere/report.json"], ["nowhere: there is no such folder"]),
    ],
)
def test_bad_flags_of_restore(
    run: Run, picture: Path, tmp_path: Path, flags: list[str], says: list[str]
) -> None:
    code, out, err = run("restore", picture, tmp_path / "out.png", *flags)
    assert (code, out) == (2, "")
    assert all(text in err for text in says), err
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--detect-size", "9"], "--detect-size must be from"),
        (["--min-confidence", "-1"], "--min-confidence must be from"),
        (["--server", "a:1", "--model-set", "demo"], "--model-set chooses networks of this process"),
    ],
)
def test_bad_flags_of_detect(run: Run, picture: Path, flags: list[str], says: str) -> None:
    code, out, err = run("detect", picture, *flags)
    assert (code, out) == (2, "") and says in err


def test_detect_takes_one_picture(run: Run, tmp_path: Path) -> None:
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere.png", "no such file"),
    ):
        code, out, err = run("detect", path)
        assert (code, out) == (2, "") and says in err


def test_a_report_does_not_overwrite_a_picture(run: Run, picture: Path, tmp_path: Path) -> None:
    for report in (picture, tmp_path / "out.png"):
        code, _, err = run("restore", picture, tmp_path / "out.png", "--report", report)
        assert code == 2 and "--report" in err and "would overwrite a picture" in err
    assert picture.read_bytes() == b"never opened"


def test_a_folder_without_pictures_is_a_failure_that_names_what_is_in_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    code, out, err = run("restore", tmp_path / "in", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "notes.txt: skipped" in err and "no PNG, JPEG or WebP file" in err


def test_missing_networks_are_told_by_flag_or_variable(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    empty = build_set(tmp_path / "set", upscaler=False)
    out = tmp_path / "out.png"
    for arguments, says in (
        (["--model-set", tmp_path / "nowhere"], f"--model-set {tmp_path / 'nowhere'}: there is no file"),
        (["--model-set", empty], "--model-set: the set 'tiny' does not have a detector; --detector FILE"),
        (["--model-set", empty, "--aligned"], "'tiny' does not have a codeformer; --codeformer FILE names"),
        (["--codeformer", tmp_path / "c.pth"], f"--codeformer {tmp_path / 'c.pth'}: there is no such file"),
    ):
        code, _, err = run("restore", picture, out, *arguments)
        assert code == 1 and says in err, err
    parsing = ["--mask", "parse", "--aligned", "--max-faces", "0", "--model-set", empty]
    code, _, err = run("restore", picture, out, *parsing)
    assert code == 1 and "does not have a parser; --parser FILE names" in err, err
    monkeypatch.setenv("ATELIER_RESTORER_DETECTOR", str(tmp_path / "d.pth"))
    code, _, err = run("detect", picture)
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


def test_a_network_that_raises_fails_one_picture_and_not_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a service the interceptor catches unforeseen errors; here the command does."""
    monkeypatch.setenv("ATELIER_RESTORER_CPU_THREADS", "1")
    model_set = build_set(tmp_path / "set", codeformer=codeformer_state())

    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("atelier_restorer.pipeline.decode_input", break_down)
    (tmp_path / "in.png").write_bytes(b"x")
    code, out, err = run(
        "restore", tmp_path / "in.png", tmp_path / "out.png", "--aligned", "--model-set", model_set
    )
    assert code == 1
    assert "RuntimeError: unforeseen" in json.loads(out)["error"]
    assert "in.png: Internal error" in err
