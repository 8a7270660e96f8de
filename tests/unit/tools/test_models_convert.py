"""From `.pth` to safetensors: what is kept, and how a complete conversion is recognized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atelier_runtime.weights import CheckpointError, sha256
from tools.models.convert import convert, is_conversion_of, source_of

SHARED = torch.arange(6, dtype=torch.float32)
STATE = {
    "a.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "a.transposed": torch.arange(6.0).reshape(2, 3).t(),
    "b.steps": torch.tensor(7),
    "c.one": SHARED,
    "c.same": SHARED,
}


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_come_out_as_they_went_in(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in STATE.items()}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "n.pth")
    convert(tmp_path / "n.pth", tmp_path / "n.safetensors")
    loaded = load_file(tmp_path / "n.safetensors")
    assert loaded.keys() == STATE.keys()
    for key, value in STATE.items():
        assert loaded[key].dtype == value.dtype and torch.equal(loaded[key], value), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.pth", "n.safetensors"]


def test_a_complete_conversion_is_recognized_by_its_source_and_its_tensors(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "n.pth")
    target = tmp_path / "n.safetensors"
    convert(tmp_path / "n.pth", target)
    source = sha256(tmp_path / "n.pth")
    assert source_of(target) == source
    assert is_conversion_of(target, source)
    assert not is_conversion_of(target, "0" * 64)
    assert not is_conversion_of(tmp_path / "n.pth", source)
    assert not is_conversion_of(tmp_path / "nothing", source)
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    assert not is_conversion_of(target, source)
    target.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not is_conversion_of(target, source)


def test_a_file_without_tensors_is_not_converted(tmp_path: Path) -> None:
    torch.save({"iter": 7}, tmp_path / "n.pth")
    with pytest.raises(CheckpointError, match=r"n\.pth"):
        convert(tmp_path / "n.pth", tmp_path / "n.safetensors")
    assert not (tmp_path / "n.safetensors").exists()
