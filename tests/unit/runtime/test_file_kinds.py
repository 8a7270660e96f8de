"""What is no weights is named as what it is, with what to do; no library's message is passed on."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from atelier_runtime import weights
from atelier_runtime.weights import CheckpointError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5135149760\n"
PAGE = b"\xef\xbb\xbf \n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()


def written_by(write: Callable[[io.BytesIO], object]) -> bytes:
    memory = io.BytesIO()
    write(memory)
    return memory.getvalue()


def zip_of(**files: bytes) -> bytes:
    def write(memory: io.BytesIO) -> None:
        with zipfile.ZipFile(memory, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return written_by(write)


def tar_of_nothing(memory: io.BytesIO) -> None:
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))


def torchscript(memory: io.BytesIO) -> None:
    module = nn.Linear(2, 2)
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(module), memory)


SAFETENSORS = save({"a": torch.ones(100)})
SAVED = written_by(lambda memory: torch.save({"a": torch.ones(100)}, memory))
OLD = written_by(
    lambda memory: torch.save({"a": torch.ones(100)}, memory, _use_new_zipfile_serialization=False)
)


@pytest.mark.parametrize("name", ["file.safetensors", "file.pth", "file.ckpt", "file"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty; fetch it again"),
        (LFS, "is a pointer of Git LFS .*git lfs pull"),
        (b"# xet version 0\n", "is a pointer of Xet"),
        (PAGE, "is an HTML page: .*/resolve/"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML text .*AccessDenied"),
        (b'{"error":"Repository not found"}', "is a JSON text .*Repository not found"),
        (INDEX, "is the index of a checkpoint in several files; give the folder"),
        (b"Entry not found", "is a text .*Entry not found"),
        (b"GGUF\x03\0\0\0" + bytes(50), "is a GGUF file"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", "is an ONNX model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
        (gzip.compress(SAFETENSORS, mtime=0), "is compressed with gzip; unpack it"),
        (written_by(tar_of_nothing), "is a tar archive; unpack it"),
        (zip_of(readme=b"hello"), r"is a ZIP archive \(of readme\)"),
        (written_by(lambda memory: np.savez(memory, a=np.ones(3))), "is an archive of NumPy arrays"),
        (bytes(5000), "begins with 5000 zeros: an unfinished download"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG image"),
        (SAFETENSORS[:40], "is a safetensors file that was cut off in its header, after 40 bytes"),
        (SAFETENSORS[:-7], rf"was cut off: it has {len(SAFETENSORS) - 7} of {len(SAFETENSORS)} bytes"),
        (SAFETENSORS + b"12345", "with 5 bytes too many"),
        (SAVED[:-100], "of torch.save, or a ZIP archive, that was cut off or damaged"),
    ],
)
def test_what_is_no_weights_is_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    for shapes_only in (False, True):
        with pytest.raises(CheckpointError, match=rf"{name} .*{what}"):
            weights.read_checkpoint(tmp_path / name, shapes_only=shapes_only)


def test_a_torchscript_program_is_named_without_torchs_advice_to_run_it(tmp_path: Path) -> None:
    for name in ("file.pt", "file.safetensors"):
        (tmp_path / name).write_bytes(written_by(torchscript))
        with pytest.raises(CheckpointError, match=r"is a TorchScript program .*state_dict\(\)") as caught:
            weights.read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [SAVED, OLD, pickle.dumps({"a": 1}, protocol=0)], ids=["zip", "old", "text"]
)
def test_a_pickle_is_not_read_under_the_name_of_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is a .*although its name ends with \.safetensors; rename"):
        weights.read_checkpoint(path)


@pytest.mark.parametrize("name", ["file.pt", "file.bin", "file"])
def test_safetensors_under_any_name_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SAFETENSORS)
    assert weights.read_checkpoint(tmp_path / name)["a"].sum() == 100


class SystemCall:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_pickle_of_the_oldest_protocol_is_still_named_by_what_it_calls(tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(pickle.dumps(SystemCall(), protocol=0))
    with pytest.raises(CheckpointError, match=r"arbitrary code when loaded \((posix|os)\.system\)"):
        weights.read_checkpoint(tmp_path / "file.pth")


def test_an_archive_that_expands_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match=r"would expand from \d+ to 50000000 bytes"):
        weights.read_checkpoint(path)


def header(text: str | bytes, data: bytes = b"") -> bytes:
    encoded = text if isinstance(text, bytes) else text.encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


@pytest.mark.parametrize(
    "content",
    [
        header('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"),
        header('{"a":' * 100_000 + "1" + "}" * 100_000),
        header('{"a":1}'),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}', bytes(4)),
        header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
        header('{"a":{"dtype":"F32","shape":[18446744073709551615,8],"data_offsets":[0,4]}}', bytes(4)),
        header('{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}', bytes(4)),
        header(b"{\xff\xfe}"),
        header("{" + " " * 1000),
        b"\xff" * 7 + b"\x7f{" + bytes(100),
    ],
    ids=[
        "lists",
        "objects",
        "number",
        "one offset",
        "negative",
        "overflow",
        "dtype",
        "float",
        "utf-8",
        "open",
        "long",
    ],
)
def test_a_hostile_header_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    for shapes_only in (False, True):
        with pytest.raises(CheckpointError, match=r"file\.safetensors"):
            weights.read_checkpoint(path, shapes_only=shapes_only)


def test_a_dtype_that_torch_lacks_is_named(tmp_path: Path) -> None:
    content = header('{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}', bytes(4))
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="F8_E8M0, which is not read here"):
        weights.read_checkpoint(tmp_path / "file.safetensors", shapes_only=True)


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    cases: list[tuple[Path, str]] = [
        (tmp_path / "pipe.safetensors", "is a pipe, not a file"),
        (Path("/dev/zero"), "is a device, not a file"),
        (tmp_path, "is a folder, not a file"),
    ]
    for path, what in cases:
        for shapes_only in (False, True):
            with pytest.raises(CheckpointError, match=what):
                weights.read_checkpoint(path, shapes_only=shapes_only)


def test_only_the_header_is_copied_for_shapes(tmp_path: Path) -> None:
    """The rest of a sparse file would not fit into the memory of this machine."""
    path = tmp_path / "file.safetensors"
    elements = 1 << 40
    entry: dict[str, Any] = {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}
    path.write_bytes(header(json.dumps({"a": entry}).ljust(200)))
    os.truncate(path, 8 + 200 + 4 * elements)
    assert weights.read_checkpoint(path, shapes_only=True)["a"].shape == (elements,)
