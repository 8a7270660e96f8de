"""Moves training results from one machine to another: exports, tokenizer and logs, but no images.

The archive is split into parts, for transfers that limit the file size.
"""

import shutil
import tarfile
from pathlib import Path

from training.loop import EXPORT

PART_BYTES = 15_000_000
_KEPT = (f"*/{EXPORT}", "*/tokenizer/*", "logs/*.log")


def pack(runs: Path, folder: Path) -> list[Path]:
    """Write `bundle.part0`, `bundle.part1` ... to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = runs / "bundle.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(path for pattern in _KEPT for path in runs.glob(pattern)):
            tar.add(path, path.relative_to(runs))
    data = archive.read_bytes()
    written = []
    for number, start in enumerate(range(0, len(data), PART_BYTES)):
        written.append(folder / f"bundle.part{number}")
        written[-1].write_bytes(data[start : start + PART_BYTES])
    print(f"packed {len(data)} bytes into {len(written)} parts in {folder}", flush=True)
    return written


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract a file or folder to below `folder`; tarfile's own filters are missing from Python 3.11.2."""
    path = (folder / member.name).resolve()
    if not path.is_relative_to(folder.resolve()) or not (member.isfile() or member.isdir()):
        raise ValueError(f"{member.name} is not a file below {folder}")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, "it is a file"
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


def unpack(folder: Path, runs: Path) -> list[str]:
    """Extract the files that `runs` does not have from the parts in `folder`; return their names."""
    parts = sorted(folder.glob("bundle.part*"), key=lambda path: int(path.suffix.removeprefix(".part")))
    if not parts:
        raise FileNotFoundError(f"no bundle.part0 in {folder}")
    runs.mkdir(parents=True, exist_ok=True)
    archive = runs / "bundle.tar.gz"
    archive.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(archive) as tar:
        missing = [member for member in tar.getmembers() if not (runs / member.name).exists()]
        for member in missing:
            _extract(tar, member, runs)
    names = [member.name for member in missing]
    print(f"restored {', '.join(names) or 'nothing'}", flush=True)
    return names
