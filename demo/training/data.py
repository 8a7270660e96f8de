"""Draws the training images into shards, and loads them for the stages as tensors on the device.

`python -m training.data --out .runs/data --workers 15`

Three sets, each a series of shards `NAME_0000.npy` (uint8 images) with `NAME_0000.json` (captions, face
boxes and landmarks in pixels): `pictures` at the native size, `large` ones, and `faces`, aligned to the
512 px template that CodeFormer works on. Shards are written atomically, so a stage may start while the rest
is still being drawn. Shard 0 of each set is held out from training.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import drawing
from training.loop import replace
from training.options import Options, parse_options

FACE = 512
FACES_AT_MOST = 5
# Eyes, nose tip and mouth corners in an aligned face of 512 px (the FFHQ template).
TEMPLATE = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ],
    np.float32,
)
BORDER_BGR = (135, 133, 132)


@dataclass(frozen=True)
class Set:
    """One series of shards: how many images each has; the profile says how many shards."""

    name: str
    pictures: int
    smoke_shards: int
    smoke_pictures: int


PICTURES = Set("pictures", 1000, 3, 12)
LARGES = Set("large", 100, 2, 3)
FACES = Set("faces", 200, 2, 4)
# Made by `redrawn.py` once the generator is trained.
REDRAWN = Set("redrawn", 200, 2, 4)
PAIRS = Set("pairs", 200, 2, 4)
# Made by `people.py` once the restorer is trained: several views of each of 100 people.
PEOPLE = Set("people", 100, 2, 3)


def shard_path(folder: Path, name: str, number: int) -> Path:
    """The images of one shard; its annotations are next to it as .json."""
    return folder / f"{name}_{number:04d}.npy"


def align(image: NDArray[np.uint8], landmarks: NDArray[np.float32], size: int = FACE) -> NDArray[np.uint8]:
    """The face (size, size, 3), warped so that its five landmarks match the template."""
    template = TEMPLATE * (size / FACE)
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, template, method=cv2.LMEDS)
    if matrix is None:
        raise ValueError("the landmarks lie on one point")
    border = BORDER_BGR[::-1]
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=border),
        np.uint8,
    )


def draw_face(rng: np.random.Generator, kind: str = "portrait") -> NDArray[np.uint8]:
    """One aligned face (512, 512, 3) from a fresh drawing."""
    drawn = drawing.draw(rng, 768, kind)
    face = drawn.faces[int(rng.integers(len(drawn.faces)))]
    return align(drawn.image, face.landmarks)


def annotation(drawn: drawing.Drawing) -> dict[str, Any]:
    """The annotation of one drawing in a shard."""
    faces = [
        {"box": [float(v) for v in f.box], "landmarks": f.landmarks.tolist(), "hidden": round(f.hidden, 3)}
        for f in drawn.faces
    ]
    return {"caption": drawn.caption, "kind": drawn.kind, "faces": faces}


Task = tuple[Path, str, int, int, int, int]


def draw_shard(task: Task) -> str:
    """Draw shard `number` of a set unless it exists."""
    folder, name, number, count, side, seed = task
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    path = shard_path(folder, name, number)
    if path.with_suffix(".json").exists():
        return path.name
    rng = np.random.default_rng([seed, number, sum(name.encode())])
    notes: list[dict[str, Any]] = []
    pictures = []
    for _ in range(count):
        if name == FACES.name:
            pictures.append(draw_face(rng))
        else:
            drawn = drawing.draw(rng, side)
            pictures.append(drawn.image)
            notes.append(annotation(drawn))
    replace(path, lambda p: save(p, np.stack(pictures)))
    replace(path.with_suffix(".json"), lambda p: p.write_text(json.dumps(notes)))
    return path.name


def save(path: Path, pictures: NDArray[np.uint8]) -> None:
    """Write an array under exactly this name."""
    with path.open("wb") as file:
        np.save(file, pictures)


def plan(options: Options) -> Iterator[Task]:
    """Every shard, in the order in which the stages need them."""

    def some(what: Set, first: int = 0, last: int = 1000) -> Iterator[Task]:
        count = options.scaled(what.pictures, what.smoke_pictures)
        side = options.profile.large if what is LARGES else options.profile.native
        for number in range(first, min(last, shards(options, what))):
            yield options.out, what.name, number, count, side, options.seed

    yield from some(PICTURES, last=12)
    yield from some(LARGES)
    yield from some(FACES)
    yield from some(PICTURES, first=12)


def is_there(options: Options, what: Set) -> bool:
    """Whether the set has a shard to train on."""
    return shard_path(options.runs / "data", what.name, 1).with_suffix(".json").exists()


def shards(options: Options, what: Set) -> int:
    """How many shards the set has."""
    return options.scaled(options.profile.shards[what.name], what.smoke_shards)


def draw_all(options: Options) -> None:
    """Draw the missing shards, in as many processes as the options say."""
    began, tasks = time.monotonic(), list(plan(options))
    if options.workers == 1:
        results: Any = map(draw_shard, tasks)
    else:
        # Niced: stages that train meanwhile need less CPU time, but without delay.
        pool = multiprocessing.get_context("spawn").Pool(options.workers, os.nice, (10,))
        results = pool.imap_unordered(draw_shard, tasks)
    for done, name in enumerate(results, 1):
        if done % 10 == 0 or done == len(tasks):
            print(f"data {done}/{len(tasks)} shards, {name}, {time.monotonic() - began:.0f} s", flush=True)


class ShardReader:
    """Reads the shards of one set as they appear; `wanted` is how many to read."""

    def __init__(self, options: Options, what: Set, most: int) -> None:
        """Take shards until `most` images are read, not counting shard 0."""
        self.folder = options.runs / "data"
        self.name = what.name
        size = options.scaled(what.pictures, what.smoke_pictures)
        self.wanted = min(shards(options, what), 1 + -(-most // size))
        self.next = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to read."""
        return self.next >= self.wanted

    def new(self) -> Iterator[tuple[NDArray[np.uint8], list[dict[str, Any]]]]:
        """The shards that have appeared since the last call, in order."""
        while not self.complete:
            path = shard_path(self.folder, self.name, self.next)
            if not path.with_suffix(".json").exists():
                return
            self.next += 1
            yield np.load(path), json.loads(path.with_suffix(".json").read_text())

    def wait(self) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
        """The next shard; waits for it for up to an hour."""
        deadline = time.monotonic() + 3600
        while time.monotonic() < deadline:
            for shard in self.new():
                return shard
            time.sleep(0.2)
        raise TimeoutError(
            f"{shard_path(self.folder, self.name, self.next)} does not appear; run training.data"
        )


