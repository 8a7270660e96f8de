"""Trains the judge: a small network that classifies hair, glasses, beard, hat and background of a face.

`python -m training.attributes --out .runs/attributes`

It is not part of the set: `training.evaluate` uses it to check whether an image shows what its prompt
requested, and whether a restored face kept its attributes. It learns from fresh drawings, in two views: the
head with its surroundings, and the aligned face as the restorer sees it. Some are blurred or downsampled,
like the output of a small generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import drawing
from drawing import palette
from drawing.backdrop import PLACES
from drawing.person import Beard, Glasses, HairStyle, Hat
from training.data import align
from training.degrade import add_noise, blur, resize, uniform
from training.loop import EXPORT, Fact, Loop, Recipe, load_export, precision
from training.options import Options, parse_options, prepare_torch

RECIPE = Recipe(learning_rate=3e-3, weight_decay=1e-3, warm_up=60, flat=0.1)
JUDGE = "attributes"
SIDE = 112
DRAWN_SIDE = 224
NONE = "none"
IGNORED = -100  # torch's cross entropy ignores this label
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair_color": tuple(palette.HAIR),
    "hair_style": tuple(get_args(HairStyle)),
    "glasses": (NONE, *get_args(Glasses)),
    "beard": (NONE, *get_args(Beard)),
    "hat": (NONE, *get_args(Hat)),
    "background": (*palette.BACKGROUNDS, *PLACES),
}
"""What the judge predicts, and the classes of each."""
MERGED = {"wavy": "long", "swept": "short", "parted": "short"}
"""Hair styles that a prompt ("long hair", "short hair") does not distinguish are one class."""
FACE_ATTRIBUTES = ("hair_color", "glasses", "beard")
"""What an aligned face shows; hair styles, hats and backgrounds are cropped out."""
HEAD_SHARE = 2.5
_CLASSES_FILE = "answers.txt"  # next to the export: the classes that the judge was trained on
_MIN_EXAMPLES, _MAX_EXAMPLES = 3000, 9000  # drawings in the training buffer; fresh ones replace the oldest
_FRESH = 6  # drawings per step
_MAX_HIDDEN = 0.25  # of a face; what a cover hides has no label

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]


class Judge(nn.Module):
    """Views (N, 3, 112, 112), RGB in 0 to 1, to one row of logits for each of `ATTRIBUTES`."""

    def __init__(self, width: int = 24) -> None:
        """Take the channels of the first layer."""
        super().__init__()
        widths = (width, 2 * width, 4 * width, 6 * width)
        layers: list[nn.Module] = []
        in_channels = 3
        for number, out_channels in enumerate(widths):
            stride = 2
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            if number:
                layers += [
                    nn.Conv2d(out_channels, out_channels, 3, 1, 1, groups=out_channels, bias=False),
                    nn.BatchNorm2d(out_channels),
                ]
                layers += [
                    nn.Conv2d(out_channels, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                ]
            in_channels = out_channels
        self.body = nn.Sequential(*layers)
        # Positions in the view matter: a beard is hair, too. So there is no global pooling.
        self.narrow = nn.Sequential(nn.Conv2d(in_channels, 48, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({k: nn.Linear(48 * 49, len(v)) for k, v in ATTRIBUTES.items()})

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Logits, (N, classes) by attribute."""
        features = self.narrow(self.body(views * 2 - 1))
        return {name: head(features) for name, head in self.heads.items()}


