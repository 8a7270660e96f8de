"""Our networks compared with other implementations, with weights and images of a seed without goldens."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import Component
from tests.parity import oracles, recipe

SEED = 3
ROOT = Path(__file__).parents[2]
TEST_ONLY = {"spandrel_extra_arches", "basicsr", "onnx", "onnxscript", "onnxruntime", "openvino"}


@pytest.mark.oracle
@torch.inference_mode()
def test_codeformer_equals_that_of_spandrel_extra_arches() -> None:
    state = recipe.state_dict("codeformer", SEED)
    oracle = oracles.codeformer(state)
    pixels = recipe.picture("codeformer", SEED)
    face = torch.from_numpy(pixels / np.float32(255) * 2 - 1).permute(2, 0, 1)[None]
    expected, expected_logits = oracle(face, weight=0.6)
    del oracle

    network = CodeFormer.from_state_dict(state).eval()
    features, lq_feature = network.encode(face)
    logits = network.predict_codes(lq_feature)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-3)
    expected_codes = expected_logits.argmax(dim=2)
    assert len(expected_codes.unique()) > 50, "an image of one code would prove little"
    first, second = expected_logits.topk(2, dim=2).values.unbind(dim=2)
    sure = first - second > 2e-3
    assert sure.float().mean() > 0.95
    assert torch.equal(logits.argmax(dim=2)[sure], expected_codes[sure])

    # Where the margin between two codes is small, the decoder gets the oracle's.
    quantized = match_statistics(network.lookup(expected_codes.unflatten(1, (16, 16))), lq_feature)
    picture = network.decode(quantized, features, 0.6)
    assert expected.std() > 0.1
    reach = float(expected.max() - expected.min())
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-4 * reach)


@pytest.mark.oracle
@torch.inference_mode()
@pytest.mark.parametrize(("network", "scale"), [("realesrgan_x2plus", 2), ("realesrgan_x4plus", 4)])
def test_the_upscaler_equals_the_rrdbnet_of_basicsr(network: str, scale: int, tmp_path: Path) -> None:
    """A published file's way through our loader, spandrel and the tiles, rounded to levels."""
    state = recipe.state_dict(network, SEED)
    pixels = recipe.image("realesrgan", SEED, 32, 48)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    # Most of the recipe's output lies outside 0 to 1 and would be clipped: the last layer rescales it.
    answer = oracles.rrdbnet(state, scale)(x)[0].flatten(1)
    low, reach = answer.amin(dim=1), answer.amax(dim=1) - answer.amin(dim=1)
    state["conv_last.weight"] /= reach[:, None, None, None]
    state["conv_last.bias"] = (state["conv_last.bias"] - low) / reach
    expected = (oracles.rrdbnet(state, scale)(x)[0] * 255).permute(1, 2, 0).numpy()
    assert expected.std() > 20, "a nearly uniform image would prove little"
    file = tmp_path / f"{network}.pth"
    torch.save({"params_ema": state}, file)
    upscaler = Upscaler.load(Component(NetworkRole.UPSCALER, network, file), torch.device("cpu"))
    assert upscaler.factor == scale
    picture = upscaler.upscale(pixels, lambda: None)
    assert picture.shape == (32 * scale, 48 * scale, 3)
    rounding = 0.5
    assert np.abs(picture - expected).max() <= rounding + 0.02


def test_what_is_shipped_imports_no_oracle() -> None:
    """CodeFormer's public code is for non-commercial use only; ours must not depend on it."""
    shipped = [
        file for top in ("services", "gateway", "demo", "tools") for file in (ROOT / top).rglob("*.py")
    ]
    assert len(shipped) > 50
    for file in shipped:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found = {name.partition(".")[0] for name in names} & TEST_ONLY
            if "training" in file.parts:  # not shipped, and it writes the identity network as ONNX
                found -= {"onnx"}
            assert not found, f"{file.relative_to(ROOT)} imports {found}"
    projects = [*ROOT.glob("services/*/pyproject.toml"), *ROOT.glob("*/pyproject.toml")]
    assert len(projects) > 5
    for project in projects:
        text = project.read_text(encoding="utf-8")
        text = text.replace("*.onnx", "")  # files, not the package
        assert not [name for name in TEST_ONLY if name in text], project.relative_to(ROOT)
