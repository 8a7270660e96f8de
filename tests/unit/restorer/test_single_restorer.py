"""Face restorers without a fidelity: GFPGAN and RestoreFormer, loaded by their tensors, run once per face."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier_restorer.models import FaceRestorer, load_models
from atelier_restorer.nets.face_restoration import load
from atelier_restorer.settings import RestorerSettings
from atelier_restorer.single_restorer import SingleRestorer
from atelier_runtime.outcomes import SkipReason
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from tests.tiny_restorer import build_set, codeformer_state, gfpgan_state, restoreformer_state

CPU = torch.device("cpu")
STATES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "GFPGAN": gfpgan_state,
    "RestoreFormer": restoreformer_state,
}
ROLES = (NetworkRole.FACE_RESTORER,)


def settings_for(folder: Path, **others: Any) -> RestorerSettings:
    return RestorerSettings(**{"model_set": str(folder), "device": "cpu", "cpu_threads": 1, **others})


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, 512, 512, 3), np.uint8)


@pytest.mark.parametrize("name", STATES)
def test_a_crop_runs_once_however_many_fidelities_are_asked_for(name: str, crops: np.ndarray) -> None:
    restorer = SingleRestorer(STATES[name](), CPU)
    assert restorer.architecture.name == name
    sizes: list[int] = []
    with_sizes = restorer.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    faces = restorer.restore(crops, [(2, 0.0), (0, 0.5), (2, 1.0)])
    with_sizes.remove()
    assert sizes == [2]
    assert faces[0] is faces[2]
    again = restorer.restore(crops, [(2, 0.5)])
    assert isinstance(faces[0], np.ndarray) and isinstance(faces[1], np.ndarray)
    assert np.abs(faces[0].astype(int) - np.asarray(again[0]).astype(int)).max() <= 1
    assert np.abs(faces[0].astype(int) - faces[1].astype(int)).mean() > 0.05, "of different crops"


def test_gfpgans_noise_is_the_checkpoints_own(crops: np.ndarray) -> None:
    """By default spandrel's class draws it anew in each call: no photo would be the same twice."""
    restorer = SingleRestorer(gfpgan_state(), CPU)
    first, second = (restorer.restore(crops[:1], [(0, 0.5)])[0] for _ in range(2))
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    silent = gfpgan_state()
    for key, value in silent.items():
        if ".noises." in key:
            value.zero_()
    [without] = SingleRestorer(silent, CPU).restore(crops[:1], [(0, 0.5)])
    assert np.abs(np.asarray(first).astype(int) - np.asarray(without).astype(int)).max() > 2


def test_padding_changes_no_face_and_adds_none(crops: np.ndarray) -> None:
    decodes = [(0, 0.5), (1, 0.5), (2, 0.5), (1, 0.9)]
    plain = SingleRestorer(gfpgan_state(), CPU).restore(crops, decodes, max_batch=8)
    restorer = SingleRestorer(gfpgan_state(), CPU, fixed_batches=True)
    sizes: list[int] = []
    restorer.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    padded = restorer.restore(crops, decodes, max_batch=8)
    assert sizes == [4] and len(padded) == len(plain) == 4
    difference = np.stack(padded).astype(int) - np.stack(plain).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_face_with_values_that_are_not_finite_does_not_affect_the_others(crops: np.ndarray) -> None:
    restorer = SingleRestorer(gfpgan_state(), CPU)
    expected = restorer.restore(crops[1:2], [(0, 0.5)])[0]

    def ruin(module: nn.Module, given: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> None:
        output[0][0, 1, 5, 7] = torch.inf

    restorer.network.register_forward_hook(ruin)
    faces = restorer.restore(crops, [(0, 0.1), (0, 0.9), (1, 0.5)])
    assert faces[:2] == [SkipReason.NOT_FINITE, SkipReason.NOT_FINITE]
    assert np.abs(np.asarray(faces[2]).astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_it_runs_in_float32_whatever_the_file_and_the_setting_say(
    tmp_path: Path, name: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    half = {key: value.to(getattr(torch, form)) for key, value in STATES[name]().items()}
    models = load_models(settings_for(build_set(tmp_path, codeformer=half), dtype="bfloat16"), ROLES)
    restorer = models.codeformer
    assert isinstance(restorer, SingleRestorer)
    assert {value.dtype for value in restorer.network.state_dict().values()} == {torch.float32}
    assert (models.main_dtype, models.dtype) == (torch.float32, torch.bfloat16)
    record = next(r for r in caplog.records if r.getMessage().startswith("face restorer without"))
    assert record.__dict__["network"] == name


@pytest.mark.parametrize(
    ("file", "shown", "set_name"),
    [
        ("GFPGANv1.4.pth", "GFPGANv1.4", "GFPGANv1.4.pth"),
        ("faces.pth", "faces (GFPGAN)", "faces.pth (GFPGAN)"),
    ],
)
def test_the_names_tell_which_network_it_is(tmp_path: Path, file: str, shown: str, set_name: str) -> None:
    torch.save({"params_ema": gfpgan_state()}, tmp_path / file)
    models = load_models(
        settings_for(build_set(tmp_path / "set"), codeformer=str(tmp_path / file)),
        ROLES,
    )
    assert models.components[NetworkRole.FACE_RESTORER].name == shown
    assert models.name == set_name


def test_the_name_of_a_sets_own_network_tells_it_too(tmp_path: Path) -> None:
    models = load_models(settings_for(build_set(tmp_path, codeformer=gfpgan_state())), ROLES)
    assert models.components[NetworkRole.FACE_RESTORER].name == "tiny-codeformer (GFPGAN)"
    models = load_models(settings_for(build_set(tmp_path, codeformer=codeformer_state())), ROLES)
    assert models.components[NetworkRole.FACE_RESTORER].name == "tiny-codeformer"
    assert isinstance(models.codeformer, FaceRestorer)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("GFPGAN", {"final_conv.bias": None}, r"GFPGANv1Clean: final_conv\.bias is missing"),
        ("GFPGAN", {"toRGB.1.bias": torch.zeros(5)}, r"toRGB\.1\.bias has shape \(5,\), not \(3,\)"),
        ("GFPGAN", {"conv_body_first.weight": torch.zeros(0)}, "do not have the shapes of a GFPGAN"),
        # RestoreFormer++ has more attention than the class that spandrel has
        (
            "RestoreFormer",
            {"vqvae.decoder.up.4.attn.0.norm1.weight": torch.zeros(32)},
            r"RestoreFormer: decoder\.up\.4\.attn\.0\.norm1\.weight is unexpected",
        ),
        ("RestoreFormer", {"vqvae.quant_conv.weight": None}, "do not have the shapes of a RestoreFormer"),
    ],
)
def test_a_checkpoint_that_does_not_fit_stops_the_start(
    tmp_path: Path, name: str, change: dict[str, Tensor | None], complaint: str
) -> None:
    state = {key: value for key, value in (STATES[name]() | change).items() if value is not None}
    build_set(tmp_path, codeformer=state)
    with pytest.raises(StartupError, match=f"^MODEL_SET: the face restorer .*{complaint}"):
        load_models(settings_for(tmp_path), ROLES)


def test_another_network_is_neither() -> None:
    with pytest.raises(ValueError, match="not those of a GFPGAN or RestoreFormer"):
        load(codeformer_state())
