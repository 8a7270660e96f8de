"""What the contract's requests share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from atelier_gateway.http.long_text import LONG_TEXT_BYTES
from atelier_gateway.http.validation import INTEGER, RequestModel
from atelier_gateway.settings import GatewaySettings
from atelier_runtime import defaults
from atelier_runtime.images import message_limit_bytes

_MESSAGE_RESERVE_BYTES = 2 * 2**20  # of a message to a service, for all but images, such as edits of faces
_BASE64_GROWTH = 4 / 3
_MOST_IMAGES = 2  # of a request, short enough to be read with its other fields

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


@dataclass(frozen=True)
class BodyLimits:
    """The largest image files, all of a request together, and the largest bodies, in bytes."""

    image: int
    form: int
    json: int
    fields: int
    """All of a body but its images."""

    @classmethod
    def of(cls, settings: GatewaySettings, *, most_fields_bytes: int | None = None) -> BodyLimits:
        """The largest file is what fits into a message to a service, which follows from `max_pixels`.

        `most_fields_bytes`: less than the settings allow; images that are short enough not to be left in the
        body are not counted.
        """
        image = message_limit_bytes(settings.max_pixels) - _MESSAGE_RESERVE_BYTES
        rest = settings.max_body_bytes
        if most_fields_bytes is not None:
            rest = min(rest, most_fields_bytes + _MOST_IMAGES * LONG_TEXT_BYTES)
        return cls(image, image + rest, math.ceil(image * _BASE64_GROWTH) + rest, rest)


def given_fields(request: RequestModel) -> dict[str, Any]:
    """Return what the client set; the rest is for the services to decide."""
    return {name: getattr(request, name) for name in request.model_fields_set}
