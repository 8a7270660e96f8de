"""How far our networks' outputs are from the reference's, for one seed of the goldens in tests/parity.

`python -m bench.parity --seed 1` prints JSON to stdout, and to stderr a table of network, quantity, largest
difference and tolerance. Exits with 1 if a tolerance is exceeded. Takes two minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from spandrel import ModelLoader

from atelier_restorer.detect import FaceDetector, make_anchors
from atelier_restorer.nets.codeformer import CodeFormer, match_statistics
from atelier_restorer.parse import FaceParser
from bench.report import machine, print_json
from tests.parity import recipe

CPU = torch.device("cpu")
LOGIT_TOLERANCE = 1e-4
PARSER_LOGIT_TOLERANCE = 1e-3  # of logits from -46 to 48


@dataclass(frozen=True)
class Figure:
    """One row of the table. A count is a difference too: of elements that differ from the reference's."""

    network: str
    quantity: str
    difference: float
    tolerance: float
    unit: str = ""

    @property
    def within_tolerance(self) -> bool:
        """Return whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


def max_difference(ours: ArrayLike, reference: ArrayLike) -> float:
    """Return the largest absolute difference; NaN if there is one on either side."""
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(reference, np.float64)).max())


@torch.inference_mode()
def codeformer(seed: int) -> Iterator[Figure]:
    """Latent, logits, codes, and the images decoded from the reference's codes."""
    name, golden = "CodeFormer", recipe.golden(f"codeformer_s{seed}")
    network = CodeFormer.from_state_dict(recipe.state_dict("codeformer", seed)).prepare_for_cpu().eval()
    pixels = torch.from_numpy(recipe.picture("codeformer", seed)).permute(2, 0, 1)[None]
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # as the restorer's on a CPU
    features, lq_feature = network.encode(pixels.float() / 127.5 - 1)
    logits = network.predict_codes(lq_feature)
    yield Figure(
        name, "lq_feat", max_difference(lq_feature[0, ::2, ::2, ::2], golden["lq_feat"]), LOGIT_TOLERANCE
    )
    yield Figure(name, "logits", max_difference(logits[0, ::16, ::8], golden["logits"]), LOGIT_TOLERANCE)
    first, second = logits[0].topk(2).values.unbind(1)
    yield Figure(name, "top-2 margins", max_difference(first - second, golden["margin"]), 2 * LOGIT_TOLERANCE)
    differing = logits[0].argmax(dim=1).numpy() != golden["codes"]
    clear = golden["margin"] > 2 * LOGIT_TOLERANCE
    quantity = f"codes that differ, of {clear.sum()} with a margin above {2 * LOGIT_TOLERANCE:g}"
    yield Figure(name, quantity, int(differing[clear].sum()), 0)
    codes = network.lookup(torch.from_numpy(golden["codes"].astype(np.int64)).view(1, 16, 16))
    matched = match_statistics(codes, lq_feature)
    for key, latent in (
        *((f"w{fidelity:g}", matched) for fidelity in (0, 0.3, 0.6, 0.9, 1)),
        ("w0.6_noadain", codes),
    ):
        image = network.decode(latent, features, float(key[1:].split("_")[0]))[0].numpy()
        step, span = image.shape[1] // golden[key].shape[1], float(np.ptp(image))
        quantity = key.replace("w", "image at w ").replace("_noadain", " without AdaIN")
        difference = max_difference(image[:, ::step, ::step], golden[key]) / span
        yield Figure(name, quantity, difference, 1e-4, f"of its range, {span:.1f}")
        if f"{key}_mean" in golden:
            moments = (golden[f"{key}_mean"], golden[f"{key}_std"])
            difference = max_difference((image.mean(dtype=np.float64), image.std(dtype=np.float64)), moments)
            yield Figure(name, f"mean and standard deviation of the whole {quantity}", difference, 1e-5)


@torch.inference_mode()
def rrdbnet(network: str, name: str, seed: int) -> Iterator[Figure]:
    """The raw output of the upscaler's network, not clamped to 0 to 1."""
    golden = recipe.golden(f"{network}_s{seed}")
    model = ModelLoader().load_from_state_dict(recipe.state_dict(network, seed)).eval().model
    pixels, stride = torch.from_numpy(recipe.picture(network, seed)), int(golden["stride"])
    output = model(pixels.permute(2, 0, 1)[None].float() / 255)[0].numpy()
    yield Figure(name, "output", max_difference(output[:, ::stride, ::stride], golden["out"]), 1e-4)
    moments = (output.mean(dtype=np.float64), output.std(dtype=np.float64))
    yield Figure(
        name, "mean and standard deviation", max_difference(moments, (golden["mean"], golden["std"])), 1e-5
    )


