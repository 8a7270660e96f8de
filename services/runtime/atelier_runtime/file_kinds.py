"""Tells what a file is that was given as weights, by its content, and what to do about it.

Half of what arrives under a checkpoint's name is something else: a web page, a pointer of Git LFS, a download
that was cut off. The libraries' own messages ("header too large") name none of them.
"""

from __future__ import annotations

import itertools
import json
import pickletools
import zipfile
from io import FileIO
from typing import BinaryIO

_HEAD_BYTES = 8192
_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_MOST_QUOTED = 60
_MOST_EXPANSION = 10  # torch.save does not compress; what expands further is made to fill the memory

_AGAIN = "fetch it again"
_UNPACK = "unpack it, and give the file of weights inside"
_NOT_READ = "fetch the model as safetensors"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"GGUF",
        f"is a GGUF file (quantized weights for llama.cpp and the like), not read here; {_NOT_READ}",
    ),
    (0, b"lmgg", f"is a GGML file, not read here; {_NOT_READ}"),
    (0, b"tjgg", f"is a GGML file, not read here; {_NOT_READ}"),
    (4, b"ORTM", f"is an ONNX Runtime model, not read here; {_NOT_READ}"),
    (4, b"TFL3", f"is a TensorFlow Lite model, not read here; {_NOT_READ}"),
    (0, b"\x89HDF\r\n\x1a\n", f"is an HDF5 file (Keras), not read here; {_NOT_READ}"),
    (0, b"\x93NUMPY", f"is a NumPy array, not a checkpoint; {_NOT_READ}"),
    (0, b"ptrt", f"is a TensorRT engine, not read here; {_NOT_READ}"),
    (0, b"ftrt", f"is a TensorRT engine, not read here; {_NOT_READ}"),
    (0, b"\x1f\x8b", f"is compressed with gzip; {_UNPACK}"),
    (0, b"BZh", f"is compressed with bzip2; {_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"is compressed with xz; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is compressed with zstd; {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive; {_UNPACK}"),
    (0, b"Rar!\x1a\x07", f"is a RAR archive; {_UNPACK}"),
    (257, b"ustar", f"is a tar archive; {_UNPACK}"),
    (0, b"\x89PNG\r\n\x1a\n", "is a PNG image, not weights"),
    (0, b"\xff\xd8\xff", "is a JPEG image, not weights"),
    (0, b"RIFF", "is a WebP image or another RIFF file, not weights"),
    (0, b"%PDF-", "is a PDF document, not weights"),
    (0, b"\x7fELF", "is an executable program, not weights"),
    (0, b"MZ", "is an executable program, not weights"),
)
_ONNX_FIELDS = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body")


def is_safetensors(file: BinaryIO | FileIO) -> bool:
    """Return whether a file begins as safetensors do: the header's length, then a JSON object."""
    head = _head(file)
    return len(head) > 8 and head[8:9] == b"{" and _header_bytes(head) <= _MOST_HEADER_BYTES


def is_onnx(file: BinaryIO | FileIO) -> bool:
    """Return whether a file begins as ONNX models do: the format's version, then a field of the model."""
    head = _head(file)
    return head[:1] == b"\x08" and head[2:3] in _ONNX_FIELDS


def problem_of(file: BinaryIO, suffix: str) -> str | None:
    """Say why a file cannot be weights, as the end of a sentence that begins with its name, and what to do.

    None if it may be safetensors or a pickle. `suffix`: that of its name.
    """
    head, size = _head(file), file.seek(0, 2)
    if not size:
        return f"is empty; {_AGAIN}"
    if is_safetensors(file):
        return _problem_of_safetensors(file, size)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _problem_of_zip(file, size) or _problem_of_suffix("a file of torch.save", suffix)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _problem_of_suffix("a pickle, as torch.save writes it", suffix)
    for offset, signature, what in _SIGNATURES:
        if head[offset:].startswith(signature):
            return what
    if is_onnx(file):
        return f"is an ONNX model, not read here; {_NOT_READ}"
    if not head.strip(b"\0"):
        return f"begins with {len(head)} zeros: an unfinished download, or a damaged disk; {_AGAIN}"
    if _is_plain_pickle(head):
        return _problem_of_suffix("a pickle", suffix)
    if (problem := _problem_of_text(head, size)) is not None:
        return problem
    if suffix == ".safetensors":
        return f"is not a safetensors file, although its name says so; it begins with {head[:16]!r}; {_AGAIN}"
    return None


def _head(file: BinaryIO | FileIO) -> bytes:
    file.seek(0)
    return file.read(_HEAD_BYTES)


def _header_bytes(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _problem_of_safetensors(file: BinaryIO, size: int) -> str | None:
    header = _header_bytes(_head(file))
    if 8 + header > size:
        return f"is a safetensors file that was cut off in its header, after {size} bytes; {_AGAIN}"
    file.seek(8)
    try:
        entries = json.loads(file.read(header))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        end = 8 + header + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return f"is a safetensors file whose header is damaged; {_AGAIN}"
    if size < end:
        return f"is a safetensors file that was cut off: it has {size} of {end} bytes; {_AGAIN}"
    if size > end:
        return f"is a safetensors file with {size - end} bytes too many behind its tensors; {_AGAIN}"
    return None


def _problem_of_zip(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception:  # a hostile archive makes zipfile raise almost anything
        return f"is a file of torch.save, or a ZIP archive, that was cut off or damaged; {_AGAIN}"
    names = [entry.filename.partition("/")[2] or entry.filename for entry in entries]
    if "data.pkl" not in names:
        listed = ", ".join(entry.filename for entry in entries[:3]) or "nothing"
        if "archive_format" in names or "serialized_exported_program.json" in names:
            return "is a program of torch.export, not weights; save the state_dict of its model"
        if any(name.endswith(".npy") for name in names):
            return f"is an archive of NumPy arrays, not a checkpoint; {_NOT_READ}"
        return f"is a ZIP archive (of {listed}), not a checkpoint; {_UNPACK}"
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return (
            "is a TorchScript program (torch.jit.save): code, not weights alone, and no code of a checkpoint "
            "is run here. If you trust it, save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    expanded = sum(entry.file_size for entry in entries)
    if expanded > _MOST_EXPANSION * size:
        return f"is compressed and would expand from {size} to {expanded} bytes, which torch.save never does"
    return None


def _problem_of_suffix(what: str, suffix: str) -> str | None:
    """A pickle is not read under the name of a format that is chosen because it is none."""
    if suffix != ".safetensors":
        return None
    return f"is {what}, although its name ends with .safetensors; rename it to .pth, or convert it"


def _is_plain_pickle(head: bytes) -> bool:
    """Return whether text is a pickle of the oldest protocols, which are made of letters."""
    operations = []
    try:
        for operation, _, _ in itertools.islice(pickletools.genops(head), 16):
            operations.append(operation.name)
    except Exception:  # pickletools raises what its argument readers raise
        return len(operations) >= 16 or (len(operations) > 3 and len(head) == _HEAD_BYTES)
    return len(operations) > 1


def _problem_of_text(head: bytes, size: int) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            f"is a pointer of Git LFS ({size} bytes), which stands in for the file; run `git lfs pull` in "
            "the repository, or download the file itself"
        )
    if start.startswith(b"# xet version"):
        return f"is a pointer of Xet ({size} bytes), which stands in for the file; download the file itself"
    if start.lower().startswith(_MARKUP) or b"<html" in start[:1024].lower():
        return (
            "is an HTML page: the server sent a web page (a login, an error, or the page about the file) in "
            "place of the file; download the file itself, on Hugging Face from /resolve/, not /blob/"
        )
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3 or len(head) < _HEAD_BYTES:  # else the last letter was cut in two
            return None
        text = start[: error.start].decode("utf-8")
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    quoted = repr(" ".join(text.split())[:_MOST_QUOTED])
    if text.startswith("<"):
        return f"is an XML text ({quoted}), perhaps a server's error in place of the file; {_AGAIN}"
    if text.startswith(("{", "[")):
        if '"weight_map"' in text:
            return "is the index of a checkpoint in several files; give the folder that contains it and them"
        return f"is a JSON text ({quoted}), perhaps a server's error in place of the file; {_AGAIN}"
    return f"is a text ({quoted}), perhaps a server's error in place of the file; {_AGAIN}"
