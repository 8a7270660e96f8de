"""The services' names of fields, samplers and schedules as clients of this dialect know them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atelier_gateway.api.automatic1111.fields import Field
from atelier_runtime.errors import FieldViolation, InvalidRequest
from atelier_runtime.recipes.names import SAMPLERS, SCHEDULES, shown_sampler, shown_schedule

_HIRES = "hires_pass"
_OF_HIRES: Mapping[str, str] = {name: f"{_HIRES}.{name}" for name in ("num_inference_steps", "strength")}
"""What messages on the second pass call its fields."""
_NAME = re.compile("[a-z]+[a-z0-9_.]*[a-z0-9]")
_UNMISTAKABLE = re.compile("[_.]")
"""In names that are no word of English."""


class Words:
    """Names of the services' fields -> what the client calls them."""

    def __init__(self, table: Mapping[str, Field], others: Mapping[str, str]) -> None:
        """`others`: fields of the spec that are no field of the table."""
        self._names = {each.name_in_spec: name for name, each in table.items() if each.name_in_spec}
        self._names |= others

    def field(self, name: str) -> str:
        """Return a field's name."""
        return self._names.get(name, name)

    def violation(self, violation: FieldViolation) -> FieldViolation:
        """Return what is wrong with a field."""
        return FieldViolation(self.field(violation.field), self._message(violation.field, violation.message))

    def warning(self, text: str) -> str:
        """Return a warning, which may begin with a field's name."""
        name, colon, message = text.partition(": ")
        if not colon or not _NAME.fullmatch(name):
            return self._message("", text)
        return f"{self.field(name)}: {self._message(name, message)}"

    @contextmanager
    def of_errors(self) -> Iterator[None]:
        """Have an `InvalidRequest` that is raised inside say it in these words."""
        try:
            yield
        except InvalidRequest as error:
            raise InvalidRequest([self.violation(violation) for violation in error.fields]) from error

    def _message(self, field: str, message: str) -> str:
        def renamed(match: re.Match[str]) -> str:
            name = match[0]
            if field in ("sampler", "schedule"):
                if name in SAMPLERS:
                    return shown_sampler(name)
                if name in SCHEDULES:
                    return shown_schedule(name)
            if field.startswith(_HIRES) and name in _OF_HIRES:
                return self.field(_OF_HIRES[name])
            return self.field(name) if _UNMISTAKABLE.search(name) else name

        return _NAME.sub(renamed, message)
