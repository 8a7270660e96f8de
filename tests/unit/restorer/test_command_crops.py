"""Where the crops of faces are saved, and that they replace only crops of the same image."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from atelier_restorer.commands.crops import CropNames
from atelier_restorer.commands.files import make_plan
from atelier_restorer.commands.paths import PlanError
from tests.unit.restorer.photo_folders import crop_files, fill, plan_in


def test_crop_names_of_a_face() -> None:
    names = CropNames(Path("crops/sub"), "a", "a.png")
    assert names.path(12, "after") == "crops/sub/a_face12_after.png"


def test_crops_of_images_with_one_stem_have_different_names(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "in/a.png", "in/A.webp", "in/b.png", "in/sub/a.png", "in/b.png.jpg", "in/c")
    plan = make_plan(tmp_path / "in", tmp_path / "out", None, None, crops=tmp_path / "crops")
    names = {
        os.path.relpath(task.source, tmp_path / "in"): os.path.relpath(
            task.crops.path(0, "before"), tmp_path / "crops"
        )
        for task in plan.tasks
        if task.crops
    }
    assert names == {
        "A.webp": "A.webp_face0_before.png",
        "a.jpg": "a.jpg_face0_before.png",
        "a.png": "a.png_face0_before.png",
        "b.png": "b_face0_before.png",
        "b.png.jpg": "b.png.jpg_face0_before.png",  # not b.png, which is the whole name of another
        "c": "c_face0_before.png",
        "sub/a.png": "sub/a_face0_before.png",
    }
    assert len({name.casefold() for name in names.values()}) == 7


@pytest.mark.parametrize(
    ("source", "target", "others", "existing"),
    [
        ("in", "out", {"crops": "in"}, ["in/a_face0_before.png"]),
        ("in", "out", {"crops": "out"}, ["in/a_face3_after.png"]),
        ("in", "out", {"crops": "masks", "mask": "masks"}, ["in/a_face3_after.jpg"]),
        ("in/a.png", "out.png", {"crops": "crops", "report": "crops/a_face0_before.png"}, []),
        ("in/a.png", "crops/a_face9_before.png", {"crops": "crops"}, []),
    ],
    ids=[
        "of an input in the folder",
        "of an output",
        "of a mask",
        "of the report",
        "of the output of one image",
    ],
)
def test_crops_overwrite_nothing(
    tmp_path: Path, source: str, target: str, others: dict[str, str], existing: list[str]
) -> None:
    fill(tmp_path, "in/a.png", *existing)
    (tmp_path / "crops").mkdir()
    with pytest.raises(PlanError, match=r"--save-crops|among the images"):
        plan_in(tmp_path, source, target, **others)


def test_a_link_among_earlier_crops_leads_to_no_input(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/a_face0_before.png").symlink_to(tmp_path / "in/a.png")
    for source in (tmp_path / "in", tmp_path / "in/a.png"):
        target = tmp_path / ("out" if source.is_dir() else "out.png")
        with pytest.raises(PlanError, match=r"crops/a_face0_before\.png would overwrite .*in/a\.png"):
            make_plan(source, target, None, None, crops=tmp_path / "crops")


def test_crops_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "crops/other.png")
    own = CropNames(tmp_path / "crops", "a", "a.png").signed(saved_crop())
    fill(tmp_path, "crops/a_face0_before.png", "crops/a_face0_after.png", data=own)
    for source in (tmp_path / "in", tmp_path / "in/a.png"):
        target = tmp_path / ("out" if source.is_dir() else "out.png")
        plan = make_plan(source, target, None, None, crops=tmp_path / "crops")
        assert crop_files(plan, tmp_path / "crops") == {"a.png": "a_face0_before.png"}


def saved_crop() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_no_crop_of_the_same_image_is_not_replaced(tmp_path: Path) -> None:
    """A photo of the user's, and the crops of a.jpg where a.png is restored."""
    photo = saved_crop()
    crop_of_another = CropNames(tmp_path / "in", "a", "a.jpg").signed(photo)
    for data in (photo, crop_of_another, b"", b"short"):
        fill(tmp_path, "in/a.png", "crops/a.png")
        fill(tmp_path, "in/a_face0_before.png", "crops/a_face0_before.png", data=data)
        for folder in ("in", "crops"):
            with pytest.raises(PlanError, match=r"a_face0_before\.png, which is not marked as one"):
                make_plan(tmp_path / "in/a.png", tmp_path / "out.png", None, None, crops=tmp_path / folder)


def test_a_signed_crop_is_the_same_picture() -> None:
    names = CropNames(Path("crops"), "a", os.fsdecode(b"\xff n\xc3\xa4me.png"))
    with Image.open(io.BytesIO(names.signed(saved_crop()))) as image:
        image.load()  # raises if a chunk is wrong
        assert image.getpixel((3, 3)) == (255, 0, 0)
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text == {"Source": "atelier-restorer %FF%20n%C3%A4me.png"}
