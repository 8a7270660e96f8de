"""Scores a packaged set: draws prompts with the generator's own code and looks at them with the restorer's.

`python -m training.evaluate --seed 7 [--prompts FILE] [--set demo]`

Without a file of prompts it draws 40 portraits and 40 scenes from the seed, scores the detector on 300 fresh
drawings and CodeFormer on 100 freshly spoiled faces, prints a table with the figures that the set should
reach, and draws the contact sheet. With a file (one prompt a line) it draws and scores those prompts only.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import drawing
from atelier_generator.models import Models
from atelier_generator.models import load_models as load_generator
from atelier_generator.pipeline import Pipeline
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_restorer.detect import FaceDetector
from atelier_restorer.models import FaceRestorer
from atelier_restorer.nets.codeformer import CodeFormer
from atelier_runtime.weights import ModelSet, load_state_dict
from training.data import draw_face
from training.degrade import spoil_face
from training.detector import autoencoder_smear
from training.probes import background_name, hair_name
from training.prompts import Expectation, portrait_prompts, read_expectation, read_prompts, scene_prompts

SCORE, OVERLAP, DETECT_SIZE = 0.8, 0.5, 640
SHEET = (
    "professional headshot",
    "businessman in suit, gray background",
    "a smiling woman with long red hair and glasses, blue background",
    "a serious man with short black hair and a beard, yellow background",
    "a woman with curly blond hair, green background",
    "an old man with white hair and glasses, teal background",
    "a man wearing a red cap, white background",
    "a smiling girl with pink hair, purple background",
    "portrait of a happy woman with brown hair, orange background",
    "a bald man with a beard, pink background",
    "a man with short brown hair and a woman with long black hair, white background",
    "sunset over mountains",
    "red apple",
    "a yellow house with a red roof",
    "a blue car on a road",
    "green hills and the sun",
)
SHEET_TILE = 256


@dataclass(frozen=True)
class Figure:
    """One measured figure: `count` of `total`, or a number, and what it should reach (None: only told)."""

    name: str
    value: float
    text: str
    reached: bool | None

    @classmethod
    def share(
        cls, name: str, count: int, total: int, least: float | None = None, most: float | None = None
    ) -> "Figure":
        """A share that should be at least or at most so much."""
        value = count / total if total else 0.0
        aim = (
            ""
            if least is None and most is None
            else f" (aim {'>=' if most is None else '<='} {least or most:.0%})"
        )
        reached = (
            None if not aim or not total else (value >= least if least is not None else value <= (most or 0))
        )
        return cls(name, value, f"{count} of {total}{aim}", reached)

    @classmethod
    def number(cls, name: str, value: float, unit: str = "", least: float | None = None) -> "Figure":
        """A number that should be at least so much."""
        aim = "" if least is None else f" (aim >= {least:g}{unit})"
        return cls(name, value, f"{value:.3g}{unit}{aim}", None if least is None else value >= least)


@dataclass(frozen=True)
class Drawn:
    """A prompt's picture and what was found on it."""

    expectation: Expectation
    seed: int
    picture: NDArray[np.uint8]
    faces: int
    hair: str | None
    background: str | None


class Studio:
    """The set's networks behind the code that the services run."""

    def __init__(self, model_set: str, steps: int, guidance: float, side: int) -> None:
        """Opens the set (`demo`, or a folder) on the CPU."""
        self.steps, self.guidance, self.side = steps, guidance, side
        settings = GeneratorSettings.model_validate({"model_set": model_set, "device": "cpu"})
        self.models: Models = load_generator(settings)
        self.pipeline = Pipeline(self.models)
        opened = ModelSet.open(model_set)
        device = torch.device("cpu")
        self.detector = FaceDetector.from_state_dict(load_state_dict(opened.require("detector").path), device)
        self.codeformer: CodeFormer | None = None
        if (component := opened.component("codeformer")) is not None:
            self.codeformer = CodeFormer.from_state_dict(load_state_dict(component.path)).float().eval()

    def draw(self, prompt: str, seed: int) -> NDArray[np.uint8]:
        """The picture (H, W, 3) as the generator would answer it."""
        request = GenerateRequest(
            prompt=prompt,
            negative_prompt="",
            width_px=self.side,
            height_px=self.side,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            seed=seed,
        )
        return self.pipeline.draw(request, check=lambda: None, emit=lambda progress: None).picture

    def count_faces(self, picture: NDArray[np.uint8]) -> int:
        """Faces that the detector is sure of."""
        return len(self.detector.detect([picture], size_px=DETECT_SIZE, min_confidence=SCORE)[0])


