"""The samplers of the generator, from its table."""

from __future__ import annotations

from atelier_generator.samplers import SAMPLERS
from tools.docs.markdown import code, table


def overview() -> str:
    """Return a table of the samplers with the schedules that they follow."""
    rows = [
        (
            code(name),
            ", ".join(map(code, sampler.other_names)),
            ", ".join(map(code, sampler.schedules)),
            code(sampler.scheduler),
        )
        for name, sampler in SAMPLERS.items()
    ]
    return table(("sampler", "also", "schedules", "class of diffusers"), rows)
