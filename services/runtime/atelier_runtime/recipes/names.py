"""What AUTOMATIC1111's web UI calls our samplers and schedules.

Its names are read in requests too; `atelier_generator.samplers` is the table of what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "euler": "Euler",
        "euler_ancestral": "Euler a",
        "heun": "Heun",
        "dpmpp_2m": "DPM++ 2M",
        "dpmpp_2m_sde": "DPM++ 2M SDE",
        "dpmpp_3m_sde": "DPM++ 3M SDE",
        "ddim": "DDIM",
        "unipc": "UniPC",
        "lcm": "LCM",
        "tcd": "TCD",
    }
)
"""Our name -> the one that is shown."""

SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "default": "Automatic",
        "karras": "Karras",
        "exponential": "Exponential",
        "beta": "Beta",
        "trailing": "SGM Uniform",
    }
)
"""Our name -> the one that is shown."""


def shown_sampler(name: str) -> str:
    """Return the name that is shown; that of an unknown sampler is its own."""
    return SAMPLERS.get(name, name)


def shown_schedule(name: str) -> str:
    """Return the name that is shown; that of an unknown schedule is its own."""
    return SCHEDULES.get(name, name)
