"""The kinds of values that fields of this dialect have: how each is read, documented and put into words.

Clients of AUTOMATIC1111's API send numbers as strings and floats, null for a default, and pictures with or
without the prefix of a data URL. All of that is read; what is left is refused with the values that are not.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from atelier_gateway.api.native.image_field import ImageField
from atelier_gateway.http.schemas import describe_value

Schema = dict[str, Any]

_NUMBER = " *[+-]?([0-9]{1,20}([.][0-9]{0,20})?|[.][0-9]{1,20})([eE][+-]?[0-9]{1,3})? *"
_NULL: Schema = {"type": "null"}
_IMAGE: TypeAdapter[bytes] = TypeAdapter(ImageField)


class Kind(ABC):
    """A kind of value. `null` means that the field is not given, whatever its kind."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """Return the value. Raises `ValueError` with what the client reads after the field's name."""

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON schema of what `read` takes, null included."""

    @abstractmethod
    def words(self) -> str:
        """Say which values there are."""


def _refusal(kind: Kind, value: Any) -> ValueError:
    return ValueError(f"must be {kind.words()}, not {describe_value(value)}")


def as_number(value: Any) -> float | None:
    """Return a number, or the number that a string spells; None for all else, and for true and false."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if re.fullmatch(_NUMBER, value) else None
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _pattern(low: float, high: float, decimals: str) -> str:
    """Return the pattern of strings that spell numbers of a range, without exponents.

    It is exact for ranges between digits, such as 0 to 1; for others it has the sign and the count of digits,
    and what is out of range is refused when it is read.
    """
    fraction = f"([.]{decimals}{{0,20}})?"
    if 0 <= low < high < 10 and float(low).is_integer() and float(high).is_integer():
        return f"^ *[+]?0{{0,9}}([{low:.0f}-{high - 1:.0f}]{fraction}|{high:.0f}([.]0{{0,20}})?) *$"
    first = "[1-9]" if low >= 1 else "[0-9]"
    sign = "[+-]?" if low < 0 else "[+]?"
    return f"^ *{sign}0{{0,9}}{first}[0-9]{{0,{len(str(int(high))) - 1}}}{fraction} *$"


def _as_flag(value: Any) -> bool | None:
    """Return true or false, also as a string, 0 or 1; None for all else."""
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else value
    if text in ("true", "false"):
        return bool(text == "true")
    number = as_number(value)
    return None if number not in (0, 1) else bool(number)


