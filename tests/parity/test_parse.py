"""Our use of ParseNet against the reference's masks and logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from atelier_restorer.parse import FaceParser
from tests.parity import recipe
from tests.parity.face_parts import parser

TOLERANCE = 1e-3
"""Of logits from -46 to 48; two CPUs were measured to differ by 0.0002."""


@pytest.mark.slow  # a forward pass of 5 s and more; test_paste.py has one of the same network
@pytest.mark.parametrize("seed", [1, 2])
def test_classes_and_logits_equal_the_reference(seed: int) -> None:
    pixels = recipe.image("parsenet", seed, 512, 512)
    meta = json.loads((recipe.FOLDER / "goldens" / f"meta_s{seed}.json").read_text("utf-8"))
    assert recipe.fingerprint(pixels) == meta["parsenet"]["image"], "numpy draws another stream"
    golden = recipe.golden(f"parsenet_s{seed}")
    logits = parser(seed).logits(pixels[None])[0].numpy()
    np.testing.assert_allclose(logits[:, ::32, ::32], golden["logits"], rtol=0, atol=TOLERANCE)

    classes = logits.argmax(axis=0)
    clear = golden["margin"] > 2 * TOLERANCE
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(classes[::4, ::4][clear], golden["mask"][clear])
    best = np.sort(logits, axis=0)
    unclear = int((best[-1] - best[-2] <= 2 * TOLERANCE).sum())
    counts = np.bincount(classes.ravel(), minlength=19)
    assert np.abs(counts - golden["hist"]).sum() <= 2 * unclear


@pytest.mark.slow
def test_in_bfloat16_only_close_classes_change() -> None:
    """Random weights decide many pixels closely; half of all margins are below 4.3."""
    pixels = recipe.picture("parsenet", 1)[None]
    state = recipe.state_dict("parsenet", 1)
    exact = parser(1).logits(pixels)
    low = FaceParser.from_state_dict(state, torch.device("cpu"), torch.bfloat16).logits(pixels)
    first, second = exact.topk(2, dim=1).values.unbind(1)
    differ = exact.argmax(1) != low.argmax(1)
    assert low.dtype == torch.float32
    assert float(differ.float().mean()) < 0.03
    assert float((first - second)[differ].max()) < 1.5
