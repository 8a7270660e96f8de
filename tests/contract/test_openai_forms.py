"""Lists and objects in forms: as the real SDK writes them, which has only texts for them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.contract.openai_client import EDITS, GENERATIONS, IMAGE, answer, drawn, refused, sdk
from tests.contract.stack import Stack


def edit(stack: Stack, **extra: Any) -> Any:
    with sdk(stack.url) as client:
        return client.images.with_raw_response.edit(image=IMAGE, prompt="x", size="256x256", extra_body=extra)


def form(stack: Stack, *fields: tuple[str, str], path: str = GENERATIONS) -> Any:
    parts: list[tuple[str, Any]] = [("prompt", (None, "x")), ("size", (None, "256x256"))]
    return stack.client.post(path, files=parts + [(name, (None, value)) for name, value in fields])


def loras(stack: Stack) -> list[tuple[str, float]]:
    return [(lora.name, lora.weight) for lora in drawn(stack).loras]


def test_lists_of_objects_of_the_sdk(stack: Stack) -> None:
    given = [{"name": "sketch", "weight": 0.5}, {"name": "5", "weight": -1}]
    raw = edit(stack, loras=given, seed=7, use_refiner=False)
    assert loras(stack) == [("sketch", 0.5), ("5", -1.0)]
    assert drawn(stack).seed == 7 and drawn(stack).use_refiner is False
    assert "x-atelier-ignored" not in raw.headers
    edit(stack, extra_body={"loras": given[:1], "seed": 8})
    assert loras(stack) == [("sketch", 0.5)] and drawn(stack).seed == 8
    edit(stack, loras=[{"name": "sketch"}])
    assert [lora.name for lora in drawn(stack).loras] == ["sketch"]


def test_objects_of_the_sdk(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        edit(stack, hires_pass={"width": 512, "height": 512})
    assert raised.value.param == "hires_pass", "not with an image, which is said"
    answer(form(stack, ("hires_pass[width]", "512"), ("hires_pass[height]", "768")))
    assert (drawn(stack).hires_pass.width_px, drawn(stack).hires_pass.height_px) == (512, 768)


def test_numbered_items_and_items_one_by_one(stack: Stack) -> None:
    answer(form(stack, ("loras[1][name]", "b"), ("loras[0][name]", "a"), ("loras[0][weight]", "2")))
    assert [lora.name for lora in drawn(stack).loras] == ["a", "b"] and loras(stack)[0] == ("a", 2.0)
    one_by_one = [("loras[][name]", "a"), ("loras[][weight]", "1"), ("loras[][name]", "b")]
    answer(form(stack, *one_by_one, ("loras[][weight]", "2")))
    assert loras(stack) == [("a", 1.0), ("b", 2.0)]
    answer(form(stack, ("loras[]", '{"name": "a", "weight": 3}')))
    assert loras(stack) == [("a", 3.0)]


def test_what_is_unknown_is_ignored_in_parts_too(stack: Stack) -> None:
    raw = edit(stack, stop=["a", "b"], options={"a": 1})
    assert raw.headers["x-atelier-ignored"] == "stop[], options[a]"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ([("loras[][name]", "a"), ("loras[][name]", "b"), ("loras[][weight]", "1")], "loras", "JSON"),
        ([("loras[][name]", "a"), ("loras", '[{"name": "a"}]')], "loras", "given twice"),
        ([("loras[][name]", "a"), ("loras[0][name]", "b")], "loras", "[]"),
        ([("loras[0][name]", "a"), ("loras[2][name]", "b")], "loras", "from 0"),
        ([("loras[0][name]", "a"), ("loras[0][name]", "b")], "loras[0].name", "given twice"),
        ([("loras[0]", "a"), ("loras[0][name]", "b")], "loras[0]", "given twice"),
        ([("loras[][name]", "a"), ("loras[][weight]", "9")], "loras[0].weight", "-4 to 4"),
        ([("loras[][name]", "a")] * 6, "loras", "0 to 5"),
        ([("hires_pass[width]", "x"), ("hires_pass[height]", "512")], "hires_pass.width", "integer"),
        ([("extra_body[hires_pass][width]", "8")], "extra_body.hires_pass.width", "256 to 4096"),
        ([("extra_body[seed]", "1"), ("extra_body", '{"seed": 2}')], "extra_body.seed", "given twice"),
        ([("seed[]", "1")], "seed", "a list"),
        ([("loras" + "[a]" * 6, "1")], "loras[a][a][a][a][a][a]", "the limit is 5"),
    ],
)
def test_what_cannot_be_put_together(
    stack: Stack, fields: list[tuple[str, str]], param: str, words: str
) -> None:
    response = form(stack, *fields)
    assert refused(response) == (param, "invalid_value")
    assert words in response.json()["error"]["message"]
    assert stack.generator.requests == []


def test_many_brackets_take_no_time(stack: Stack) -> None:
    response = form(stack, *[("loras" + "[" * 4000, "1")] * 3, path=EDITS)
    assert refused(response)[0] in ("image", "loras" + "[" * 55)
