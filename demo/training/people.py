"""Draws people several times each, also degraded and restored: what the identity network learns from.

`python -m training.people --out .runs/people`

A person is what stays the same from one picture to the next: sex, age, skin, the colors of eyes and hair,
hair style, beard, glasses and the shape of the head. Expression, turn, light, backdrop, clothes, jewelry and
hats change. Each shard `people_NNNN.npy` has 100 people with eight views (112, 112, 3) of each, aligned as
for face recognition; the number of a person is that of the shard times 100 plus the row. Restoring takes
longer than drawing, so that only every fourth person is seen degraded and restored.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import drawing
from atelier_restorer.align import cut_crop, face_to_crop
from atelier_restorer.models import FaceRestorer
from atelier_restorer.recognition_crop import CROP_TO_RECOGNITION, SIDE, recognition_crop
from drawing import Person
from training.data import PEOPLE, save, shard_path, shards
from training.degrade import degrade_face
from training.detector import LatestAutoencoder
from training.faces import build_codeformer
from training.loop import EXPORT, load_export
from training.loop import replace as write_atomically
from training.options import Options, parse_options, prepare_torch

Image = NDArray[np.uint8]
VIEWS = 8
RESTORED_EVERY = (
    4  # of these people, three views are of one drawing: degraded, and restored at two fidelities
)
DRAWN_SIDE, FULL_SIDE = 192, 512  # px
UNSEEN = 1_000_000  # people from this number on are never trained on
_LANDMARK_ERROR = 0.012  # standard deviation, as a share of the face's height; about the detector's
_MAX_HIDDEN = 0.25
_NOT_UNDER_HATS = ("bun", "curly", "afro", "spiky", "pigtails")


def person_of(seed: int, number: int) -> tuple[Person, np.random.Generator]:
    """Person `number`, and the generator from which the pictures of that person are sampled."""
    rng = np.random.default_rng([seed, 90, number])
    return drawing.sample_person(rng), rng


def another_day(rng: np.random.Generator, person: Person) -> Person:
    """The same person with another expression and turn, in other clothes."""
    other = drawing.sample_person(rng)
    hat = None if person.hair_style in _NOT_UNDER_HATS else other.hat
    return replace(
        person,
        expression=other.expression,
        turn=other.turn,
        clothes=other.clothes,
        shirt=other.shirt,
        tie=other.tie,
        scarf=other.scarf,
        cover=None,
        hat=hat,
        hat_color=other.hat_color if hat else None,
        earrings=other.earrings,
        necklace=other.necklace,
    )


def _picture(rng: np.random.Generator, person: Person, side: int) -> tuple[Image, NDArray[np.float32]]:
    """A picture of a person, and the landmarks (5, 2) as a detector would find them."""
    for _ in range(20):
        image, face = drawing.draw_portrait(rng, another_day(rng, person), side)
        if face.hidden <= _MAX_HIDDEN:
            break
    error = _LANDMARK_ERROR * (face.box[3] - face.box[1])
    return image, face.landmarks + rng.normal(0, error, face.landmarks.shape).astype(np.float32)


def drawn_view(rng: np.random.Generator, person: Person) -> Image:
    """One more picture of a person, (112, 112, 3)."""
    image, landmarks = _picture(rng, person, DRAWN_SIDE)
    matrix = np.vstack([face_to_crop(landmarks.tolist()), (0, 0, 1)])
    return np.asarray(
        cv2.warpAffine(image, CROP_TO_RECOGNITION @ matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def drawn_crop(rng: np.random.Generator, person: Person) -> Image:
    """One more picture of a person as the restorer gets it, (512, 512, 3)."""
    image, landmarks = _picture(rng, person, FULL_SIDE)
    return cut_crop(image, face_to_crop(landmarks.tolist()))


@dataclass
class Darkroom:
    """Degrades aligned faces, and restores them with the trained CodeFormer of the runs."""

    smear: LatestAutoencoder
    restorer: FaceRestorer

    @classmethod
    def open(cls, options: Options) -> "Darkroom":
        """Load the stages' exports."""
        network = build_codeformer(options)
        load_export(options.runs / "fusion" / EXPORT, "codeformer", network)
        return cls(LatestAutoencoder(options), FaceRestorer(network, options.device, torch.float32))

    @torch.no_grad()
    def degraded(self, crop: Image) -> Image:
        """An aligned face (512, 512, 3) as a bad camera or a small generator shows it."""
        x = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
        x = degrade_face(x, self.smear.smear())
        return (x[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    def restored(self, crop: Image, fidelities: tuple[float, ...]) -> list[Image]:
        """An aligned face (512, 512, 3), restored at each fidelity."""
        images = self.restorer.restore(crop[None], [(0, fidelity) for fidelity in fidelities])
        return [image for image in images if isinstance(image, np.ndarray)]


def views_of(person: Person, rng: np.random.Generator, darkroom: Darkroom | None) -> Image:
    """The views (8, 112, 112, 3) of one person; without a darkroom all are drawings as they are."""
    if darkroom is None:
        return np.stack([drawn_view(rng, person) for _ in range(VIEWS)])
    views = [drawn_view(rng, person) for _ in range(VIEWS - 3)]
    degraded = darkroom.degraded(drawn_crop(rng, person))
    fidelities = (float(rng.uniform(0, 0.5)), float(rng.uniform(0.5, 1)))
    restored = darkroom.restored(degraded, fidelities)
    return np.stack([*views, *(recognition_crop(crop) for crop in (degraded, *restored))])


def _write(views: Image, path: Path) -> None:
    save(path, views)


def train(options: Options) -> None:
    """Run the stage: make the missing shards. Trains nothing."""
    prepare_torch(options)
    cv2.setNumThreads(1)
    darkroom = Darkroom.open(options)
    folder, count = options.runs / "data", options.scaled(PEOPLE.pictures, PEOPLE.smoke_pictures)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards(options, PEOPLE)):
        path = shard_path(folder, PEOPLE.name, number)
        if path.with_suffix(".json").exists():
            continue
        torch.manual_seed(options.seed + number)
        people = [person_of(options.seed, number * count + row) for row in range(count)]
        views = np.stack(
            [
                views_of(*someone, None if row % RESTORED_EVERY else darkroom)
                for row, someone in enumerate(people)
            ]
        )
        write_atomically(path, partial(_write, views))
        write_atomically(path.with_suffix(".json"), lambda part: part.write_text("[]"))
        print(f"people shard {number}", flush=True)


if __name__ == "__main__":
    train(parse_options("Draws people several times each, degraded and restored."))
