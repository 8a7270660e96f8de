import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atelier_runtime import weights
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import ModelSet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(2)}, tmp_path / "detector.safetensors")
    manifest = {
        "name": "small",
        "license": "Apache-2.0",
        "components": {"detector": {"path": "detector.safetensors", "name": "retinaface_mobile0.25"}},
        "files": {"detector.safetensors": {"sha256": weights.sha256(tmp_path / "detector.safetensors")}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_set_is_opened_and_verified(folder: Path) -> None:
    model_set = ModelSet.open(str(folder))
    model_set.verify("detector", "refiner")
    assert model_set.require("detector").name == "retinaface_mobile0.25"
    assert model_set.component("refiner") is None
    assert model_set.max_side is None and model_set.size_multiple == 8


def test_the_built_in_set_is_whole() -> None:
    model_set = ModelSet.open("demo")
    model_set.verify(*weights.ROLES)
    listed = {model_set.folder / name for name in model_set.files}
    assert all(path.is_file() for path in listed)


def test_a_flipped_byte_is_found(folder: Path) -> None:
    path = folder / "detector.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StartupError, match=r"detector\.safetensors.*SHA-256"):
        ModelSet.open(str(folder)).verify("detector")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "detector.safetensors").unlink()
    with pytest.raises(StartupError, match=r"detector\.safetensors is missing"):
        ModelSet.open(str(folder)).verify("detector")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"components": {"painter": {"path": "x", "name": "y"}}}, "components.painter is unknown"),
        ({"components": {"detector": {"path": "../outside", "name": "y"}}}, "leads out of the set"),
        ({"components": None}, "cannot be used"),
    ],
)
def test_a_bad_manifest_is_explained(folder: Path, changes: dict, says: str) -> None:
    edit(folder, **changes)
    with pytest.raises(StartupError, match=says) as caught:
        ModelSet.open(str(folder))
    assert "MODEL_SET" in str(caught.value)


def test_no_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"MODEL_SET=.*manifest\.json"):
        ModelSet.open(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict"])
def test_published_wrappings_are_undone(tmp_path: Path, wrapper: str | None) -> None:
    data: dict = {"module.a.weight": torch.arange(3.0)}
    torch.save({wrapper: data} if wrapper else data, tmp_path / "file.pth")
    loaded = weights.load_state_dict(tmp_path / "file.pth")
    assert list(loaded) == ["a.weight"]


class Malicious:
    def __reduce__(self) -> tuple:
        return (print, ("pwned",))


def test_a_malicious_pickle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "file.pth").open("wb") as file:
        pickle.dump({"a": Malicious()}, file)
    with pytest.raises(StartupError, match=r"file\.pth"):
        weights.load_state_dict(tmp_path / "file.pth")
    assert "pwned" not in capsys.readouterr().out


def test_garbage_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"garbage")
    with pytest.raises(StartupError, match=r"^MODEL_SET: .*file\.safetensors"):
        weights.load_state_dict(tmp_path / "file.safetensors")
