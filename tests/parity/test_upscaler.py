"""Real-ESRGAN's RRDBNet through our upscaler against the reference's answers, at full published shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier_restorer import upscale
from atelier_restorer.upscale import Upscaler
from atelier_runtime.weights import Component
from tests.parity import recipe

NETWORKS = {"realesrgan_x2plus": 2, "realesrgan_x4plus": 4}
CASES = [
    (network, seed) if seed == 1 else pytest.param(network, seed, marks=pytest.mark.slow)
    for network in NETWORKS
    for seed in (1, 2)
]
TOLERANCE = 1e-4


def load(folder: Path, network: str, seed: int, wrapper: str | None = "params_ema") -> Upscaler:
    """Load as a user does: from a file as it is published."""
    state = recipe.state_dict(network, seed)
    path = folder / f"{network}.pth"
    torch.save({wrapper: state} if wrapper else state, path)
    return Upscaler.load(Component("upscaler", network, path), torch.device("cpu"))


@torch.inference_mode()
def answer(upscaler: Upscaler, pixels: np.ndarray) -> np.ndarray:
    """Return the network's own answer (3, H, W), before it is clamped and rounded."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return upscaler._network.model(x)[0].numpy()


@pytest.mark.parametrize(("network", "seed"), CASES)
def test_the_networks_answer_is_the_references(tmp_path: Path, network: str, seed: int) -> None:
    upscaler = load(tmp_path, network, seed)
    golden = recipe.golden(f"{network}_s{seed}")
    assert upscaler.factor == NETWORKS[network]
    found = answer(upscaler, recipe.picture(network, seed))
    assert found.shape == tuple(golden["shape"])
    stride = int(golden["stride"])
    np.testing.assert_allclose(found[:, ::stride, ::stride], golden["out"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.mean(), golden["mean"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.std(), golden["std"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("wrapper", ["params", None])
def test_the_other_published_wrappings_load(tmp_path: Path, wrapper: str | None) -> None:
    upscaler = load(tmp_path, "realesrgan_x2plus", 1, wrapper)
    pixels = recipe.picture("realesrgan_x2plus", 1)[:16, :16]
    rounded = np.clip(answer(upscaler, pixels), 0, 1) * 255
    enlarged = upscaler.enlarge(pixels, lambda: None).transpose(2, 0, 1)
    np.testing.assert_array_equal(enlarged, np.rint(rounded))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_tiles_agree_with_the_whole_away_from_their_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    upscaler = load(tmp_path, network, 1)
    factor = upscaler.factor
    pixels = recipe.image("realesrgan", 5, 192, 192)
    whole = upscaler.enlarge(pixels, lambda: None).astype(int)
    monkeypatch.setattr(upscale, "_TILE_PX", 96)
    tiled = upscaler.enlarge(pixels, lambda: None).astype(int)
    difference = np.abs(tiled - whole).max(axis=2)
    border = 96 * factor
    reach = 16 * factor
    away = np.ones(difference.shape, bool)
    away[border - reach : border + reach, :] = away[:, border - reach : border + reach] = False
    print(network, "away", difference[away].max(), "at the border", difference[~away].max())
    assert difference[away].max() <= 1
    assert difference.max() <= 8
