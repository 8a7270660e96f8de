"""The schedulers of one network: its own, and those that requests name; see `samplers`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import diffusers
import torch

from atelier_generator.samplers import (
    DEFAULT_SCHEDULE,
    OWN,
    SAMPLERS,
    SCHEDULES,
    Choice,
    sampler_of,
    schedule_of,
)

TCD_GAMMA = 0.3
"""Stochasticity of a TCD step: the value of Zheng et al. 2024 (arXiv:2402.19159), section 5."""


def options_of(scheduler: Any) -> dict[str, Any]:
    """Return the options of a scheduler that its class has.

    Its `config` also keeps those of the class that it was made from, or that the file was written by.
    """
    known = _parameters(type(scheduler))
    return {name: value for name, value in scheduler.config.items() if name in known}


def names_of(scheduler: Any) -> tuple[str, str]:
    """Return the names of a scheduler's sampler and schedule; that of the class for a sampler without one."""
    kind, options = type(scheduler).__name__, options_of(scheduler)
    sampler = sampler_of(kind, options)
    return sampler or kind, schedule_of(sampler, options)


def set_timesteps(scheduler: Any, steps: int, device: torch.device | None = None) -> None:
    """Let a scheduler of diffusers take `steps` steps, and no more.

    Its trailing timesteps are `arange(T, 0, -T / steps) - 1` in floats, which for some numbers of steps, such
    as 61 of 1000, rounds to one too many, at timestep -1.
    """
    scheduler.set_timesteps(steps, device=device)
    if options_of(scheduler).get("timestep_spacing") != "trailing" or scheduler.timesteps[-1] >= 0:
        return
    order = scheduler.order  # as many timesteps as each step has
    kept = len(scheduler.timesteps) - order
    scheduler.timesteps = scheduler.timesteps[:kept]
    scheduler.num_inference_steps = steps
    ancestral = hasattr(scheduler, "sigmas_down")
    for name in ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"):
        if (values := getattr(scheduler, name, None)) is not None:
            # What leads from one noise level to the next is now due a step earlier: to none at all.
            start = kept - order if ancestral and name != "sigmas" else kept
            setattr(scheduler, name, torch.cat([values[:start], values[start + order :]]))


def trained_as(scheduler: Any, prediction_type: str | None, zero_terminal_snr: bool | None) -> Any:
    """Return a scheduler for a network that was trained so, where its own configuration does not say it.

    With zero terminal SNR the first step must be at the last timestep, hence trailing timesteps (Lin et al.
    2023, arXiv:2305.08891, section 3.3). Raises `ValueError` if diffusers' class cannot do it.
    """
    changes: dict[str, Any] = {}
    options = options_of(scheduler)
    if prediction_type is not None and prediction_type != options.get("prediction_type"):
        changes["prediction_type"] = prediction_type
    if zero_terminal_snr is not None and zero_terminal_snr != bool(options.get("rescale_betas_zero_snr")):
        changes["rescale_betas_zero_snr"] = zero_terminal_snr
        if zero_terminal_snr:
            changes["timestep_spacing"] = "trailing"
    unknown = changes.keys() - _parameters(type(scheduler))
    if unknown:
        raise ValueError(f"{type(scheduler).__name__} does not have {', '.join(sorted(unknown))}")
    return type(scheduler).from_config(scheduler.config, **changes) if changes else scheduler


class Schedulers:
    """Makes the schedulers of a network's requests."""

    def __init__(self, own: Any) -> None:
        """`own`: the scheduler that the network is stored with, one of diffusers'."""
        self._own = own
        self._made: dict[Choice, Any] = {OWN: own}

    def make(self, choice: Choice) -> Any:
        """Return a scheduler of a request's own: it keeps state from step to step."""
        if choice not in self._made:
            self._made[choice] = self._build(choice)
        return copy.deepcopy(self._made[choice])

    def problem(self, choice: Choice, steps: int) -> tuple[str, str] | None:
        """Return the field and why its value is impossible with this network, None if all is well."""
        own_name = type(self._own).__name__
        if choice.sampler is None:
            if choice.schedule is not None and choice.schedule not in self._own_schedules():
                possible = ", ".join(self._own_schedules())
                return "schedule", f"must be one of {possible} with the model set's own sampler, {own_name}"
        elif self._zero_terminal_snr and not SAMPLERS[choice.sampler].zero_terminal_snr:
            possible = ", ".join(self.samplers())
            return "sampler", f"must be one of {possible}: the model set was trained with zero terminal SNR"
        options = options_of(self.make(choice))
        limits = [options.get(name) for name in ("original_inference_steps", "num_train_timesteps")]
        most = min((limit for limit in limits if limit is not None), default=steps)
        if steps > most:
            return "num_inference_steps", f"must be at most {most} with the sampler {self.names(choice)[0]}"
        return None

    def names(self, choice: Choice) -> tuple[str, str]:
        """Return the names of the sampler and the schedule that a choice comes to.

        The name of the class for a sampler of the model set's own that no request can name.
        """
        return names_of(self.make(choice))

    def samplers(self) -> Iterator[str]:
        """Return the names of the samplers that this network can be run with."""
        zero_snr = self._zero_terminal_snr
        return (name for name, entry in SAMPLERS.items() if entry.zero_terminal_snr or not zero_snr)

    @property
    def _zero_terminal_snr(self) -> bool:
        """Whether schedulers are made for it, be it that the class of the network's own does not know it."""
        return bool(self._own.config.get("rescale_betas_zero_snr"))

    def _own_schedules(self) -> tuple[str, ...]:
        name = sampler_of(type(self._own).__name__, options_of(self._own))
        return SAMPLERS[name].schedules if name else (DEFAULT_SCHEDULE,)

    def _build(self, choice: Choice) -> Any:
        scheduler_class: Any = type(self._own)
        options: dict[str, Any] = {}
        if choice.sampler is not None:
            entry = SAMPLERS[choice.sampler]
            scheduler_class, options = getattr(diffusers, entry.scheduler), dict(entry.options)
        options |= SCHEDULES[choice.schedule or DEFAULT_SCHEDULE]
        known = _parameters(scheduler_class)
        return scheduler_class.from_config(
            self._own.config, **{name: value for name, value in options.items() if name in known}
        )


def _parameters(scheduler_class: Any) -> Collection[str]:
    return inspect.signature(scheduler_class.__init__).parameters.keys()
