"""Prompts of any length and with weights: how they are split, and that a short plain one is as ever.

The tiny tokenizer makes a token of every letter; 75 of them fit between the begin and end tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier_generator.models import Models
from atelier_generator.nets import published
from atelier_generator.prompt_chunks import (
    dropped_text,
    encode_chunks,
    split_prompt,
    truncation_warning,
    weighted,
    whole_text,
)
from atelier_generator.prompt_syntax import parse
from atelier_generator.prompts import PromptEncoder, Text
from atelier_runtime.outcomes import WarningCode
from atelier_runtime.settings import StartupError
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import load, request_for

CPU = torch.device("cpu")
ROOM = 75


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SDXL's second tokenizer: CLIP's words, padded with the token 0."""
    return published.tokenizer("tokenizer_2")


def texts(tokenizer: Any, prompt: str, syntax: Any = "plain") -> list[str]:
    return [
        tokenizer.decode(chunk.tokens).strip() for chunk in split_prompt(tokenizer, parse(prompt, syntax))
    ]


def encoded(models: Models, **options: Any) -> Text:
    return PromptEncoder(models).encode(request_for(**options), refine=False).base


def chunk_of(text: torch.Tensor | None, number: int) -> torch.Tensor:
    assert text is not None
    return text[:, 77 * number : 77 * (number + 1)]


# --- splitting ---


def test_75_tokens_are_one_chunk(tokenizer: Any) -> None:
    assert texts(tokenizer, "cat " * ROOM) == ["cat " * (ROOM - 1) + "cat"]
    assert [len(chunk.tokens) for chunk in split_prompt(tokenizer, parse("cat " * 76, "plain"))] == [ROOM, 1]
    assert texts(tokenizer, "") == [""]


@pytest.mark.parametrize("comma", [55, 60, 74])
def test_a_chunk_ends_at_a_comma_among_its_last_20_tokens(tokenizer: Any, comma: int) -> None:
    words = ["cat"] * 100
    words[10] = words[comma] = ","
    chunks = split_prompt(tokenizer, parse(" ".join(words), "plain"))
    assert [len(chunk.tokens) for chunk in chunks] == [comma + 1, 100 - comma - 1]


@pytest.mark.parametrize("comma", [54, 75])
def test_any_other_comma_ends_no_chunk(tokenizer: Any, comma: int) -> None:
    words = ["cat"] * 100
    words[comma] = ","
    chunks = split_prompt(tokenizer, parse(" ".join(words), "plain"))
    assert [len(chunk.tokens) for chunk in chunks] == [75, 25]


def test_no_word_is_torn(tokenizer: Any) -> None:
    word = "sesquipedalianism"
    assert len(tokenizer(word, add_special_tokens=False).input_ids) > 3
    assert texts(tokenizer, "cat " * 73 + word) == [("cat " * 73).strip(), word]


def test_a_word_longer_than_a_chunk_is_torn_without_loss(tokenizer: Any) -> None:
    prompt = "\u7f8e\u9e97\u7684\u8096\u50cf" * 60  # Chinese is written without spaces
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    chunks = split_prompt(tokenizer, parse(prompt, "plain"))
    assert [token for chunk in chunks for token in chunk.tokens] == ids
    assert {len(chunk.tokens) for chunk in chunks[:-1]} == {ROOM}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a BREAK b", ["a", "b"]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("BREAK a", ["", "a"]),
        ("a BREAK ", ["a"]),
        ("BREAK", [""]),
        ("(a:2) b BREAK [c]", ["a b", "c"]),
    ],
)
def test_break_begins_a_chunk(tokenizer: Any, prompt: str, expected: list[str]) -> None:
    assert texts(tokenizer, prompt, "weighted") == expected


def test_each_token_has_the_weight_of_its_segment(tokenizer: Any) -> None:
    [chunk] = split_prompt(tokenizer, parse("a (red hat:1.4), [cat]", "weighted"))
    assert chunk.weights == pytest.approx((1, 1.4, 1.4, 1, 1 / 1.1))
    first, second = split_prompt(tokenizer, parse("cat " * 70 + "(" + "dog " * 10 + ":2)", "weighted"))
    assert first.weights == (1.0,) * 70 + (2.0,) * 5 and second.weights == (2.0,) * 5


def test_the_longest_prompt_loses_nothing(tokenizer: Any) -> None:
    for character in ("\U0001f600", "\ufb2c", "x ", "\u7f8e"):
        prompt = (character * 2000)[:2000]
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        chunks = split_prompt(tokenizer, parse(prompt, "plain"))
        assert [token for chunk in chunks for token in chunk.tokens] == ids
        assert len(ids) < 20_000


# --- encoding ---


