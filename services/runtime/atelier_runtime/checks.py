"""Checks of a request's fields: each yields violations, so that a caller learns of all of them at once.

A value of None is unset and always valid.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from atelier_runtime import defaults
from atelier_runtime.errors import FieldViolation, InvalidRequest

T = TypeVar("T")


def check_length(field: str, text: str | None, limits: tuple[int, int]) -> Iterator[FieldViolation]:
    """Check the number of characters of a text."""
    low, high = limits
    if text is not None and not low <= len(text) <= high:
        yield FieldViolation(field, f"must have {low} to {high} characters, has {len(text)}")


def check_range(field: str, value: float | None, limits: tuple[float, float]) -> Iterator[FieldViolation]:
    """Check that a number is finite and within limits, both inclusive."""
    low, high = limits
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        yield FieldViolation(field, f"must be from {low:g} to {high:.16g}, is {value:g}")


def check_multiple(
    field: str, value: int | None, limits: tuple[int, int], multiple: int
) -> Iterator[FieldViolation]:
    """Check that an integer is a multiple of a number and within limits, both inclusive."""
    low, high = limits
    if value is not None and (not low <= value <= high or value % multiple):
        yield FieldViolation(field, f"must be a multiple of {multiple} from {low} to {high}, is {value}")


def check_not_negative(field: str, value: float | None, unit: str) -> Iterator[FieldViolation]:
    """Check that a number is finite and at least 0."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        yield FieldViolation(field, f"must be 0 {unit} or more, is {value:g}")


def check_choice(field: str, value: Any, choices: Collection[Any]) -> Iterator[FieldViolation]:
    """Check that a value is one of several."""
    if value not in choices:
        yield FieldViolation(field, f"must be one of {', '.join(map(str, choices))}, is {value}")


def check_last_seed(seed: int | None, num_images: int) -> Iterator[FieldViolation]:
    """Check that the seed of the last of several images is within the limits too."""
    low, high = defaults.SEED_RANGE
    if seed is not None and low <= seed <= high < seed + num_images - 1:
        message = f"must be at most {high - num_images + 1} for {num_images} images, is {seed}"
        yield FieldViolation("seed", message)


def raise_violations(violations: Iterable[FieldViolation]) -> None:
    """Raise `InvalidRequest` naming all violations, if there are any."""
    if found := list(violations):
        raise InvalidRequest(found)


def build_checked(request_class: type[T], values: dict[str, Any], violations: list[FieldViolation]) -> T:
    """Build a request that checks itself; raises its violations together with those already found."""
    try:
        request = request_class(**values)
    except InvalidRequest as error:
        raise InvalidRequest([*violations, *error.fields]) from None
    raise_violations(violations)
    return request
