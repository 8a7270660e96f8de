"""The training loop of every stage: time budget, EMA of the weights, log lines, checkpoints.

A stage builds its networks, iterates over the loop's steps until the time is up, and passes each step's loss
back. The loop owns the optimizer, the learning rate schedule (warm-up, constant, then cosine over the time
budget), the exponential moving average of the weights, and two files in the stage's folder: `checkpoint.pt`
(everything, to resume exactly) and `export.safetensors` (averaged weights in half precision, with the figures
of the run as metadata: what later stages and the packager read).
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.options import Options

Fact = float | str | list[float] | dict[str, float]

CHECKPOINT = "checkpoint.pt"
EXPORT = "export.safetensors"
WARM_SHARE = 0.03  # of the budget: a short run must not spend most of its steps warming up


@dataclass(frozen=True)
class Recipe:
    """A stage's optimizer settings."""

    learning_rate: float
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warm_up: int = 100
    clip: float = 1.0
    flat: float = 0.0  # share of the budget before the cosine decay starts


def precision(device: torch.device) -> AbstractContextManager[object]:
    """Bfloat16 autocast where the device supports it: on CUDA, and on CPUs with AVX-512 BF16."""
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def training_clock(device: torch.device) -> float:
    """Seconds of training; on a CPU, CPU time, so that a busy or suspended machine costs nothing."""
    return time.monotonic() if device.type == "cuda" else time.process_time() / torch.get_num_threads()


def compiled(network: nn.Module, options: Options, on_cpu: bool = False) -> Callable[..., Any]:
    """The network compiled for CUDA, or unchanged where that does not pay off or does not work.

    `on_cpu`: compile on a CPU too, if there is a compiler; takes minutes, so it only pays in long stages.
    """
    if options.smoke or (options.device.type != "cuda" and not (on_cpu and shutil.which("g++"))):
        return network
    torch._dynamo.config.suppress_errors = True  # a kernel that cannot be built runs uncompiled
    return torch.compile(network, dynamic=False)


