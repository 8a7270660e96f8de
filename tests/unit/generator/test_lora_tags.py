"""LoRAs as requests name them: the field and the prompt's tags, and what is wrong with them."""

import math

import pytest

from atelier_generator.lora_tags import Lora, in_effect
from atelier_generator.request import GenerateRequest
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.model_defaults import ModelDefaults


def completed(prompt: str, *loras: Lora) -> GenerateRequest:
    return GenerateRequest(prompt, seed=1, loras=loras).completed(ModelDefaults())


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("a cat", "a cat", []),
        ("a cat <lora:ink>", "a cat ", [("ink", 1.0)]),
        ("a cat, <lora:ink:0.8>, dog", "a cat, , dog", [("ink", 0.8)]),
        ("<lora:a b.c-1:-.5><LoRA:d: 1.25 >x", "x", [("a b.c-1", -0.5), ("d", 1.25)]),
        ("(a cat <lora:ink:0>:1.3) [dog]", "(a cat :1.3) [dog]", [("ink", 0.0)]),
        ("<lora:ink:2>", "", [("ink", 2.0)]),
        ("a <b:c:1> <loras:x:1> d", "a <b:c:1> <loras:x:1> d", []),
    ],
)
def test_tags_name_loras_and_leave_the_rest_as_it_is(prompt, text, loras):
    request = completed(prompt)
    assert request.prompt == text
    assert [(lora.name, lora.weight) for lora in request.loras] == loras
    assert request.completed(ModelDefaults()) == request


def test_the_syntax_of_prompts_does_not_reach_into_names():
    request = GenerateRequest("a cat <lora:Cats AND Dogs (1.5):1>", prompt_syntax="weighted")
    assert request.completed(ModelDefaults()).prompt == "a cat "


def test_tags_are_added_to_the_field():
    request = completed("a cat <lora:b:0.5>", Lora("c"), Lora("a", 2.0))
    assert request.loras == (Lora("c"), Lora("a", 2.0), Lora("b", 0.5))
    assert [lora.field for lora in request.loras] == ["loras", "loras", "prompt"]


def test_what_is_in_effect_has_a_weight_and_one_order():
    one = in_effect([Lora("b"), Lora("z", 0.0), Lora("a", 2.0)])
    assert one == in_effect([Lora("a", 2.0), Lora("b")]) == (Lora("a", 2.0), Lora("b"))


@pytest.mark.parametrize(
    ("prompt", "loras", "field", "message"),
    [
        ("a <lora:ink", (), "prompt", "has no end"),
        ("a <lora:ink <lora:b>", (), "prompt", "has no end"),
        ("a <lo<lora:ink>ra:b>", (), "prompt", "stands inside of another"),
        ("<lora:>", (), "prompt", "has no name"),
        ("<lora: :1>", (), "prompt", "has no name"),
        ("<lora:ink:0.5:0.7>", (), "prompt", "several weights"),
        ("<lora:ink:>", (), "prompt", "'' is not a number"),
        ("<lora:ink:nan>", (), "prompt", "'nan' is not a number"),
        ("<lora:ink:1e3>", (), "prompt", "'1e3' is not a number"),
        ("<lora:ink:4.1>", (), "prompt", "must be from -4 to 4, is 4.1"),
        (f"<lora:ink:{'9' * 1900}>", (), "prompt", "must be from -4 to 4"),
        ("<lora:ink><lora:ink:0.5>", (), "prompt", "'ink' is named more than once"),
        ("<lora:ink>", (Lora("ink", 0.5),), "loras", "'ink' is named more than once"),
        ("a", (Lora("ink"), Lora("ink")), "loras", "'ink' is named more than once"),
        ("<lora:a><lora:b>", tuple(map(Lora, "cdef")), "loras", "at most 5 LoRAs"),
        ("".join(f"<lora:{name}>" for name in "abcdef"), (), "prompt", "at most 5 LoRAs"),
        ("a", (Lora(""),), "loras[0].name", "must have 1 to 200 characters"),
        ("a", (Lora("a"), Lora("b" * 201)), "loras[1].name", "must have 1 to 200 characters"),
        ("a", (Lora("a", -4.1),), "loras[0].weight", "must be from -4 to 4"),
        ("a", (Lora("a", math.nan),), "loras[0].weight", "must be from -4 to 4"),
    ],
)
def test_what_makes_no_sense_is_named(prompt, loras, field, message):
    with pytest.raises(InvalidRequest) as caught:
        GenerateRequest(prompt, loras=loras)
    [violation] = caught.value.fields
    assert violation.field == field and message in violation.message
    assert len(violation.message) < 300


def test_a_negative_prompt_has_no_tags():
    with pytest.raises(InvalidRequest, match=r"negative_prompt: .*name it in prompt or loras"):
        GenerateRequest("a", negative_prompt="ugly <Lora:ink:1>")


def test_a_prompt_is_not_empty_but_for_its_tags():
    for loras in ((), (Lora("ink"),)):
        with pytest.raises(InvalidRequest, match="prompt: must have 1"):
            GenerateRequest("", loras=loras)
    assert completed("<lora:ink>").prompt == ""
