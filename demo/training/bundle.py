"""Moves training results from one machine to another: exports, tokenizer and logs, but no images.

The archive is split into parts, for transfers that limit the file size.
"""

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
        tar.extractall(runs, missing, filter="data")
    names = [member.name for member in missing]
    print(f"restored {', '.join(names) or 'nothing'}", flush=True)
    return names
