"""What a service is, has loaded and is doing: the response of `GetStatus`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NetworkRole(StrEnum):
    """What a network is for; named as in `atelier.common.v1.NetworkRole`, valued as in a set's manifest."""

    BASE = "base"
    REFINER = "refiner"
    UPSCALER = "upscaler"
    FACE_DETECTOR = "detector"
    FACE_RESTORER = "codeformer"
    FACE_PARSER = "parser"
    INPAINT = "inpaint"
    IDENTITY = "identity"


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory. `role` is None where a newer service has one that this version does not know."""

    role: NetworkRole | None
    name: str


@dataclass(frozen=True)
class ServiceStatus:
    """What a service is, has loaded and is doing now.

    Texts are empty until the model set is loaded. Device memory is None on a CPU.
    """

    version: str
    ready: bool
    model_set: str
    networks: tuple[LoadedNetwork, ...]
    device: str
    device_name: str
    dtype: str
    vram_free_bytes: int | None
    vram_total_bytes: int | None
    process_memory_bytes: int | None
    queue_depth: int | None
    queue_capacity: int | None
    running: int | None
    image_workers: int | None
    image_workers_busy: int | None
    image_queue_depth: int | None
    model_set_hash: str = ""
    """SHA-256, in hexadecimal digits."""

    def network(self, role: NetworkRole) -> str | None:
        """Return the name of the network of a role, None if there is none."""
        return next((network.name for network in self.networks if network.role is role), None)
