"""What the generator has loaded, and what requests may choose."""

from __future__ import annotations

from dataclasses import dataclass

from atelier_gateway.core.values import Sampling
from atelier_runtime.service_status import ServiceStatus


@dataclass(frozen=True)
class OfferedSampler:
    """A sampler that requests may name, the schedules that it follows, and other names for it."""

    name: str
    schedules: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class OfferedLora:
    """A LoRA that requests may name, and the words that it was trained with."""

    name: str
    trigger_words: tuple[str, ...]


@dataclass(frozen=True)
class GeneratorOffer:
    """What the generator has loaded, what requests may choose, and how it draws where they do not.

    All but `status` is empty or None until its model set is loaded.
    """

    status: ServiceStatus
    samplers: tuple[OfferedSampler, ...]
    loras: tuple[OfferedLora, ...]
    defaults: Sampling | None
