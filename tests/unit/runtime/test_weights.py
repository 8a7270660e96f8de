import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from atelier_runtime import weights
from atelier_runtime.service_status import NetworkRole
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


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_set_is_opened_and_verified(folder: Path) -> None:
    model_set = ModelSet.open(str(folder))
    model_set.verify(NetworkRole.FACE_DETECTOR, NetworkRole.REFINER)
    assert model_set.require(NetworkRole.FACE_DETECTOR).name == "retinaface_mobile0.25"
    assert model_set.component(NetworkRole.REFINER) is None
    assert model_set.max_side is model_set.refiner_max_side is None and model_set.size_multiple == 8
    assert model_set.match_tone is False, "off by default, as in the published pipeline"


def test_the_built_in_set_is_complete() -> None:
    model_set = ModelSet.open("demo")
    model_set.verify(*NetworkRole)
    listed = {model_set.folder / name for name in model_set.files}
    assert all(path.is_file() for path in listed)


def test_a_flipped_bit_is_detected(folder: Path) -> None:
    path = folder / "detector.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StartupError, match=r"detector\.safetensors.*SHA-256"):
        ModelSet.open(str(folder)).verify(NetworkRole.FACE_DETECTOR)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "detector.safetensors").unlink()
    with pytest.raises(StartupError, match=r"detector\.safetensors is missing"):
        ModelSet.open(str(folder)).verify(NetworkRole.FACE_DETECTOR)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"components": {"painter": {"path": "x", "name": "y"}}}, "components.painter"),
        ({"components": {"detector": {"path": "../outside", "name": "y"}}}, "components.detector"),
        ({"components": None}, r"manifest\.json"),
        ({"max_side": 0}, "max_side .* 0"),
        ({"refiner_max_side": "512"}, "refiner_max_side .*'512'"),
        ({"max_side": 512, "refiner_max_side": 256}, "refiner_max_side .*256.*max_side.*512"),
        ({"refiner_max_side": 256}, "refiner_max_side .*256.*max_side.*None"),
        ({"match_tone": "yes"}, "match_tone .*'yes'"),
    ],
)
def test_a_bad_manifest_is_reported_by_field(folder: Path, changes: dict[str, Any], problem: str) -> None:
    edit(folder, **changes)
    with pytest.raises(StartupError, match=problem) as caught:
        ModelSet.open(str(folder))
    assert "MODEL_SET" in str(caught.value)


def test_a_missing_folder_is_reported_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"MODEL_SET=.*manifest\.json"):
        ModelSet.open(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict", "model"])
def test_published_wrappers_are_removed(tmp_path: Path, wrapper: str | None) -> None:
    data: dict[str, Tensor] = {"module.a.weight": torch.arange(3.0)}
    torch.save({wrapper: data} if wrapper else data, tmp_path / "file.pth")
    loaded = weights.load_state_dict(tmp_path / "file.pth")
    assert list(loaded) == ["a.weight"]


def test_the_averaged_weights_take_precedence(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "file.pth")
    assert weights.load_state_dict(tmp_path / "file.pth") == {"a": torch.ones(1)}


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("pwned",))


@pytest.mark.parametrize("protocol", [2, 4, "torch"])
def test_a_malicious_pickle_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], protocol: Any
) -> None:
    path = tmp_path / "file.pth"
    if protocol == "torch":
        torch.save({"a": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Malicious()}, protocol=protocol))
    with pytest.raises(StartupError, match=r"^MODEL_SET: .*file\.pth .*arbitrary code.*print") as caught:
        weights.load_state_dict(path)
    assert "weights_only" not in str(caught.value), "torch's advice to disable the protection"
    assert "pwned" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("file.safetensors", b"garbage"),
        ("file.pth", b"garbage"),
        ("file.pth", b""),
        ("file.pth", b"PK\x03\x04 cut short"),
        ("file.pth", pickle.dumps([1, 2])),
    ],
)
def test_garbage_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StartupError, match=rf"^CODEFORMER: .*{name}") as caught:
        weights.load_state_dict(tmp_path / name, "CODEFORMER")
    assert "arbitrary code" not in str(caught.value)


@pytest.mark.parametrize("data", [{}, {"epoch": 3}, {"a": torch.ones(1), "epoch": 3}, [torch.ones(1)]])
def test_a_file_that_is_not_a_dict_of_tensors_is_refused(tmp_path: Path, data: object) -> None:
    torch.save(data, tmp_path / "file.pth")
    with pytest.raises(StartupError, match=r"file\.pth"):
        weights.load_state_dict(tmp_path / "file.pth")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(weights.CheckpointError, match=r"nowhere\.pth.* no such file"):
        weights.read_checkpoint(tmp_path / "nowhere.pth")


TENSORS = {
    "norm.weight": torch.ones(4),
    "norm.running_mean": torch.zeros(4),
    "norm.num_batches_tracked": torch.tensor(7),
    "linear.weight": torch.ones(2, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["file.pth", "old.pth", "file.safetensors", "wrong_suffix.pth"])
def test_any_dtype_in_any_container(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in TENSORS.items()}
    path = tmp_path / name
    if name in ("file.safetensors", "wrong_suffix.pth"):
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name != "old.pth")
    loaded = weights.read_checkpoint(path)
    assert {k: v.dtype for k, v in loaded.items()} == {k: v.dtype for k, v in tensors.items()}
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)

    shapes = weights.read_checkpoint(path, shapes_only=True)
    assert {v.device.type for v in shapes.values()} == {"meta"}
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
        k: (v.shape, v.dtype) for k, v in tensors.items()
    }
    for described in (weights.describe_checkpoint(path, t) for t in (loaded, shapes)):
        assert described == {
            "file": str(path),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "tensors": 4,
            "parameters": 4 + 6,
            "dtype": str(dtype).removeprefix("torch."),
        }
