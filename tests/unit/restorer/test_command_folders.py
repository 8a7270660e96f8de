"""What of a folder is read, what is left out and why; and that planning a large folder is linear."""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys
from pathlib import Path

import pytest

from atelier_restorer.commands.files import Plan, make_plan
from tests.unit.restorer.photo_folders import fill


def plan_of(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "in", tmp_path / "out", None, None)


def skipped(plan: Plan, tmp_path: Path) -> dict[str, tuple[str, bool]]:
    return {
        os.path.relpath(path, tmp_path / "in"): (skip.reason, skip.is_failure)
        for path, skip in plan.skipped.items()
    }


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "elsewhere/b.png", "in/.hidden.png", "in/._a.png", "in/.git/c.png")
    fill(tmp_path, "in/notes.txt", data=b"text")
    folder = tmp_path / "in"
    (folder / "linked.png").symlink_to(tmp_path / "elsewhere/b.png")
    (folder / "linked folder").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "round.png").symlink_to("round.png")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    plan = plan_of(tmp_path)
    assert [task.source.name for task in plan.tasks] == ["a.png", "linked.png"]
    assert skipped(plan, tmp_path) == {
        "._a.png": ("is hidden", False),
        ".git": ("is hidden", False),
        ".hidden.png": ("is hidden", False),
        "dangling.png": ("is a link to nothing", True),
        "linked folder": ("is a link to a folder, which is not followed", True),
        "loop": ("is a link to a folder, which is not followed", True),
        "notes.txt": ("is not a PNG, JPEG or WebP file", False),
        "pipe": ("is a named pipe", False),
        "pipe.png": ("is a named pipe", True),
        "round.png": ("cannot be read: Too many levels of symbolic links", True),
        "zero.png": ("is a character device", True),
    }


def test_a_link_to_the_results_is_no_missing_folder(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    (tmp_path / "disk").mkdir()
    (tmp_path / "in/out").symlink_to(tmp_path / "disk")
    plan = make_plan(tmp_path / "in", tmp_path / "in/out", None, None)
    assert skipped(plan, tmp_path) == {"out": ("is where results are written", False)}


def test_what_may_not_be_read_is_left_out_with_that_reason(tmp_path: Path) -> None:
    """In a process of its own, as a user whom permissions concern: tests may run as root."""
    fill(tmp_path, "in/a.png", "in/locked.jpg", "in/locked", "in/closed/b.png")
    for name, mode in (("locked.jpg", 0), ("locked", 0), ("closed", 0)):
        (tmp_path / "in" / name).chmod(mode)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    (tmp_path / "in").chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from atelier_restorer.commands.files import make_plan\n"
        "nobody = (65534,) * 3\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setresgid(*nobody); os.setresuid(*nobody)\n"
        "plan = make_plan(Path('in'), Path(sys.argv[1]), None, None)\n"
        "print([str(t.source) for t in plan.tasks])\n"
        "print({p.name: (s.reason, s.is_failure) for p, s in plan.skipped.items()})"
    )
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o777)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(target)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        (tmp_path / "in/closed").chmod(0o755)
    assert ran.returncode == 0, ran.stderr
    tasks, left_out = ran.stdout.splitlines()
    denied = ("cannot be read: Permission denied", True)
    assert tasks == "['in/a.png']"
    assert left_out == str({"closed": denied, "locked": denied, "locked.jpg": denied})


def test_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    raw = (b"line\nbreak.png", b"not utf-8 \xff.jpg", b"-n.png", "\u0301.png".encode())
    names = [os.fsdecode(name) for name in raw]
    fill(tmp_path / "in", *names)
    plan = plan_of(tmp_path)
    assert sorted(task.target.name for task in plan.tasks) == sorted(names)


def test_a_folder_nested_deeper_than_recursion_goes(tmp_path: Path) -> None:
    deep = tmp_path / "in"
    deep.mkdir()
    depth = 0
    here = os.open(deep, os.O_RDONLY)
    try:
        while depth < 1500:
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here, depth = below, depth + 1
    finally:
        os.close(here)
    plan = plan_of(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "in"], check=True)  # what pytest removes it with is recursive
    assert not plan.tasks and not plan.skipped


def calls_of_planning(folder: Path, images: int) -> int:
    fill(folder / "in", *(f"{n % 7}/{n}.jpg" for n in range(images)))
    fill(folder / "in", *(f"{n}.txt" for n in range(images // 4)), data=b"text")
    masks, crops, report = folder / "masks", folder / "crops", folder / "report.json"
    profile = cProfile.Profile()
    with profile:
        plan = make_plan(folder / "in", folder / "out", masks, None, crops=crops, report=report)
    assert len(plan.tasks) == images
    calls: int = vars(pstats.Stats(profile))["total_calls"]
    return calls


def test_planning_is_linear(tmp_path: Path) -> None:
    """Counted in calls, which no other process changes: eight times the images take eight times as many."""
    few, many = (calls_of_planning(tmp_path / str(images), images) for images in (250, 2000))
    assert many < 10 * few


@pytest.mark.parametrize("name", [".", "./in/../in", "in/"])
def test_the_folder_may_be_written_in_any_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fill(tmp_path, "in/a.png", "in/sub/b.png")
    monkeypatch.chdir(tmp_path / "in" if name == "." else tmp_path)
    plan = make_plan(Path(name), Path("../out" if name == "." else "out"), None, None)
    assert [os.path.relpath(task.target) for task in plan.tasks] == [
        os.path.relpath(tmp_path / "out" / name) for name in ("a.png", "sub/b.png")
    ]
