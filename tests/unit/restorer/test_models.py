import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from atelier_restorer.__main__ import main
from atelier_restorer.models import FaceRestorer, load_models
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import settings
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import ModelSet
from tests.tiny_restorer import build_set, codeformer_state, detector_state

FACE_ROLES = (NetworkRole.FACE_RESTORER, NetworkRole.FACE_DETECTOR)


def settings_for(folder: Path, **others: Any) -> RestorerSettings:
    return RestorerSettings(
        **{"model_set": str(folder), "device": "cpu", "dtype": "float32", "cpu_threads": 1, **others}
    )


def test_what_was_loaded_from_where_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build_set(tmp_path, detector=detector_state(), codeformer=codeformer_state())
    models = load_models(settings_for(tmp_path))
    assert models.detector and models.codeformer and models.upscaler
    record = next(r for r in caplog.records if r.getMessage() == "CodeFormer loaded successfully")
    assert record.__dict__["file"] == str(tmp_path / "codeformer.safetensors")


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.parametrize(("setting", "expected"), [(0, 1), (3, 3)])
def test_threads_follow_the_usable_processors_and_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_as_before: None, setting: int, expected: int
) -> None:
    """OpenCV's too: by itself it does not see the quota of an inner control group."""
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    load_models(settings_for(build_set(tmp_path), cpu_threads=setting))
    assert torch.get_num_threads() == expected
    assert cv2.getNumThreads() == 1


def test_a_face_does_not_depend_on_the_number_of_threads(tmp_path: Path, threads_as_before: None) -> None:
    """In float32, within the rounding to levels."""
    models = load_models(settings_for(build_set(tmp_path, codeformer=codeformer_state())))
    assert models.codeformer is not None
    crops = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    restored = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        restored.append(
            np.stack([np.int16(crop) for crop in models.codeformer.restore(crops, [(0, 0.5), (1, 0)])])
        )
    assert restored[0].std() > 1
    assert max(np.abs(other - restored[0]).max() for other in restored[1:]) <= 1


