"""The weighted syntax against what AUTOMATIC1111 documents of it, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from atelier_generator.prompt_syntax import PromptSyntaxError, Segment, check_prompt, parse


def read(text: str) -> list[list[tuple[str, Any]]]:
    """Return text and weight of each segment, by part, and check that adjacent weights differ."""
    parts = parse(text, "weighted")
    for part in parts:
        assert all(a.weight != b.weight for a, b in pairwise(part))
        assert all(segment.text for segment in part)
    return [[(segment.text, pytest.approx(segment.weight)) for segment in part] for part in parts]


def refusal(field: str, text: str) -> str:
    [violation] = check_prompt(field, text, "weighted")
    assert violation.field == field
    return violation.message


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        # the examples of its documentation
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        # brackets
        ("((a))", [("a", 1.21)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("[[a]] b", [("a", 1 / 1.21), (" b", 1)]),
        ("([a])", [("a", 1)]),
        ("((a:2) b:0.5)", [("a", 1), (" b", 0.5)]),
        ("[open", [("open", 1 / 1.1)]),
        ("closed) here]", [("closed) here]", 1)]),
        ("([a)b]", [("a", 1), ("b", 1 / 1.1)]),
        ("()", []),
        ("", []),
        ("(a:0)", [("a", 0)]),
        ("(a:1)", [("a", 1)]),
        ("(a:+1.5)", [("a", 1.5)]),
        ("(a:.5)", [("a", 0.5)]),
        # colons and bars that are text
        ("note: a cat", [("note: a cat", 1)]),
        ("at 12:30", [("at 12:30", 1)]),
        ("a:1.3) b", [("a:1.3) b", 1)]),
        ("(a: 1.3)", [("a: 1.3", 1.1)]),
        ("(a:b:1.3)", [("a:b", 1.3)]),
        ("(a:1.3", [("a:1.3", 1.1)]),
        ("[a:b]", [("a:b", 1 / 1.1)]),
        ("[a:1.3 ]", [("a:1.3 ", 1 / 1.1)]),
        ("a|b (c|d)", [("a|b ", 1), ("c|d", 1.1)]),
        ("[a|b", [("a|b", 1 / 1.1)]),
        ("[(a:1.3]", [("a:1.3", 1)]),
        ("[(a:1.3) b]", [("a", 1.3 / 1.1), (" b", 1 / 1.1)]),
        # backslashes
        (r"\\ (a)", [("\\ ", 1), ("a", 1.1)]),
        (r"(a\:1.5)", [("a:1.5", 1.1)]),
        (r"[a\:0.5]", [("a:0.5", 1 / 1.1)]),
        (r"[a\|b]", [("a|b", 1 / 1.1)]),
        ("smile :\\)", [("smile :)", 1)]),
        ("end\\", [("end", 1)]),
    ],
)
def test_segments(text: str, segments: list[tuple[str, float]]) -> None:
    assert read(text) == [segments]
    assert not list(check_prompt("prompt", text, "weighted"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a BREAK b", [[("a ", 1)], [(" b", 1)]]),
        ("a,\nBREAK\nb", [[("a,\n", 1)], [("\nb", 1)]]),
        ("(a BREAK b:1.2) c", [[("a ", 1.2)], [(" b", 1.2), (" c", 1)]]),
        ("(a)BREAK[b]", [[("a", 1.1)], [("b", 1 / 1.1)]]),
        ("BREAK a", [[], [(" a", 1)]]),
        ("a BREAK", [[("a ", 1)], []]),
        ("BREAK BREAK", [[], [(" ", 1)], []]),
        ("break Break BREAKS aBREAK", [[("break Break BREAKS aBREAK", 1)]]),
        (r"\BREAK", [[("BREAK", 1)]]),
    ],
)
def test_break_begins_a_part(text: str, parts: list[list[tuple[str, float]]]) -> None:
    assert read(text) == parts


@pytest.mark.parametrize("text", ["(a:1.5) [b] BREAK \\(c", "[a|b]", "a AND b", ""])
def test_every_character_of_a_plain_prompt_means_itself(text: str) -> None:
    assert parse(text, "plain") == ((Segment(text, 1.0),) if text else (),)
    assert not list(check_prompt("prompt", text, "plain"))


@pytest.mark.parametrize(
    "text",
    [
        "[a:b:0.5]",
        "a [b:10]",
        "[a::3]",
        "[a : b : .5]",
        "[(a) b:1e1]",
        "[[a:b:0.5]]",
        "([a:b:0.5])",
        r"[a\\:1]",
    ],
)
def test_prompt_editing_is_refused(text: str) -> None:
    position = text.index("[a") + 1 if "[a" in text else text.index("[") + 1
    message = refusal("prompt", text)
    assert f"character {position} changes the prompt at a step" in message
    assert refusal("negative_prompt", text) == message


@pytest.mark.parametrize("text", ["[a|b]", "x [a|b|c] y", "[(a:1.2)|b]", "([a|b])", "[a|b:0.5]"])
def test_alternating_prompts_are_refused(text: str) -> None:
    assert f"character {text.index('[') + 1} alternates prompts" in refusal("prompt", text)


def test_combined_prompts_are_refused() -> None:
    assert "AND between prompts" in refusal("prompt", "a cat AND a dog :1.2")
    for text in ("a cat and a dog", "SAND, ANDES", r"a \AND b"):
        assert not list(check_prompt("prompt", text, "weighted")), text
    assert not list(check_prompt("negative_prompt", "a AND b", "weighted")), "never combined"


@pytest.mark.parametrize("number", ["1.2.3", ".", "...", "+."])
def test_a_weight_that_is_no_number_is_refused(number: str) -> None:
    assert f"the weight {number} at character 8 is not a number" in refusal("prompt", f"a (cat:{number})")


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("(a:10.1)", "10.1"),
        ("(a:-0.5)", "-0.5"),
        (f"(a:{'9' * 400})", "inf"),
        (f"((a:{'9' * 400}):0)", "nan"),
        ("((a:4):4) ((b:5):5)", "16"),
        ("(" * 25 + "a", "10.8347"),
    ],
)
def test_a_weight_out_of_range_names_the_range(text: str, weight: str) -> None:
    assert refusal("negative_prompt", text).endswith(f"must be from 0 to 10, is {weight}")


def test_only_the_weight_with_all_brackets_counts() -> None:
    assert not list(check_prompt("prompt", "((a:20):0.5) (b:10) (c:0)", "weighted"))


def test_reading_takes_time_in_proportion_to_the_length() -> None:
    digits = "1" * 200_000  # would take hours if each digit was compared with each other one
    assert len(parse(f"[a:{digits}x]", "weighted")) == 1


def test_messages_quote_no_words() -> None:
    for text in ("secret [secret:secret:0.5]", "(secret:99)", "[secret|secret]", "(secret:1.2.3)"):
        assert "secret" not in refusal("prompt", text)


def test_errors_are_raised_by_who_does_not_check() -> None:
    with pytest.raises(PromptSyntaxError):
        parse("[a|b]", "weighted")
