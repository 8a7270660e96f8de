"""Scores the detector on unseen drawings: the usual mixture, and those that are hard for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

import drawing
from atelier_restorer.request import Face
from drawing.things import THINGS
from training.figures import Figure
from training.studio import Studio

OVERLAP = 0.5
SIDE = 512
HIDDEN_AT_MOST = 0.6
"""A face of which more is hidden may be found or not."""
LOOK_ALIKES = (*THINGS, "apple", "sunset", "house", "flower", "hills")
TURNED, PARTLY_HIDDEN = 0.4, 0.15


@dataclass
class Tally:
    """What was counted on some drawings."""

    faces: int = 0
    found: int = 0
    detections: int = 0
    false: int = 0
    empty: int = 0
    fooled: int = 0
    errors: list[float] = field(default_factory=list)

    def add(self, drawn: drawing.Drawing, found: list[Face]) -> None:
        """Counts one drawing. Each detection, the surest first, takes the face that it overlaps most."""
        takes: dict[int, Face] = {}
        for face in found:
            free = [n for n in range(len(drawn.faces)) if n not in takes]
            best = max(free, key=lambda n: overlap(face.box, drawn.faces[n].box), default=None)
            if best is not None and overlap(face.box, drawn.faces[best].box) > OVERLAP:
                takes[best] = face
        self.detections += len(found)
        self.false += len(found) - len(takes)
        for number, true in enumerate(drawn.faces):
            if true.hidden > HIDDEN_AT_MOST:
                continue
            self.faces += 1
            if number in takes:
                self.found += 1
                self.errors.append(landmark_error(np.array(takes[number].landmarks), true))
        if not drawn.faces:
            self.empty += 1
            self.fooled += bool(found)

    @property
    def error(self) -> float:
        """Mean landmark error of the faces found, in percent of the distance of their eyes."""
        return 100 * float(np.mean(self.errors)) if self.errors else 0.0


def landmark_error(found: np.ndarray, true: drawing.FaceAnnotation) -> float:
    """Mean distance of the landmarks (5, 2) that are visible, as a share of the distance of the eyes."""
    seen = np.array(true.visible)
    if not seen.any():
        return 0.0
    eyes = float(np.linalg.norm(true.landmarks[1] - true.landmarks[0]))
    return float(np.linalg.norm(found - true.landmarks, axis=1)[seen].mean() / eyes)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
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
    """Portraits behind a brim, a scarf or a hand, or cut at the picture's edge."""
    yield from _chosen(rng, count, lambda drawn: PARTLY_HIDDEN < drawn.faces[0].hidden <= HIDDEN_AT_MOST)


def _chosen(
    rng: np.random.Generator, count: int, fits: Callable[[drawing.Drawing], bool]
) -> Iterator[drawing.Drawing]:
    while count > 0:
        state = rng.bit_generator.state
        if fits(drawing.draw(rng, 16, "portrait")):  # drawn small to look at its facts, then at full size
            rng.bit_generator.state = state
            yield drawing.draw(rng, SIDE, "portrait")
            count -= 1


def of_kinds(rng: np.random.Generator, count: int, kinds: tuple[str, ...]) -> Iterator[drawing.Drawing]:
    """Drawings of the kinds in turn."""
    for number in range(count):
        yield drawing.draw(rng, SIDE, kinds[number % len(kinds)])


def score_detector(studio: Studio, seed: int, count: int) -> list[Figure]:
    """`count` drawings of the usual mixture, and a quarter as many of each hard sort."""
    few = max(4, count // 4)

    def tally(drawings: Iterator[drawing.Drawing]) -> Tally:
        counted = Tally()
        for drawn in drawings:
            counted.add(drawn, studio.faces(drawn.image))
        return counted

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, 3, number])

    all_kinds = tally(usual(rng(0), count))
    sorts = {
        "turned": tally(turned(rng(1), few)),
        "small (far away)": tally(of_kinds(rng(2), few, ("far",))),
        "of four or five people": tally(of_kinds(rng(3), few, ("crowd",))),
        "partly hidden": tally(partly_hidden(rng(4), few)),
    }
    alike = tally(of_kinds(rng(5), 2 * few, LOOK_ALIKES))

    def figures_of(tally: Tally, sort: str = "") -> list[Figure]:
        return [
            Figure.share(f"detector: faces found{sort}", tally.found, tally.faces, least=0.98),
            Figure.number(f"detector: landmark error, of the eye distance{sort}", tally.error, "%", most=3.0,
                          total=tally.found),
        ]  # fmt: skip

    figures = figures_of(all_kinds)
    figures.append(
        Figure.share("detector: detections that are false", all_kinds.false, all_kinds.detections, most=0.005)
    )
    for name, sort in sorts.items():
        figures += figures_of(sort, f", {name}")
    figures.append(
        Figure.share("detector: look-alikes taken for faces", alike.fooled, alike.empty, most=0.005)
    )
    return figures
