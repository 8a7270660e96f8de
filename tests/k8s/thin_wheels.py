"""Wheels in the place of torch's gigabytes: pip installs a name and a version, a mount brings the files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_HEAVY = re.compile(r"torch|torchvision|triton|nvidia-.+")
_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def heavy(name: str = "torchvision") -> set[str]:
    """What a distribution of this environment requires and is not worth another copy, itself included."""
    found: set[str] = set()
    todo = [name]
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found or not _HEAVY.fullmatch(name):
            continue
        found.add(name)
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
                # cuda-toolkit[cublas] has nothing of its own: its extras name the libraries
                todo += _of_extras(requirement)
    return found


def _of_extras(requirement: Requirement) -> list[str]:
    if not requirement.extras:
        return []
    inner = map(Requirement, metadata.requires(requirement.name) or [])
    return [
        each.name
        for each in inner
        if each.marker and any(each.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    ]


def write(name: str, folder: Path) -> None:
    """Write a wheel without files, of the installed version: 2.15.0+linked, which pip prefers to 2.15.0."""
    distribution = metadata.distribution(name)
    version = f"{Version(distribution.version).public}+linked"
    text = distribution.read_text("METADATA")
    assert text is not None
    text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", text, count=1)
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    files = {"METADATA": text, "WHEEL": _WHEEL}
    record = "".join(f"{stem}.dist-info/{file},,\n" for file in (*files, "RECORD"))
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file, content in {**files, "RECORD": record}.items():
            wheel.writestr(f"{stem}.dist-info/{file}", content)


def contents(names: Collection[str]) -> list[Path]:
    """The folders and files of distributions in this environment's site-packages."""
    site = Path(str(metadata.distribution("torch").locate_file(""))).resolve()
    tops = {
        file.parts[0]
        for name in names
        for file in metadata.distribution(name).files or []
        if not file.parts[0].endswith(".dist-info")
    }
    return sorted(site / top for top in tops - {"..", "__pycache__"} if (site / top).exists())
