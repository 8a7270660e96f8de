"""Trains the whole demo set: draws the data, trains every stage, packages the set; resumes an earlier run.

`python -m training --out .runs` runs the stages one after another, `--jobs 2` two at a time. `--minutes`
stops after some time; the next call resumes. `--smoke` takes a few tiny steps of everything.
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
from training.parallel import NEEDS, ParallelRun, RunOptions, is_trained
from training.profile import PROFILES


def run_in_order(runs: Path, run_options: RunOptions) -> None:
    """Run every stage, one after another, in this process."""
    for stage in NEEDS:
        minutes = run_options.profile.minutes.get(stage, 1.0) * run_options.stretch
        if not run_options.smoke and is_trained(runs, stage, minutes):
            print(f"{stage} is already trained", flush=True)
            continue
        arguments = [
            "--out",
            str(runs / stage),
            "--minutes",
            str(minutes),
            "--seed",
            str(run_options.seed),
            "--resume",
        ]
        arguments += ["--workers", str(run_options.workers), "--threads", str(run_options.threads)]
        arguments += ["--profile", run_options.profile.name, *(["--smoke"] if run_options.smoke else [])]
        start = time.monotonic()
        module = importlib.import_module(f"training.{stage}")
        run = module.draw_all if stage == "data" else module.train
        run(parse_options(stage, arguments))
        print(f"{stage} took {time.monotonic() - start:.1f} s", flush=True)


def main() -> int:
    """Run the command."""
    cores = os.cpu_count() or 2
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(".runs"), help="folder of checkpoints, exports and logs"
    )
    parser.add_argument("--to", type=Path, help="folder of the packaged set (default: set in --out)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=default_profile())
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps of everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stretch", type=float, default=1.0, help="factor for every stage's minutes")
    parser.add_argument("--jobs", type=int, default=1, help="stages that run at the same time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="with --jobs: stop after this time")
    parser.add_argument("--threads", type=int, default=cores, help="threads per stage, on a CPU")
    parser.add_argument("--workers", type=int, default=max(1, cores - 1), help="processes that draw")
    parser.add_argument("--restore", type=Path, help="start from the bundle in this folder")
    parser.add_argument("--bundle", type=Path, help="write a bundle of the results to this folder")
    given = parser.parse_args()
    if given.restore:
        unpack(given.restore, given.out)
    workers = 1 if given.smoke else given.workers
    run_options = RunOptions(PROFILES[given.profile], given.seed, given.jobs, given.minutes, given.stretch,
                        given.threads, workers, given.smoke)  # fmt: skip
    failed = False
    if given.jobs == 1:
        run_in_order(given.out, run_options)
    else:
        statuses = ParallelRun(given.out, run_options).run()
        print(f"stages: {statuses}", flush=True)
        failed = any(statuses.values()) or set(statuses) != set(NEEDS)
    if given.bundle:
        pack(given.out, given.bundle)
    if not failed:
        package(given.out, given.to or given.out / "set", seed=given.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
