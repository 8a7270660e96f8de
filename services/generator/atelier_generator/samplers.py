"""The samplers and schedules that a request may name, and other programs' names for them.

A sampler solves the diffusion equation; a schedule says at which noise levels it stops on the way. Any of
diffusers' schedulers is one of these samplers with one of these schedules. AUTOMATIC1111, ComfyUI and
k-diffusion write them as `DPM++ 2M Karras`, `euler_ancestral` or `k_dpmpp_2m_sde`; those names are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NAME_CHARS = 100

DEFAULT_SCHEDULE = "default"
"""The noise levels of the model set's own scheduler configuration."""

_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def _sigmas(chosen: str | None = None) -> dict[str, bool]:
    return {option: option == chosen for option in _SIGMAS}


SCHEDULES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        DEFAULT_SCHEDULE: {},
        "karras": _sigmas("use_karras_sigmas"),
        "exponential": _sigmas("use_exponential_sigmas"),
        "beta": _sigmas("use_beta_sigmas"),
        "trailing": {"timestep_spacing": "trailing", **_sigmas()},
    }
)
"""Schedule -> the options of diffusers' schedulers that make it.

`karras`: Karras et al. 2022 (arXiv:2206.00364), equation 5. `exponential`: evenly spaced in log sigma.
`beta`: quantiles of a beta distribution (arXiv:2407.12173). `trailing`: evenly spaced timesteps that include
the last one (Lin et al. 2023, arXiv:2305.08891, table 2); A1111 calls it SGM Uniform.
"""

_ALL = tuple(SCHEDULES)
_SPACING_ONLY = (DEFAULT_SCHEDULE, "trailing")


@dataclass(frozen=True)
class Sampler:
    """A sampler: diffusers' class and its options.

    `schedules`: those that the class can follow. `zero_terminal_snr`: whether it can start from pure noise,
    as networks do that were trained with zero terminal SNR. `other_names`: as `_normalized` returns them.
    """

    scheduler: str
    schedules: tuple[str, ...] = _ALL
    options: Mapping[str, Any] = field(default_factory=dict)
    zero_terminal_snr: bool = True
    other_names: tuple[str, ...] = ()


_UNCLIPPED = {"clip_sample": False, "thresholding": False}  # latents are not limited to -1 to 1
_DPM = "DPMSolverMultistepScheduler"

SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "euler": Sampler("EulerDiscreteScheduler"),
        "euler_ancestral": Sampler(
            "EulerAncestralDiscreteScheduler", _SPACING_ONLY, other_names=("euler_a",)
        ),
        "heun": Sampler("HeunDiscreteScheduler", options={"clip_sample": False}, zero_terminal_snr=False),
        "dpmpp_2m": Sampler(_DPM, options={"algorithm_type": "dpmsolver++", "solver_order": 2}),
        "dpmpp_2m_sde": Sampler(
            _DPM,
            options={"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
            other_names=("dpmpp_2m_sde_gpu",),
        ),
        "dpmpp_3m_sde": Sampler(
            _DPM,
            options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            other_names=("dpmpp_3m_sde_gpu",),
        ),
        "ddim": Sampler("DDIMScheduler", _SPACING_ONLY, options=_UNCLIPPED),
        "unipc": Sampler("UniPCMultistepScheduler", other_names=("uni_pc",)),
        "lcm": Sampler("LCMScheduler", (DEFAULT_SCHEDULE,), options=_UNCLIPPED),
        "tcd": Sampler("TCDScheduler", (DEFAULT_SCHEDULE,), options=_UNCLIPPED),
    }
)
"""The samplers by name. LCM and TCD take their timesteps from those that the network was distilled with."""

_SAMPLER_NAMES = {other: name for name, entry in SAMPLERS.items() for other in (name, *entry.other_names)}
_SCHEDULE_NAMES = {name: name for name in SCHEDULES} | {
    "automatic": DEFAULT_SCHEDULE,
    "sgm_uniform": "trailing",
}


@dataclass(frozen=True)
class Choice:
    """A sampler and a schedule, by the names of the tables above; None: the model set's own."""

    sampler: str | None = None
    schedule: str | None = None


OWN = Choice()
"""The model set's own sampler and schedule."""


