"""A backend for torch.compile that counts, and what tests of compiled networks clean up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class CountingBackend:
    """Runs what dynamo traced as it is. Guards do not depend on the backend, and inductor takes minutes."""

    graphs: int = 0
    runs: int = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Compile a graph."""
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


@contextmanager
def own_compiler() -> Iterator[None]:
    """Forget before and after what was compiled, and that nothing may be compiled any more."""
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