@torch.inference_mode()
def retinaface(network: str, name: str, seed: int) -> Iterator[Figure]:
    """Raw outputs, anchors, and the number of faces that remain; tests/parity/test_detect.py matches them."""
    golden, pixels = recipe.golden(f"{network}_s{seed}"), recipe.picture(network, seed)
    detector = FaceDetector.from_state_dict(recipe.state_dict(network, seed), CPU)
    raw = zip(detector.raw(pixels[None]), ("loc", "conf", "landms"), strict=True)
    for output, key in raw:
        yield Figure(name, key, max_difference(output[0], golden[key]), 1e-4)
    yield Figure(name, "priors", max_difference(make_anchors(*pixels.shape[:2]), golden["priors"]), 0)
    faces = detector.detect([pixels], size_px=0, min_confidence=0.8)[0]
    expected = int(golden["n_detections"])
    yield Figure(name, f"faces after score threshold and NMS, of {expected}", abs(len(faces) - expected), 0)
    if expected:
        found = np.array([[*face.box, *np.ravel(face.landmarks)] for face in faces])
        points = np.delete(golden["detections"], 4, axis=1)
        distances = np.abs(points[:, None] - found[None]).max(axis=2).min(axis=1)
        yield Figure(name, "boxes and landmarks", float(distances.max()), 0.5, "px")


@torch.inference_mode()
def parsenet(seed: int) -> Iterator[Figure]:
    """Logits, and the classes of pixels that rounding cannot flip."""
    name, golden = "ParseNet", recipe.golden(f"parsenet_s{seed}")
    parser = FaceParser.from_state_dict(recipe.state_dict("parsenet", seed), CPU)
    logits = parser.logits(recipe.picture("parsenet", seed)[None])[0]
    found = max_difference(logits[:, ::32, ::32], golden["logits"])
    yield Figure(name, "logits", found, PARSER_LOGIT_TOLERANCE)
    clear = golden["margin"] > 2 * PARSER_LOGIT_TOLERANCE
    differing = logits.argmax(dim=0).numpy()[::4, ::4] != golden["mask"]
    quantity = f"classes that differ, of {clear.sum()} with a margin above {2 * PARSER_LOGIT_TOLERANCE:g}"
    yield Figure(name, quantity, int(differing[clear].sum()), 0)


PARTS: dict[str, Callable[[int], Iterator[Figure]]] = {
    "codeformer": codeformer,
    "retinaface_resnet50": lambda s: retinaface("retinaface_resnet50", "RetinaFace ResNet50", s),
    "retinaface_mobile025": lambda s: retinaface("retinaface_mobile025", "RetinaFace mobile0.25", s),
    "parsenet": parsenet,
    "realesrgan_x2plus": lambda s: rrdbnet("realesrgan_x2plus", "RRDBNet x2", s),
    "realesrgan_x4plus": lambda s: rrdbnet("realesrgan_x4plus", "RRDBNet x4", s),
}


def to_markdown(figures: list[Figure]) -> str:
    """Return the table."""
    lines = ["| network | quantity | largest difference | tolerance |", "|---|---|---|---|"]
    for figure in figures:
        mark = "" if figure.within_tolerance else " **exceeded**"
        unit = f" {figure.unit}" if figure.unit else ""
        cells = (
            figure.network,
            figure.quantity,
            f"{figure.difference:.2g}{unit}{mark}",
            f"{figure.tolerance:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the comparison; return 1 if a tolerance is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, choices=(1, 2), default=1)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="networks")
    given = parser.parse_args()
    figures = [figure for part in given.only for figure in PARTS[part](given.seed)]
    print_json(
        {
            "machine": machine(),
            "seed": given.seed,
            "figures": [asdict(figure) | {"within_tolerance": figure.within_tolerance} for figure in figures],
        }
    )
    print(to_markdown(figures), file=sys.stderr)
    return 0 if all(figure.within_tolerance for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
