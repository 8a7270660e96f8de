"""ArcFace: what is read of its file, what is refused, what it is fed, and the thread that it runs on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from atelier_restorer.align import CROP_SIZE
from atelier_restorer.cpu_pool import CpuPool
from atelier_restorer.faces import Candidate
from atelier_restorer.identity import FaceIdentifier, IdentityNetworkError, OnnxIdentifier
from atelier_restorer.identity_arcface import ArcFaceIdentifier
from atelier_restorer.identity_loading import load_identifier
from atelier_restorer.likeness import Likeness, choose_versions
from atelier_restorer.nets.arcface import ArcFace, ArcFaceConfig, sizes_of
from atelier_restorer.recognition_crop import recognition_crop
from atelier_restorer.request import Face
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.errors import Cancelled
from atelier_runtime.images import RgbArray
from atelier_runtime.metrics import StageTimer
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import Component
from tests.parity import recipe
from tests.tiny_identity import ARCFACE_CONFIG, arcface_state, map_network, mean_color_network
from tests.tiny_restorer import codeformer_state

CPU = torch.device("cpu")
CROP = recipe.image("face", 1, CROP_SIZE, CROP_SIZE)
FACE = Face(0, (0.0, 0.0, 9.0, 9.0), ((0.0, 0.0),) * 5, 1.0)


def test_the_published_sizes_have_the_published_files_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(v.shape) for key, v in ArcFace(ArcFaceConfig()).state_dict().items()}
    assert len([key for key in shapes if "num_batches_tracked" not in key]) == 397 - 54
    expected = {
        "input_layer.0.weight": (64, 3, 3, 3),
        "input_layer.2.weight": (64,),
        "body.0.res_layer.5.fc1.weight": (4, 64, 1, 1),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.3.shortcut_layer.1.running_var": (128,),
        "body.20.res_layer.3.weight": (256, 256, 3, 3),
        "body.23.res_layer.5.fc2.weight": (512, 32, 1, 1),
        "output_layer.0.bias": (512,),
        "output_layer.3.weight": (512, 25088),
        "output_layer.4.running_mean": (512,),
    }
    assert shapes.items() >= expected.items()
    assert not [key for key in shapes if key.startswith(("body.0.shortcut", "body.24."))]


def test_sizes_are_read_from_the_tensors() -> None:
    assert sizes_of(arcface_state()) == ARCFACE_CONFIG
    with torch.inference_mode():
        assert ArcFace.from_state_dict(arcface_state())(torch.zeros(2, 3, 112, 112)).shape == (2, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("body.1.res_layer.0.bias"), "body.1.res_layer.0.bias is missing"),
        (lambda state: state.update(more=torch.ones(1)), "more is unexpected"),
        (
            lambda state: state.update({"output_layer.3.weight": torch.ones(16, 12)}),
            r"output_layer.3.weight has shape \(16, 12\), not \(16, 588\)",
        ),
        (lambda state: state.pop("input_layer.0.weight"), "names and shapes of an IR-SE network"),
        (lambda state: state.pop("body.4.res_layer.3.weight"), "4 stages of different widths, not 3"),
        (lambda state: state.update({"output_layer.3.weight": torch.ones(0, 588)}), "positive"),
    ],
)
def test_other_tensors_are_refused(change: Callable[[dict[str, Tensor]], object], reason: str) -> None:
    state = arcface_state()
    change(state)
    with pytest.raises(ValueError, match=reason):
        ArcFace.from_state_dict(state)


def test_it_is_fed_blue_green_and_red_from_minus_1_to_1() -> None:
    identifier = ArcFaceIdentifier(arcface_state(), CPU)
    fed: list[Tensor] = []
    identifier._network.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].clone()))
    identifier.embed(CROP)
    [x] = fed
    face = recognition_crop(CROP).astype(np.float32)
    assert x.shape == (1, 3, 112, 112) and x.dtype == torch.float32
    for channel, color in enumerate((2, 1, 0)):
        np.testing.assert_allclose(x[0, channel].numpy(), face[..., color] / 127.5 - 1, atol=1e-6)


def test_the_embedding_is_a_unit_vector_and_tells_faces_apart() -> None:
    identifier = ArcFaceIdentifier(arcface_state(), CPU)
    first, again, other = (identifier.embed(crop) for crop in (CROP, CROP.copy(), 255 - CROP))
    assert identifier.dimensions == 16 and first.direction.dtype == np.float32
    assert np.linalg.norm(first.direction) == pytest.approx(1)
    assert first.similarity(again) == pytest.approx(1) and first.similarity(other) < 0.99
    assert identifier.certainty(CROP, first) > 1e-4


def test_a_checkpoint_in_half_precision_runs_in_float32() -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in arcface_state().items()}
    found, exact = (ArcFaceIdentifier(state, CPU).embed(CROP) for state in (half, arcface_state()))
    assert found.similarity(exact) == pytest.approx(1, abs=1e-3)


def test_an_embedding_that_is_not_finite_is_an_error() -> None:
    state = arcface_state()
    state["output_layer.4.bias"][0] = torch.nan
    with pytest.raises(IdentityNetworkError, match="not finite"):
        ArcFaceIdentifier(state, CPU).embed(CROP)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_lack_of_memory_is_an_error_of_its_own(error: Exception) -> None:
    identifier = ArcFaceIdentifier(arcface_state(), CPU)

    def fail(*_: object) -> None:
        raise error

    identifier._network.register_forward_pre_hook(fail)
    with pytest.raises(IdentityNetworkError) as raised:
        identifier.embed(CROP)
    assert raised.value.out_of_memory


def test_any_other_failure_is_not_taken_for_it() -> None:
    identifier = ArcFaceIdentifier(arcface_state(), CPU)
    identifier._network.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        identifier.embed(CROP)


def component(path: Path) -> Component:
    return Component(NetworkRole.IDENTITY, path.stem, path, setting="IDENTITY")


def test_either_kind_of_file_is_loaded_whatever_its_name(tmp_path: Path) -> None:
    versioned = onnx.load_from_string(mean_color_network())
    versioned.model_version = 3
    (tmp_path / "a.bin").write_bytes(versioned.SerializeToString())
    torch.save(arcface_state(), tmp_path / "b.pth")
    without = {key: value for key, value in arcface_state().items() if "num_batches_tracked" not in key}
    save_file(without, tmp_path / "c.safetensors")
    opencvs, pickled, converted = (
        load_identifier(component(tmp_path / name), CPU) for name in ("a.bin", "b.pth", "c.safetensors")
    )
    assert isinstance(opencvs, OnnxIdentifier) and not opencvs.on_device
    assert isinstance(pickled, ArcFaceIdentifier) and pickled.on_device
    assert pickled.embed(CROP).similarity(converted.embed(CROP)) == pytest.approx(1)


def incomplete() -> dict[str, Tensor]:
    state = arcface_state()
    del state["output_layer.3.bias"]
    return state


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (codeformer_state, r"is a network of the role codeformer \(codeformer\), not one of face recog"),
        (incomplete, "is not a network of the restorer. The closest is arcface, .*layer.3.bias is missing"),
        (map_network, r"returns an array of shape \(1, 3, 112, 112\)"),
        (lambda: b"<!doctype html><html>", "is an HTML page"),
        (lambda: b"", "is empty"),
    ],
)
def test_another_file_is_named_as_what_it_is(
    content: Callable[[], bytes | Mapping[str, Tensor]], found: str, tmp_path: Path
) -> None:
    data = content()
    if isinstance(data, bytes):
        (tmp_path / "f").write_bytes(data)
    else:
        torch.save(dict(data), tmp_path / "f")
    with pytest.raises(StartupError, match=f"^IDENTITY: the identity network:? .*{found}"):
        load_identifier(component(tmp_path / "f"), CPU)


class Recorder(FaceIdentifier):
    """A network that records the threads that it is called on."""

    dimensions = 2

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def _vector(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.threads.add(threading.current_thread())
        return np.array([face.mean(), face.std() + 1], np.float32)


class OfTheDevice(Recorder):
    on_device = True


class OfAnyThread(Recorder):
    on_device = False


def version() -> Candidate:
    changed: RgbArray = np.asarray(CROP // 2, np.uint8)
    return Candidate(FACE, None, 0.5, 1.0, crop=CROP, restored=changed)


@pytest.mark.parametrize("guard", [None, 0.1])
async def test_what_belongs_to_the_device_runs_on_its_thread_alone(guard: float | None) -> None:
    worker = DeviceWorker(capacity=2)
    try:
        async with worker.reserve_slot():
            thread = await worker.submit(lambda job: threading.current_thread(), has_slot=True).result()
            for identifier, on_device in ((OfTheDevice(), True), (OfAnyThread(), False)):
                timers = StageTimer(), StageTimer()
                likeness = Likeness(identifier, guard, 0.0)
                [[face]] = await choose_versions(likeness, [[version()]], CpuPool(1), worker, timers, None)
                assert face.similarity is not None and face.restored is not None
                assert (identifier.threads == {thread}) is on_device and len(identifier.threads) == 1
                cpu, device = ([report.stage for report in timer.reports] for timer in timers)
                assert (cpu, device) == (([], ["identity"]) if on_device else (["identity"], []))
    finally:
        worker.close()


def test_nothing_more_is_measured_once_nobody_is_waiting() -> None:
    def gone() -> None:
        raise Cancelled

    identifier = OfTheDevice()
    with pytest.raises(Cancelled):
        Likeness(identifier, None, 0.0, check=gone).measure([[version()]])
    assert not identifier.threads