def head_view(image: Picture, box: Box | None, share: float = HEAD_SHARE) -> Picture:
    """The head and its surroundings (112, 112, 3): a square of `share` times the height of the face's box.

    Without a box it is the whole image. Pixels at the image's edge are replicated beyond it.
    """
    height, width = image.shape[:2]
    if box is None:
        side = float(min(height, width))
        x, y = width / 2, height / 2
    else:
        side = share * (box[3] - box[1])
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if side > 2 * SIDE:  # downsample by area first, to avoid aliasing
        factor = SIDE * 1.5 / side
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        x, y, side = x * size[0] / width, y * size[1] / height, side * factor
    scale = SIDE / side
    matrix = np.array([[scale, 0, SIDE / 2 - scale * x], [0, scale, SIDE / 2 - scale * y]])
    return np.asarray(
        cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def face_view(aligned: Picture) -> Picture:
    """An aligned face (512, 512, 3) as a view (112, 112, 3)."""
    return np.asarray(cv2.resize(aligned, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def labels_of(person: dict[str, Any], background: str, aligned: bool) -> list[int]:
    """The class index of each attribute; `IGNORED` if the view does not show it."""
    shown = {
        "hair_color": None if person["hair_style"] == "bald" or person["hat"] else person["hair_color"],
        "hair_style": None if person["hat"] else person["hair_style"],
        "glasses": None if person["cover"] == "brim" else person["glasses"] or NONE,
        "beard": None if person["cover"] in ("scarf", "hand") else person["beard"] or NONE,
        "hat": person["hat"] or NONE,
        "background": background,
    }
    if aligned:
        shown = {name: value if name in FACE_ATTRIBUTES else None for name, value in shown.items()}
    return [
        IGNORED if shown[name] is None else classes.index(shown[name]) for name, classes in ATTRIBUTES.items()
    ]


@dataclass(frozen=True)
class Example:
    """One view and its labels."""

    view: Picture
    labels: list[int]


def draw_examples(rng: np.random.Generator, jitter: bool = True) -> list[Example]:
    """The two views of a fresh portrait; none if the face is cut by the image's edge.

    Without `jitter` the crops are exact.
    """
    drawn = drawing.draw(rng, DRAWN_SIDE, "portrait")
    face, person = drawn.faces[0], drawn.attributes["people"][0]
    background = str(drawn.attributes["background"])
    if face.hidden > _MAX_HIDDEN and not person["cover"]:
        return []
    share, landmarks, box = HEAD_SHARE, face.landmarks, np.array(face.box)
    if jitter:
        size = box[3] - box[1]
        share *= float(rng.uniform(0.85, 1.2))
        box = box + np.tile(rng.uniform(-0.07, 0.07, 2) * size, 2)
        landmarks = landmarks + rng.normal(0, 0.012 * size, landmarks.shape).astype(np.float32)
    left, top, right, bottom = (float(v) for v in box)
    head = head_view(drawn.image, (left, top, right, bottom), share)
    aligned = align(drawn.image, landmarks, SIDE)
    return [
        Example(head, labels_of(person, background, False)),
        Example(aligned, labels_of(person, background, True)),
    ]


class Examples:
    """A buffer of training drawings that every step refreshes."""

    def __init__(self, options: Options) -> None:
        """Draw the first ones."""
        self.rng = np.random.default_rng([options.seed, 11])
        self.capacity = options.scaled(2 * _MAX_EXAMPLES, 40)
        self.examples: list[Example] = []
        while len(self.examples) < options.scaled(_MIN_EXAMPLES, 8):
            self.refill()
        self.next_slot = len(self.examples)

    def refill(self) -> None:
        """Add a portrait; when the buffer is full, in place of the oldest."""
        for example in draw_examples(self.rng):
            if len(self.examples) < self.capacity:
                self.examples.append(example)
            else:
                self.examples[self.next_slot % self.capacity] = example
                self.next_slot += 1

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Views (N, 3, 112, 112) in 0 to 1, randomly mirrored, and labels (N, attributes)."""
        picks = [self.examples[i] for i in self.rng.integers(len(self.examples), size=count)]
        views = [pick.view[:, ::-1] if self.rng.random() < 0.5 else pick.view for pick in picks]
        return to_tensor(views), torch.tensor([pick.labels for pick in picks])


def to_tensor(views: Sequence[Picture]) -> Tensor:
    """Views as (N, 3, 112, 112) in 0 to 1."""
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255


def degrade(views: Tensor) -> Tensor:
    """Downsampling, blur or noise for some of the batches."""
    if torch.rand(()) < 0.3:
        small = round(uniform(40, SIDE))
        views = resize(resize(views, small, small), SIDE, SIDE)
    if torch.rand(()) < 0.3:
        views = blur(views, uniform(0.2, 1.3))
    return add_noise(views, 0.04) if torch.rand(()) < 0.3 else views


def train(options: Options) -> None:
    """Run the stage."""
    prepare_torch(options)
    examples = Examples(options)
    network = Judge().to(options.device).to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"judge": network})
    for _ in loop.steps():
        for _ in range(options.scaled(_FRESH, 1)):
            examples.refill()
        views, labels = examples.batch(options.batch)
        views = degrade(views).to(options.device).contiguous(memory_format=torch.channels_last)
        with precision(options.device):
            logits = network(views)
        losses, correct, total = [], 0.0, 0
        for column, name in enumerate(ATTRIBUTES):
            targets = labels[:, column].to(options.device)
            known = targets != IGNORED
            if known.any():
                losses.append(F.cross_entropy(logits[name].float()[known], targets[known]))
                correct += float((logits[name].argmax(1) == targets)[known].sum())
                total += int(known.sum())
        loop.update(torch.stack(losses).sum(), accuracy=correct / max(1, total))
    loop.finish()
    counts = measure(network, options.scaled(600, 2), options.seed)
    facts: dict[str, Fact] = {
        name: round(correct / max(1, total), 4) for name, (correct, total) in counts.items()
    }
    loop.export(None, **facts)
    (options.out / _CLASSES_FILE).write_text(_classes())
    print(f"attributes: {counts}", flush=True)


def _classes() -> str:
    return repr({name: list(classes) for name, classes in ATTRIBUTES.items()})


@torch.no_grad()
def measure(network: Judge, count: int, seed: int) -> dict[str, tuple[int, int]]:
    """Correct predictions and labels by attribute, on both views of `count` held-out portraits."""
    rng = np.random.default_rng([seed, 12])
    examples = [example for _ in range(count) for example in draw_examples(rng, jitter=False)]
    counts = dict.fromkeys(ATTRIBUTES, (0, 0))
    for start in range(0, len(examples), 100):
        part = examples[start : start + 100]
        predictions = classify(network, [example.view for example in part])
        for example, prediction in zip(part, predictions, strict=True):
            for (name, classes), label in zip(ATTRIBUTES.items(), example.labels, strict=True):
                if label != IGNORED:
                    correct, total = counts[name]
                    counts[name] = (correct + (prediction[name] == merged(classes[label])), total + 1)
    return counts


@torch.no_grad()
def classify(network: Judge, views: Sequence[Picture]) -> list[dict[str, str]]:
    """The class of each attribute, for each of the views."""
    if not views:
        return []
    device = next(network.parameters()).device
    logits = network(to_tensor(views).to(device))
    best = {name: row.argmax(1).tolist() for name, row in logits.items()}
    return [
        {name: merged(classes[best[name][row]]) for name, classes in ATTRIBUTES.items()}
        for row in range(len(views))
    ]


def merged(name: str) -> str:
    """The class after merging; see `MERGED`."""
    return MERGED.get(name, name)


def open_judge(folder: Path, threads: int = 1) -> Judge:
    """The trained judge from its folder; trains it first if there is none, which takes minutes.

    A judge that was trained on other classes than the current drawings have is trained again.
    """
    trained = folder / _CLASSES_FILE
    if not (folder / EXPORT).exists() or not trained.exists() or trained.read_text() != _classes():
        print(f"training the judge in {folder}", flush=True)
        train(parse_options(JUDGE, ["--out", str(folder), "--threads", str(threads)]))
    network = Judge()
    load_export(folder / EXPORT, "judge", network)
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    train(parse_options("Trains the judge of the evaluation."))
