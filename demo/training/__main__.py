"""Trains the whole demo set: draws, trains every stage in order, packages.

`python -m training --out .runs` runs the stages one after the other and goes on from what is there.
`--smoke` does so with a few tiny steps. For a machine with a CUDA device and little time, `--phase 1`, `2`
and `3` run what fits together side by side, each within `--minutes`; what later phases need is packed into
the folder that the environment variable OUT names, from which `--restore` takes it on a fresh machine.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from training.diffusion import TOKENIZER
from training.loop import EXPORT, read_facts
from training.options import parse_options
from training.package_set import package

STAGES = ("data", "autoencoder", "detector", "upscaler", "codebook", "codes", "fusion", "diffusion")
MINUTES = {"autoencoder": 5.0, "detector": 3.5, "upscaler": 1.5, "codebook": 5.0, "codes": 3.5, "fusion": 4.0,
           "diffusion": 15.0}  # fmt: skip
PART_BYTES = 15_000_000
MOST_PARTS = 4
NEEDED = ("data", "autoencoder", "diffusion")


@dataclass(frozen=True)
class Task:
    """One stage in one phase: begins `at` seconds into the phase, and not before the stages in `after` end."""

    stage: str
    at: float = 0.0
    after: tuple[str, ...] = ()


PHASES: dict[int, tuple[Task, ...]] = {
    1: (
        Task("data"),
        Task("autoencoder", 1),
        Task("detector", 100),
        Task("codebook", 210),
        Task("upscaler", after=("autoencoder",)),
        Task("diffusion", after=("autoencoder",)),
    ),
    2: (
        Task("data"),
        Task("autoencoder"),
        Task("diffusion", after=("autoencoder",)),
        Task("detector", after=("autoencoder",)),
        Task("upscaler", after=("autoencoder",)),
        Task("codebook", after=("autoencoder",)),
        Task("codes", after=("codebook",)),
        Task("fusion", after=("codes",)),
    ),
    3: (
        Task("data"),
        Task("diffusion", 1),
        Task("codes", 1),
        Task("fusion", after=("codes",)),
    ),
}


@dataclass
class Running:
    """A stage's process and its log."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)

    def tail(self, lines: int) -> str:
        """The last lines of the log."""
        text = self.log.read_text(errors="replace").replace("\r", "\n") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:])


def trained_minutes(runs: Path, stage: str) -> float:
    """Minutes that the stage's export has behind it."""
    export = runs / stage / EXPORT
    return float(str(read_facts(export).get("minutes", 0.0))) if export.exists() else 0.0


class Phase:
    """Runs the tasks of one phase side by side until its time is up."""

    def __init__(self, runs: Path, number: int, minutes: float, seed: int, workers: int, smoke: bool) -> None:
        """`minutes` is the wall-clock time of the whole phase."""
        self.runs, self.number, self.seed, self.workers, self.smoke = runs, number, seed, workers, smoke
        self.began = time.monotonic()
        self.until = time.time() + 60 * minutes - 25
        self.hard_end = self.began + 60 * minutes
        self.running: dict[str, Running] = {}
        self.results: dict[str, int] = {}

    def run(self) -> dict[str, int]:
        """Starts the tasks when they are due; returns each one's exit status."""
        waiting = list(PHASES[self.number])
        check = self._check() if self.number == 1 and not self.smoke else None
        spoken = 0.0
        while (waiting or self.running) and time.monotonic() < self.hard_end:
            waiting = [task for task in waiting if not any(self.results.get(stage) for stage in task.after)]
            for task in list(waiting):
                if self._due(task):
                    waiting.remove(task)
                    self._begin(task)
            for stage, running in list(self.running.items()):
                status = running.process.poll()
                if status is not None:
                    self.results[stage] = status
                    del self.running[stage]
                    print(
                        f"[{self._clock():5.0f} s] {stage} ended with {status}\n{running.tail(3)}", flush=True
                    )
                    if status and stage in NEEDED:
                        waiting.clear()
            if check and (status := check.process.poll()) is not None:
                print(
                    f"[{self._clock():5.0f} s] check ended with {status}\n{check.tail(30 if status else 3)}",
                    flush=True,
                )
                check = None
                if status:
                    waiting.clear()
                    self._stop()
            if time.monotonic() - spoken > 20:
                spoken = time.monotonic()
                for running in self.running.values():
                    print(f"[{self._clock():5.0f} s] {running.tail(1)[:200]}", flush=True)
            time.sleep(0.5)
        self._stop()
        return self.results

    def logs(self) -> None:
        """Prints the end of every failed log."""
        for stage, status in self.results.items():
            if status:
                log = self._log(stage)
                print(
                    f"===== {stage} failed with {status}\n{log.read_text(errors='replace')[-3000:]}",
                    flush=True,
                )

    def _clock(self) -> float:
        return time.monotonic() - self.began

    def _due(self, task: Task) -> bool:
        return (self.smoke or self._clock() >= task.at) and all(
            self.results.get(stage) == 0 for stage in task.after
        )

    def _log(self, stage: str) -> Path:
        return self.runs / "logs" / f"{self.number}_{stage}.log"

    def _budget(self, stage: str) -> float:
        """The stage's minutes; for diffusion all that the last phase leaves it."""
        if stage == "diffusion" and self.number == 3:
            return trained_minutes(self.runs, stage) + max(0.5, (self.until - time.time()) / 60 - 0.5)
        return MINUTES.get(stage, 1.0)

    def _begin(self, task: Task) -> None:
        stage, minutes = task.stage, self._budget(task.stage)
        if stage in MINUTES and trained_minutes(self.runs, stage) >= 0.9 * minutes:
            print(f"[{self._clock():5.0f} s] {stage} is trained already", flush=True)
            self.results[stage] = 0
            return
        command = [sys.executable, "-m", f"training.{stage}", "--out", str(self.runs / stage), "--resume",
                   "--minutes", f"{minutes:.2f}", "--until", str(self.until), "--seed", str(self.seed),
                   "--workers", str(self.workers), *(["--smoke"] if self.smoke else [])]  # fmt: skip
        self.running[stage] = self._spawn(stage, command)
        print(f"[{self._clock():5.0f} s] {stage} begins, budget {minutes:.1f} min", flush=True)

    def _check(self) -> Running:
        """A smoke run of the whole chain on this machine: what is broken shows in the first minute."""
        command = [sys.executable, "-m", "training", "--out", str(self.runs / "check"), "--smoke"]
        return self._spawn("check", command)

    def _spawn(self, stage: str, command: list[str]) -> Running:
        log = self._log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        cache = {"TORCHINDUCTOR_CACHE_DIR": str((self.runs / "compiled").absolute()), "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **cache}
            )
        return Running(process, log)

    def _stop(self) -> None:
        for stage, running in self.running.items():
            running.process.terminate()
            try:
                running.process.wait(10)
            except subprocess.TimeoutExpired:
                running.process.kill()
            self.results[stage] = -1
            print(f"[{self._clock():5.0f} s] {stage} stopped\n{running.tail(3)}", flush=True)
        self.running.clear()


