"""Scores the detector on held-out drawings: the usual mixture, and hard ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

import drawing
from atelier_restorer.request import Face
from drawing.things import THINGS
from training.figures import Figure
from training.studio import Studio

MIN_IOU = 0.5
SIDE = 512
MAX_HIDDEN = 0.6
"""Faces that are hidden more than this may be found or not."""
LOOK_ALIKES = (*THINGS, "apple", "sunset", "house", "flower", "hills")
TURNED, PARTLY_HIDDEN = 0.4, 0.15


@dataclass
class Tally:
    """Counts over some drawings."""

    faces: int = 0
    found: int = 0
    detections: int = 0
    false: int = 0
    empty: int = 0
    fooled: int = 0
    errors: list[float] = field(default_factory=list)

    def add(self, drawn: drawing.Drawing, found: list[Face]) -> None:
        """Count one drawing. Each detection, highest confidence first, takes the face of highest IoU."""
        matches: dict[int, Face] = {}
        for face in found:
            unmatched = [n for n in range(len(drawn.faces)) if n not in matches]
            best = max(unmatched, key=lambda n: iou(face.box, drawn.faces[n].box), default=None)
            if best is not None and iou(face.box, drawn.faces[best].box) > MIN_IOU:
                matches[best] = face
        self.detections += len(found)
        self.false += len(found) - len(matches)
        for number, true in enumerate(drawn.faces):
            if true.hidden > MAX_HIDDEN:
                continue
            self.faces += 1
            if number in matches:
                self.found += 1
                self.errors.append(landmark_error(np.array(matches[number].landmarks), true))
        if not drawn.faces:
            self.empty += 1
            self.fooled += bool(found)

    @property
    def error(self) -> float:
        """Mean landmark error of the faces found, in percent of their eye distance."""
        return 100 * float(np.mean(self.errors)) if self.errors else 0.0


def landmark_error(found: np.ndarray, true: drawing.FaceAnnotation) -> float:
    """Mean error of the visible landmarks (5, 2), as a fraction of the eye distance."""
    seen = np.array(true.visible)
    if not seen.any():
        return 0.0
    eyes = float(np.linalg.norm(true.landmarks[1] - true.landmarks[0]))
    return float(np.linalg.norm(found - true.landmarks, axis=1)[seen].mean() / eyes)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / max(1e-9, areas - width * height)


def usual(rng: np.random.Generator, count: int) -> Iterator[drawing.Drawing]:
    """Drawings of the usual mixture."""
    for _ in range(count):
        yield drawing.draw(rng, SIDE)


def turned(rng: np.random.Generator, count: int) -> Iterator[drawing.Drawing]:
    """Portraits with strongly turned heads."""
    yield from _chosen(rng, count, lambda drawn: abs(drawn.attributes["people"][0]["turn"]) > TURNED)


def partly_hidden(rng: np.random.Generator, count: int) -> Iterator[drawing.Drawing]:
    """Portraits behind a brim, a scarf or a hand, or cut by the image's edge."""
    yield from _chosen(rng, count, lambda drawn: PARTLY_HIDDEN < drawn.faces[0].hidden <= MAX_HIDDEN)


def _chosen(
    rng: np.random.Generator, count: int, accept: Callable[[drawing.Drawing], bool]
) -> Iterator[drawing.Drawing]:
    while count > 0:
        state = rng.bit_generator.state
        if accept(drawing.draw(rng, 16, "portrait")):  # drawn small to check its facts, then at full size
            rng.bit_generator.state = state
            yield drawing.draw(rng, SIDE, "portrait")
            count -= 1


def of_kinds(rng: np.random.Generator, count: int, kinds: tuple[str, ...]) -> Iterator[drawing.Drawing]:
    """Drawings of these kinds in turn."""
    for number in range(count):
        yield drawing.draw(rng, SIDE, kinds[number % len(kinds)])


def score_detector(studio: Studio, seed: int, count: int) -> list[Figure]:
    """Score `count` drawings of the usual mixture, and a quarter as many of each hard kind."""
    fewer = max(4, count // 4)

    def tally(drawings: Iterator[drawing.Drawing]) -> Tally:
        counted = Tally()
        for drawn in drawings:
            counted.add(drawn, studio.faces(drawn.image))
        return counted

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, 3, number])

    all_kinds = tally(usual(rng(0), count))
    hard_kinds = {
        "turned": tally(turned(rng(1), fewer)),
        "small (far away)": tally(of_kinds(rng(2), fewer, ("far",))),
        "of four or five people": tally(of_kinds(rng(3), fewer, ("crowd",))),
        "partly hidden": tally(partly_hidden(rng(4), fewer)),
    }
    look_alikes = tally(of_kinds(rng(5), 2 * fewer, LOOK_ALIKES))

    def figures_of(tally: Tally, kind: str = "") -> list[Figure]:
        return [
            Figure.share(f"detector: faces found{kind}", tally.found, tally.faces, at_least=0.98),
            Figure.number(f"detector: landmark error, of eye distance{kind}", tally.error, "%", at_most=3.0,
                          total=tally.found),
        ]  # fmt: skip

    figures = figures_of(all_kinds)
    figures.append(
        Figure.share("detector: false detections", all_kinds.false, all_kinds.detections, at_most=0.005)
    )
    for name, kind in hard_kinds.items():
        figures += figures_of(kind, f", {name}")
    figures.append(
        Figure.share(
            "detector: look-alikes detected as faces", look_alikes.fooled, look_alikes.empty, at_most=0.005
        )
    )
    return figures
