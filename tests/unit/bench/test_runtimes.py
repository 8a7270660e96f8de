"""What the benchmark of other runtimes compares: the networks that it exports must be ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from atelier_restorer.nets.codeformer import CodeFormer
from bench import runtimes
from tests.tiny_restorer import codeformer_state


@torch.inference_mode()
def test_codeformer_in_two_parts_is_codeformer() -> None:
    network = CodeFormer.from_state_dict(codeformer_state()).eval()
    face = torch.rand(1, 3, 512, 512) * 2 - 1
    expected = network(face, runtimes.FIDELITY)
    image, codes = runtimes.Decoding(network)(*runtimes.Encoding(network)(face))
    assert torch.equal(codes, expected.codes.flatten(1))
    torch.testing.assert_close(image, expected.image, rtol=0, atol=1e-5)


def test_differences_count_codes_apart_from_values(tmp_path: Path) -> None:
    codes = np.arange(4)
    np.savez(tmp_path / f"{runtimes.REFERENCE}.npz", np.array([0, 2], np.float32), codes)
    np.savez(tmp_path / "other.npz", np.array([0.5, 2], np.float32), np.where(codes == 3, 9, codes))
    assert runtimes.differences("codeformer", "other", tmp_path) == {
        "codes_that_differ": 1,
        "largest_value": 2.0,
        "largest_difference": 0.5,
        "mean_difference": 0.25,
    }


def test_every_network_has_an_input() -> None:
    assert set(runtimes.INPUTS) == set(runtimes.NETWORKS)
