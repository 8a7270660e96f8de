"""The figures on the page for platform engineers, docs/kubernetes.md."""

from __future__ import annotations

import re
from functools import cache

from tests.k8s.manifests import PAGE


@cache
def text() -> str:
    """The page as one line."""
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def figures(unit: str = "") -> set[float]:
    """All figures on the page that are followed by this unit."""
    after = rf" {re.escape(unit)}(?!\w)" if unit else ""
    return {float(figure) for figure in re.findall(rf"(?<![\w.])(\d+(?:\.\d+)?){after}", text())}
