"""Drawings that several tests use, drawn once."""

from __future__ import annotations

import numpy as np
import pytest

from drawing import PEOPLE_KINDS, Drawing, draw


@pytest.fixture(scope="session")
def large_portraits() -> list[Drawing]:
    """Portraits large enough to find pupils and lips in."""
    return [draw(np.random.default_rng(seed), 512, "portrait") for seed in range(40)]


@pytest.fixture(scope="session")
def people() -> list[Drawing]:
    """One to five people, of every kind that shows people."""
    return [draw(np.random.default_rng(seed), 256, kind) for seed in range(12) for kind in PEOPLE_KINDS]
