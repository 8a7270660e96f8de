"""Scores a packaged set on drawings and prompts that were never trained on, and prints one table.

`python -m training.evaluate --seed 7 [--quick] [--set demo] [--prompts FILE]`

Pictures are drawn and looked at by the services' own code. What a picture shows is judged by a small network
(`training.attributes`) that is trained on drawings when it is first needed, and whose own share of right
answers on held-out drawings is in the table too. `--quick` takes a fifth of the numbers: minutes on two cores
instead of most of an hour. With a file of prompts (one a line) only those are drawn and scored.
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
from training.score_prompts import NAMES, describe, draw_prompts, score_prompts
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
    """The judge's right answers on `count` held-out portraits."""
    # Not the drawings that it was measured on after its training, whatever the seed.
    found = measure(network, count, seed + 1_000_000)
    right, asked = (sum(column) for column in zip(*found.values(), strict=True))
    figures = [Figure.share("judge: right on held-out drawings", right, asked, least=0.97)]
    figures += [Figure.share(f"judge: {NAMES[name]}", *counts, least=0.97) for name, counts in found.items()]
    return figures


def score_times(studio: Studio, seed: int, runs: int) -> list[Figure]:
    """Wall-clock times of a picture, and of one with a second pass and its faces restored."""
    figures = []
    for hires, most in SECONDS.items():
        seconds, restored = studio.seconds(TIMED_PROMPT, seed, hires, runs)
        name = f"{studio.side}x{studio.side}, {studio.steps} steps"
        if hires:
            name += ", hires with faces restored" if restored else ", hires; no face was found to restore"
        figures.append(Figure.number(name, seconds, " s", most=most))
    return figures


def evaluate(studio: Studio, network: Judge, seed: int, scale: float, parts: tuple[str, ...]) -> list[Figure]:
    """The parts asked for; `scale` shrinks the numbers of pictures."""

    def some(count: int) -> int:
        return max(2, round(count * scale))

    def prompts() -> list[Figure]:
        wanted = portrait_prompts(seed, some(PROMPTS)) + scene_prompts(seed, some(PROMPTS))
        drawn = draw_prompts(studio, network, wanted, seed)
        for one in drawn:
            print(describe(one), file=sys.stderr)
        return score_prompts(drawn)

    ways: dict[str, Callable[[], list[Figure]]] = {
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
            figures += ways[part]()
    return figures


def evaluate_prompts(
    studio: Studio, network: Judge, path: Path, seed: int, sheet: Path | None
) -> list[Figure]:
    """A line for each prompt of a file, a sheet of the first pictures, and the figures."""
    drawn = draw_prompts(studio, network, read_prompts(path), seed)
    for one in drawn:
        print(describe(one))
    if sheet:
        write_sheet([one.picture for one in drawn[:64]], sheet)
    return [figure for figure in score_prompts(drawn) if figure.reached is not None]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Scores the demo model set.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prompts", type=Path, help="file with one prompt a line; default: prompts from the seed"
    )
    parser.add_argument("--set", default="demo", help="'demo' or the folder of a model set")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--side", type=int, default=1024, help="side in px of the pictures asked for")
    parser.add_argument("--quick", action="store_true", help=f"the same as --scale {QUICK}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pictures that are drawn")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the table")
    parser.add_argument(
        "--judge",
        type=Path,
        default=Path(".runs/attributes"),
        help="folder of the judge; trained if not there",
    )
    parser.add_argument("--sheet", type=Path, help="with --prompts: where to put a contact sheet (PNG)")
    parser.add_argument("--json", type=Path, help="where to put the figures as JSON")
    return parser.parse_args()


def main() -> int:
    """The command; returns 1 if a figure was missed."""
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
