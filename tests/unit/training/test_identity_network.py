"""The identity network of the demo set: the ONNX file computes what the network does, figures are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import drawing
from atelier_restorer.align import CROP_SIZE
from atelier_restorer.identity import OnnxIdentifier
from atelier_restorer.recognition_crop import SIDE, recognition_crop
from training.identity import IdentityNet, equal_error_rate, to_tensor
from training.identity_onnx import write_onnx
from training.people import another_day, drawn_view, person_of


def test_the_onnx_file_computes_what_the_network_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = IdentityNet()
    with torch.no_grad():
        for _ in range(3):  # so that the normalizations have statistics to fold in
            network(torch.rand(8, 3, SIDE, SIDE) * 255)
    write_onnx(network.eval(), tmp_path / "identity.onnx")
    crop = np.random.default_rng(0).integers(0, 256, (CROP_SIZE, CROP_SIZE, 3), np.uint8)
    with torch.no_grad():
        vector = network(to_tensor(recognition_crop(crop)[None]))[0].numpy()
    found = OnnxIdentifier((tmp_path / "identity.onnx").read_bytes()).embed(crop).direction
    np.testing.assert_allclose(found, vector / np.linalg.norm(vector), atol=1e-4)


def test_a_person_is_what_stays_from_day_to_day() -> None:
    person, rng = person_of(0, 7)
    days = [another_day(rng, person) for _ in range(20)]
    passing = ("expression", "turn", "clothes", "shirt", "tie", "scarf", "cover", "hat", "hat_color")
    jewelry = ("earrings", "necklace")
    kept = [replace(day, **{name: getattr(person, name) for name in (*passing, *jewelry)}) for day in days]
    assert all(day == person for day in kept) and len(set(days)) > 10
    assert person_of(0, 7)[0] == person != person_of(0, 8)[0]


def test_a_view_shows_the_eyes_where_recognition_expects_them() -> None:
    person = replace(drawing.sample_person(np.random.default_rng(3)), glasses=None, skin="pale", cover=None)
    views = [drawn_view(np.random.default_rng(seed), person).astype(float).mean(2) for seed in range(6)]
    mean = np.mean(views, axis=0)
    assert mean.shape == (SIDE, SIDE)
    for x in (38, 73):  # the pupils are darker than the cheeks below them
        assert mean[49:54, x - 2 : x + 3].mean() < mean[70:76, x - 4 : x + 5].mean() - 20


@pytest.mark.parametrize(
    ("same", "others", "rate"),
    [([0.8, 0.9, 0.7], [0.1, 0.2, 0.0], 0.0), ([0.6, 0.2], [0.1, 0.5], 0.5), ([0.1], [0.9], 1.0)],
)
def test_the_equal_error_rate(same: list[float], others: list[float], rate: float) -> None:
    found, _ = equal_error_rate(np.array(same, np.float32), np.array(others, np.float32))
    assert found == pytest.approx(rate)
