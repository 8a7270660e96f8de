"""How well `dry_run` foretells what `/generate` takes, and what asking costs.

`python -m bench.estimate` starts the three processes anew in each round, with the demo models or those of
ATELIER_GENERATOR_MODEL_SET, and sends requests of different sizes, steps and options in a random order,
each first as a dry run. An error is |expected - actual| / actual; actual is what the client waits for. The
table goes to stderr.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.generate import PROMPT, generate, running
from bench.report import machine, percentile, print_json, spread

SIDES = ((256, 256), (384, 256), (512, 512), (512, 768), (768, 768), (1024, 1024))
STEPS = (4, 8, 16)
OPTIONS: tuple[dict[str, object], ...] = (
    {},
    {"use_refiner": False},
    {"hires_fix": True},
    {"guidance_scale": 1.0},
    {"num_images": 2},
)
FEW = 5


@dataclass(frozen=True)
class Sample:
    """A request that was foretold: the seconds expected, their range, and those it took."""

    number: int
    seen: bool
    low: float
    expected: float
    high: float
    actual: float

    @property
    def error(self) -> float:
        """Relative error."""
        return abs(self.expected - self.actual) / self.actual


def requests(count: int, rng: random.Random, restored: bool) -> Iterator[dict[str, object]]:
    """Yield random requests."""
    for seed in range(count):
        width, height = rng.choice(SIDES)
        yield {
            "prompt": PROMPT,
            "seed": seed,
            "width": width,
            "height": height,
            "num_inference_steps": rng.choice(STEPS),
            "use_face_restoration": restored,
            **rng.choice(OPTIONS),
        }


def measure(count: int, rounds: int, *, restored: bool) -> tuple[list[Sample], list[float]]:
    """Return the samples of some rounds, and the seconds of their dry runs."""
    samples, asking = [], []
    for number in range(rounds):
        with running() as url:
            for place, request in enumerate(requests(count, random.Random(number), restored)):
                seconds, answer = generate(url, **request, dry_run=True)
                asking.append(seconds)
                actual, _ = generate(url, **request)
                known = answer["generation"]["observations"] > 0
                samples.append(Sample(place, known, **answer["seconds"], actual=actual))
    return samples, asking


def summary(samples: Sequence[Sample]) -> dict[str, object]:
    """Return the errors of some samples, and how many were within the range."""
    if not samples:
        return {"n": 0}
    errors = [sample.error for sample in samples]
    within = [sample.low <= sample.actual <= sample.high for sample in samples]
    return {
        "n": len(samples),
        "error_median": round(statistics.median(errors), 3),
        "error_p90": round(percentile(errors, 0.9), 3),
        "within_range": round(sum(within) / len(within), 3),
    }


def to_markdown(rows: dict[str, dict[str, object]]) -> str:
    """Return the errors as a table."""
    lines = ["| requests | n | error: median | 90th percentile | within the range |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        if row["n"]:
            cells = [f"{row[key]:.0%}" for key in ("error_median", "error_p90", "within_range")]
            lines.append(f"| {name} | {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=30, help="in a round")
    parser.add_argument("--restored", action="store_true", help="with face restoration")
    args = parser.parse_args()
    before = machine()
    samples, asking = measure(args.requests, args.rounds, restored=args.restored)
    later = [sample for sample in samples if sample.number >= FEW]
    rows = {
        f"the first {FEW} after the start": summary([s for s in samples if s.number < FEW]),
        "later ones": summary(later),
        "of them, at a size not seen before": summary([s for s in later if not s.seen]),
        "of them, at a size seen before": summary([s for s in later if s.seen]),
    }
    print(to_markdown(rows), file=sys.stderr)
    print_json(
        {"machine": before, "errors": rows, "dry_run_ms": spread([1000 * seconds for seconds in asking])}
    )


if __name__ == "__main__":
    main()
