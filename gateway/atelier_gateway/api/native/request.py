"""What the contract's requests share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from atelier_gateway.http.validation import INTEGER, RequestModel
from atelier_runtime import defaults

Quality = Annotated[int, Field(ge=defaults.QUALITY_RANGE[0], le=defaults.QUALITY_RANGE[1]), INTEGER]


@dataclass(frozen=True)
class ClientNames:
    """How to name a spec's field to a client.

    `contract`: spec's name -> the contract's, where they differ. `given`: the contract's name -> the alias
    that the client used.
    """

    contract: Mapping[str, str]
    given: Mapping[str, str]

    def __call__(self, field: str) -> str:
        """Return the client's name of a spec's field."""
        name = self.contract.get(field, field)
        return self.given.get(name, name)


def given_fields(request: RequestModel) -> dict[str, Any]:
    """Return what the client set; the rest is for the services to decide."""
    return {name: getattr(request, name) for name in request.model_fields_set}
