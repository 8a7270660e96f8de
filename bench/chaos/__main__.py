"""Load and faults, one command: `make chaos`, or `python -m bench.chaos`.

Starts gateway, generator and restorer on the demo models, kills, holds, fills and cuts what can be, and
reports what clients saw beside what is promised. Prints a table and JSON; needs Linux and about a quarter of
an hour. Exits with 1 if a promise that does not depend on the machine's speed is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench.chaos import page
from bench.chaos.figures import Result
from bench.chaos.scale import Scale
from bench.chaos.scenarios import SCENARIOS, Scenario
from bench.chaos.stack import Stack
from bench.report import machine, print_json

ALL_S, QUICK_S = 1200.0, 200.0
"""For all scenarios together; what would begin later is not begun."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short half, which says nothing about speed")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*SCENARIOS], help=", ".join(SCENARIOS))
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        metavar="N",
        help="allow scenarios N times as long: a busy machine",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="fill in the figures of this page")
    given = parser.parse_args(arguments)
    if given.write and (given.quick or given.only):
        parser.error("--write needs all of it, without --quick and --only")
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT is ignored where a shell has started us with &
        signal.signal(number, signal.default_int_handler)  # so that our processes are ended then, too
    about = machine()
    chosen = {
        name: each
        for name, each in SCENARIOS.items()
        if (name in given.only if given.only else each.quick_limit_s or not given.quick)
    }
    results: dict[str, Result] = {}
    try:
        run(chosen, Scale(given.quick), given.patience, results)
    except KeyboardInterrupt:
        print(page.text_table(results), "Stopped.", sep="\n", file=sys.stderr)
        return 130
    print(page.text_table(results), file=sys.stderr)
    print_json({"machine": about, "quick": given.quick, "scenarios": page.as_json(results)})
    if given.write:
        page.write(given.write, results, about)
    return int(any(page.is_broken(result) for result in results.values()))


def run(scenarios: dict[str, Scenario], scale: Scale, patience: float, results: dict[str, Result]) -> None:
    """Run scenarios one after the other on one set of processes, and add what each found to the results."""
    end = time.monotonic() + patience * scale.of(ALL_S, QUICK_S)
    with Stack(patience) as stack:
        for name, scenario in scenarios.items():
            start = time.monotonic()
            print(f"{name} ...", file=sys.stderr, flush=True)
            limit_s = patience * scale.of(scenario.limit_s, scenario.quick_limit_s or scenario.limit_s)
            limit_s = min(limit_s, max(0.0, end - start))
            try:
                results[name] = asyncio.run(asyncio.wait_for(scenario.run(stack, scale), limit_s))
            except TimeoutError:
                results[name] = Result(failed=f"not ended within {limit_s:.0f} s")
            except Exception as error:  # the others' figures are not to be lost with it
                traceback.print_exc()
                results[name] = Result(failed=f"{type(error).__name__}: {error}")
            print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
