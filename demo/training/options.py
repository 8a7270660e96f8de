"""The command line and the paths that all training stages share."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from training.profile import PROFILES, Profile


@dataclass(frozen=True)
class Options:
    """The options of one call of one stage.

    `minutes` is the stage's whole budget of training time, over which the learning rate decays. A call stops
    when that is used up, or at the time `until` (as of `time.time()`), to be resumed later.
    """

    out: Path
    minutes: float
    until: float
    seed: int
    resume: bool
    smoke: bool
    workers: int
    threads: int
    profile: Profile

    @property
    def runs(self) -> Path:
        """The folder with the results of all stages."""
        return self.out.parent

    @property
    def device(self) -> torch.device:
        """CUDA if available."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.out.name

    @property
    def batch(self) -> int:
        """Batch size of this stage."""
        in_pairs = self.stage in ("autoencoder", "decoder", "diffusion")
        return self.scaled(self.profile.batches[self.stage], 2 if in_pairs else 1)

    def scaled(self, full: int, smoke: int) -> int:
        """The value for the full run, or for the minute-long smoke run."""
        return smoke if self.smoke else full


def default_profile() -> str:
    """`cuda` if there is a CUDA device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def parse_options(description: str, arguments: list[str] | None = None) -> Options:
    """Parse a stage's options; the stage's name is the last component of `--out`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of this stage's checkpoint and export"
    )
    parser.add_argument(
        "--minutes", type=float, help="whole time budget of the stage (default: the profile's)"
    )
    parser.add_argument("--until", type=float, default=math.inf, help="stop at this time, seconds since 1970")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="resume from the checkpoint, or from the export"
    )
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, to show that the stage runs")
    parser.add_argument("--profile", choices=sorted(PROFILES), help="default: cuda if there is a GPU")
    parser.add_argument("--threads", type=int, default=2, help="threads of one operator, on a CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    profile = PROFILES[given.profile or default_profile()]
    minutes = profile.minutes.get(given.out.name, 1.0) if given.minutes is None else given.minutes
    return Options(
        given.out,
        minutes,
        given.until,
        given.seed,
        given.resume,
        given.smoke,
        given.workers,
        given.threads,
        profile,
    )


def prepare_torch(options: Options, fixed_shapes: bool = True) -> None:
    """Seed torch and enable a CUDA device's fast kernels, benchmarking them if shapes stay the same."""
    torch.manual_seed(options.seed)
    if options.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = fixed_shapes
    else:
        torch.set_num_threads(1 if options.smoke else options.threads)
