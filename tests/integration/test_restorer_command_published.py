"""The commands with checkpoint files as they are published, against the reference's results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facexlib.detection.retinaface import RetinaFace
from PIL import Image

from atelier_restorer.align import TEMPLATE
from atelier_restorer.detect import FaceDetector
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_runtime import defaults
from atelier_runtime.service_status import NetworkRole
from atelier_runtime.upscaler import Upscaler
from atelier_runtime.weights import Component
from tests.parity import recipe, reference_paste
from tests.parity.face_parts import parser

CPU = torch.device("cpu")

PX_TOLERANCE = 0.5
SCORE_TOLERANCE = 1e-4


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, as a photo team does, in the dtype of the reference."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")}
    return subprocess.run(
        [sys.executable, "-m", "atelier_restorer", *map(str, arguments)],
        env=environment | {"ATELIER_RESTORER_DTYPE": "float32"},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(("network", "seed"), [("retinaface_resnet50", 1), ("retinaface_mobile025", 2)])
def test_detect_prints_the_faces_of_the_reference(tmp_path: Path, network: str, seed: int) -> None:
    state = recipe.state_dict(network, seed)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "detector.pth")
    Image.fromarray(recipe.image("retinaface", seed, 256, 320)).save(tmp_path / "image.png")
    ran = command(
        *("detect", tmp_path / "image.png", "--detect-size", "0", "--look", "once"),
        *("--detector", tmp_path / "detector.pth"),
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
    expected = golden["detections"]  # the first two hundred
    left = list(range(len(found)))
    for row in expected:  # some scores are equal, so the order may differ
        distance = np.abs(found[left] - row)
        near = (np.delete(distance, 4, axis=1).max(axis=1) <= PX_TOLERANCE) & (
            distance[:, 4] <= SCORE_TOLERANCE
        )
        assert near.any(), row
        del left[int(np.flatnonzero(near)[0])]


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["0", "0.6"])
def test_restore_writes_the_image_of_the_reference(tmp_path: Path, fidelity: str) -> None:
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
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (512, 512)
        assert np.abs(np.array(image)[::8, ::8].astype(int) - expected).max() <= 1


def detected_by_facexlib(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return what the public package's own detector finds (F, 15), highest confidence first."""
    network = RetinaFace(network_name="resnet50", device=CPU)
    network.load_state_dict(recipe.state_dict("retinaface_resnet50", seed))
    height, width = pixels.shape[:2]
    scale = 640 / min(height, width)
    size = int(width * scale), int(height * scale)
    bgr = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), size, interpolation=cv2.INTER_LINEAR)
    with torch.inference_mode():
        found = np.array(network.eval().detect_faces(bgr, 0.8))
    places = np.arange(15) != 4
    found[:, places] *= np.tile([width / size[0], height / size[1]], 7)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")  # of an argument that facexlib gives
def test_the_complete_reference_flow_from_single_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All published files together, none from the demo set: detect, restore, parse, upscale, paste.

    Compared with the reference's flow in its own steps: facexlib detects the face, OpenCV cuts the crop, the
    networks, each tested against the reference, restore and parse it, and it is pasted over the full image.
    """
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
    pixels = recipe.image("retinaface", 1, 120, 160)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    ran = command(
        *("restore", tmp_path / "in.png", tmp_path / "out.png", "--mask", "parse", "--upscale", "2"),
        *("--max-faces", "1", "--save-mask", tmp_path / "mask.png", *flags),
    )
    assert ran.returncode == 0, ran.stderr
    upscaler = Upscaler.load(Component(NetworkRole.UPSCALER, "x2", tmp_path / "upscaler.pth"), CPU)
    for role in files:
        (tmp_path / f"{role}.pth").unlink()
    assert "demo set" not in ran.stderr
    report = json.loads(ran.stdout)
    assert report["face_restoration_applied"] and report["upscaler"] == "upscaler"
    assert report["model_set"] == "detector.pth + codeformer.pth + upscaler.pth + parser.pth"

    [restored] = [face for face in report["faces"] if face["restored"]]
    found = detected_by_facexlib(pixels, 1)
    large_enough = found[np.hypot(*(found[:, 5:7] - found[:, 7:9]).T) >= 5]
    # boxes are in px of the upscaled image
    distance = np.abs(large_enough[:, :4] - np.array(restored["box"]) / 2).max(axis=1)
    nearest = large_enough[distance.argmin()]
    assert distance.min() <= PX_TOLERANCE
    assert nearest[4] >= large_enough[0, 4] - SCORE_TOLERANCE, (
        "the one of highest confidence among those large enough"
    )

    # From here on with our own landmarks, which each processor rounds in its own way: to a network of made-up
    # weights a crop that is shifted by a hundredth of a pixel is another face.
    detector = FaceDetector.from_state_dict(recipe.state_dict("retinaface_resnet50", 1), CPU)
    [ours] = detector.detect([pixels], size_px=defaults.DETECT_SIZE_PX, min_confidence=0.0)
    [landmarks] = [
        np.array(face.landmarks)
        for face in ours
        if np.abs(np.array(face.box) - np.array(restored["box"]) / 2).max() < 0.01
    ]
    assert np.abs(landmarks - nearest[5:].reshape(5, 2)).max() <= PX_TOLERANCE
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE, method=cv2.LMEDS)
    crop = cv2.warpAffine(pixels, matrix, (512, 512), borderValue=(132, 133, 135))
    codeformer = CodeFormer.from_state_dict(recipe.state_dict("codeformer", 1))
    [face] = FaceRestorer(codeformer, CPU, torch.float32).restore(crop[None].astype(np.uint8), [(0, 0.6)])
    assert isinstance(face, np.ndarray)
    background = upscaler.upscale(pixels, lambda: None)
    monkeypatch.setitem(reference_paste.SETS, "found", {"landmarks": landmarks.tolist()})
    monkeypatch.setattr(reference_paste, "upscaled", lambda image, factor: background)
    expected = reference_paste.paste(
        pixels, [(face, "found")], 2, [parser(1).classify(face[None])[0]], reference_paste.Faults()
    )
    with Image.open(tmp_path / "out.png") as image, Image.open(tmp_path / "mask.png") as mask:
        result, inside = np.array(image).astype(int), np.array(mask) > 0
    assert result.shape == (240, 320, 3) and inside.sum() > 100
    np.testing.assert_array_equal(result[~inside], background[~inside])
    assert np.abs(result - background)[inside].mean() > 5, "the face is visible"
    assert (np.abs(result - expected).max(axis=2)[inside] <= 2).mean() >= 0.999
