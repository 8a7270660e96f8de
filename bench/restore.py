"""Time the restoration of faces beside the public flow, facexlib's, in one process and in turn.

`python -m bench.restore` pastes prepared faces; `--networks set` runs the networks of the model set as well,
`--networks published` those of the published sizes with random weights. Prints JSON: seconds by phase
(median, least, most), memory by phase, how far the pictures are apart, and how the time of one and the same
face grows with the picture around it.
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

LEVELS_APART = 2
_PARSE = {"off": (False,), "on": (True,), "both": (False, True)}
_SAME_FACE_PX = 428  # the side of a face's square where eight are in four megapixels
_GROWTH_REPEATS = 5  # a paste is over in milliseconds
_NOTES = {
    "reference": "facexlib's FaceRestoreHelper, the same faces given, one forward a face, the same weights",
    "paste": "without the parser's network, which is 'parse'; ours pastes into the picture that it decoded "
    "or enlarged, and makes the mask that a request may ask for only then",
    "times_faster": "the reference's seconds over ours, run by run; of_least: the least over the least",
    "same_face": "no reference, no networks; each paste is into a fresh copy, whose seconds are given; "
    "with_mask: the mask of the whole picture is made as well, as for a request that wants it back",
    "levels_apart": "8-bit levels between the two pictures where our mask is not 0; above scale 1 the "
    "reference is given our enlarged picture and its half pixel is taken out",
    "total": "the sum of the phases; above scale 1 each flow's own enlargement is in it",
}


@dataclass(frozen=True)
class Case:
    """One line of the bench."""

    faces: int
    megapixels: float
    scale: int
    parsed: bool

    @property
    def reference_cost(self) -> float:
        """Megapixels that the reference works through: the enlarged picture, once a face."""
        return self.faces * self.megapixels * self.scale**2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench."""
    given = _arguments(arguments)
    networks = load_networks(given.networks, given.device) if given.networks else None
    result: dict[str, object] = {
        "machine": machine()
        | {"opencv_threads": cv2.getNumThreads(), "torch_threads": torch.get_num_threads()},
        "networks": networks.describe() if networks else "left out: restored crops and classes are prepared",
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
    """Time one case, ours and the reference in turn, and compare what they made."""
    reference = ReferenceFlow(case.scale, networks)
    background = None
    if case.scale > 1:
        height, width = scene.picture.shape[:2]
        background = resample(scene.picture, Size(width * case.scale, height * case.scale))

    def ours(phases: Phases, with_mask: bool = False) -> tuple[RgbArray, RgbArray | None]:
        return our_flow.run(scene, case.scale, case.parsed, networks, phases, with_mask)

    def theirs(phases: Phases) -> RgbArray:
        return reference.run(scene, case.parsed, background, phases)

    with_reference = case.reference_cost <= given.reference_limit
    rgb, mask = ours(Phases(), with_mask=True)  # not timed: the first touches new memory
    assert mask is not None
    answer: dict[str, object] = {
        "faces": case.faces,
        "megapixels": case.megapixels,
        "size": f"{scene.picture.shape[1]}x{scene.picture.shape[0]}",
        "face_square_px": scene.square_px,
        "scale": case.scale,
        "parsed_mask": case.parsed,
    }
    if with_reference:
        answer["levels_apart"] = levels_apart(rgb, theirs(Phases()), mask)
    del rgb, mask
    samples: tuple[Samples, Samples] = ([], [])
    for number in range(given.repeats):
        samples[0].append(_timed(ours))
        if with_reference and number < given.reference_repeats:
            samples[1].append(_timed(theirs))
    answer["atelier_seconds"] = _by_phase(samples[0])
    if networks:
        answer["atelier_network_ms_a_face"] = _a_face(samples[0], case.faces)
    if with_reference:
        answer["reference_seconds"] = _by_phase(samples[1])
        answer["times_faster"] = times_faster(*samples)
        if networks:
            answer["reference_network_ms_a_face"] = _a_face(samples[1], case.faces)
    else:
        answer["reference_seconds"] = f"left out: above --reference-limit {given.reference_limit}"
    if memory_can_be_measured():
        answer["atelier_peak_mib"] = _peaks(ours)
        if with_reference:
            answer["reference_peak_mib"] = _peaks(theirs)
    return answer


def measure_growth(parsed: bool, given: argparse.Namespace) -> dict[str, object]:
    """Time one and the same face in pictures of several sizes, in turn; no reference, no networks."""
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
                rgb = scene.picture.copy()
            matrices = [face_to_crop(points) for points in scene.faces]
            classes = scene.classes if parsed else None
            our_flow.paste(rgb, matrices, 1, scene.restored, classes, phases, with_mask)
            if number > 0:
                rows.append(phases.seconds)

    def growth(with_mask: bool) -> dict[str, object]:
        paste = {m: [row["paste"] for row in samples[m, with_mask]] for m in scenes}
        small, large = paste[min(paste)], paste[max(paste)]
        return {
            "seconds": {f"{m} MP": spread(values) for m, values in paste.items()},
            "growth_of_median": round(statistics.median(large) / statistics.median(small), 2),
            "growth_of_least": round(min(large) / min(small), 2),
        }

    copies = {f"{m} MP": spread([row["copy"] for row in samples[m, False]]) for m in scenes}
    return {
        "face_square_px": _SAME_FACE_PX,
        "parsed_mask": parsed,
        "paste": growth(with_mask=False),
        "paste_with_mask": growth(with_mask=True),
        "copy_seconds": copies,
    }


def levels_apart(ours: RgbArray, reference: RgbArray, mask: RgbArray) -> dict[str, object]:
    """Compare two pictures where the mask is not 0."""
    inside = mask > 0
    apart = np.abs(ours[inside].astype(np.int16) - reference[inside])
    outside = np.abs(ours[~inside].astype(np.int16) - reference[~inside])
    return {
        "largest": int(apart.max(initial=0)),
        f"share_within_{LEVELS_APART}": round(float((apart <= LEVELS_APART).mean()), 6),
        "largest_outside_the_mask": int(outside.max(initial=0)),
    }


def times_faster(ours: Samples, reference: Samples) -> dict[str, dict[str, float | int]]:
    """Return the ratios of paste and of the whole, from runs that followed each other, and of the least."""
    pairs = list(zip(ours, reference, strict=False))  # the reference may have run less often

    def ratios(of: Callable[[dict[str, float]], float]) -> dict[str, float | int]:
        least = min(of(b) for b in reference) / min(of(a) for a in ours)
        return spread([of(b) / of(a) for a, b in pairs]) | {"of_least": round(least, 2)}

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
    answer = {name: spread([sample[name] for sample in samples]) for name in samples[0]}
    return answer | {"total": spread([sum(sample.values()) for sample in samples])}


def _a_face(samples: Samples, faces: int) -> dict[str, float | int]:
    """Return milliseconds of CodeFormer for one face, its crop's way to the device and back included."""
    return spread([1000 * sample["restore"] / faces for sample in samples])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 4, 8, 30])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 24])
    parser.add_argument("--scale", type=int, nargs="+", default=[1, 2], choices=[1, 2, 4])
    parser.add_argument("--parse", choices=_PARSE, default="both", help="the mask: a soft square, or parsed")
    parser.add_argument("--networks", choices=SETS, help="run the networks too; default: left out")
    parser.add_argument(
        "--device", help="of the networks: cpu, cuda, cuda:1; default: as the stage's settings say"
    )
    parser.add_argument("--format", choices=["png", "jpeg"], default="png", help="of the file in and out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference-repeats", type=int, default=3)
    parser.add_argument(
        "--reference-limit",
        type=float,
        default=250,
        help="leave the reference out where faces x megapixels of the result are more: it takes "
        "about half a second for each, and 100 bytes a pixel",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