class Loop:
    """Runs the steps of one stage; see the module's docstring."""

    def __init__(
        self,
        options: Options,
        recipe: Recipe,
        networks: dict[str, nn.Module],
        trained: list[nn.Parameter] | None = None,
        smoke_steps: int = 3,
    ) -> None:
        """Take the networks by their names in the export; `trained` limits what the optimizer updates."""
        self.options = options
        self.recipe = recipe
        self.networks = networks
        self.parameters = trained or [p for n in networks.values() for p in n.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=options.device.type == "cuda",
        )
        self.step = 0
        self._cold_step, self._cold_progress = 0, 0.0  # where the optimizer began to know the weights
        self.minutes_before = 0.0
        self.smoke_steps = smoke_steps
        self._sums: dict[str, Tensor] = {}
        self._counted = 0
        if options.resume:
            self._resume()
        self.average = {k: v.detach().clone().float() for k, v in self._floats().items()}
        if options.resume and (options.out / CHECKPOINT).exists():
            self._resume_average()
        self._start = training_clock(options.device)
        self._last_log = self._last_save = time.monotonic()
        self._first_step = self.step

    @property
    def minutes(self) -> float:
        """Minutes trained so far, including earlier calls."""
        return self.minutes_before + (training_clock(self.options.device) - self._start) / 60

    @property
    def progress(self) -> float:
        """Fraction of the whole budget that is used up, 0 to 1."""
        if self.options.smoke:
            return min(1.0, (self.step - self._first_step) / self.smoke_steps)
        return min(1.0, self.minutes / self.options.minutes)

    def steps(self) -> Iterator[float]:
        """Yield the progress, 0 to 1, before each step until the time of this call is up."""
        while not self._is_over():
            rate = self._learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield self.progress

    def update(self, loss: Tensor, **figures: Tensor | float) -> None:
        """Take one optimizer step on `loss`; the figures are averaged into the next log line."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        # A step that overflowed would corrupt both weights and EMA, so it is skipped. The fused optimizer
        # reads `found_inf` on the device (as for GradScaler), so that nothing has to synchronize here.
        overflowed = (~torch.isfinite(norm)).float()
        if overflowed.is_cuda:
            vars(self.optimizer)["found_inf"] = overflowed
            self.optimizer.step()
        elif not overflowed:
            self.optimizer.step()
        self.step += 1
        self._update_average()
        for name, value in {"loss": loss, "skipped": overflowed, **figures}.items():
            value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
        self._counted += 1
        now = time.monotonic()
        if now - self._last_log > 10 or self._is_over():
            self._log(now)
        if now - self._last_save > 120:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, and the export with the averaged weights."""
        self._last_save = time.monotonic()
        state = {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "torch_rng": torch.get_rng_state(),
        }
        replace(self.options.out / CHECKPOINT, lambda path: torch.save(state, path))
        self.export(self.averaged())

    def finish(self) -> None:
        """Save, then load the averaged weights into the networks, for what follows the last step."""
        self.minutes_before, self._start = self.minutes, training_clock(self.options.device)
        self.save()
        for name, state in self.averaged().items():
            self.networks[name].load_state_dict(state)
            self.networks[name].eval()

    def export(self, states: dict[str, dict[str, Tensor]] | None = None, **facts: Fact) -> None:
        """Write the export: these state dicts, or the networks as they are, and facts as metadata."""
        states = states or {name: network.state_dict() for name, network in self.networks.items()}
        weights = {k: v for name, state in states.items() for k, v in prefixed(name, state).items()}
        facts = {"profile": self.options.profile.name, **facts}
        write_export(self.options.out, weights, step=self.step, minutes=round(self.minutes, 2), **facts)

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """State dicts with the averaged weights, by network."""
        result = {}
        for name, network in self.networks.items():
            state = network.state_dict()
            result[name] = {k: self.average.get(f"{name}.{k}", v).to(v.dtype) for k, v in state.items()}
        return result

    def _floats(self) -> dict[str, Tensor]:
        states = {n: network.state_dict() for n, network in self.networks.items()}
        return {f"{n}.{k}": v for n, s in states.items() for k, v in s.items() if v.is_floating_point()}

    @torch.no_grad()
    def _update_average(self) -> None:
        weight = 1 - min(
            self.options.profile.ema_decays[self.options.stage], (1 + self.step) / (10 + self.step)
        )
        current = self._floats()
        torch._foreach_lerp_(list(self.average.values()), [current[k].float() for k in self.average], weight)

    def _is_over(self) -> bool:
        if self.options.smoke:
            return self.step - self._first_step >= self.smoke_steps
        return time.time() >= self.options.until or self.minutes >= self.options.minutes

    def _learning_rate(self) -> float:
        steps, progress = self.step - self._cold_step, self.progress - self._cold_progress
        warm = min(1.0, max((steps + 1) / self.recipe.warm_up, progress / WARM_SHARE))
        fall = max(0.0, (self.progress - self.recipe.flat) / (1 - self.recipe.flat))
        return self.recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))

    def _log(self, now: float) -> None:
        means = " ".join(f"{k} {float(v) / max(1, self._counted):.4f}" for k, v in self._sums.items())
        speed = self._counted / max(1e-6, now - self._last_log)
        print(
            f"{self.options.out.name} step {self.step} {self.minutes:.2f} min {speed:.2f}/s {means}",
            flush=True,
        )
        self._sums, self._counted, self._last_log = {}, 0, now

    def _resume(self) -> None:
        checkpoint, exported = self.options.out / CHECKPOINT, self.options.out / EXPORT
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=self.options.device, weights_only=True)
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.minutes_before = state["step"], state["minutes"]
            torch.set_rng_state(state["torch_rng"].cpu())
        elif exported.exists():
            for name, network in self.networks.items():
                load_export(exported, name, network)
            facts = read_facts(exported)
            self.step, self.minutes_before = int(str(facts["step"])), float(str(facts["minutes"]))
            self._cold_step = self.step
            self._cold_progress = min(1.0, self.minutes_before / max(1e-6, self.options.minutes))
        print(
            f"{self.options.out.name} resumes at step {self.step}, {self.minutes_before:.2f} min", flush=True
        )

    def _resume_average(self) -> None:
        state = torch.load(self.options.out / CHECKPOINT, map_location=self.options.device, weights_only=True)
        self.average = state["average"]


def prefixed(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with `name.` prepended to each key."""
    return {f"{name}.{key}": value for key, value in state.items()}


def write_export(out: Path, weights: dict[str, Tensor], **facts: Fact) -> None:
    """Write `export.safetensors`: floats in half precision, facts as JSON metadata."""
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
    metadata = {"facts": json.dumps(facts)}
    replace(out / EXPORT, lambda path: save_file(halves, path, metadata=metadata))


def read_facts(path: Path) -> dict[str, Fact]:
    """The facts that `write_export` stored in the file."""
    with safe_open(path, "pt") as file:
        facts: dict[str, Fact] = json.loads((file.metadata() or {}).get("facts", "{}"))
        return facts


def read_export(path: Path, name: str) -> dict[str, Tensor]:
    """One network's state dict from an export, floats in single precision."""
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        tensors = {k.removeprefix(f"{name}."): file.get_tensor(k) for k in keys if k.startswith(f"{name}.")}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_export(path: Path, name: str, network: nn.Module) -> nn.Module:
    """Load one network's exported weights, strictly.

    Versions of transformers differ in whether a text encoder's keys contain `text_model.`; either is
    accepted.
    """
    stored = {key.replace("text_model.", ""): value for key, value in read_export(path, name).items()}
    network.load_state_dict({key: stored[key.replace("text_model.", "")] for key in network.state_dict()})
    return network


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write next to `path` and rename, so that no reader ever sees a partial file."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    os.replace(part, path)
