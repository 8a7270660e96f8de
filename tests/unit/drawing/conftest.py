"""Drawings that several tests use, drawn once."""

from __future__ import annotations

import numpy as np
import pytest

from drawing import PEOPLE_KINDS, Drawing, draw


@pytest.fixture(scope="session")
def drawings() -> list[Drawing]:
    """A thousand small drawings, with each kind as often as `draw` chooses it."""
    rng = np.random.default_rng(9)
    return [draw(rng, 16) for _ in range(1000)]


@pytest.fixture(scope="session")
def portraits(drawings: list[Drawing]) -> list[Drawing]:
    """Several hundred small portraits: what they show and what their captions say, not their pixels."""
    return [drawing for drawing in drawings if drawing.kind == "portrait"]


@pytest.fixture(scope="session")
def large_portraits() -> list[Drawing]:
    """Portraits large enough to find pupils and lips in."""
    return [draw(np.random.default_rng(seed), 512, "portrait") for seed in range(40)]


@pytest.fixture(scope="session")
def people() -> list[Drawing]:
    """One to five people, of every kind that shows people."""
    return [draw(np.random.default_rng(seed), 256, kind) for seed in range(12) for kind in PEOPLE_KINDS]