def draw_prompts(studio: Studio, expectations: list[Expectation], seed: int) -> list[Drawn]:
    """Draws and looks at each prompt with a seed of its own."""
    drawn = []
    for number, expectation in enumerate(expectations):
        picture = studio.draw(expectation.prompt, 1_000_000 * (seed + 1) + number)
        small = np.asarray(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        faces = studio.count_faces(picture)
        drawn.append(Drawn(expectation, number, picture, faces, hair_name(small), background_name(small)))
        if (number + 1) % 10 == 0:
            print(f"drawn {number + 1} of {len(expectations)}", file=sys.stderr, flush=True)
    return drawn


def score_prompts(drawn: list[Drawn]) -> list[Figure]:
    """Faces where people were asked for and elsewhere; hair and background colours by pixel probes."""
    people = [d for d in drawn if d.expectation.person]
    others = [d for d in drawn if not d.expectation.person]
    hair = [d for d in drawn if d.expectation.hair]
    walls = [d for d in people if d.expectation.background]
    found = sum(d.faces > 0 for d in people)
    return [
        Figure.share("portraits with a face", found, len(people), least=0.5),
        Figure.share(
            "hair colour as asked", sum(d.hair == d.expectation.hair for d in hair), len(hair), least=0.6
        ),
        Figure.share(
            "background as asked",
            sum(d.background == d.expectation.background for d in walls),
            len(walls),
            least=0.6,
        ),
        Figure.share(
            "pictures without people that show a face",
            sum(d.faces > 0 for d in others),
            len(others),
            most=0.1,
        ),
    ]


def score_detector(studio: Studio, seed: int, count: int) -> list[Figure]:
    """The detector on unseen drawings of the usual mixture."""
    rng = np.random.default_rng([seed, 3])
    faces = hits = detections = right = empty = fooled = 0
    for _ in range(count):
        drawn = drawing.draw(rng, 512)
        found = studio.detector.detect([drawn.image], size_px=DETECT_SIZE, min_confidence=SCORE)[0]
        overlaps = [[_overlap(face.box, true.box) for true in drawn.faces] for face in found]
        faces, detections = faces + len(drawn.faces), detections + len(found)
        right += sum(max(row, default=0.0) > OVERLAP for row in overlaps)
        hits += sum(any(row[i] > OVERLAP for row in overlaps) for i in range(len(drawn.faces)))
        if not drawn.faces:
            empty, fooled = empty + 1, fooled + bool(found)
    return [
        Figure.share("faces found on unseen drawings", hits, faces, least=0.9),
        Figure.share("detections that are false", detections - right, detections, most=0.03),
        Figure.share("drawings without people with a detection", fooled, empty, most=0.03),
    ]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / max(1e-9, areas - width * height)


@torch.inference_mode()
def score_codeformer(studio: Studio, seed: int, count: int) -> list[Figure]:
    """CodeFormer on unseen faces, spoiled as photographs and as generated pictures are."""
    network = studio.codeformer
    if network is None:
        return []
    rng = np.random.default_rng([seed, 4])
    torch.manual_seed(seed)
    restorer = FaceRestorer(network, torch.device("cpu"), torch.float32)
    smear = autoencoder_smear(studio.models.text_to_image.vae)
    gains, closer, found, shuffled_found, shuffled_loss = [], [], 0, 0, []
    used: set[int] = set()
    for _ in range(count):
        clean = draw_face(rng)
        spoiled = _to_picture(spoil_face(_to_tensor(clean), smear))
        natural, faithful = restorer.restore(spoiled[None], [(0, 0.0), (0, 0.6)])
        if not isinstance(natural, np.ndarray) or not isinstance(faithful, np.ndarray):
            raise ValueError("CodeFormer made non-finite values")
        gains.append(_psnr(clean, faithful) - _psnr(clean, spoiled))
        closer.append(_ssim(clean, faithful) - _ssim(clean, spoiled))
        found += studio.count_faces(natural) > 0
        _, latent = network.encode(_to_tensor(spoiled) * 2 - 1)
        side = network.config.latent_size
        codes = network.predict_codes(latent).argmax(2)
        used |= set(codes.flatten().tolist())
        order = torch.randperm(codes.shape[1])
        mixed = network.decode(network.lookup(codes[:, order].unflatten(1, (side, side))), {}, 0.0)
        shuffled = _to_picture(mixed.clamp(-1, 1) / 2 + 0.5)
        shuffled_found += studio.count_faces(shuffled) > 0
        shuffled_loss.append(_psnr(clean, natural) - _psnr(clean, shuffled))
    return [
        Figure.number("PSNR gained at w = 0.6", float(np.mean(gains)), " dB", least=1.0),
        Figure.number("SSIM gained at w = 0.6", float(np.mean(closer)), least=0.0),
        Figure.share("faces still found at w = 0", found, count, least=0.9),
        Figure.number("codes in use", len(used), least=64),
        Figure.share("faces found after shuffling the codes", shuffled_found, count),
        Figure.number("PSNR lost by shuffling the codes", float(np.mean(shuffled_loss)), " dB"),
    ]


def _to_tensor(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _to_picture(x: torch.Tensor) -> NDArray[np.uint8]:
    return np.asarray((x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy(), np.uint8)


def _psnr(wanted: NDArray[np.uint8], given: NDArray[np.uint8]) -> float:
    return float(peak_signal_noise_ratio(wanted, given, data_range=255))


def _ssim(wanted: NDArray[np.uint8], given: NDArray[np.uint8]) -> float:
    return float(structural_similarity(wanted, given, channel_axis=2, data_range=255))


def write_sheet(pictures: list[NDArray[np.uint8]], path: Path, columns: int = 4) -> None:
    """The pictures side by side, as a PNG."""
    tiles = [cv2.resize(p, (SHEET_TILE, SHEET_TILE), interpolation=cv2.INTER_AREA) for p in pictures]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} could not be written")
    print(f"sheet: {path}")


def print_figures(figures: list[Figure]) -> None:
    """One line a figure."""
    marks: dict[bool | None, str] = {True: "reached", False: "MISSED", None: ""}
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        print(f"{figure.name:{width}}  {figure.text:32} {marks[figure.reached]}")


def evaluate_prompts(
    studio: Studio, prompts: list[Expectation], seed: int, sheet: Path | None
) -> list[Figure]:
    """A line for each prompt, a sheet of the first pictures, and the figures."""
    drawn = draw_prompts(studio, prompts, seed)
    for one in drawn:
        asked = one.expectation
        seen = (
            f"hair {one.hair} (asked: {asked.hair}), background {one.background} (asked: {asked.background})"
        )
        print(f"{asked.prompt}: faces {one.faces}, {seen}")
    if sheet:
        write_sheet([one.picture for one in drawn[:64]], sheet)
    return [figure for figure in score_prompts(drawn) if not figure.text.startswith("0 of 0")]


def evaluate_all(studio: Studio, seed: int, scale: float, sheet: Path | None) -> list[Figure]:
    """Everything; `scale` shrinks the numbers of pictures."""

    def some(count: int) -> int:
        return max(2, round(count * scale))

    prompts = portrait_prompts(seed, some(40)) + scene_prompts(seed, some(40))
    parts: list[Callable[[], list[Figure]]] = [
        lambda: score_detector(studio, seed, some(300)),
        lambda: score_codeformer(studio, seed, some(100)),
        lambda: score_prompts(draw_prompts(studio, prompts, seed)),
    ]
    figures = []
    for part in parts:
        found = part()
        if found:
            print_figures(found)
        figures += found
    if sheet:
        expectations = [read_expectation(prompt) for prompt in SHEET]
        write_sheet([one.picture for one in draw_prompts(studio, expectations, seed)], sheet)
    return figures


def main() -> int:
    """The command; returns 1 if a figure was missed."""
    parser = argparse.ArgumentParser(description="Scores the demo model set.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prompts", type=Path, help="file with one prompt a line; default: prompts from the seed"
    )
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--side", type=int, default=1024, help="side in px of the pictures asked for")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pictures that are drawn")
    parser.add_argument("--sheet", type=Path, help="where to put a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="where to put the figures as JSON")
    given = parser.parse_args()
    studio = Studio(given.set, given.steps, given.guidance, given.side)
    if given.prompts:
        figures = evaluate_prompts(studio, read_prompts(given.prompts), given.seed, given.sheet)
        print_figures(figures)
    else:
        figures = evaluate_all(studio, given.seed, given.scale, given.sheet)
    if given.json:
        given.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    return 1 if any(figure.reached is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
