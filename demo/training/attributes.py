"""Trains the judge: a small network that reads hair, glasses, beard, hat and background off a drawn face.

`python -m training.attributes --out .runs/attributes`

It is no part of the set: `training.evaluate` asks it whether a picture shows what its prompt asked for, and
whether a restored face kept what it had. It learns from fresh drawings, in two views: the head with what is
around it, and the aligned face as the restorer sees it. Some are blurred or have few pixels, since what a
small generator draws is.
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
UNKNOWN = -100  # torch's cross entropy leaves these out
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair_color": tuple(palette.HAIR),
    "hair_style": tuple(get_args(HairStyle)),
    "glasses": (NONE, *get_args(Glasses)),
    "beard": (NONE, *get_args(Beard)),
    "hat": (NONE, *get_args(Hat)),
    "background": (*palette.BACKGROUNDS, *PLACES),
}
"""What the judge tells, and the answers it chooses from."""
ALIKE = {"wavy": "long", "swept": "short", "parted": "short"}
"""Hair styles that the words of a prompt ("long hair", "short hair") do not tell apart are one answer."""
OF_A_FACE = ("hair_color", "glasses", "beard")
"""What an aligned face shows; hair styles, hats and backgrounds are cut off there."""
HEAD_SHARE = 2.5
_NOTE = "answers.txt"  # beside the export: what the judge was trained to tell
_LEAST, _MOST = 3000, 9000  # drawings kept to learn from; the oldest make room for fresh ones
_FRESH = 6  # drawings a step
_SEEN_ENOUGH = 0.25  # of a face; what a cover hides is not asked for

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]


class Judge(nn.Module):
    """Views (N, 3, 112, 112), RGB in 0 to 1, to one row of scores for each of `ATTRIBUTES`."""

    def __init__(self, width: int = 24) -> None:
        """Takes the channels of the first layer."""
        super().__init__()
        widths = (width, 2 * width, 4 * width, 6 * width)
        layers: list[nn.Module] = []
        before = 3
        for number, after in enumerate(widths):
            stride = 2
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if number:
                layers += [nn.Conv2d(after, after, 3, 1, 1, groups=after, bias=False), nn.BatchNorm2d(after)]
                layers += [nn.Conv2d(after, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.body = nn.Sequential(*layers)
        # Where in the view something is matters: a beard is hair too. So the last map is not averaged away.
        self.narrow = nn.Sequential(nn.Conv2d(before, 48, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({k: nn.Linear(48 * 49, len(v)) for k, v in ATTRIBUTES.items()})

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Scores before softmax, (N, answers) by attribute."""
        features = self.narrow(self.body(views * 2 - 1))
        return {name: head(features) for name, head in self.heads.items()}


def head_view(picture: Picture, box: Box | None, share: float = HEAD_SHARE) -> Picture:
    """The head and what is around it (112, 112, 3): a square of `share` heights of the face's box.

    Without a box it is the whole picture. Beyond the picture's edge its last pixels are repeated.
    """
    height, width = picture.shape[:2]
    if box is None:
        side = float(min(height, width))
        x, y = width / 2, height / 2
    else:
        side = share * (box[3] - box[1])
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if side > 2 * SIDE:  # shrink by averages first, so that no edge gets jagged
        factor = SIDE * 1.5 / side
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        x, y, side = x * size[0] / width, y * size[1] / height, side * factor
    scale = SIDE / side
    matrix = np.array([[scale, 0, SIDE / 2 - scale * x], [0, scale, SIDE / 2 - scale * y]])
    return np.asarray(
        cv2.warpAffine(
            picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ),
        np.uint8,
    )


