"""How much a scenario does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """All of it, or the short half, which says nothing about speed."""

    quick: bool = False

    def of(self, full: T, quick: T) -> T:
        """Return one of two figures."""
        return quick if self.quick else full

    @property
    def grace_s(self) -> float:
        """How much later than its deadline an answer may come; tests run the short half on busy machines."""
        return self.of(1.0, 5.0)