@pytest.mark.parametrize("clip_skip", [-1, 0, 1])
@pytest.mark.parametrize("negative", ["blurry", ""])
@pytest.mark.parametrize("prompt", ["a red apple", "x" * ROOM, " "])
@torch.inference_mode()
def test_one_chunk_is_what_diffusers_makes_of_it(
    full_models: Models, prompt: str, negative: str, clip_skip: int
) -> None:
    for pipeline, skip in ((full_models.text_to_image, clip_skip), (full_models.refiner, 0)):
        assert pipeline is not None
        expected = pipeline.encode_prompt(
            prompt=prompt, device="cpu", negative_prompt=negative or None, clip_skip=skip
        )
        if negative:  # diffusers skips layers for the prompt only
            as_prompt = pipeline.encode_prompt(prompt=negative, device="cpu", clip_skip=skip)[0]
            expected = (expected[0], as_prompt, *expected[2:])
        ours = encode_chunks(
            pipeline, parse(prompt, "plain"), parse(negative, "plain"), device=CPU, clip_skip=skip
        )
        for a, b in zip(ours, expected, strict=True):
            assert a is not None and torch.equal(a, b)
        unguided = encode_chunks(pipeline, parse(prompt, "plain"), None, device=CPU, clip_skip=skip)
        assert torch.equal(unguided[0], expected[0]) and unguided[1] is unguided[3] is None


def test_each_tokenizer_pads_as_it_wants(narrow_set: Path) -> None:
    """SDXL's two pad with different tokens."""
    pipeline = load(narrow_set).text_to_image
    assert pipeline.tokenizer.pad_token_id != pipeline.tokenizer_2.pad_token_id == 0
    with torch.inference_mode():
        expected = pipeline.encode_prompt(prompt="a cat", device="cpu", negative_prompt="blurry")
        ours = encode_chunks(pipeline, parse("a cat", "plain"), parse("blurry", "plain"), device=CPU)
        for a, b in zip(ours, expected, strict=True):
            assert a is not None and torch.equal(a, b)


@pytest.mark.parametrize("syntax", ["plain", "weighted"])
def test_a_request_of_one_chunk_gets_the_embeddings_of_diffusers(plain_models: Models, syntax: str) -> None:
    for prompt, negative in (("a red apple, " * 5, "blurry"), ("x" * ROOM, ""), ("a: b|c {d}", "e")):
        text = encoded(plain_models, prompt=prompt, negative_prompt=negative, prompt_syntax=syntax)
        expected = plain_models.text_to_image.encode_prompt(
            prompt=prompt, device="cpu", negative_prompt=negative or None
        )
        assert [torch.equal(a, b) for a, b in zip(text.tensors, expected, strict=True)] == [True] * 4


def test_a_weight_of_one_is_none(plain_models: Models) -> None:
    pipeline = plain_models.text_to_image
    assert whole_text(pipeline, parse("a (red:1) ([apple])", "weighted")) == "a red apple"
    assert whole_text(pipeline, parse("a (red:1.1) apple", "weighted")) is None
    assert whole_text(pipeline, parse("a BREAK b", "weighted")) is None
    assert whole_text(pipeline, parse("x" * 76, "plain")) is None


def test_chunks_are_encoded_by_themselves_and_joined(plain_models: Models) -> None:
    whole = encoded(plain_models, prompt="x" * ROOM + " red", negative_prompt="blurry")
    first, second = (encoded(plain_models, prompt=prompt) for prompt in ("x" * ROOM, "red"))
    blurry, nothing = (encoded(plain_models, prompt=prompt).embeddings for prompt in ("blurry", " "))
    assert whole.embeddings.shape[1] == 154
    assert torch.allclose(chunk_of(whole.embeddings, 0), first.embeddings, atol=1e-5)
    assert torch.allclose(chunk_of(whole.embeddings, 1), second.embeddings, atol=1e-5)
    assert torch.allclose(whole.pooled, first.pooled, atol=1e-5), "of the first chunk"
    # the shorter negative prompt is followed by an empty chunk
    assert whole.negative_embeddings is not None and whole.negative_pooled is not None
    assert torch.allclose(chunk_of(whole.negative_embeddings, 0), blurry, atol=1e-5)
    assert torch.allclose(chunk_of(whole.negative_embeddings, 1), nothing, atol=1e-5)


def test_a_long_negative_prompt_pads_the_prompt(plain_models: Models) -> None:
    text = encoded(plain_models, prompt="a cat", negative_prompt="y" * 200)
    assert text.negative_embeddings is not None
    assert text.embeddings.shape == text.negative_embeddings.shape == (1, 231, 64)
    nothing = encoded(plain_models, prompt=" ").embeddings
    for number in (1, 2):
        assert torch.allclose(chunk_of(text.embeddings, number), nothing, atol=1e-5)


