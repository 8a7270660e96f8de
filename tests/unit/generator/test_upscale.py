import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from atelier_generator.plan import Size
from atelier_generator.upscale import Upscaler, _spans, cropped, enlarge_to, network_passes
from atelier_runtime.errors import BadImage
from atelier_runtime.settings import StartupError
from atelier_runtime.weights import Component
from tests.tiny_sdxl import UPSCALER_NAME


def picture_of(width: int, height: int) -> np.ndarray:
    """A smooth picture in which every place has its own colour."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(
        np.uint8
    )


def unchecked() -> None:
    pass


def test_crop_leaves_pixels_alone():
    picture = picture_of(100, 60)
    assert np.array_equal(cropped(picture, Size(40, 60)), picture[:, 30:70])


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
def test_result_has_the_exact_size_and_keeps_its_place(plain_models, wanted, network):
    picture = picture_of(64, 64)
    upscaler = plain_models.upscaler if network else None
    result = enlarge_to(picture, Size(*wanted), upscaler, unchecked)
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


def test_tiles_leave_no_seam(plain_models, monkeypatch):
    picture = picture_of(150, 130)
    rng = np.random.default_rng(0)
    picture = np.clip(picture + rng.integers(-20, 20, picture.shape), 0, 255).astype(np.uint8)
    whole = plain_models.upscaler.enlarge(picture, unchecked)
    monkeypatch.setattr("atelier_generator.upscale._TILE_PX", 48)
    checks = []
    tiled = plain_models.upscaler.enlarge(picture, lambda: checks.append(1))
    assert len(checks) == 4 * 3
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


def test_work_stops_between_tiles(plain_models, monkeypatch):
    monkeypatch.setattr("atelier_generator.upscale._TILE_PX", 32)
    calls = []

    def stop_at_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        plain_models.upscaler.enlarge(picture_of(128, 128), stop_at_third)
    assert len(calls) == 3


def upscaler_file(models):
    return models.model_set.component("upscaler").path


def load(path) -> Upscaler:
    return Upscaler.load(Component("upscaler", "x", path), torch.device("cpu"), torch.float32)


def test_non_finite_answers_are_an_error(plain_models, tmp_path):
    state = load_file(upscaler_file(plain_models))
    state["body.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(BadImage):
        load(tmp_path / "broken.safetensors").enlarge(picture_of(32, 32), unchecked)


def test_a_file_that_is_no_upscaler_stops_the_start(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(StartupError, match=r"MODEL_SET.*other\.safetensors"):
        load(tmp_path / "other.safetensors")


def test_an_incomplete_upscaler_stops_the_start(plain_models, tmp_path):
    state = load_file(upscaler_file(plain_models))
    del state["body.0.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(StartupError, match=r"MODEL_SET.*part\.safetensors(?s:.*)body\.0\.bias"):
        load(tmp_path / "part.safetensors")


def test_published_upscaler_files_load_from_pth_too(plain_models, tmp_path):
    torch.save({"params": load_file(upscaler_file(plain_models))}, tmp_path / "weights.pth")
    picture = picture_of(40, 24)
    expected = plain_models.upscaler.enlarge(picture, unchecked)
    assert np.array_equal(load(tmp_path / "weights.pth").enlarge(picture, unchecked), expected)
    assert plain_models.upscaler.name == UPSCALER_NAME