class PictureStore:
    """Images of one set on the device, with their faces; grows as shards appear."""

    def __init__(
        self,
        options: Options,
        what: Set = PICTURES,
        least: int = 1,
        most: int = 1_000_000,
        side: int | None = None,
    ) -> None:
        """Wait for `least` training images; never hold more than `most` plus one shard.

        `side`: downsample the images to this many pixels.
        """
        self._side = side
        self.device = options.device
        self.smoke = options.smoke
        self._reader = ShardReader(options, what, most)
        self._unseen = self._take(*self._reader.wait())
        self.shards: list[tuple[Tensor, Tensor, Tensor]] = []
        self.captions: list[str] = []
        while len(self) < least and not self._reader.complete:
            self._append(*self._reader.wait())
        self.generator = torch.Generator().manual_seed(options.seed)

    def __len__(self) -> int:
        """Number of training images held."""
        return sum(len(pictures) for pictures, _, _ in self.shards)

    def refresh(self) -> None:
        """Load the shards that have been drawn since."""
        for shard in self._reader.new():
            self._append(*shard)

    def unseen(self, count: int) -> Tensor:
        """Held-out images (count, 3, S, S) in [-1, 1]."""
        return self.as_float(self._unseen[0][:count])

    def as_float(self, pictures: Tensor) -> Tensor:
        """Uint8 (N, S, S, 3) to floats (N, 3, S, S) in [-1, 1], on the device."""
        return (pictures.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
            memory_format=torch.channels_last
        )

    def sample(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random uint8 images (N, S, S, 3), boxes (N, F, 4), landmarks (N, F, 5, 2); NaN: no face."""
        chosen = torch.randint(len(self.shards), (min(count, 8),), generator=self.generator).tolist()
        parts = []
        for position, number in enumerate(chosen):
            shard = self.shards[number]
            share = count // len(chosen) + (position < count % len(chosen))
            picks = torch.randint(len(shard[0]), (share,), generator=self.generator).to(self.device)
            parts.append(tuple(tensor[picks] for tensor in shard))
        pictures, boxes, landmarks = (torch.cat(column) for column in zip(*parts, strict=True))
        return pictures, boxes, landmarks

    def batch(self, count: int, step: int) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) in [-1, 1] and weights (N, 1, S, S): 1, faces 2.5, eyes and mouth 7."""
        raw, boxes, landmarks = self.sample(count)
        pictures, weights = self.as_float(raw), face_weights(boxes, landmarks, raw.shape[1])
        return (pictures.flip(3), weights.flip(3)) if step % 2 else (pictures, weights)

    def _take(
        self, pictures: NDArray[np.uint8], notes: list[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        factor = 1.0
        if self._side and self._side < pictures.shape[1]:
            factor = self._side / pictures.shape[1]
            size = (self._side, self._side)
            pictures = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures])
        boxes = torch.full((len(pictures), FACES_AT_MOST, 4), float("nan"))
        landmarks = torch.full((len(pictures), FACES_AT_MOST, 5, 2), float("nan"))
        for row, note in enumerate(notes):
            for column, face in enumerate(note["faces"][:FACES_AT_MOST]):
                boxes[row, column] = torch.tensor(face["box"])
                landmarks[row, column] = torch.tensor(face["landmarks"])
        boxes, landmarks = (factor * boxes).to(self.device), (factor * landmarks).to(self.device)
        return torch.from_numpy(pictures).to(self.device), boxes, landmarks

    def _append(self, pictures: NDArray[np.uint8], notes: list[dict[str, Any]]) -> None:
        self.shards.append(self._take(pictures, notes))
        self.captions += [note["caption"] for note in notes]


def face_weights(boxes: Tensor, landmarks: Tensor, size: int) -> Tensor:
    """Loss weight per pixel, (N, 1, size, size): 1, in a face 2.5, around eyes and mouth 7."""
    axis = torch.arange(size, device=boxes.device) + 0.5
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    left, top, right, bottom = (boxes[:, :, i, None, None] for i in range(4))
    inside = ((x > left) & (x < right) & (y > top) & (y < bottom)).any(1)
    eyes = landmarks[:, :, :2].mean(2)
    mouth = landmarks[:, :, 3:].mean(2)
    apart = (landmarks[:, :, 1] - landmarks[:, :, 0]).norm(dim=2)[:, :, None, None]

    def ellipse(middle: Tensor, wide: float, high: float) -> Tensor:
        across = (x - middle[:, :, 0, None, None]) / (apart * wide)
        down = (y - middle[:, :, 1, None, None]) / (apart * high)
        within: Tensor = across**2 + down**2 < 1
        return within.any(1)

    features = ellipse(eyes, 0.95, 0.4) | ellipse(mouth, 0.6, 0.35)
    return (1 + 1.5 * inside.float() + 4.5 * features.float())[:, None]


if __name__ == "__main__":
    draw_all(parse_options("Draws the training images."))