def face_view(aligned: Picture) -> Picture:
    """An aligned face of the restorer (512, 512, 3) as a view (112, 112, 3)."""
    return np.asarray(cv2.resize(aligned, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def truth(person: dict[str, Any], background: str, aligned: bool) -> list[int]:
    """The number of the right answer for each attribute; `UNKNOWN` where the view does not show it."""
    told = {
        "hair_color": None if person["hair_style"] == "bald" or person["hat"] else person["hair_color"],
        "hair_style": None if person["hat"] else person["hair_style"],
        "glasses": None if person["cover"] == "brim" else person["glasses"] or NONE,
        "beard": None if person["cover"] in ("scarf", "hand") else person["beard"] or NONE,
        "hat": person["hat"] or NONE,
        "background": background,
    }
    if aligned:
        told = {name: value if name in OF_A_FACE else None for name, value in told.items()}
    return [
        UNKNOWN if told[name] is None else answers.index(told[name]) for name, answers in ATTRIBUTES.items()
    ]


@dataclass(frozen=True)
class Example:
    """One view and its right answers."""

    view: Picture
    answers: list[int]


def draw_examples(rng: np.random.Generator, jitter: bool = True) -> list[Example]:
    """The two views of a fresh portrait; none of a face that is cut at the picture's edge.

    Without `jitter` the views are those of faces found exactly.
    """
    drawn = drawing.draw(rng, DRAWN_SIDE, "portrait")
    face, person = drawn.faces[0], drawn.attributes["people"][0]
    background = str(drawn.attributes["background"])
    if face.hidden > _SEEN_ENOUGH and not person["cover"]:
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
        Example(head, truth(person, background, False)),
        Example(aligned, truth(person, background, True)),
    ]


class Examples:
    """Drawings to learn from, more of them with every step."""

    def __init__(self, options: Options) -> None:
        """Draws the first ones."""
        self.rng = np.random.default_rng([options.seed, 11])
        self.most = options.scaled(2 * _MOST, 40)
        self.held: list[Example] = []
        while len(self.held) < options.scaled(_LEAST, 8):
            self.refill()
        self.place = len(self.held)

    def refill(self) -> None:
        """One more portrait; when there are enough, in place of the oldest."""
        for example in draw_examples(self.rng):
            if len(self.held) < self.most:
                self.held.append(example)
            else:
                self.held[self.place % self.most] = example
                self.place += 1

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Views (N, 3, 112, 112) in 0 to 1, mirrored or not, and right answers (N, attributes)."""
        picks = self.rng.integers(len(self.held), size=count)
        views = [self.held[i].view[:, ::-1] if self.rng.random() < 0.5 else self.held[i].view for i in picks]
        return to_tensor(views), torch.tensor([self.held[i].answers for i in picks])


def to_tensor(views: Sequence[Picture]) -> Tensor:
    """Views as (N, 3, 112, 112) in 0 to 1."""
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255


def spoil(views: Tensor) -> Tensor:
    """Fewer pixels, blur or noise for some of the batches."""
    if torch.rand(()) < 0.3:
        small = round(uniform(40, SIDE))
        views = resize(resize(views, small, small), SIDE, SIDE)
    if torch.rand(()) < 0.3:
        views = blur(views, uniform(0.2, 1.3))
    return add_noise(views, 0.04) if torch.rand(()) < 0.3 else views


def train(options: Options) -> None:
    """Runs the stage."""
    prepare_torch(options)
    examples = Examples(options)
    network = Judge().to(options.device).to(memory_format=torch.channels_last)
    loop = Loop(options, RECIPE, {"judge": network})
    for _ in loop.steps():
        for _ in range(options.scaled(_FRESH, 1)):
            examples.refill()
        views, answers = examples.batch(options.batch)
        views = spoil(views).to(options.device).contiguous(memory_format=torch.channels_last)
        with precision(options.device):
            scores = network(views)
        losses, right, asked = [], 0.0, 0
        for column, name in enumerate(ATTRIBUTES):
            wanted = answers[:, column].to(options.device)
            known = wanted != UNKNOWN
            if known.any():
                losses.append(F.cross_entropy(scores[name].float()[known], wanted[known]))
                right += float((scores[name].argmax(1) == wanted)[known].sum())
                asked += int(known.sum())
        loop.move(torch.stack(losses).sum(), right=right / max(1, asked))
    loop.finish()
    found = measure(network, options.scaled(600, 2), options.seed)
    facts: dict[str, Fact] = {name: round(right / max(1, asked), 4) for name, (right, asked) in found.items()}
    loop.export(None, **facts)
    (options.out / _NOTE).write_text(_answers())
    print(f"attributes: {found}", flush=True)


def _answers() -> str:
    return repr({name: list(answers) for name, answers in ATTRIBUTES.items()})


@torch.no_grad()
def measure(network: Judge, count: int, seed: int) -> dict[str, tuple[int, int]]:
    """Right answers and questions by attribute, on both views of `count` held-out portraits."""
    rng = np.random.default_rng([seed, 12])
    examples = [example for _ in range(count) for example in draw_examples(rng, jitter=False)]
    found = dict.fromkeys(ATTRIBUTES, (0, 0))
    for start in range(0, len(examples), 100):
        part = examples[start : start + 100]
        told = judge(network, [example.view for example in part])
        for example, answer in zip(part, told, strict=True):
            for (name, answers), wanted in zip(ATTRIBUTES.items(), example.answers, strict=True):
                if wanted != UNKNOWN:
                    right, asked = found[name]
                    found[name] = (right + (answer[name] == named(answers[wanted])), asked + 1)
    return found


@torch.no_grad()
def judge(network: Judge, views: Sequence[Picture]) -> list[dict[str, str]]:
    """The answer for each attribute, for each of the views."""
    if not views:
        return []
    device = next(network.parameters()).device
    scores = network(to_tensor(views).to(device))
    picks = {name: row.argmax(1).tolist() for name, row in scores.items()}
    return [
        {name: named(answers[picks[name][row]]) for name, answers in ATTRIBUTES.items()}
        for row in range(len(views))
    ]


def named(answer: str) -> str:
    """The name that an answer is told by; see `ALIKE`."""
    return ALIKE.get(answer, answer)


def open_judge(folder: Path, threads: int = 1) -> Judge:
    """The trained judge from its folder; trains it first where there is none, which takes minutes.

    A judge that was trained for other answers than today's drawings have is trained anew.
    """
    note = folder / _NOTE
    if not (folder / EXPORT).exists() or not note.exists() or note.read_text() != _answers():
        print(f"training the judge in {folder}", flush=True)
        train(parse_options(JUDGE, ["--out", str(folder), "--threads", str(threads)]))
    network = Judge()
    load_export(folder / EXPORT, "judge", network)
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    train(parse_options("Trains the judge of the evaluation."))