def test_without_guidance_the_negative_prompt_does_not_count(plain_models: Models) -> None:
    text = encoded(plain_models, prompt="a cat", negative_prompt="y" * 200, guidance_scale=1.0)
    assert text.embeddings.shape[1] == 77 and text.negative_embeddings is None


@pytest.mark.parametrize("prompt", ["x" * 200, "a (cat:1.5)"])
def test_an_empty_negative_prompt_is_zeros_where_the_set_says_so(full_models: Models, prompt: str) -> None:
    encoder = PromptEncoder(full_models)
    both = encoder.encode(request_for(prompt=prompt, prompt_syntax="weighted"), refine=True)
    base, refiner = both.base, both.refiner
    assert refiner is not None and refiner.negative_embeddings is not None
    assert base.negative_embeddings is not None and base.negative_pooled is not None
    assert base.negative_embeddings.shape == base.embeddings.shape
    assert not base.negative_embeddings.any() and not base.negative_pooled.any()
    # the refiner's configuration says no: empty chunks
    assert refiner.negative_embeddings.shape == refiner.embeddings.shape
    assert refiner.negative_embeddings.any() and refiner.embeddings.shape[2] == 32


def test_many_chunks_are_encoded_a_few_at_a_time(plain_models: Models) -> None:
    rows: list[int] = []

    def record(module: object, inputs: tuple[torch.Tensor, ...], *rest: object) -> None:
        rows.append(len(inputs[0]))

    prompt = " ".join(f"{number:075}" for number in range(20))
    hook = plain_models.text_to_image.text_encoder.register_forward_pre_hook(record)
    try:
        text = encoded(plain_models, prompt=prompt, negative_prompt="y")
        assert rows == [8, 8, 4, 2], "the empty chunks of the negative prompt are encoded once"
    finally:
        hook.remove()
    alone = encoded(plain_models, prompt=f"{19:075}")
    assert torch.allclose(chunk_of(text.embeddings, 19), alone.embeddings, atol=1e-5)


# --- weights ---


def test_weights_multiply_the_embeddings_and_the_mean_stays() -> None:
    hidden = torch.randn(77, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    result = weighted(hidden, [1.0, 1.4, 0.5])
    factor = result[0] / hidden[0]
    assert torch.allclose(result.mean(), hidden.mean(), atol=1e-6)
    assert torch.allclose(factor, factor[0]), "one factor restores the mean"
    for row, weight in ((1, 1.0), (2, 1.4), (3, 0.5), (4, 1.0), (76, 1.0)):
        assert torch.allclose(result[row], hidden[row] * weight * factor[0])


@pytest.mark.parametrize("mean", [0.0, 1e-4, -1e-4])
def test_a_mean_near_zero_changes_little(mean: float) -> None:
    hidden = torch.randn(77, 64, generator=torch.Generator().manual_seed(0))
    hidden = hidden - hidden.mean() + mean
    factor = (weighted(hidden, [1.4] * 10) / hidden)[0]
    assert (factor >= 0.49).all() and (factor <= 2.01).all()
    assert torch.isfinite(weighted(torch.zeros(77, 4), [2.0])).all()


def test_weights_are_computed_in_float32() -> None:
    hidden = (torch.randn(77, 64, generator=torch.Generator().manual_seed(0)) + 0.5).to(torch.bfloat16)
    result = weighted(hidden, [1.3] * 20)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, weighted(hidden.float(), [1.3] * 20).to(torch.bfloat16))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.3, 3.0])
def test_a_weighted_word_is_longer_or_shorter_than_the_others(plain_models: Models, weight: float) -> None:
    plain = encoded(plain_models, prompt="a red cat")
    text = encoded(plain_models, prompt=f"a (red:{weight}) cat", prompt_syntax="weighted")
    assert torch.equal(text.pooled, plain.pooled), "weights do not reach the pooled embedding"
    for half in (slice(0, 32), slice(32, 64)):  # each encoder by itself
        lengths = (
            text.embeddings[0, :, half].norm(dim=1) / plain.embeddings[0, :, half].norm(dim=1)
        ).tolist()
        others = [*lengths[:2], *lengths[5:]]  # tokens 2 to 4 are the letters of the word
        assert others == pytest.approx([others[0]] * len(others), rel=1e-4)
        assert lengths[2:5] == pytest.approx([others[0] * weight] * 3, rel=1e-4)


def test_weights_of_the_negative_prompt_count_too(plain_models: Models) -> None:
    plain, text = (
        encoded(plain_models, prompt="a cat", negative_prompt="(blurry:1.5)", prompt_syntax=syntax)
        for syntax in ("plain", "weighted")
    )
    assert torch.equal(plain.embeddings, text.embeddings)
    assert plain.negative_embeddings is not None and text.negative_embeddings is not None
    assert not torch.equal(plain.negative_embeddings, text.negative_embeddings)


