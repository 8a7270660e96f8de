"""All scenarios, in their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.chaos.cancels import cancels
from bench.chaos.clock import clock_jumps
from bench.chaos.crashes import crashes
from bench.chaos.database_away import database_away
from bench.chaos.disk_full import disk_full
from bench.chaos.figures import Result
from bench.chaos.holds import drains, held
from bench.chaos.hostile import hostile
from bench.chaos.leaks import leaks
from bench.chaos.network import network
from bench.chaos.overload import fairness, overload
from bench.chaos.scale import Scale
from bench.chaos.slow_clients import slow_clients
from bench.chaos.stack import Stack


@dataclass(frozen=True)
class Scenario:
    """What it does, and the seconds after which it is given up; of the short half 0: it is not in it."""

    run: Callable[[Stack, Scale], Awaitable[Result]]
    limit_s: float
    quick_limit_s: float


SCENARIOS: dict[str, Scenario] = {
    "overload": Scenario(overload, 180, 0),
    "fairness": Scenario(fairness, 120, 0),
    "cancels": Scenario(cancels, 240, 120),
    "leaks": Scenario(leaks, 480, 90),
    "hostile": Scenario(hostile, 60, 40),
    "drains": Scenario(drains, 150, 120),
    "crashes": Scenario(crashes, 240, 180),
    "held": Scenario(held, 150, 90),
    "network": Scenario(network, 300, 120),
    "slow_clients": Scenario(slow_clients, 120, 90),
    "disk_full": Scenario(disk_full, 150, 90),
    "database_away": Scenario(database_away, 120, 90),
    "clock_jumps": Scenario(clock_jumps, 150, 90),
}
