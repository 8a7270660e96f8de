"""Fixed batch sizes: padding changes no face and is never returned."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier_restorer.crop_batches import bucket
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from tests.tiny_restorer import codeformer_state

CPU = torch.device("cpu")
DECODES = {
    "each once": [(0, 0.5), (1, 0.7), (2, 1.0)],
    "a sweep of one and two others": [(0, 0.0), (0, 0.3), (0, 1.0), (1, 0.5), (2, 0.0)],
    "none is fused": [(0, 0.0), (1, 0.0), (2, 0.0)],
    "the last is not fused": [(0, 0.2), (1, 0.4), (2, 0.6), (2, 0.0)],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With more threads, torch splits sums depending on the batch size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, 512, 512, 3), np.uint8)


def restorer(*, fixed_batches: bool | None) -> FaceRestorer:
    network = CodeFormer.from_state_dict(codeformer_state())
    return FaceRestorer(network, CPU, torch.float32, fixed_batches=fixed_batches)


def watch_sizes(network: CodeFormer) -> dict[str, int]:
    """Return a dict in which the network's parts record the size of their last batch."""
    seen: dict[str, int] = {}

    def watch(name: str, part: nn.Module) -> None:
        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen[name] = len(given[0])

        part.register_forward_pre_hook(note)

    for name in ("encoder", "idx_pred_layer"):
        watch(name, getattr(network, name))
    watch("generator", network.generator.blocks[0])
    watch("fusion", next(iter(network.fuse_convs_dict.values())))
    return seen


@pytest.mark.parametrize(
    ("count", "limit", "size"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (8, 8, 8), (5, 6, 6), (7, 4, 7), (3, 1, 3), (9, None, 16)],
)
def test_a_bucket_is_the_next_power_of_two_within_the_largest_batch(
    count: int, limit: int | None, size: int
) -> None:
    assert bucket(count, limit) == size


@pytest.mark.parametrize("name", DECODES)
def test_padding_changes_no_face_and_adds_none(crops: np.ndarray, name: str) -> None:
    plain = restorer(fixed_batches=None).restore(crops, DECODES[name], max_batch=8)
    padded = restorer(fixed_batches=True).restore(crops, DECODES[name], max_batch=8)
    assert len(padded) == len(plain) == len(DECODES[name])
    np.testing.assert_array_equal(np.stack(padded), np.stack(plain))


@pytest.mark.parametrize(
    ("name", "limit", "sizes"),
    [
        ("each once", 8, (4, 4, 4)),
        ("each once", 3, (3, 3, 3)),
        ("a sweep of one and two others", 8, (4, 8, 4)),
        ("a sweep of one and two others", 6, (4, 6, 4)),
        ("a sweep of one and two others", 2, (3, 5, 3)),
        ("none is fused", 8, (4, 4, None)),
        ("the last is not fused", 8, (4, 4, 4)),
    ],
)
def test_each_part_runs_at_a_fixed_size(
    crops: np.ndarray, name: str, limit: int, sizes: tuple[int, int, int | None]
) -> None:
    fixed = restorer(fixed_batches=True)
    seen = watch_sizes(fixed.network)
    fixed.restore(crops, DECODES[name], max_batch=limit)
    assert (seen["encoder"], seen["generator"], seen.get("fusion")) == sizes
    assert seen["idx_pred_layer"] == seen["encoder"]


def test_a_cpu_computes_no_more_than_is_requested(crops: np.ndarray) -> None:
    plain = restorer(fixed_batches=None)
    seen = watch_sizes(plain.network)
    plain.restore(crops, DECODES["a sweep of one and two others"], max_batch=8)
    assert (seen["encoder"], seen["generator"], seen["fusion"]) == (3, 5, 3)