def test_weights_stay_in_their_chunk(plain_models: Models) -> None:
    plain = encoded(plain_models, prompt="a cat BREAK a dog BREAK a cow", prompt_syntax="weighted")
    text = encoded(plain_models, prompt="a cat BREAK a (dog:1.5) BREAK a cow", prompt_syntax="weighted")
    same = [torch.equal(*(chunk_of(t.embeddings, n) for t in (plain, text))) for n in range(3)]
    assert same == [True, False, True]


# --- clip_skip ---


@pytest.mark.parametrize("prompt", ["a cat", "x" * 100, "a (cat:1.5)"])
def test_clip_skip_is_that_of_both_prompts(full_models: Models, prompt: str) -> None:
    request = request_for(prompt=prompt, negative_prompt="blurry", prompt_syntax="weighted")
    usual, one, last = (
        PromptEncoder(full_models, clip_skip).encode(request, refine=True) for clip_skip in (0, 1, -1)
    )
    assert not torch.equal(last.base.embeddings, usual.base.embeddings)
    different = [not torch.equal(a, b) for a, b in zip(usual.base.tensors, one.base.tensors, strict=True)]
    assert different == [True, True, False, False], "both prompts' embeddings, not the pooled ones"
    assert usual.refiner is not None and one.refiner is not None
    assert torch.equal(usual.refiner.embeddings, one.refiner.embeddings), "the base's only"


@pytest.mark.parametrize("clip_skip", [-2, 2])
def test_a_clip_skip_beyond_the_layers_is_refused(plain_models: Models, clip_skip: int) -> None:
    with pytest.raises(StartupError, match=r"^MODEL_SET: clip_skip is \d;.* from 1 to 3"):
        PromptEncoder(plain_models, clip_skip)


def test_two_encoders_may_split_differently(plain_models: Models) -> None:
    """As with tokenizers of different vocabularies: the shorter is padded."""
    models = load(plain_models.model_set.folder)
    first: Callable[..., Any] = models.text_to_image.tokenizer

    class TwoForOne:
        def __init__(self) -> None:
            self.__dict__.update(
                {
                    name: getattr(first, name)
                    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length")
                }
            )

        def num_special_tokens_to_add(self) -> int:
            return 2

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["x"] * len(ids)

        def __call__(self, text: str, **options: Any) -> Any:
            tokens = first(text, **options)
            tokens["input_ids"] = [token for token in tokens["input_ids"] for _ in range(2)]
            return tokens

    models.text_to_image.tokenizer = TwoForOne()
    with torch.inference_mode():
        embeddings, negative, _, _ = encode_chunks(
            models.text_to_image, parse("x" * 70, "plain"), parse("y", "plain"), device=CPU
        )
    assert negative is not None
    assert embeddings.shape == negative.shape == (1, 154, 64)


# --- sets that take in a limited number of chunks ---


def test_a_limit_fills_its_last_chunk_and_names_the_rest_from_a_word_on(tokenizer: Any) -> None:
    words = ["cat"] * 100
    words[70] = ","  # where a chunk would end if another followed
    words[74:76] = ["antidisestablishmentarianism"] * 2
    prompt = parse(" ".join(words), "plain")
    [chunk] = split_prompt(tokenizer, prompt, 1)
    assert len(chunk.tokens) == ROOM
    dropped = dropped_text(tokenizer, prompt, 1)
    assert dropped.split() == words[74:], "what was cut off in its middle is named whole"
    assert dropped_text(tokenizer, prompt, 2) == ""
    assert dropped_text(tokenizer, parse("a cat BREAK a dog", "weighted"), 1) == "a dog"
    warning = truncation_warning("prompt", dropped)
    assert warning.startswith("prompt: 26 words") and warning.endswith(f'"{dropped}"')
    assert truncation_warning("prompt", "cat " * 100).endswith(' cat ..."')


def test_a_set_of_one_chunk_draws_a_long_prompt_as_diffusers_does_and_says_so(tmp_path: Path) -> None:
    folder = build_set(tmp_path, refiner=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"max_prompt_chunks": 1}))
    models = load(folder)
    long = "a cat, " * 20
    prompt = PromptEncoder(models).encode(request_for(prompt=long, negative_prompt=long[::-1]), refine=True)
    assert prompt.refiner is not None
    for pipeline, text in ((models.text_to_image, prompt.base), (models.refiner, prompt.refiner)):
        assert pipeline is not None
        expected = pipeline.encode_prompt(prompt=long, device="cpu", negative_prompt=long[::-1])
        assert all(torch.equal(a, b) for a, b in zip(text.tensors, expected, strict=True))
    assert [warning.code for warning in prompt.warnings] == [WarningCode.PROMPT_TRUNCATED] * 2
    assert prompt.warnings[1].message.startswith("negative_prompt: ")
    assert PromptEncoder(models).encode(request_for(), refine=True).warnings == ()