def name_problems(sampler: str | None, schedule: str | None) -> Iterator[tuple[str, str]]:
    """Return the field and the reason for each name that is wrong, of the two that a request may give."""
    if schedule is not None and _normalized(schedule) not in _SCHEDULE_NAMES:
        yield "schedule", f"must be one of {', '.join(SCHEDULES)}"
    if sampler is None:
        return
    found = _find(_normalized(sampler))
    if found is None:
        yield "sampler", f"must be one of {', '.join(SAMPLERS)}"
        return
    name, named_schedule = found
    asked = None if schedule is None else _SCHEDULE_NAMES.get(_normalized(schedule))
    if named_schedule and asked and named_schedule != asked:
        yield "schedule", f"contradicts the sampler's name, which says {named_schedule}"
    elif (chosen := asked or named_schedule) and chosen not in SAMPLERS[name].schedules:
        yield "schedule", f"must be one of {', '.join(SAMPLERS[name].schedules)} with the sampler {name}"


def read_choice(sampler: str | None, schedule: str | None) -> Choice:
    """Return what two names choose that have no `name_problems`.

    The name of a sampler may end with that of a schedule.
    """
    chosen = None if schedule is None else _SCHEDULE_NAMES[_normalized(schedule)]
    name = None
    if sampler is not None and (found := _find(_normalized(sampler))) is not None:
        name, named_schedule = found
        chosen = chosen or named_schedule
    return Choice(name, None if chosen == DEFAULT_SCHEDULE else chosen)


def completed_choice(
    sampler: str | None, schedule: str | None, own: tuple[str | None, str | None], stored: str | None
) -> tuple[str | None, str | None]:
    """Return the names of the sampler and the schedule of a request that may leave them to the model set.

    `own`: those of the set's manifest, without `name_problems`, like the request's. `stored`: the sampler of
    its base's files, which is the set's if the manifest names none. A schedule that the request names, be it
    at the end of its sampler's name, is the request's. Otherwise it is the set's, but not for another sampler
    than the set's, which gets the default. None: as the base's own scheduler.
    """
    asked, sets = read_choice(sampler, schedule), read_choice(*own)
    names_none = schedule is None and not _names_a_schedule(sampler)
    if names_none and asked.sampler in (None, sets.sampler or stored):
        return asked.sampler or sets.sampler, sets.schedule
    return asked.sampler or sets.sampler, asked.schedule or DEFAULT_SCHEDULE


def _names_a_schedule(sampler: str | None) -> bool:
    found = None if sampler is None else _find(_normalized(sampler))
    return found is not None and found[1] is not None


def sampler_of(scheduler_class: str, config: Mapping[str, Any]) -> str | None:
    """Return the name of a scheduler of diffusers, None if it is none of the table.

    `config`: those options only that the class has, as in `schedule_of`; see `scheduling.options_of`.
    """
    matching = (
        name
        for name, entry in SAMPLERS.items()
        if entry.scheduler == scheduler_class
        and all(
            config.get(option) == value
            for option, value in entry.options.items()
            if option in ("algorithm_type", "solver_order")
        )
    )
    return next(matching, None)


def schedule_of(sampler: str | None, config: Mapping[str, Any]) -> str:
    """Return the name of the schedule that the configuration of a scheduler describes.

    `sampler`: its name by `sampler_of`, which follows some schedules only, whatever its options say.
    """
    possible = _ALL if sampler is None else SAMPLERS[sampler].schedules
    for name in possible:
        if any(value is True and config.get(option) for option, value in SCHEDULES[name].items()):
            return name
    trailing = "trailing" in possible and config.get("timestep_spacing") == "trailing"
    return "trailing" if trailing else DEFAULT_SCHEDULE


def _find(name: str) -> tuple[str, str | None] | None:
    if name in _SAMPLER_NAMES:
        return _SAMPLER_NAMES[name], None
    for ending, schedule in _SCHEDULE_NAMES.items():
        start = name.removesuffix(f"_{ending}")
        if start != name and start in _SAMPLER_NAMES:
            return _SAMPLER_NAMES[start], schedule
    return None


def _normalized(name: str) -> str:
    """Return `DPM++ 2M Karras`, `k_dpmpp_2m_karras` and the like as `dpmpp_2m_karras`."""
    name = name.strip().casefold().replace("++", "pp")
    return re.sub(r"[\s_-]+", "_", name).removeprefix("k_")