def pack(runs: Path, out: Path) -> None:
    """Puts all exports and logs into `out` as an archive in parts of 15 MB, four at most."""
    archive = runs / "bundle.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        kept = (f"*/{EXPORT}", f"*/{TOKENIZER}/*", "logs/*.log")
        for path in sorted(path for pattern in kept for path in runs.glob(pattern)):
            if path.parent.name != "check":
                tar.add(path, path.relative_to(runs))
    data = archive.read_bytes()
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    if len(parts) > MOST_PARTS:
        raise ValueError(f"the exports take {len(data)} bytes, more than {MOST_PARTS} parts of {PART_BYTES}")
    for number, part in enumerate(parts):
        (out / f"bundle.part{number}").write_bytes(part)
    print(f"packed {len(data)} bytes into {len(parts)} parts in {out}", flush=True)


def unpack(source: Path, runs: Path) -> None:
    """Takes from such an archive what `runs` does not have."""
    parts = sorted(source.glob("bundle.part*"))
    if not parts:
        raise FileNotFoundError(f"no bundle.part* in {source}")
    runs.mkdir(parents=True, exist_ok=True)
    archive = runs / "restored.tar.gz"
    archive.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(archive) as tar:
        missing = [member for member in tar.getmembers() if not (runs / member.name).exists()]
        tar.extractall(runs, missing, filter="data")
    print(f"restored {[member.name for member in missing]}", flush=True)


def run_in_order(runs: Path, smoke: bool, seed: int, stretch: float, workers: int) -> None:
    """Every stage, one after the other in this process, then the packaged set in `runs/set`."""
    for stage in STAGES:
        budget = MINUTES.get(stage, 1.0) * stretch
        if stage in MINUTES and not smoke and trained_minutes(runs, stage) >= 0.9 * budget:
            print(f"{stage} is trained already", flush=True)
            continue
        arguments = ["--out", str(runs / stage), "--minutes", str(budget), "--seed", str(seed), "--resume"]
        arguments += ["--workers", str(workers), *(["--smoke"] if smoke else [])]
        began = time.monotonic()
        module = importlib.import_module(f"training.{stage}")
        run = module.draw_all if stage == "data" else module.train
        run(parse_options(stage, arguments))
        print(f"{stage} took {time.monotonic() - began:.1f} s", flush=True)
    package(runs, runs / "set", seed=seed)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".runs"))
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps of everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stretch", type=float, default=1.0, help="factor on every stage's minutes")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 3), help="processes that draw"
    )
    parser.add_argument("--phase", type=int, choices=sorted(PHASES), help="run one phase side by side")
    parser.add_argument("--minutes", type=float, default=9.3, help="wall-clock minutes of the phase")
    parser.add_argument("--restore", type=Path, help="folder with a bundle of an earlier phase")
    given = parser.parse_args()
    if given.restore:
        unpack(given.restore, given.out)
    if given.phase is None:
        run_in_order(given.out, given.smoke, given.seed, given.stretch, 1 if given.smoke else given.workers)
        return 0
    phase = Phase(given.out, given.phase, given.minutes, given.seed, given.workers, given.smoke)
    try:
        results = phase.run()
    finally:
        phase.logs()
        if os.environ.get("OUT"):
            pack(given.out, Path(os.environ["OUT"]))
    print(f"phase {given.phase}: {results}", flush=True)
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