def test_published_file_formats_are_read(tmp_path: Path) -> None:
    folder = build_set(tmp_path, upscaler=False)
    torch.save({"params_ema": codeformer_state()}, folder / "codeformer.pth")
    torch.save({f"module.{k}": v for k, v in detector_state().items()}, folder / "detector.pth")
    manifest = json.loads((folder / "manifest.json").read_text())
    for role in ("codeformer", "detector"):
        manifest["components"][role] = {"path": f"{role}.pth", "name": role}
        manifest["files"][f"{role}.pth"] = {"sha256": _sha256(folder / f"{role}.pth")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    models = load_models(settings_for(folder))
    assert models.detector and models.codeformer and models.upscaler is None


def as_published(state: dict[str, Any], form: str) -> Any:
    """Return the same weights in a form in which people publish them."""
    match form:
        case "params_ema" | "params" | "state_dict":
            return {form: state}
        case "module.":
            return {f"module.{key}": tensor for key, tensor in state.items()}
        case "without counters":
            return {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}
        case "float16" | "bfloat16":
            dtype = getattr(torch, form)
            return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    return state


_FLAT = ("flat", "module.", "without counters", "float16", "bfloat16")
_WRAPPED = ("params_ema", "params", "state_dict")


@pytest.mark.parametrize(
    ("form", "suffix"),
    [*((form, ".pth") for form in (*_FLAT, *_WRAPPED)), *((form, ".safetensors") for form in _FLAT)],
)
def test_single_files_replace_components_of_the_set(tmp_path: Path, form: str, suffix: str) -> None:
    files = {"detector": detector_state(), "codeformer": codeformer_state()}
    for role, state in files.items():
        write = torch.save if suffix == ".pth" else save_file
        write(as_published(state, form), tmp_path / f"{role}_file{suffix}")
    chosen = {role: str(tmp_path / f"{role}_file{suffix}") for role in files}
    models = load_models(
        settings_for(build_set(tmp_path / "set"), **chosen),
        (NetworkRole.FACE_DETECTOR, NetworkRole.FACE_RESTORER),
    )
    assert models.detector and models.codeformer and models.upscaler is None
    names = {role: component.name for role, component in models.components.items()}
    assert names == {"detector": "retinaface_mobile0.25", "codeformer": "codeformer_file"}
    assert models.name == f"detector_file{suffix} + codeformer_file{suffix}"
    loaded = models.codeformer.network.state_dict()
    for key, tensor in files["codeformer"].items():
        exact = form if form in ("float16", "bfloat16") else "float32"
        assert torch.equal(loaded[key], tensor.to(getattr(torch, exact)).float()), key


@pytest.mark.parametrize("role", ["detector", "codeformer"])
def test_weights_of_something_else_stop_the_start(tmp_path: Path, role: str) -> None:
    wrong: dict[str, Any] = {role: {"weight": torch.zeros(3)}}
    build_set(tmp_path, **wrong)
    with pytest.raises(StartupError, match=f"{role}.safetensors"):
        load_models(settings_for(tmp_path))


@pytest.mark.parametrize("role", ["detector", "codeformer", "parser", "upscaler"])
def test_a_single_file_of_something_else_is_reported_with_its_own_setting(tmp_path: Path, role: str) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(StartupError, match=rf"^{role.upper()}: .*wrong\.pth"):
        load_models(settings_for(build_set(tmp_path / "set"), **{role: str(tmp_path / "wrong.pth")}))
    with pytest.raises(StartupError, match=rf"^{role.upper()}=.*nowhere\.pth: there is no such file"):
        load_models(settings_for(tmp_path / "set", **{role: str(tmp_path / "nowhere.pth")}))


def test_any_other_missing_tensor_stops_the_start(tmp_path: Path) -> None:
    state = detector_state()
    del state["body.stage1.0.1.running_var"]
    build_set(tmp_path, detector=state)
    with pytest.raises(StartupError, match=r"^MODEL_SET: .*running_var is missing"):
        load_models(settings_for(tmp_path))


def test_only_the_requested_roles_are_loaded(tmp_path: Path) -> None:
    """A corrupt detector does not prevent restoring aligned crops."""
    build_set(tmp_path, detector=detector_state(), codeformer=codeformer_state())
    (tmp_path / "detector.safetensors").write_bytes(b"damaged")
    (tmp_path / "upscaler.safetensors").unlink()
    models = load_models(settings_for(tmp_path), (NetworkRole.FACE_RESTORER,))
    assert list(models.components) == ["codeformer"]
    assert models.codeformer and models.detector is None and models.upscaler is None and models.parser is None
    with pytest.raises(StartupError, match=r"detector\.safetensors"):
        load_models(settings_for(tmp_path))


def test_photo_networks_mixed_with_the_demo_sets_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(codeformer_state(), tmp_path / "published.pth")
    mixed = RestorerSettings(device="cpu", cpu_threads=1, codeformer=str(tmp_path / "published.pth"))
    for roles, warns in ((FACE_ROLES, True), (FACE_ROLES[:1], False)):
        caplog.clear()
        models = load_models(mixed, roles)
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == warns and (not warns or "demo set provides: detector." in warnings[0])
        assert models.name == ("demo + published.pth" if warns else "published.pth")
    caplog.clear()
    load_models(RestorerSettings(device="cpu", cpu_threads=1), FACE_ROLES)
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_a_codeformer_of_another_size_stops_the_start(tmp_path: Path) -> None:
    state = codeformer_state()
    state["position_emb"] = state["position_emb"][:64]
    state = {k: v for k, v in state.items() if "fuse_convs_dict" not in k}
    build_set(tmp_path, codeformer=state)
    with pytest.raises(StartupError, match=r"codeformer.*256 px"):
        load_models(settings_for(tmp_path))


def test_changed_weights_stop_the_start(tmp_path: Path) -> None:
    build_set(tmp_path, codeformer=codeformer_state())
    save_file(codeformer_state(seed=1), tmp_path / "codeformer.safetensors")
    with pytest.raises(StartupError, match="SHA-256"):
        load_models(settings_for(tmp_path))


def test_half_precision_weights_are_run_in_float32(tmp_path: Path) -> None:
    build_set(tmp_path, codeformer={k: v.half() for k, v in codeformer_state().items()})
    models = load_models(settings_for(tmp_path))
    assert models.codeformer is not None
    assert {p.dtype for p in models.codeformer.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("native", "given", "generator", "encoder"),
    [
        (True, {}, torch.bfloat16, torch.float32),
        (False, {}, torch.float32, torch.float32),
        (False, {"dtype": "bfloat16"}, torch.bfloat16, torch.float32),
        (True, {"dtype": "float32"}, torch.float32, torch.float32),
        (True, {"encoder_dtype": "bfloat16"}, torch.bfloat16, torch.bfloat16),
    ],
)
def test_what_runs_in_which_dtype(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    native: bool,
    given: dict[str, str],
    generator: torch.dtype,
    encoder: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    build_set(tmp_path, codeformer=codeformer_state(), detector=detector_state())
    models = load_models(settings_for(tmp_path, **{"dtype": "auto"} | given))
    assert isinstance(models.codeformer, FaceRestorer) and models.detector
    assert models.dtype == generator
    network = models.codeformer.network
    assert network.generator.blocks[0].weight.dtype == generator
    assert {tensor.dtype for tensor in network.encoder.parameters()} == {encoder}
    assert network.feat_emb.weight.dtype == encoder
    offsets, _, _ = models.detector.raw(np.zeros((1, 64, 64, 3), np.uint8))
    assert offsets.dtype == torch.float32
    crops = np.zeros((1, 512, 512, 3), np.uint8)
    [restored] = models.codeformer.restore(crops, [(0, 0.5)])
    assert isinstance(restored, np.ndarray) and restored.shape == (512, 512, 3)


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ATELIER_RESTORER_MAX_BATCH", "65")
    with pytest.raises(SystemExit) as caught:
        settings.load(RestorerSettings)
    assert caught.value.code == 2
    assert "ATELIER_RESTORER_MAX_BATCH=65" in capsys.readouterr().err


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), (["serve", "--help"], 0), ([], 2), (["unknown"], 2)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == code
    assert "serve" in capsys.readouterr().out


def test_a_missing_model_set_stops_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("MODEL_SET", str(tmp_path)), ("PORT", "0"), ("METRICS_PORT", "0")):
        monkeypatch.setenv(f"ATELIER_RESTORER_{name}", value)
    assert main(["serve"]) == 1
    assert "ATELIER_RESTORER_MODEL_SET" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_leave_the_cpus_to_others(value: str | None, expected: str) -> None:
    """It must be set before torch is imported; a bad port stops the command before that."""
    code = (
        "import os, sys; from atelier_restorer.__main__ import main\n"
        "try: main(['serve'])\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"ATELIER_RESTORER_PORT": "-1"} | ({"OMP_WAIT_POLICY": value} if value else {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected, "False"]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_built_in_sets_identity_network_is_not_asked_about_photos(tmp_path: Path) -> None:
    """It tells drawn people apart; single files are networks for photos."""
    build_set(tmp_path / "set", codeformer=codeformer_state())
    roles = (NetworkRole.FACE_RESTORER, NetworkRole.IDENTITY)
    drawn = load_models(RestorerSettings(dtype="float32", device="cpu"), roles)
    assert drawn.identifier is not None and drawn.min_similarity is not None
    file = str(tmp_path / "set" / "codeformer.safetensors")
    photos = load_models(RestorerSettings(dtype="float32", device="cpu", codeformer=file), roles)
    assert photos.identifier is None and photos.min_similarity is None
    assert photos.name == "codeformer.safetensors" and photos.mixture_warning is None
    asked = load_models(
        RestorerSettings(
            dtype="float32",
            device="cpu",
            codeformer=file,
            identity=str(ModelSet.open("demo").folder / "identity.onnx"),
        ),
        roles,
    )
    assert asked.identifier is not None and asked.min_similarity is None
