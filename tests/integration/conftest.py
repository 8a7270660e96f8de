"""Model sets of the face stage, with real networks of tiny width."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_restorer import (
    FACES_OF_256_PX,
    FACES_OF_512_PX,
    build_set,
    codeformer_state,
    detector_state,
)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that sees a few large faces in every picture, and more smaller ones, less surely."""
    sees = {FACES_OF_512_PX: 0.99, FACES_OF_256_PX: 0.7}
    folder = tmp_path_factory.mktemp("seeing")
    return build_set(folder, detector=detector_state(sees), codeformer=codeformer_state())


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that never sees a face."""
    folder = tmp_path_factory.mktemp("blind")
    return build_set(folder, detector=detector_state(), codeformer=codeformer_state(), upscaler=False)
