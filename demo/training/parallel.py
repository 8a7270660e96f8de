"""Runs the training stages as processes, several at a time, each as soon as those it needs have finished."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from training.loop import EXPORT, read_facts
from training.profile import Profile

# What each stage needs, in order of priority.
NEEDS: dict[str, tuple[str, ...]] = {
    "data": (),
    "autoencoder": (),
    "diffusion": ("autoencoder",),
    "codebook": (),
    "codes": ("codebook", "autoencoder"),
    "decoder": ("autoencoder",),
    "upscaler": ("autoencoder",),
    "refiner": ("diffusion", "decoder", "upscaler"),
    "redrawn": ("diffusion", "decoder", "upscaler"),
    "detector": ("redrawn",),
    "fusion": ("codes", "redrawn"),
    "people": ("fusion",),
    "identity": ("people",),
}
FINISHING_SECONDS = 25
DONE_SHARE = 0.9  # a stage that was stopped this close to its end is not started again


def trained_minutes(runs: Path, stage: str) -> float:
    """Minutes of training in the stage's export."""
    export = runs / stage / EXPORT
    return float(str(read_facts(export).get("minutes", 0.0))) if export.exists() else 0.0


def is_trained(runs: Path, stage: str, minutes: float) -> bool:
    """Whether the stage has used up its minutes; drawing has no budget and skips existing shards itself."""
    return stage != "data" and trained_minutes(runs, stage) >= DONE_SHARE * minutes


@dataclass
class Running:
    """A stage's process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int) -> str:
        """The last lines of the log."""
        text = self.log.read_text(errors="replace").replace("\r", "\n")
        return "\n".join(text.strip().splitlines()[-lines:])


@dataclass(frozen=True)
class RunOptions:
    """How the stages are run: `jobs` at a time, for at most `minutes` of wall-clock time."""

    profile: Profile
    seed: int
    jobs: int
    minutes: float
    stretch: float
    threads: int
    workers: int
    smoke: bool


class ParallelRun:
    """One run of all stages; the next one continues what it leaves unfinished."""

    def __init__(self, runs: Path, options: RunOptions) -> None:
        """Stages keep their results in folders of their names in `runs`."""
        self.runs, self.options = runs, options
        self.start = time.monotonic()
        self.running: dict[str, Running] = {}
        self.statuses: dict[str, int] = {}
        (runs / "logs").mkdir(parents=True, exist_ok=True)

    def run(self) -> dict[str, int]:
        """Return the exit status of every stage that was started; 0 also for those already trained."""
        waiting, last_report = list(NEEDS), 0.0
        while (waiting or self.running) and self._seconds() < 60 * self.options.minutes:
            for stage in list(waiting):
                states = [self.statuses.get(required) for required in NEEDS[stage]]
                if any(states):
                    waiting.remove(stage)  # what it needs has failed
                elif None not in states and len(self.running) < self.options.jobs:
                    waiting.remove(stage)
                    self._start_stage(stage)
            self._collect()
            if time.monotonic() - last_report > 30:
                last_report = time.monotonic()
                for running in self.running.values():
                    print(f"[{self._seconds():5.0f} s] {running.tail(1)[:180]}", flush=True)
            time.sleep(0.5)
        self._stop()
        return self.statuses

    def _seconds(self) -> float:
        return time.monotonic() - self.start

    def _minutes(self, stage: str) -> float:
        return self.options.profile.minutes.get(stage, 1.0) * self.options.stretch

    def _start_stage(self, stage: str) -> None:
        options, minutes = self.options, self._minutes(stage)
        if not options.smoke and is_trained(self.runs, stage, minutes):
            print(f"[{self._seconds():5.0f} s] {stage} is already trained", flush=True)
            self.statuses[stage] = 0
            return
        command = [sys.executable, "-m", f"training.{stage}", "--out", str(self.runs / stage), "--resume"]
        until = time.time() + 60 * options.minutes - self._seconds() - FINISHING_SECONDS
        command += ["--minutes", str(minutes), "--until", str(until), "--seed", str(options.seed)]
        command += ["--threads", str(options.threads), "--workers", str(options.workers)]
        command += ["--profile", options.profile.name]
        command += ["--smoke"] if options.smoke else []
        log = self.runs / "logs" / f"{stage}.log"
        cache = {"TORCHINDUCTOR_CACHE_DIR": str((self.runs / "compiled").absolute()), "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **cache}
            )
        self.running[stage] = Running(process, log)
        print(f"[{self._seconds():5.0f} s] {stage} starts, budget {minutes:.1f} min", flush=True)

    def _collect(self) -> None:
        for stage, running in list(self.running.items()):
            status = running.process.poll()
            if status is not None:
                self.statuses[stage] = status
                del self.running[stage]
                lines = 30 if status else 2
                print(
                    f"[{self._seconds():5.0f} s] {stage} ended with {status}\n{running.tail(lines)}",
                    flush=True,
                )

    def _stop(self) -> None:
        for stage, running in self.running.items():
            running.process.terminate()
            try:
                running.process.wait(10)
            except subprocess.TimeoutExpired:
                running.process.kill()
            self.statuses[stage] = -1
            print(f"[{self._seconds():5.0f} s] {stage} stopped\n{running.tail(3)}", flush=True)
        self.running.clear()
