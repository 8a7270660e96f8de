"""Folders of images for tests of the restorer's command, and plans of what is written where."""

from __future__ import annotations

import os
from pathlib import Path

from atelier_restorer.commands.files import Plan, make_plan
from atelier_runtime.images import Format

PNG = b"\x89PNG\r\n\x1a\n and more"
"""Enough to be taken for an image before it is decoded."""


def fill(folder: Path, *names: str, data: bytes = PNG) -> None:
    """Write files with the same content, in subfolders where their names have one."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def plan_in(
    folder: Path,
    source: str,
    target: str,
    file_format: Format | None = None,
    /,
    *,
    mask: str | None = None,
    crops: str | None = None,
    report: str | None = None,
) -> Plan:
    """`make_plan` with paths that are relative to a folder."""
    paths = {"mask": mask, "crops": crops, "report": report}
    others = {name: folder / path if path else None for name, path in paths.items()}
    return make_plan(
        folder / source,
        folder / target,
        others["mask"],
        file_format,
        crops=others["crops"],
        report=others["report"],
    )


def crop_files(plan: Plan, folder: Path) -> dict[str, str]:
    """Return the crop of each image's first face before it is restored, relative to a folder."""
    return {
        task.source.name: os.path.relpath(task.crops.path(0, "before"), folder)
        for task in plan.tasks
        if task.crops
    }
