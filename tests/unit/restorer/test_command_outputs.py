"""What stands where a file is to be written, and which files would be in each other's way."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from atelier_restorer.commands.collisions import ignores_case
from atelier_restorer.commands.files import make_plan
from atelier_restorer.commands.paths import PlanError
from atelier_restorer.commands.writing import check_folder, check_writable, read_image, write_whole
from atelier_runtime.images import Format
from tests.unit.restorer.photo_folders import PNG, crop_files, fill, plan_in


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    fill(tmp_path, "real/target.png", data=b"old")
    (tmp_path / "link.png").symlink_to("real/target.png")
    (tmp_path / "chain.png").symlink_to("link.png")
    (tmp_path / "new.png").symlink_to("real/not yet.png")
    for name, target in (("link", "target"), ("chain", "target"), ("new", "not yet")):
        path = tmp_path / f"{name}.png"
        check_writable(path)
        write_whole(path, name.encode())
        assert path.is_symlink() and (tmp_path / "real" / f"{target}.png").read_bytes() == name.encode()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["not yet.png", "target.png"]


def test_a_character_device_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "link.png"):
        check_writable(path)
        write_whole(path, PNG)
        assert stat.S_ISCHR(os.stat(path).st_mode)
    assert (tmp_path / "link.png").is_symlink()
    with pytest.raises(OSError, match=r"No space left .*/dev/full"):
        write_whole(Path("/dev/full"), PNG)


@pytest.mark.parametrize(
    "kind", ["named pipe", "socket", "link to a pipe", "loop of links", "link to nowhere"]
)
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.png"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # a socket's path is short
    elif kind == "loop of links":
        path.symlink_to(path)
    elif kind == "link to nowhere":
        path.symlink_to(tmp_path / "nowhere" / "out.png")
    else:
        os.mkfifo(path if kind == "named pipe" else tmp_path / "pipe")
        if kind != "named pipe":
            path.symlink_to(tmp_path / "pipe")
    before = path.lstat()
    with pytest.raises(PlanError, match=r"out\.png"):
        check_writable(path)
    with pytest.raises((PlanError, OSError), match=r"out\.png"):
        write_whole(path, PNG)
    if kind != "link to nowhere":
        after = path.lstat()  # but for the time of the last access: a link was followed
        assert (after.st_mode, after.st_ino, after.st_mtime_ns) == (
            before.st_mode,
            before.st_ino,
            before.st_mtime_ns,
        )
    assert not list(tmp_path.glob(".*"))


def test_a_write_protected_file_is_not_replaced(tmp_path: Path) -> None:
    """Not by root either, who may write to it."""
    fill(tmp_path, "out.png", data=b"kept")
    (tmp_path / "out.png").chmod(0o444)
    with pytest.raises(PlanError, match=r"out\.png is write-protected"):
        check_writable(tmp_path / "out.png")
    with pytest.raises(PlanError, match="write-protected"):
        write_whole(tmp_path / "out.png", PNG)
    assert (tmp_path / "out.png").read_bytes() == b"kept"


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    fill(tmp_path, "out.png", data=b"private")
    (tmp_path / "out.png").chmod(0o600)
    write_whole(tmp_path / "out.png", PNG)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o600
    assert (tmp_path / "out.png").read_bytes() == PNG


def test_a_hard_link_elsewhere_keeps_the_old_image(tmp_path: Path) -> None:
    fill(tmp_path, "backup.png", data=b"old")
    (tmp_path / "out.png").hardlink_to(tmp_path / "backup.png")
    write_whole(tmp_path / "out.png", PNG)
    assert (tmp_path / "backup.png").read_bytes() == b"old"


@pytest.mark.parametrize("target", ["/proc/x.png", "/dev/null/x.png", "/proc/self/x.png"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, target: str) -> None:
    fill(tmp_path, "a.png")
    with pytest.raises(PlanError, match=f"^{re.escape(target)} ") as caught:
        make_plan(tmp_path / "a.png", Path(target), None, None)
    assert ".part" not in str(caught.value)
    with pytest.raises(OSError, match=re.escape(target)) as failed:
        write_whole(Path(target), PNG)
    assert ".part" not in str(failed.value)


@pytest.mark.parametrize("which", ["target", "mask", "crops", "report"])
@pytest.mark.parametrize("path", ["/proc/out", "file/out", "link/out"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, which: str, path: str
) -> None:
    fill(tmp_path, "in/a.png")
    fill(tmp_path, "file", data=b"not a folder")
    (tmp_path / "link").symlink_to("nothing")
    paths = {"target": "out", which: path}
    with pytest.raises(PlanError, match=re.escape(path)):
        plan_in(tmp_path, "in", paths.pop("target"), **paths)
    assert not (tmp_path / "out").exists()


def test_a_subfolder_of_the_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "in/sub/a.png", "out/sub")
    with pytest.raises(PlanError, match=r"out/sub.* not a folder"):
        make_plan(tmp_path / "in", tmp_path / "out", None, None)


def test_a_folder_that_cannot_be_made_yet_is_tried_above_it(tmp_path: Path) -> None:
    check_folder(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_results_are_no_images_of_later_runs(tmp_path: Path) -> None:
    """Nor of those with other flags, which do not know where the results went."""
    fill(tmp_path, "a.png", "sub/b.png")
    folders = [tmp_path / name for name in ("out", "masks", "crops")]
    plan = make_plan(tmp_path, folders[0], folders[1], None, crops=folders[2])
    plan.mark_results()
    for folder in folders:
        fill(folder, "a.png", "sub/b.png")
    for crops in (tmp_path / "crops", None):
        again = make_plan(tmp_path, tmp_path / "elsewhere", None, None, crops=crops)
        assert [task.source.relative_to(tmp_path).as_posix() for task in again.tasks] == [
            "a.png",
            "sub/b.png",
        ]
        assert {path.name for path in again.skipped} == {"out", "masks", "crops"}
        assert not any(skip.is_failure for skip in again.skipped.values())
    restored_again = make_plan(tmp_path / "out", tmp_path / "twice", None, None)
    assert len(restored_again.tasks) == 2, "asked for by name"


@pytest.mark.parametrize("flag", ["target", "mask", "crops"])
def test_an_album_among_the_images_is_not_taken_for_results(tmp_path: Path, flag: str) -> None:
    photos, album = tmp_path / "in", tmp_path / "in" / "album"
    fill(photos, "x.png")
    fill(album / "summer", "x.png")
    folders = {"target": tmp_path / "out", "mask": None, "crops": None} | {flag: album}
    with pytest.raises(PlanError, match="album lies among the images and holds images itself"):
        make_plan(photos, folders["target"] or album, folders["mask"], None, crops=folders["crops"])


def test_a_folder_of_notes_among_the_images_is_marked_when_it_takes_results(tmp_path: Path) -> None:
    photos, results = tmp_path / "in", tmp_path / "in" / "results"
    fill(photos, "x.png")
    fill(results, "notes.txt", data=b"hi")
    plan = make_plan(photos, results, None, None)
    plan.mark_results()
    fill(results, "x.png")
    assert [task.source for task in make_plan(photos, tmp_path / "out", None, None).tasks] == [
        photos / "x.png"
    ]
    assert len(make_plan(photos, results, None, None).tasks) == 1, "and may take them again"


@pytest.mark.parametrize(
    ("source", "target", "mask", "crops", "file_format"),
    [
        ("in", "in", None, None, "webp"),
        ("in", "out", "in", None, None),
        ("in", "out", None, "in", None),
        ("in/in", ".", None, None, None),  # in/in/in/b.png would be in/in/b.png
        ("in", "link", None, None, None),
    ],
)
def test_results_do_not_lie_among_the_images(
    tmp_path: Path, source: str, target: str, mask: str | None, crops: str | None, file_format: Format | None
) -> None:
    fill(tmp_path, "in/a.jpg", "in/in/in/b.png")
    (tmp_path / "link").symlink_to("in")
    if target == ".":
        tmp_path, source = tmp_path / "in", "in"
    with pytest.raises(PlanError, match=r"among the images|overwrite"):
        plan_in(tmp_path, source, target, file_format, mask=mask, crops=crops)


def test_links_in_the_target_do_not_make_two_outputs_one(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/b.png", "out/b.png")
    (tmp_path / "out/a.png").symlink_to("b.png")
    with pytest.raises(PlanError, match="same file"):
        make_plan(tmp_path / "in", tmp_path / "out", None, None)
    (tmp_path / "out/a.png").unlink()
    (tmp_path / "out/a.png").hardlink_to(tmp_path / "out/b.png")
    assert len(make_plan(tmp_path / "in", tmp_path / "out", None, None).tasks) == 2, "replaced one by one"


def test_no_output_is_a_file_and_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "in/a.png/b.jpg")
    with pytest.raises(PlanError, match=r"out/a\.png would be both"):
        make_plan(tmp_path / "in", tmp_path / "out", None, "png")


def test_a_hard_link_to_an_input_is_not_written(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.png").hardlink_to(tmp_path / "in/a.png")
    with pytest.raises(PlanError, match=r"out/b\.png would overwrite .*in/a\.png"):
        make_plan(tmp_path / "in", tmp_path / "out", None, None)


def test_other_files_that_are_read_are_not_overwritten(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "plan.json")
    with pytest.raises(PlanError, match=r"--report .*plan\.json would overwrite"):
        make_plan(
            tmp_path / "a.png",
            tmp_path / "out.png",
            None,
            None,
            report=tmp_path / "plan.json",
            also_read=[tmp_path / "plan.json", tmp_path / "not there"],
        )


def test_names_that_are_too_long_are_refused_and_hold_up_no_other_image(tmp_path: Path) -> None:
    name = "\u00e4" * 120  # of two bytes each
    fill(tmp_path, f"in/{name}.png", "in/b.png")
    assert len(make_plan(tmp_path / "in", tmp_path / "out", None, None).tasks) == 2
    plan = make_plan(tmp_path / "in", tmp_path / "out", None, None, crops=tmp_path / "crops")
    assert [task.source.name for task in plan.tasks] == ["b.png"]
    [(path, skip)] = plan.skipped.items()
    assert path.stem == name and "longer than 255 bytes" in skip.reason and skip.is_failure
    source = tmp_path / f"in/{name}.png"
    with pytest.raises(PlanError, match=r"--save-crops .*255 bytes"):
        make_plan(source, tmp_path / "out.png", None, None, crops=tmp_path / "crops")


def test_names_that_differ_in_case_are_two_files_here(tmp_path: Path) -> None:
    assert not ignores_case(tmp_path)
    fill(tmp_path, "in/a.png", "in/A.png")
    plan = make_plan(tmp_path / "in", tmp_path / "out", None, None, crops=tmp_path / "crops")
    assert len(plan.tasks) == 2 and not list(tmp_path.glob(".*"))
    assert sorted(crop_files(plan, tmp_path / "crops").values()) == [
        "A.png_face0_before.png",
        "a.png_face0_before.png",
    ]


def test_a_message_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    name = os.fsdecode(b"line\nbreak \x1b[31m red \xff.gif")
    with pytest.raises(PlanError) as caught:
        make_plan(tmp_path / "a.png", tmp_path / name, None, None)
    fill(tmp_path, "a.png")
    with pytest.raises(PlanError) as caught:
        make_plan(tmp_path / "a.png", tmp_path / name, None, None)
    assert str(caught.value).isprintable() and r"line\nbreak \x1b[31m red \udcff.gif" in str(caught.value)


def test_reading_from_a_device_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier_restorer.commands.writing.MAX_FILE_BYTES", 3 * 2**20)
    with pytest.raises(OSError, match="limit of 3145728 bytes"):
        read_image(Path("/dev/zero"))
