"""Checks of a request's fields: what they accept, and that every violation is reported at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from atelier_runtime.checks import (
    build_checked,
    check_choice,
    check_length,
    check_multiple,
    check_not_negative,
    check_range,
    raise_violations,
)
from atelier_runtime.errors import FieldViolation, InvalidRequest

NAN, INFINITY = float("nan"), float("inf")


def messages(violations: Iterator[FieldViolation], field: str) -> list[str]:
    found = list(violations)
    assert all(violation.field == field for violation in found)
    return [violation.message for violation in found]


@pytest.mark.parametrize(
    ("text", "valid"),
    [(None, True), ("", False), ("a", True), ("a" * 5, True), ("a" * 6, False), ("ä" * 5, True)],
)
def test_lengths_are_in_characters_with_both_limits_allowed(text: str | None, valid: bool) -> None:
    found = messages(check_length("prompt", text, (1, 5)), "prompt")
    assert len(found) == (not valid)
    if text is not None and not valid:
        assert "1 to 5" in found[0] and str(len(text)) in found[0]


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        *((value, True) for value in (None, 0, 0.5, 1, 1.0)),
        *((value, False) for value in (-0.001, 1.001, NAN, INFINITY, -INFINITY)),
    ],
)
def test_ranges_are_finite_with_both_limits_allowed(value: float | None, valid: bool) -> None:
    found = messages(check_range("fidelity", value, (0.0, 1.0)), "fidelity")
    assert len(found) == (not valid)
    if value is not None and not valid:
        assert "0 to 1" in found[0] and f"{value:g}" in found[0]


def test_a_limit_of_16_digits_is_written_out() -> None:
    [message] = messages(check_range("seed", 2.0**60, (0, 2**53 - 1)), "seed")
    assert "9007199254740991" in message


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (256, True),
        (264, True),
        (2048, True),
        (248, False),
        (2056, False),
        (260, False),
        (0, False),
        (-8, False),
    ],
)
def test_multiples_within_limits(value: int, valid: bool) -> None:
    found = messages(check_multiple("width_px", value, (256, 2048), 8), "width_px")
    assert len(found) == (not valid)
    if not valid:
        assert all(str(number) in found[0] for number in (8, 256, 2048, value))


@pytest.mark.parametrize(
    ("value", "valid"),
    [(None, True), (0, True), (0.0, True), (1e9, True), (-1e-9, False), (NAN, False), (INFINITY, False)],
)
def test_numbers_that_may_not_be_negative(value: float | None, valid: bool) -> None:
    found = messages(check_not_negative("min_face_px", value, "px"), "min_face_px")
    assert len(found) == (not valid)
    if not valid:
        assert "px" in found[0] and f"{value:g}" in found[0]


@pytest.mark.parametrize(("value", "valid"), [(1, True), (4, True), (3, False), (0, False)])
def test_choices(value: int, valid: bool) -> None:
    found = messages(check_choice("upscale", value, (1, 2, 4)), "upscale")
    assert len(found) == (not valid)
    if not valid:
        assert "1, 2, 4" in found[0] and str(value) in found[0]


def test_no_violations_raise_nothing() -> None:
    raise_violations([])
    raise_violations(iter(()))


def test_all_violations_are_raised_in_their_order() -> None:
    violations = [FieldViolation("b", "is wrong"), FieldViolation("a", "is wrong too")]
    with pytest.raises(InvalidRequest) as caught:
        raise_violations(iter(violations))
    assert list(caught.value.fields) == violations


@dataclass(frozen=True)
class Request:
    size: int = 1

    def __post_init__(self) -> None:
        raise_violations(check_range("size", self.size, (1, 9)))


def test_a_request_is_built_if_nothing_was_wrong() -> None:
    assert build_checked(Request, {}, []) == Request()
    assert build_checked(Request, {"size": 9}, []) == Request(9)


@pytest.mark.parametrize(
    ("size", "earlier", "fields"),
    [
        (10, [], ["size"]),
        (5, ["output.format"], ["output.format"]),
        (10, ["output.format", "rule"], ["output.format", "rule", "size"]),
    ],
)
def test_a_requests_own_violations_are_raised_with_the_earlier_ones(
    size: int, earlier: list[str], fields: list[str]
) -> None:
    violations = [FieldViolation(field, "is unknown") for field in earlier]
    with pytest.raises(InvalidRequest) as caught:
        build_checked(Request, {"size": size}, violations)
    assert [violation.field for violation in caught.value.fields] == fields
    assert caught.value.__cause__ is None
