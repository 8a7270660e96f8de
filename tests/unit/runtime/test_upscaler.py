"""Upscaling by a network in tiles and by Lanczos in bands: sizes, seams, precision, bad files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from torch import Tensor

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

CPU = torch.device("cpu")


def image_of(width: int, height: int) -> np.ndarray:
    """Return a smooth image in which every position has its own color."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(
        np.uint8
    )


def unchecked() -> None:
    pass


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Component:
    """A x2 network of Real-ESRGAN's compact architecture, as a file."""
    path = build_upscaler(tmp_path_factory.mktemp("upscaler"))
    return Component(NetworkRole.UPSCALER, UPSCALER_NAME, path)


@pytest.fixture(scope="module")
def upscaler(component: Component) -> Upscaler:
    return Upscaler.load(component, CPU)


def test_a_crop_is_centered_and_exact() -> None:
    assert center_crop(Size(100, 60), Size(40, 60)) == (30, 0, 70, 60)
    assert center_crop(Size(1024, 1024), Size(1000, 1016)) == (12, 4, 1012, 1020)


def test_a_covering_box_is_centered_and_has_the_aspect_ratio_of_the_target() -> None:
    assert covering_box(Size(256, 64), Size(2048, 256)) == (0, 16, 256, 48)
    left, top, right, bottom = covering_box(Size(256, 256), Size(1024, 1000))
    assert (left, right) == (0, 256)
    assert (bottom - top) / (right - left) == pytest.approx(1000 / 1024)
    assert top == pytest.approx(256 - bottom)


@pytest.mark.parametrize(
    ("size", "target", "factor", "passes"),
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
def test_the_network_is_applied_as_often_as_needed(
    size: tuple[int, int], target: tuple[int, int], factor: int, passes: int
) -> None:
    assert network_passes(Size(*size), Size(*target), factor) == passes


@pytest.mark.parametrize("target", [(96, 80), (128, 128), (136, 72), (250, 64)])
@pytest.mark.parametrize("with_network", [True, False])
def test_the_result_has_the_exact_size_and_the_same_center(
    upscaler: Upscaler, target: tuple[int, int], with_network: bool
) -> None:
    image = image_of(64, 64)
    result = upscale_to(image, Size(*target), upscaler if with_network else None, unchecked)
    assert result.shape == (target[1], target[0], 3)
    center = result[target[1] // 2, target[0] // 2].astype(int)
    assert np.abs(center - image[32, 32]).max() <= 12


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("with_network", [True, False])
def test_an_image_of_odd_sides_is_upscaled_by_a_whole_factor(
    upscaler: Upscaler, scale: int, with_network: bool
) -> None:
    image = image_of(53, 37)
    size = Size(53 * scale, 37 * scale)
    result = upscale_to(image, size, upscaler if with_network else None, unchecked)
    assert result.shape == (37 * scale, 53 * scale, 3)
    assert result.flags.writeable, "faces are pasted into it"
    shrunk = np.asarray(Image.fromarray(result).resize((53, 37), Image.Resampling.BOX), int)
    assert np.abs(shrunk - image).mean() < 4


def test_resampling_to_the_same_size_changes_nothing() -> None:
    image = image_of(53, 37)
    assert resample(image, Size(53, 37)) is image


@pytest.mark.parametrize("length", [1, 384, 385, 770, 1001, 1150, 3072])
def test_tiles_are_few_and_start_where_networks_that_fold_pixels_expect_it(length: int) -> None:
    spans = list(_spans(length, 384))
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])] and spans[-1][1] == length
    assert all(start % 16 == 0 and 0 < end - start <= 384 for start, end in spans)
    assert len(spans) == -(-length // 384)


def test_tiles_leave_no_seam(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(150, 130)
    rng = np.random.default_rng(0)
    image = np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
    whole = upscaler.upscale(image, unchecked)
    monkeypatch.setattr("atelier_runtime.upscaler._TILE_PX", 48)
    checks: list[None] = []
    tiled = upscaler.upscale(image, lambda: checks.append(None))
    assert len(checks) == 4 * 3
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


def test_work_stops_between_tiles(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier_runtime.upscaler._TILE_PX", 32)
    calls: list[None] = []

    def stop_at_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        upscale_to(image_of(128, 128), Size(256, 256), upscaler, stop_at_third)
    assert len(calls) == 3


def load(path: Path) -> Upscaler:
    return Upscaler.load(Component(NetworkRole.UPSCALER, "x", path, "UPSCALER"), CPU)


def test_a_non_finite_output_is_an_error(component: Component, tmp_path: Path) -> None:
    state = load_file(component.path)
    state["body.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "corrupt.safetensors")
    with pytest.raises(BadImage, match="x"):
        load(tmp_path / "corrupt.safetensors").upscale(image_of(32, 32), unchecked)


def without_bias() -> dict[str, Tensor]:
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2)
    state: dict[str, Tensor] = network.state_dict()
    del state["body.0.bias"]
    return state


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"weight": torch.zeros(3)}, "architecture"),
        (without_bias(), r"(?s:.*)body\.0\.bias"),
        (DnCNN(nc=8, nb=4).state_dict(), "upscale"),
        (Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2).state_dict(), "RGB"),
        (Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=1).state_dict(), "upscale"),
    ],
    ids=["unknown", "incomplete", "denoiser", "gray", "x1"],
)
@pytest.mark.parametrize("setting", ["MODEL_SET", "UPSCALER"])
def test_a_file_that_is_not_an_rgb_upscaler_stops_the_start(
    tmp_path: Path, state: dict[str, Tensor], problem: str, setting: str
) -> None:
    save_file(state, tmp_path / "other.safetensors")
    component = Component(NetworkRole.UPSCALER, "x", tmp_path / "other.safetensors", setting)
    with pytest.raises(StartupError, match=rf"^{setting}: .*other\.safetensors.*{problem}"):
        Upscaler.load(component, CPU)


def test_published_pth_files_give_the_same_image(
    component: Component, upscaler: Upscaler, tmp_path: Path
) -> None:
    torch.save({"params": load_file(component.path)}, tmp_path / "weights.pth")
    image = image_of(40, 24)
    expected = upscaler.upscale(image, unchecked)
    assert np.array_equal(load(tmp_path / "weights.pth").upscale(image, unchecked), expected)
    assert upscaler.name == UPSCALER_NAME


def test_half_precision_is_used_where_the_architecture_supports_it(
    component: Component, upscaler: Upscaler
) -> None:
    half = Upscaler.load(component, CPU, torch.bfloat16)
    image = image_of(32, 32)
    difference = np.abs(half.upscale(image, unchecked).astype(int) - upscaler.upscale(image, unchecked))
    assert 0 < difference.max() <= 8, "bfloat16 rounds, but the image is the same"


@pytest.mark.parametrize("shape", [(700, 900, 3), (900, 700)])
def test_bands_leave_no_seam(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Resampling works in bands of rows; Pillow in one piece is the oracle."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for size in (Size(1400, 1500), Size(333, 320), Size(shape[1] * 2, shape[0] * 2)):
        box = covering_box(Size(shape[1], shape[0]), size)
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box=box))
        monkeypatch.setattr("atelier_runtime.upscaler._BAND_PIXELS", 64 * size.width)
        banded = resample(image, size)
        assert banded.shape == (size.height, size.width, *shape[2:])
        assert np.abs(banded.astype(int) - whole).max() <= 1
