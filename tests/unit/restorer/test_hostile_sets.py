"""Weights of the restorer that somebody damaged, replaced, linked or made to do harm: it does not start."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier_restorer import parse
from atelier_restorer.__main__ import main
from atelier_restorer.models import load_models
from atelier_restorer.settings import RestorerSettings
from atelier_runtime.settings import StartupError
from tests.tiny_identity import add_identity, in_other_files, mean_color_network
from tests.tiny_restorer import NarrowParseNet, build_set, codeformer_state, detector_state, parser_state

ROLES = ("detector", "codeformer", "parser", "upscaler", "identity")


@pytest.fixture(autouse=True)
def narrow_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "ParseNet", NarrowParseNet)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set with a file of each kind."""
    folder = build_set(
        tmp_path / "set",
        detector=detector_state(),
        codeformer=codeformer_state(),
        parser=parser_state(),
    )
    return add_identity(folder, mean_color_network())


def path_of(folder: Path, role: str) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    return folder / str(manifest["components"][role]["path"])


def put(folder: Path, role: str, name: str, content: bytes) -> None:
    """Replace a role's file by another one, which the manifest lists."""
    path_of(folder, role).unlink()
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["components"][role]["path"] = name
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def load(folder: Path, **others: Any) -> Any:
    given = {"model_set": str(folder), "device": "cpu", "dtype": "float32", "cpu_threads": 1}
    return load_models(RestorerSettings(**{**given, **others}))


def refusal_of_serve(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, **others: str) -> str:
    settings = {"MODEL_SET": str(folder), "PORT": "0", "METRICS_PORT": "0", "DEVICE": "cpu", **others}
    for name, value in settings.items():
        monkeypatch.setenv(f"ATELIER_RESTORER_{name}", value)
    assert main(["serve"]) == 1
    return str(capsys.readouterr().err.splitlines()[-1])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-1, 3], ids=["in the weights", "in the header"])
@pytest.mark.parametrize("role", ROLES)
def test_a_flipped_bit_in_any_file_stops_the_start(folder: Path, role: str, place: int) -> None:
    flip(path_of(folder, role), place)
    with pytest.raises(StartupError, match=rf"^MODEL_SET: .*{path_of(folder, role).name} in .* has SHA-256"):
        load(folder)


def test_serve_names_the_setting_and_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(path_of(folder, "codeformer"), -1)
    message = refusal_of_serve(folder, monkeypatch, capsys)
    assert message.startswith("ATELIER_RESTORER_MODEL_SET: codeformer.safetensors in ")


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._made),)


def as_torch_saves_it(harm: Any, path: Path) -> bytes:
    torch.save({"params_ema": {"a": harm}}, path)
    return path.read_bytes()


def as_torch_once_saved_it(harm: Any, path: Path) -> bytes:
    torch.save({"params_ema": {"a": harm}}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def as_a_pickle(harm: Any, path: Path) -> bytes:
    return pickle.dumps(harm)


def as_an_old_pickle(harm: Any, path: Path) -> bytes:
    return pickle.dumps(harm, protocol=0)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        *((role, as_torch_saves_it) for role in ROLES),
        *(("codeformer", kind) for kind in (as_torch_once_saved_it, as_a_pickle, as_an_old_pickle)),
        ("identity", as_a_pickle),
    ],
)
def test_a_pickle_that_calls_something_stops_the_start_and_calls_nothing(
    folder: Path, tmp_path: Path, role: str, kind: Callable[[Any, Path], bytes]
) -> None:
    put(folder, role, "harm.pth", kind(Harm(tmp_path / "made"), tmp_path / "saved"))
    with pytest.raises(StartupError, match=r"^MODEL_SET: .*harm\.pth "):
        load(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("role", ROLES)
def test_so_it_does_as_a_single_file(folder: Path, tmp_path: Path, role: str) -> None:
    path = tmp_path / "harm.ckpt"
    path.write_bytes(as_torch_saves_it(Harm(tmp_path / "made"), tmp_path / "saved"))
    message = rf"^{role.upper()}: .*harm\.ckpt would run arbitrary code when loaded \(posix\.mkdir\)"
    with pytest.raises(StartupError, match=message):
        load(folder, **{role: str(path)})
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("role", ROLES)
def test_a_link_out_of_the_set_stops_the_start(folder: Path, tmp_path: Path, role: str) -> None:
    path = path_of(folder, role)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(StartupError, match=rf"^MODEL_SET.*{role}"):
        load(folder)


def test_an_identity_network_whose_weights_are_outside_of_the_set_stops_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, "identity", "other.onnx", in_other_files(mean_color_network(), tmp_path))
    message = refusal_of_serve(folder, monkeypatch, capsys)
    assert "other.onnx has weights in other files" in message


def test_the_hash_is_of_what_was_read_whatever_became_of_the_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(path_of(folder, "codeformer").read_bytes())
    models = load(folder, codeformer=str(file))
    before = models.hash()
    flip(file, -1)
    assert models.hash() == before != load(folder, codeformer=str(file)).hash()
