import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from atelier_runtime.errors import BadImage
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.settings import StartupError
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import (
    Upscaler,
    _spans,
    center_crop,
    covering_box,
    network_passes,
    resample,
    upscale_to,
)
from atelier_runtime.weights import Component
from tests.tiny_sdxl import UPSCALER_NAME, build_upscaler


def picture_of(width: int, height: int) -> np.ndarray:
    """A smooth picture in which every place has its own colour."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(
        np.uint8
    )


def unchecked() -> None:
    pass


@pytest.fixture(scope="module")
def component(tmp_path_factory) -> Component:
    """A x2 network of Real-ESRGAN's compact architecture, as a file."""
    path = build_upscaler(tmp_path_factory.mktemp("upscaler"))
    return Component(NetworkRole.UPSCALER, UPSCALER_NAME, path)


@pytest.fixture(scope="module")
def upscaler(component) -> Upscaler:
    return Upscaler.load(component, torch.device("cpu"))


def test_a_crop_is_the_middle():
    assert center_crop(Size(100, 60), Size(40, 60)) == (30, 0, 70, 60)


@pytest.mark.parametrize(
    ("size", "wanted", "factor", "passes"),
    [
        ((256, 256), (1024, 1024), 2, 2),
        ((128, 128), (1024, 1024), 2, 3),
        ((256, 256), (1024, 1024), 4, 1),
        ((256, 256), (264, 264), 2, 1),  # at least once
        ((256, 256), (600, 600), 2, 1),  # 512 is near enough
        ((256, 256), (768, 768), 2, 2),  # 512 is not
        ((256, 64), (2048, 256), 2, 3),  # the larger ratio counts
    ],
)
def test_network_is_applied_as_often_as_needed(size, wanted, factor, passes):
    assert network_passes(Size(*size), Size(*wanted), factor) == passes


@pytest.mark.parametrize("wanted", [(96, 80), (128, 128), (136, 72), (250, 64)])
@pytest.mark.parametrize("network", [True, False])
def test_result_has_the_exact_size_and_keeps_its_place(upscaler, wanted, network):
    picture = picture_of(64, 64)
    result = upscale_to(picture, Size(*wanted), upscaler if network else None, unchecked)
    assert result.shape == (wanted[1], wanted[0], 3)
    # The middle of the result is the middle of the picture.
    middle = result[wanted[1] // 2, wanted[0] // 2].astype(int)
    assert np.abs(middle - picture[32, 32]).max() <= 12


@pytest.mark.parametrize("length", [1, 384, 385, 770, 1001, 1150, 3072])
def test_tiles_are_few_and_begin_where_networks_that_fold_pixels_expect_it(length):
    spans = list(_spans(length, 384))
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])] and spans[-1][1] == length
    assert all(start % 16 == 0 and 0 < end - start <= 384 for start, end in spans)
    assert len(spans) == -(-length // 384)


def test_tiles_leave_no_seam(upscaler, monkeypatch):
    picture = picture_of(150, 130)
    rng = np.random.default_rng(0)
    picture = np.clip(picture + rng.integers(-20, 20, picture.shape), 0, 255).astype(np.uint8)
    whole = upscaler.upscale(picture, unchecked)
    monkeypatch.setattr("atelier_runtime.upscaler._TILE_PX", 48)
    checks = []
    tiled = upscaler.upscale(picture, lambda: checks.append(1))
    assert len(checks) == 4 * 3
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


def test_work_stops_between_tiles(upscaler, monkeypatch):
    monkeypatch.setattr("atelier_runtime.upscaler._TILE_PX", 32)
    calls = []

    def stop_at_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        upscaler.upscale(picture_of(128, 128), stop_at_third)
    assert len(calls) == 3


def load(path) -> Upscaler:
    return Upscaler.load(Component(NetworkRole.UPSCALER, "x", path, "UPSCALER"), torch.device("cpu"))


def test_non_finite_answers_are_an_error(component, upscaler, tmp_path):
    state = load_file(component.path)
    state["body.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(BadImage):
        load(tmp_path / "broken.safetensors").upscale(picture_of(32, 32), unchecked)


def test_a_file_that_is_no_upscaler_stops_the_start(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(StartupError, match=r"UPSCALER.*other\.safetensors"):
        load(tmp_path / "other.safetensors")


def test_an_incomplete_upscaler_stops_the_start(component, upscaler, tmp_path):
    state = load_file(component.path)
    del state["body.0.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(StartupError, match=r"UPSCALER.*part\.safetensors(?s:.*)body\.0\.bias"):
        load(tmp_path / "part.safetensors")


def test_published_upscaler_files_load_from_pth_too(component, upscaler, tmp_path):
    torch.save({"params": load_file(component.path)}, tmp_path / "weights.pth")
    picture = picture_of(40, 24)
    expected = upscaler.upscale(picture, unchecked)
    assert np.array_equal(load(tmp_path / "weights.pth").upscale(picture, unchecked), expected)
    assert upscaler.name == UPSCALER_NAME


def test_half_precision_is_used_where_the_architecture_supports_it(component):
    upscaler = Upscaler.load(component, torch.device("cpu"), torch.bfloat16)
    exact = Upscaler.load(component, torch.device("cpu"))
    image = picture_of(32, 32)
    difference = np.abs(upscaler.upscale(image, unchecked).astype(int) - exact.upscale(image, unchecked))
    assert 0 < difference.max() <= 8, "bfloat16 rounds, but shows the same image"


@pytest.mark.parametrize("shape", [(700, 900, 3), (900, 700)])
def test_bands_do_not_show(shape, monkeypatch):
    """Resampling goes by bands of rows; Pillow in one piece is the oracle."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for size in (Size(1400, 1500), Size(333, 320), Size(shape[1] * 2, shape[0] * 2)):
        box = covering_box(Size(shape[1], shape[0]), size)
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box=box))
        monkeypatch.setattr("atelier_runtime.upscaler._BAND_PIXELS", 64 * size.width)
        banded = resample(image, size)
        assert banded.shape == (size.height, size.width, *shape[2:])
        assert np.abs(banded.astype(int) - whole).max() <= 1
