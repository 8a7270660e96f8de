"""Scores a packaged set on held-out drawings and prompts, and prints one table.

`python -m training.evaluate --seed 7 [--quick] [--set demo] [--prompts FILE]`

Images are generated and analyzed by the services' own code. What an image shows is judged by a small network
(`training.attributes`) that is trained on drawings when it is first needed; its own accuracy on held-out
drawings is in the table, too. `--quick` uses a fifth of the samples: minutes on two cores instead of most of
an hour. With a file of prompts (one per line) only those are generated and scored.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from training.attributes import Judge, measure, open_judge
from training.figures import Figure, table
from training.prompts import portrait_prompts, read_prompts, scene_prompts
from training.score_detector import score_detector
from training.score_prompts import NAMES, describe, generate_images, score_prompts
from training.score_refiner import score_refiner
from training.score_restorer import score_restorer
from training.showcase import write_sheet
from training.studio import Studio

QUICK = 0.2
DRAWINGS, PROMPTS, FACES, REFINED, HELD_OUT = 400, 100, 300, 40, 500
SECONDS = {False: 10.0, True: 30.0}
TIMED_PROMPT = "portrait of a smiling woman with long brown hair, blue background"
PARTS = ("judge", "detector", "restorer", "refiner", "prompts", "times")


def score_judge(network: Judge, seed: int, count: int) -> list[Figure]:
    """The judge's accuracy on `count` held-out portraits."""
    # Other drawings than those that it was measured on after training, whatever the seed.
    by_attribute = measure(network, count, seed + 1_000_000)
    correct, total = (sum(column) for column in zip(*by_attribute.values(), strict=True))
    figures = [Figure.share("judge: correct on held-out drawings", correct, total, at_least=0.97)]
    figures += [
        Figure.share(f"judge: {NAMES[name]}", *counts, at_least=0.97) for name, counts in by_attribute.items()
    ]
    return figures


def score_times(studio: Studio, seed: int, runs: int) -> list[Figure]:
    """Wall-clock time of an image, and of one with a second pass and its faces restored."""
    figures = []
    for hires, at_most in SECONDS.items():
        seconds, restored = studio.seconds(TIMED_PROMPT, seed, hires, runs)
        name = f"{studio.side}x{studio.side}, {studio.steps} steps"
        if hires:
            name += ", hires with faces restored" if restored else ", hires; no face to restore was found"
        figures.append(Figure.number(name, seconds, " s", at_most=at_most))
    return figures


def evaluate(studio: Studio, network: Judge, seed: int, scale: float, parts: tuple[str, ...]) -> list[Figure]:
    """The selected parts; `scale` scales the number of samples."""

    def some(count: int) -> int:
        return max(2, round(count * scale))

    def prompts() -> list[Figure]:
        expectations = portrait_prompts(seed, some(PROMPTS)) + scene_prompts(seed, some(PROMPTS))
        generated = generate_images(studio, network, expectations, seed)
        for item in generated:
            print(describe(item), file=sys.stderr)
        return score_prompts(generated)

    scorers: dict[str, Callable[[], list[Figure]]] = {
        "judge": lambda: score_judge(network, seed, some(HELD_OUT)),
        "detector": lambda: score_detector(studio, seed, some(DRAWINGS)),
        "restorer": lambda: score_restorer(studio, network, seed, some(FACES)),
        "refiner": lambda: score_refiner(studio, seed, some(REFINED)),
        "prompts": prompts,
        "times": lambda: score_times(studio, seed, 1 if scale < 0.5 else 3),
    }
    figures = []
    for part in PARTS:
        if part in parts:
            print(f"scoring: {part}", file=sys.stderr, flush=True)
            figures += scorers[part]()
    return figures


def evaluate_prompts(
    studio: Studio, network: Judge, path: Path, seed: int, sheet: Path | None
) -> list[Figure]:
    """Print a line for each prompt of a file, write a sheet of the first images, and return the figures."""
    generated = generate_images(studio, network, read_prompts(path), seed)
    for item in generated:
        print(describe(item))
    if sheet:
        write_sheet([item.image for item in generated[:64]], sheet)
    return [figure for figure in score_prompts(generated) if figure.reached is not None]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Scores the demo model set.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prompts", type=Path, help="file with one prompt per line; default: prompts from the seed"
    )
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--side", type=int, default=1024, help="side in px of the requested images")
    parser.add_argument("--quick", action="store_true", help=f"the same as --scale {QUICK}")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the samples to use")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table")
    parser.add_argument(
        "--judge",
        type=Path,
        default=Path(".runs/attributes"),
        help="folder of the judge; trained if missing",
    )
    parser.add_argument("--sheet", type=Path, help="with --prompts: where to put a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="where to put the figures as JSON")
    return parser.parse_args()


def main() -> int:
    """Run the command; return 1 if a target was missed."""
    given = parse()
    network = open_judge(given.judge)
    studio = Studio(given.set, given.steps, given.guidance, given.side)
    if given.prompts:
        figures = evaluate_prompts(studio, network, given.prompts, given.seed, given.sheet)
    else:
        scale = min(given.scale, QUICK) if given.quick else given.scale
        figures = evaluate(studio, network, given.seed, scale, tuple(given.only))
    print(table(figures))
    if given.json:
        given.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    return 1 if any(figure.reached is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
