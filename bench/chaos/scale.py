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
