"""The commands with checkpoint files as they are published, against the reference's answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import recipe

PX_TOLERANCE = 0.5
SCORE_TOLERANCE = 1e-4


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, as a photo team does."""
    return subprocess.run(
        [sys.executable, "-m", "atelier_restorer", *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(("network", "seed"), [("retinaface_resnet50", 1), ("retinaface_mobile025", 2)])
def test_detect_prints_the_faces_of_the_reference(tmp_path: Path, network: str, seed: int) -> None:
    state = recipe.state_dict(network, seed)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "detector.pth")
    Image.fromarray(recipe.image("retinaface", seed, 256, 320)).save(tmp_path / "picture.png")
    ran = command(
        *("detect", tmp_path / "picture.png", "--detect-size", "0", "--detector", tmp_path / "detector.pth")
    )
    (tmp_path / "detector.pth").unlink()  # a hundred megabytes
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    found = np.array(
        [
            [*face["box"], face["confidence"], *np.ravel(face["landmarks"])]
            for face in json.loads(ran.stdout)["faces"]
        ]
    )
    golden = recipe.golden(f"{network}_s{seed}")
    assert len(found) == golden["n_detections"]
    wanted = golden["detections"]  # the first two hundred
    left = list(range(len(found)))
    for row in wanted:  # scores tie in places, so the order is nobody's to compare
        distance = np.abs(found[left] - row)
        near = (np.delete(distance, 4, axis=1).max(axis=1) <= PX_TOLERANCE) & (
            distance[:, 4] <= SCORE_TOLERANCE
        )
        assert near.any(), row
        del left[int(np.flatnonzero(near)[0])]


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["0", "0.6"])
def test_restore_writes_the_picture_of_the_reference(tmp_path: Path, fidelity: str) -> None:
    torch.save({"params_ema": recipe.state_dict("codeformer", 1)}, tmp_path / "codeformer.pth")
    Image.fromarray(recipe.image("codeformer", 1, 512, 512)).save(tmp_path / "crop.png")
    ran = command(
        *("restore", tmp_path / "crop.png", tmp_path / "out.png", "--aligned", "--fidelity", fidelity),
        *("--codeformer", tmp_path / "codeformer.pth", "--report", tmp_path / "report.json"),
    )
    (tmp_path / "codeformer.pth").unlink()  # a third of a gigabyte
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["face_restoration_applied"] and report["model_set"] == "codeformer.pth"
    assert "demo set" not in ran.stderr, "only one network was used"
    golden = recipe.golden("codeformer_s1")[f"w{fidelity}"].transpose(1, 2, 0)
    expected = np.rint((golden.clip(-1, 1) + 1) * 127.5)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (512, 512)
        assert np.abs(np.array(picture)[::8, ::8].astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_the_whole_of_the_reference_flow_from_single_files(tmp_path: Path) -> None:
    """Every published file at once, none from the demo set: detect, restore, parse, enlarge."""
    files = {
        "codeformer": "codeformer",
        "detector": "retinaface_resnet50",
        "parser": "parsenet",
        "upscaler": "realesrgan_x2plus",
    }
    flags: list[object] = []
    for role, network in files.items():
        torch.save(recipe.state_dict(network, 1), tmp_path / f"{role}.pth")
        flags += [f"--{role}", tmp_path / f"{role}.pth"]
    Image.fromarray(recipe.image("retinaface", 1, 120, 160)).save(tmp_path / "in.png")
    ran = command(
        *("restore", tmp_path / "in.png", tmp_path / "out.png", "--mask", "parse", "--upscale", "2"),
        *("--max-faces", "1", *flags),
    )
    assert ran.returncode == 0, ran.stderr
    for role in files:
        (tmp_path / f"{role}.pth").unlink()
    assert "demo set" not in ran.stderr
    report = json.loads(ran.stdout)
    assert report["face_restoration_applied"] and report["upscaler"] == "upscaler"
    assert report["model_set"] == "detector.pth + codeformer.pth + upscaler.pth + parser.pth"
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (320, 240)
