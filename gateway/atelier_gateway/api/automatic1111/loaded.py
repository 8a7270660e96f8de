"""What the services have loaded, by the names that clients of this dialect know."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from atelier_gateway.core.generate import Generate
from atelier_gateway.core.health import Health, require_ready
from atelier_gateway.core.offer import GeneratorOffer
from atelier_runtime.errors import NotServed
from atelier_runtime.recipes.names import SCHEDULES
from atelier_runtime.service_status import NetworkRole, ServiceStatus

LANCZOS = "Lanczos"
NO_UPSCALER = "None"
_REMEMBERED_S = 5.0
HASH_CHARS = 10
"""Of a model's hash, in titles and in info."""

_SCHEDULES: Mapping[str, str] = {"default": "automatic", "trailing": "sgm_uniform"}
"""Our name of a schedule -> A1111's, where they differ."""

_AUTOMATIC = "default"
_SCHEDULE_NAMES: Mapping[str, str] = {
    **{name: name for name in SCHEDULES},
    **{theirs: ours for ours, theirs in _SCHEDULES.items()},
}
"""A schedule by our name or by A1111's -> our name."""

_RESTORERS = {"codeformer": "CodeFormer", "gfpgan": "GFPGAN", "restoreformer": "RestoreFormer"}


@dataclass(frozen=True)
class Loaded:
    """What both services have. `offer` is None where there is no generator, on purpose.

    `restorer` is None where it does not respond.
    """

    offer: GeneratorOffer | None
    restorer: ServiceStatus | None

    @property
    def model_set(self) -> str:
        """The name of the generator's model set."""
        return self.offer.status.model_set if self.offer else ""

    @property
    def title(self) -> str:
        """The model set as A1111 writes checkpoints: name and short hash."""
        return title(self.model_set, self.digest)

    @property
    def digest(self) -> str:
        """The hash of the generator's model set."""
        return self.offer.status.model_set_hash if self.offer else ""

    @property
    def refiner(self) -> str | None:
        """The generator's refiner."""
        return _network(None if self.offer is None else self.offer.status, NetworkRole.REFINER)

    @property
    def upscaler(self) -> str | None:
        """The generator's upscaler."""
        return _network(None if self.offer is None else self.offer.status, NetworkRole.UPSCALER)

    @property
    def photo_upscaler(self) -> str | None:
        """The restorer's upscaler."""
        return _network(self.restorer, NetworkRole.UPSCALER)

    @property
    def face_restorer(self) -> str | None:
        """The restorer's network, as A1111 writes its name."""
        name = _network(self.restorer, NetworkRole.FACE_RESTORER)
        return None if name is None else restorer_label(name)

    def sampling(self, sampler: str | None, scheduler: str | None) -> NamedSampling:
        """Return what is in effect for the names that a client gives."""
        offer = self.offer
        own = offer.defaults if offer is not None else None
        offered = offer.samplers if offer is not None else ()
        known = {_normalized(name): each.name for each in offered for name in (each.name, *each.aliases)}
        name, schedule = _normalized(sampler or ""), _normalized(scheduler or "")
        schedule = _SCHEDULE_NAMES.get(schedule, schedule)
        if name not in known:
            for ending, ends_in in _SCHEDULE_NAMES.items():
                start = name.removesuffix(f"_{ending}")
                if start != name and start in known:
                    name, schedule = start, ends_in if schedule in ("", _AUTOMATIC) else schedule
        name = known.get(name, name)
        own_sampler = own.sampler if own is not None else None
        if schedule not in ("", _AUTOMATIC):
            return NamedSampling(name or own_sampler, schedule, is_named=True)
        by_set = own is not None and name in ("", own_sampler)
        return NamedSampling(name or own_sampler, own.schedule if own and by_set else _AUTOMATIC, False)

    def is_model(self, name: str) -> bool:
        """Return whether a name, a title, a file's name or a hash is that of the loaded model set."""
        if self.offer is None:
            return False
        known = {self.model_set, f"{self.model_set}.safetensors", self.title}
        known |= {self.digest, self.digest[:HASH_CHARS]} if self.digest else set()
        return name.casefold() in {one.casefold() for one in known}


@dataclass(frozen=True)
class NamedSampling:
    """A sampler and a schedule by our names; one that nobody knows by the client's."""

    sampler: str | None
    schedule: str | None
    is_named: bool
    """The client names the schedule, be it in the sampler's name."""


class Loads:
    """Asks the services what they have loaded."""

    def __init__(self, generate: Generate, health: Health) -> None:
        self._generate = generate
        self._health = health
        self._face_restorer: tuple[float, str] | None = None

    async def generator(self) -> GeneratorOffer | None:
        """Return what the generator offers, None where there is none on purpose.

        Raises `AtelierError` while it cannot draw.
        """
        try:
            offer = await self._generate.offer()
        except NotServed:
            return None
        require_ready(offer.status)  # until then, no name is right or wrong
        return offer

    async def restorer(self) -> ServiceStatus | None:
        """Return the restorer's status, None if it does not respond."""
        return await self._health.check_restorer()

    async def face_restorer(self) -> str | None:
        """Return the name of the restorer's network, which is asked for every few seconds at most.

        A drawing with faces only says it; a call for each would be a part of what this dialect costs.
        """
        now = time.monotonic()
        if self._face_restorer is not None and now - self._face_restorer[0] < _REMEMBERED_S:
            return self._face_restorer[1]
        name = Loaded(None, await self.restorer()).face_restorer
        self._face_restorer = None if name is None else (now, name)
        return name


def title(model_set: str, digest: str) -> str:
    """Return a model set's name and short hash as A1111 writes a checkpoint."""
    return f"{model_set} [{digest[:HASH_CHARS]}]" if digest else model_set


def _normalized(name: str) -> str:
    """Return `DPM++ 2M Karras`, `k_dpmpp_2m_karras` and the like as `dpmpp_2m_karras`."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold().replace("++", "pp")).removeprefix("k_")


def restorer_label(name: str) -> str:
    """Return the name of a face restorer as A1111 writes it, such as CodeFormer for codeformer_v0.1."""
    lower = name.casefold()
    return next((label for part, label in _RESTORERS.items() if part in lower), name)


def schedule_name(schedule: str) -> str:
    """Return A1111's name of one of our schedules; what people see is `names.shown_schedule`."""
    return _SCHEDULES.get(schedule, schedule)


@dataclass(frozen=True)
class UpscalerChoice:
    """Whether to use the network, and whether the client must be told of a difference. None: the default."""

    use_network: bool | None
    differs: bool = False


def choose_upscaler(name: str | None, network: str | None) -> UpscalerChoice:
    """Return what to do for an upscaler that a client names; `network`: the one that is loaded.

    Raises:
        ValueError: there is no such upscaler.
    """
    asked = (name or "").strip().casefold()
    if not asked:
        return UpscalerChoice(None)
    if asked in (NO_UPSCALER.casefold(), LANCZOS.casefold()):
        return UpscalerChoice(False)
    if asked == "nearest":
        return UpscalerChoice(False, differs=True)
    if network is not None and asked == network.casefold():
        return UpscalerChoice(True)
    if asked.startswith("latent"):
        return UpscalerChoice(True, differs=True)
    if "esrgan" in asked and network is not None:
        return UpscalerChoice(True, differs=True)
    names = [NO_UPSCALER, LANCZOS, *([network] if network else [])]
    raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}, not {(name or '')[:60]!r}")


def _network(status: ServiceStatus | None, role: NetworkRole) -> str | None:
    return None if status is None else status.network(role)
