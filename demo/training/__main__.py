"""Trains the whole demo set: draws, trains every stage, packages; goes on from what is there.

`python -m training --out .runs` runs the stages one after the other, `--jobs 2` several side by side,
`--minutes` stops after a time, to be called again. `--smoke` takes a few tiny steps of everything.
"""

import argparse
import importlib
import math
import os
import sys
import time
from pathlib import Path

from training.bundle import pack, unpack
from training.options import default_profile, parse_options
from training.package_set import package
from training.profile import PROFILES
from training.side_by_side import NEEDS, Conditions, SideBySide, is_trained


def run_in_order(runs: Path, wanted: Conditions) -> None:
    """Every stage, one after the other in this process."""
    for stage in NEEDS:
        minutes = wanted.profile.minutes.get(stage, 1.0) * wanted.stretch
        if not wanted.smoke and is_trained(runs, stage, minutes):
            print(f"{stage} is trained already", flush=True)
            continue
        arguments = [
            "--out",
            str(runs / stage),
            "--minutes",
            str(minutes),
            "--seed",
            str(wanted.seed),
            "--resume",
        ]
        arguments += ["--workers", str(wanted.workers), "--threads", str(wanted.threads)]
        arguments += ["--profile", wanted.profile.name, *(["--smoke"] if wanted.smoke else [])]
        began = time.monotonic()
        module = importlib.import_module(f"training.{stage}")
        run = module.draw_all if stage == "data" else module.train
        run(parse_options(stage, arguments))
        print(f"{stage} took {time.monotonic() - began:.1f} s", flush=True)


def main() -> int:
    """The command."""
    cores = os.cpu_count() or 2
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(".runs"), help="folder of checkpoints, exports and logs"
    )
    parser.add_argument("--to", type=Path, help="folder of the packaged set (default: set, in --out)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=default_profile())
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps of everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stretch", type=float, default=1.0, help="factor on every stage's minutes")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="with --jobs: stop after this time")
    parser.add_argument("--threads", type=int, default=cores, help="threads of one stage, on a CPU")
    parser.add_argument("--workers", type=int, default=max(1, cores - 1), help="processes that draw")
    parser.add_argument("--restore", type=Path, help="begin with the bundle in this folder")
    parser.add_argument("--bundle", type=Path, help="leave a bundle of the results in this folder")
    given = parser.parse_args()
    if given.restore:
        unpack(given.restore, given.out)
    workers = 1 if given.smoke else given.workers
    wanted = Conditions(PROFILES[given.profile], given.seed, given.jobs, given.minutes, given.stretch,
                        given.threads, workers, given.smoke)  # fmt: skip
    failed = False
    if given.jobs == 1:
        run_in_order(given.out, wanted)
    else:
        statuses = SideBySide(given.out, wanted).run()
        print(f"stages: {statuses}", flush=True)
        failed = any(statuses.values()) or set(statuses) != set(NEEDS)
    if given.bundle:
        pack(given.out, given.bundle)
    if not failed:
        package(given.out, given.to or given.out / "set", seed=given.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
