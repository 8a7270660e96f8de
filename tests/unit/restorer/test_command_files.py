"""What the command reads and writes; no file is ever half written or overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atelier_restorer.commands.files import Plan, make_plan
from atelier_restorer.commands.paths import PlanError
from atelier_restorer.commands.writing import check_writable, write_whole
from tests.unit.restorer.photo_folders import PNG, fill


def pairs(plan: Plan, source: Path, target: Path) -> dict[str, tuple[str, str | None]]:
    return {
        task.source.relative_to(source).as_posix(): (task.target.relative_to(target).as_posix(), task.format)
        for task in plan.tasks
    }


def test_a_folder_is_mirrored_with_its_subfolders(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    fill(source, "a.png", "day 2/b.JPG", "day 2/deep/c.webp", "no_suffix")
    fill(source, "notes.txt", ".DS_Store", data=b"not an image")
    fill(source, "damaged.jpeg", data=b"")
    plan = make_plan(source, target, None, None)
    assert plan.is_folder
    assert pairs(plan, source, target) == {
        "a.png": ("a.png", "png"),
        "damaged.jpeg": ("damaged.jpeg", "jpeg"),  # an image by its name: it will fail and be reported
        "day 2/b.JPG": ("day 2/b.JPG", "jpeg"),
        "day 2/deep/c.webp": ("day 2/deep/c.webp", "webp"),
        "no_suffix": ("no_suffix", None),  # an image by its content; it keeps its own format
    }
    assert {path.name for path in plan.skipped} == {"notes.txt", ".DS_Store"}
    assert not target.exists(), "nothing is written yet"


def test_another_format_changes_the_names(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    fill(source, "a.png", "b.jpeg", "c.v2", "d.webp")
    plan = make_plan(source, target, tmp_path / "masks", "jpeg")
    assert pairs(plan, source, target) == {
        "a.png": ("a.jpg", "jpeg"),
        "b.jpeg": ("b.jpeg", "jpeg"),
        "c.v2": ("c.v2.jpg", "jpeg"),
        "d.webp": ("d.jpg", "jpeg"),
    }
    masks = sorted(task.mask.name for task in plan.tasks if task.mask)
    assert masks == ["a.png", "b.png", "c.v2.png", "d.png"]


def test_a_single_image_may_go_into_a_folder_and_keeps_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "out").mkdir()
    [task] = make_plan(tmp_path / "a.png", tmp_path / "out", None, None).tasks
    assert task.target == tmp_path / "out" / "a.png"
    [task] = make_plan(tmp_path / "a.png", tmp_path / "b.WEBP", None, None).tasks
    assert (task.target.name, task.format) == ("b.WEBP", "webp")
    [task] = make_plan(tmp_path / "a.png", tmp_path / "nameless", None, "jpeg").tasks
    assert (task.target.name, task.format) == ("nameless", "jpeg")


def test_results_inside_the_input_folder_are_not_read_as_images(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "out/a.png", "masks/a.png", "sub/b.png")
    for name in ("out", "masks"):
        fill(tmp_path, f"{name}/.atelier-results", data=b"")
    plan = make_plan(tmp_path, tmp_path / "out", tmp_path / "masks", None)
    assert sorted(task.source.relative_to(tmp_path).as_posix() for task in plan.tasks) == [
        "a.png",
        "sub/b.png",
    ]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in", "in", "would overwrite"),
        ("in/a.png", "in", "would overwrite"),
        ("in/a.png", "in/a.png", "would overwrite"),
        ("in/a.png", "in/link.png", "would overwrite"),
        ("in/inner", "in", "would overwrite"),
        ("in", "in/a.png", r"in/a\.png"),
        ("nowhere", "out", "nowhere.*no such"),
        ("in/a.png", "out.gif", r"out\.gif .*\.png"),
        ("in/a.png", "nowhere/out.png", "nowhere.*no such"),
    ],
)
def test_paths_that_make_no_sense_are_refused_before_any_work(
    tmp_path: Path, source: str, target: str, message: str
) -> None:
    fill(tmp_path, "in/a.png", "in/inner/a.png", "in/inner/inner/a.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "in/a.png")
    with pytest.raises(PlanError, match=message):
        make_plan(tmp_path / source, tmp_path / target, None, None)
    assert (tmp_path / "in/a.png").read_bytes() == PNG


def test_two_images_with_one_output_name_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/a.jpg")
    with pytest.raises(PlanError, match=r"a\.webp .*a\.jpg .*a\.png"):
        make_plan(tmp_path / "in", tmp_path / "out", None, "webp")
    plan = make_plan(tmp_path / "in", tmp_path / "out", tmp_path / "masks", None)
    assert [task.mask.name for task in plan.tasks if task.mask] == ["a.jpg.png", "a.png.png"]
    with pytest.raises(PlanError, match=r"out\.png .*twice"):
        make_plan(tmp_path / "in/a.png", tmp_path / "out.png", tmp_path / "out.png", None)


def test_a_name_that_contradicts_the_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    with pytest.raises(PlanError, match=r"--format jpeg .*b\.png"):
        make_plan(tmp_path / "a.png", tmp_path / "b.png", None, "jpeg")


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    check_writable(tmp_path / "report.json")
    with pytest.raises(PlanError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(PlanError, match="no such folder"):
        check_writable(tmp_path / "nowhere" / "report.json")


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.png"
    write_whole(path, b"old")
    assert path.read_bytes() == b"old"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(), "as readable as any file of this user"

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"], "the partial file is removed"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
