"""Time face restoration against the public flow, facexlib's, in one process and in turn.

`python -m bench.restore` pastes prepared faces; `--networks set` runs the networks of the model set as well,
`--networks published` those of the published sizes with random weights. Prints JSON: seconds by phase
(median, min, max), memory by phase, how much the images differ, and how the time of one and the same face
grows with the image around it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from atelier_restorer.align import face_to_crop
from atelier_runtime.images import RgbArray
from atelier_runtime.sizes import Size
from atelier_runtime.upscaler import resample
from bench import our_flow
from bench.face_networks import SETS, FaceNetworks, load_networks
from bench.face_scene import FaceScene, make_scene, make_scene_with_one_face
from bench.phases import MEMORY_KIND, Phases, memory_can_be_measured
from bench.reference_flow import ReferenceFlow
from bench.report import machine, print_json, spread

Samples = list[dict[str, float]]

MAX_LEVELS = 2
_PARSE = {"off": (False,), "on": (True,), "both": (False, True)}
_SAME_FACE_PX = 428  # the side of a face's square when there are eight in four megapixels
_GROWTH_REPEATS = 5  # a paste is over in milliseconds
_NOTES = {
    "reference": "facexlib's FaceRestoreHelper with the same faces; one forward pass per face, same weights",
    "paste": "without the parser's network, which is 'parse'; ours pastes into the image that it decoded or "
    "upscaled, and makes the mask only for a request that wants it",
    "speedup": "the reference's seconds over ours, run by run; of_min: minimum over minimum",
    "same_face": "no reference, no networks; each paste is into a fresh copy, whose seconds are given; "
    "with_mask: the mask of the whole image is made as well, as for a request that wants it",
    "level_difference": "8-bit levels between the two images where our mask is not 0; above scale 1 the "
    "reference is given our upscaled image and its half pixel is corrected",
    "total": "the sum of the phases; above scale 1 it includes each flow's own upscaling",
}


@dataclass(frozen=True)
class Case:
    """One row of the result."""

    faces: int
    megapixels: float
    scale: int
    parsed: bool

    @property
    def reference_cost(self) -> float:
        """Megapixels that the reference processes: the upscaled image, once per face."""
        return self.faces * self.megapixels * self.scale**2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = _arguments(arguments)
    networks = load_networks(given.networks, given.device) if given.networks else None
    result: dict[str, object] = {
        "machine": machine()
        | {"opencv_threads": cv2.getNumThreads(), "torch_threads": torch.get_num_threads()},
        "networks": networks.describe() if networks else "none: restored crops and classes are prepared",
        "notes": _NOTES,
        "memory_is": MEMORY_KIND if memory_can_be_measured() else "not measured: needs Linux",
    }
    cases = []
    for faces, megapixels in itertools.product(given.faces, given.megapixels):
        scene = make_scene(megapixels, faces, file_format=given.format)
        for scale, parsed in itertools.product(given.scale, _PARSE[given.parse]):
            case = Case(faces, megapixels, scale, parsed)
            print(f"{case}", file=sys.stderr)
            cases.append(measure(case, scene, networks, given))
    result["cases"] = cases
    result["same_face"] = [measure_growth(parsed, given) for parsed in _PARSE[given.parse]]
    print_json(result)


def measure(
    case: Case, scene: FaceScene, networks: FaceNetworks | None, given: argparse.Namespace
) -> dict[str, object]:
    """Time one case, ours and the reference in turn, and compare the results."""
    reference = ReferenceFlow(case.scale, networks)
    background = None
    if case.scale > 1:
        height, width = scene.image.shape[:2]
        background = resample(scene.image, Size(width * case.scale, height * case.scale))

    def ours(phases: Phases, with_mask: bool = False) -> tuple[RgbArray, RgbArray | None]:
        return our_flow.run(scene, case.scale, case.parsed, networks, phases, with_mask)

    def theirs(phases: Phases) -> RgbArray:
        return reference.run(scene, case.parsed, background, phases)

    with_reference = case.reference_cost <= given.reference_limit
    rgb, mask = ours(Phases(), with_mask=True)  # not timed: the first touches new memory
    assert mask is not None
    row: dict[str, object] = {
        "faces": case.faces,
        "megapixels": case.megapixels,
        "size": f"{scene.image.shape[1]}x{scene.image.shape[0]}",
        "face_square_px": scene.square_px,
        "scale": case.scale,
        "parsed_mask": case.parsed,
    }
    if with_reference:
        row["level_difference"] = level_difference(rgb, theirs(Phases()), mask)
    del rgb, mask
    samples: tuple[Samples, Samples] = ([], [])
    for number in range(given.repeats):
        samples[0].append(_timed(ours))
        if with_reference and number < given.reference_repeats:
            samples[1].append(_timed(theirs))
    row["atelier_seconds"] = _by_phase(samples[0])
    if networks:
        row["atelier_network_ms_per_face"] = _per_face(samples[0], case.faces)
    if with_reference:
        row["reference_seconds"] = _by_phase(samples[1])
        row["speedup"] = speedup(*samples)
        if networks:
            row["reference_network_ms_per_face"] = _per_face(samples[1], case.faces)
    else:
        row["reference_seconds"] = f"skipped: above --reference-limit {given.reference_limit}"
    if memory_can_be_measured():
        row["atelier_peak_mib"] = _peaks(ours)
        if with_reference:
            row["reference_peak_mib"] = _peaks(theirs)
    return row


def measure_growth(parsed: bool, given: argparse.Namespace) -> dict[str, object]:
    """Time one and the same face in images of several sizes, in turn; no reference, no networks."""
    scenes = {
        megapixels: make_scene_with_one_face(megapixels, _SAME_FACE_PX, file_format=given.format)
        for megapixels in given.megapixels
    }
    samples: dict[tuple[float, bool], Samples] = {
        (megapixels, with_mask): [] for with_mask in (False, True) for megapixels in scenes
    }
    for number in range(1 + _GROWTH_REPEATS * given.repeats):
        for (megapixels, with_mask), rows in samples.items():
            scene, phases = scenes[megapixels], Phases()
            with phases.phase("copy"):
                rgb = scene.image.copy()
            matrices = [face_to_crop(points) for points in scene.faces]
            classes = scene.classes if parsed else None
            our_flow.paste(rgb, matrices, 1, scene.restored, classes, phases, with_mask)
            if number > 0:
                rows.append(phases.seconds)

    def growth(with_mask: bool) -> dict[str, object]:
        paste = {m: [phases_s["paste"] for phases_s in samples[m, with_mask]] for m in scenes}
        small, large = paste[min(paste)], paste[max(paste)]
        return {
            "seconds": {f"{m} MP": spread(values) for m, values in paste.items()},
            "growth_of_median": round(statistics.median(large) / statistics.median(small), 2),
            "growth_of_min": round(min(large) / min(small), 2),
        }

    copies = {f"{m} MP": spread([phases_s["copy"] for phases_s in samples[m, False]]) for m in scenes}
    return {
        "face_square_px": _SAME_FACE_PX,
        "parsed_mask": parsed,
        "paste": growth(with_mask=False),
        "paste_with_mask": growth(with_mask=True),
        "copy_seconds": copies,
    }


def level_difference(ours: RgbArray, reference: RgbArray, mask: RgbArray) -> dict[str, object]:
    """Compare two images where the mask is not 0."""
    inside = mask > 0
    difference = np.abs(ours[inside].astype(np.int16) - reference[inside])
    outside = np.abs(ours[~inside].astype(np.int16) - reference[~inside])
    return {
        "largest": int(difference.max(initial=0)),
        f"share_within_{MAX_LEVELS}": round(float((difference <= MAX_LEVELS).mean()), 6),
        "largest_outside_the_mask": int(outside.max(initial=0)),
    }


def speedup(ours: Samples, reference: Samples) -> dict[str, dict[str, float | int]]:
    """Return the speedup of paste and of the total, from consecutive runs, and of the minimums."""
    pairs = list(zip(ours, reference, strict=False))  # the reference may have run less often

    def ratios(seconds_of: Callable[[dict[str, float]], float]) -> dict[str, float | int]:
        of_min = min(seconds_of(b) for b in reference) / min(seconds_of(a) for a in ours)
        return spread([seconds_of(b) / seconds_of(a) for a, b in pairs]) | {"of_min": round(of_min, 2)}

    return {"paste": ratios(lambda sample: sample["paste"]), "total": ratios(lambda s: sum(s.values()))}


def _timed(flow: Callable[[Phases], object]) -> dict[str, float]:
    phases = Phases()
    flow(phases)
    return phases.seconds


def _peaks(flow: Callable[[Phases], object]) -> dict[str, float]:
    phases = Phases(memory=True)
    flow(phases)
    return phases.peak_mib


def _by_phase(samples: Samples) -> dict[str, dict[str, float | int]]:
    row = {name: spread([sample[name] for sample in samples]) for name in samples[0]}
    return row | {"total": spread([sum(sample.values()) for sample in samples])}


def _per_face(samples: Samples, faces: int) -> dict[str, float | int]:
    """Return milliseconds of CodeFormer per face, including its crop's transfer to the device and back."""
    return spread([1000 * sample["restore"] / faces for sample in samples])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 4, 8, 30])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 24])
    parser.add_argument("--scale", type=int, nargs="+", default=[1, 2], choices=[1, 2, 4])
    parser.add_argument("--parse", choices=_PARSE, default="both", help="the mask: a soft square, or parsed")
    parser.add_argument("--networks", choices=SETS, help="run the networks too; default: none")
    parser.add_argument(
        "--device", help="of the networks: cpu, cuda, cuda:1; default: as in the restorer's settings"
    )
    parser.add_argument(
        "--format", choices=["png", "jpeg"], default="png", help="of the input and output file"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference-repeats", type=int, default=3)
    parser.add_argument(
        "--reference-limit",
        type=float,
        default=250,
        help="skip the reference if faces x megapixels of the result exceed this: each takes it about "
        "half a second, and a pixel 100 bytes",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
