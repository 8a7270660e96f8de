"""A compiled CodeFormer: every batch that a service runs fits what was compiled, and no face changes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from atelier_restorer.compilation import compile_codeformer
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_restorer.settings import RestorerSettings
from tests.compiling import CountingBackend, own_compiler
from tests.tiny_restorer import codeformer_state

CPU = torch.device("cpu")
MAX_BATCH = 3
DECODES = {
    "one": [(0, 0.5)],
    "three, one of which is not fused": [(0, 0.5), (1, 0.0), (2, 1.0)],
    "none is fused": [(0, 0.0), (1, 0.0)],
    "one at three fidelities": [(0, 0.0), (0, 0.3), (0, 1.0)],
    "two at different ones, and one is left": [(0, 0.2), (1, 0.4), (1, 0.0)],
}


def restorer(*, fixed_batches: bool = False) -> FaceRestorer:
    network = CodeFormer.from_state_dict(codeformer_state())
    return FaceRestorer(network, CPU, torch.float32, fixed_batches=fixed_batches)


def crops_for(decodes: list[tuple[int, float]]) -> np.ndarray:
    count = 1 + max(row for row, _ in decodes)
    return np.random.default_rng(3).integers(0, 256, (count, 512, 512, 3), np.uint8)


@pytest.fixture(scope="module", params=[("blocks", False), ("max", True)], ids=str)
def compiled(request: pytest.FixtureRequest) -> Iterator[tuple[FaceRestorer, FaceRestorer, CountingBackend]]:
    """A compiled and an eager CodeFormer, and the backend of the former."""
    mode, fixed_batches = request.param
    backend = CountingBackend()
    settings = RestorerSettings(device="cpu", compile=mode, max_batch=MAX_BATCH)
    with own_compiler():
        found = restorer(fixed_batches=fixed_batches)
        compile_codeformer(found, settings, max_batch=MAX_BATCH, backend=backend)
        yield found, restorer(fixed_batches=fixed_batches), backend


@pytest.mark.parametrize("name", DECODES)
def test_batches_of_a_service_compile_nothing_and_run_compiled(
    compiled: tuple[FaceRestorer, FaceRestorer, CountingBackend], name: str
) -> None:
    found, eager, backend = compiled
    decodes = DECODES[name]
    graphs, runs = backend.graphs, backend.runs
    faces = found.restore(crops_for(decodes), decodes, max_batch=MAX_BATCH)
    assert backend.graphs == graphs
    fused = any(fidelity for _, fidelity in decodes)
    assert backend.runs - runs == parts_of(found.network) - (0 if fused else fused_parts(found.network))
    expected = eager.restore(crops_for(decodes), decodes, max_batch=MAX_BATCH)
    for face, other in zip(faces, expected, strict=True):
        assert np.abs(np.asarray(face, int) - np.asarray(other, int)).max() <= 1


def test_a_larger_batch_runs_eagerly(
    compiled: tuple[FaceRestorer, FaceRestorer, CountingBackend],
) -> None:
    """As one face at more fidelities than a batch has faces."""
    found, eager, backend = compiled
    decodes = [(0, w / 8) for w in range(1, 6)]
    graphs = backend.graphs
    faces = found.restore(crops_for(decodes), decodes, max_batch=MAX_BATCH)
    assert backend.graphs == graphs and len(faces) == 5
    expected = eager.restore(crops_for(decodes), decodes, max_batch=MAX_BATCH)
    assert np.abs(np.asarray(faces, int) - np.asarray(expected, int)).max() <= 1


def parts_of(network: CodeFormer) -> int:
    """Return how many parts of the network are compiled."""
    return sum("forward" in vars(module) for module in network.modules())


def fused_parts(network: CodeFormer) -> int:
    return sum("forward" in vars(module) for module in network.fuse_convs_dict.modules())