@dataclass(frozen=True)
class Number(Kind):
    """A number of a range."""

    low: float
    high: float

    def read(self, value: Any) -> float:
        """Return the number."""
        number = as_number(value)
        if number is None or not self.low <= number <= self.high:
            raise _refusal(self, value)
        return number

    def schema(self) -> Schema:
        """Return the JSON schema."""
        number = {"type": "number", "minimum": self.low, "maximum": self.high}
        spelt = {"type": "string", "pattern": _pattern(self.low, self.high, "[0-9]")}
        return {"anyOf": [number, spelt, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Integer(Kind):
    """An integer of a range."""

    low: int
    high: int
    multiple: int = 1

    def read(self, value: Any) -> int:
        """Return the integer; 30.0 and "30" are 30."""
        exact = (
            int(value) if isinstance(value, str) and re.fullmatch(" *[+-]?[0-9]{1,20} *", value) else value
        )
        number = as_number(exact)
        if number is None or not number.is_integer():
            raise _refusal(self, value)
        integer = exact if isinstance(exact, int) else int(number)
        if not self.low <= integer <= self.high or integer % self.multiple:
            raise _refusal(self, value)
        return integer

    def schema(self) -> Schema:
        """Return the JSON schema."""
        number: Schema = {"type": "integer", "minimum": self.low, "maximum": self.high}
        if self.multiple > 1:
            number["multipleOf"] = self.multiple
        spelt = {"type": "string", "pattern": _pattern(self.low, self.high, "0")}
        return {"anyOf": [number, spelt, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        multiple = f" and a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"an integer from {self.low} to {self.high}{multiple}"


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    def read(self, value: Any) -> bool:
        """Return it; strings and 0 and 1 are read, too."""
        flag = _as_flag(value)
        if flag is None:
            raise _refusal(self, value)
        return flag

    def schema(self) -> Schema:
        """Return the JSON schema."""
        spelt = {"type": "string", "pattern": "^ *([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1) *$"}
        return {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, spelt, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        return "true or false"


@dataclass(frozen=True)
class Text(Kind):
    """A string."""

    most_chars: int

    def read(self, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str) or len(value) > self.most_chars:
            raise _refusal(self, value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("contains half of a surrogate pair") from None
        return value

    def schema(self) -> Schema:
        """Return the JSON schema."""
        return {"anyOf": [{"type": "string", "maxLength": self.most_chars}, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        return f"a string of 0 to {self.most_chars} characters"


@dataclass(frozen=True)
class Picture(Kind):
    """A picture's file, base64 with or without the prefix of a data URL."""

    def read(self, value: Any) -> bytes:
        """Return the file. Large ones take a while: not for the event loop."""
        try:
            return _IMAGE.validate_python(value)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None

    def schema(self) -> Schema:
        """Return the JSON schema."""
        return {"anyOf": [{"type": "string", "format": "byte"}, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        return "a PNG, JPEG or WebP file, as base64 or as a data URI with base64"


@dataclass(frozen=True)
class ListOf(Kind):
    """A list whose elements are all of one kind."""

    element: Kind
    least: int
    most: int

    def read(self, value: Any) -> list[Any]:
        """Return the list."""
        if not isinstance(value, list):
            raise _refusal(self, value)
        if not self.least <= len(value) <= self.most:
            raise ValueError(f"must be {self.words()}, not {len(value)}")
        return [self.element.read(part) for part in value]

    def schema(self) -> Schema:
        """Return the JSON schema."""
        [items, *_] = self.element.schema()["anyOf"]
        bounds = {"minItems": self.least, "maxItems": self.most}
        return {"anyOf": [{"type": "array", "items": items, **bounds}, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        count = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
        return f"a list of {count}, each {self.element.words()}"


@dataclass(frozen=True)
class Object(Kind):
    """A JSON object."""

    properties: tuple[tuple[str, Kind], ...] = ()
    """The kinds of those properties that a schema shows; what reads the object checks them."""
    required: tuple[str, ...] = ()
    """Those of the properties that must be given, and are not null."""
    of_objects: bool = False

    def read(self, value: Any) -> dict[str, Any]:
        """Return the object."""
        if not isinstance(value, dict):
            raise _refusal(self, value)
        if self.of_objects and not all(isinstance(part, dict) for part in value.values()):
            raise ValueError("must be an object of objects")
        return value

    def schema(self) -> Schema:
        """Return the JSON schema."""
        shown: Schema = {"type": "object"}
        if self.properties:
            shown["properties"] = {name: kind.schema() for name, kind in self.properties}
            for name in self.required:
                shown["properties"][name] = shown["properties"][name]["anyOf"][0]
            shown["required"] = list(self.required)
        if self.of_objects:
            shown["additionalProperties"] = {"type": "object"}
        return {"anyOf": [shown, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        return "an object"


@dataclass(frozen=True)
class Anything(Kind):
    """Any JSON value, of a field that has no effect."""

    def read(self, value: Any) -> Any:
        """Return the value."""
        return value

    def schema(self) -> Schema:
        """Return the JSON schema."""
        return {}

    def words(self) -> str:
        """Say which values there are."""
        return "anything"


@dataclass(frozen=True)
class Only(Kind):
    """Nothing but some values: with any other, the picture would be another one."""

    values: tuple[str | float | bool, ...]
    why: str
    of_list: bool = False
    """It is a list that contains nothing else."""

    def read(self, value: Any) -> Any:
        """Return the value."""
        parts = value if self.of_list and isinstance(value, list) else [value]
        if isinstance(value, list) is not self.of_list or not all(is_one_of(p, self.values) for p in parts):
            raise ValueError(f"{self.why}: it must be {self.words()}, not {describe_value(value)}")
        return value

    def schema(self) -> Schema:
        """Return the JSON schema."""
        choices = {"enum": [*_spellings(self.values), None]}
        if not self.of_list:
            return choices
        return {"anyOf": [{"type": "array", "items": choices}, _NULL]}

    def words(self) -> str:
        """Say which values there are."""
        shown = [describe_one(value) for value in self.values]
        if self.of_list:
            return "null or an empty list"
        return f"{', '.join(['null', *shown[:-1]])} or {shown[-1]}" if shown else "null"


def is_one_of(value: Any, values: Sequence[str | float | bool]) -> bool:
    """Return whether a value is null or one of those given; as a number, "0", 0.0 and false are 0."""
    if value is None:
        return True
    number = float(value) if isinstance(value, bool) else as_number(value)
    flag = _as_flag(value)
    for one in values:
        if isinstance(one, str):
            same = isinstance(value, str) and value == one
        elif isinstance(one, bool):
            same = flag is one
        else:
            same = number is not None and number == one
        if same:
            return True
    return False


def _spellings(values: Sequence[str | float | bool]) -> list[Any]:
    """Return the values with the strings that spell them."""
    spelt: list[Any] = []
    for value in values:
        spelt.append(value)
        if isinstance(value, bool):
            spelt += [str(value), str(value).lower()]
        elif isinstance(value, int | float):
            spelt += [f"{value:g}", f"{value:.1f}"]
    return spelt


def describe_one(value: str | float | bool) -> str:
    """Write a value as JSON has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
