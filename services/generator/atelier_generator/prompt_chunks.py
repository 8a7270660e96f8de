"""Prompts of any length and with weights, for the CLIP text encoders of a pipeline.

CLIP reads 77 tokens, begin and end tokens included. A longer prompt is split into chunks, each encoded by
itself, and their embeddings are concatenated along the tokens: to the UNet's cross-attention their number is
free. The rules are those of AUTOMATIC1111's web UI (its `modules/sd_hijack_clip.py`); docs/decisions/
prompt-weights.md says where and why not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from atelier_generator.prompt_syntax import ParsedPrompt

_COMMA, _WORD_END = ",</w>", "</w>"
_BACKTRACK = 20
"""A chunk ends up to this many tokens earlier, so that the text after a comma, or a word, stays whole."""
_CHUNKS_AT_ONCE = 8
_SHOWN_CHARS = 200
_MEAN_FACTORS = (0.5, 2.0)


@dataclass(frozen=True)
class Chunk:
    """Tokens of a prompt, without begin, end and padding, and the weight of each."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


Embeddings = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]
"""As `encode_prompt` of diffusers returns them: prompt, negative prompt, and both pooled."""


def whole_text(pipeline: Any, prompt: ParsedPrompt) -> str | None:
    """Return the text of a prompt without weights that is one chunk for each text encoder; else None."""
    if any(segment.weight != 1 for segment in chain.from_iterable(prompt)):
        return None
    if any(len(split_prompt(tokenizer, prompt)) > 1 for tokenizer, _ in _encoders(pipeline)):
        return None
    return "".join(segment.text for segment in chain.from_iterable(prompt))


def split_prompt(tokenizer: Any, prompt: ParsedPrompt, most: int | None = None) -> list[Chunk]:
    """Return the chunks of a prompt; of an empty one a single empty chunk. `tokenizer`: of transformers.

    Each BREAK begins a chunk, which is empty if another follows at once; one at the end has no effect.
    `most`: of more chunks, those after it are dropped.
    """
    chunks: list[Chunk] = []
    for part in prompt:
        tokens: list[int] = []
        weights: list[float] = []
        for segment in part:
            ids = tokenizer(segment.text, add_special_tokens=False).input_ids
            tokens += ids
            weights += [segment.weight] * len(ids)
        left = None if most is None else most - len(chunks)
        if left != 0:
            chunks += _split(tokenizer, tokens, weights, left)
    if len(chunks) > 1 and not chunks[-1].tokens:
        chunks.pop()
    return chunks


def count_tokens(tokenizer: Any, prompt: ParsedPrompt) -> int:
    """Return how many tokens a prompt has, without those of begin and end."""
    texts = (segment.text for segment in chain.from_iterable(prompt))
    return sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)


def dropped_text(tokenizer: Any, prompt: ParsedPrompt, most: int) -> str:
    """Return the end of a prompt that `most` chunks do not hold, from a word on; or nothing."""
    ids: list[int] = []
    for segment in chain.from_iterable(prompt):
        ids += tokenizer(segment.text, add_special_tokens=False).input_ids
    start = sum(len(chunk.tokens) for chunk in split_prompt(tokenizer, prompt, most))
    if start == len(ids):
        return ""
    names = tokenizer.convert_ids_to_tokens(ids)
    while start and not names[start - 1].endswith(_WORD_END):
        start -= 1
    return str(tokenizer.decode(ids[start:])).strip()


def truncation_warning(field: str, dropped: str) -> str:
    """Return a warning that names the words of a prompt that have no effect."""
    shown = dropped if len(dropped) <= _SHOWN_CHARS else f"{dropped[:_SHOWN_CHARS].rsplit(maxsplit=1)[0]} ..."
    return (
        f"{field}: {len(dropped.split())} words beyond what the model set's networks take in have no effect: "
        f'"{shown}"'
    )


def encode_chunks(
    pipeline: Any,
    prompt: ParsedPrompt,
    negative: ParsedPrompt | None,
    *,
    device: torch.device,
    clip_skip: int = 0,
    most: int | None = None,
) -> Embeddings:
    """Encode prompts of any length; the shorter one is padded with empty chunks.

    `pipeline`: diffusers', for its tokenizers, text encoders and configuration. `negative`: None without
    guidance. Empty, it is zeros of the prompt's length where the pipeline's configuration says so.
    `clip_skip`: as in diffusers' `encode_prompt`, layers to skip before the usual one, but of both prompts.
    `most`: chunks, beyond which a prompt is cut off.
    The pooled embedding is that of the first chunk.
    """
    encoders = list(_encoders(pipeline))
    chunks = [split_prompt(tokenizer, prompt, most) for tokenizer, _ in encoders]
    zeros = negative is not None and not any(negative) and pipeline.config.force_zeros_for_empty_prompt
    if negative is not None and not zeros:
        negative_chunks = [split_prompt(tokenizer, negative, most) for tokenizer, _ in encoders]
    else:
        negative_chunks = []
    count = max(map(len, [*chunks, *negative_chunks]))
    dtype = pipeline.text_encoder_2.dtype
    embeddings, pooled = _encode(encoders, chunks, count, -2 - clip_skip)
    embeddings = embeddings.to(device, dtype)
    if negative is None:
        return embeddings, None, pooled, None
    if zeros:
        return embeddings, torch.zeros_like(embeddings), pooled, torch.zeros_like(pooled)
    negative_embeddings, negative_pooled = _encode(encoders, negative_chunks, count, -2 - clip_skip)
    return embeddings, negative_embeddings.to(device, dtype), pooled, negative_pooled


def _encoders(pipeline: Any) -> Iterator[tuple[Any, Any]]:
    """Yield tokenizers and text encoders; a refiner has one of each."""
    if pipeline.tokenizer is not None:
        yield pipeline.tokenizer, pipeline.text_encoder
    yield pipeline.tokenizer_2, pipeline.text_encoder_2


# --- splitting ---


def _split(tokenizer: Any, tokens: Sequence[int], weights: Sequence[float], most: int | None) -> list[Chunk]:
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    names = tokenizer.convert_ids_to_tokens(tokens) if len(tokens) > room else []
    chunks: list[Chunk] = []
    start = 0
    while not chunks or (start < len(tokens) and len(chunks) != most):
        end = start + room
        if end < len(tokens) and len(chunks) + 1 != most:
            end = _border(names, start, end)
        chunks.append(Chunk(tuple(tokens[start:end]), tuple(weights[start:end])))
        start = end
    return chunks


def _border(names: Sequence[str], start: int, end: int) -> int:
    """Return where a chunk ends that could end before token `end`: after a comma or a word if one is near."""
    if names[end] == _COMMA:
        return end
    nearest = range(end - 1, max(start, end - _BACKTRACK - 1), -1)
    for position in nearest:
        if names[position] == _COMMA:
            return position + 1
    return next((p + 1 for p in nearest if names[p].endswith(_WORD_END)), end)


# --- encoding ---


def _encode(
    encoders: Sequence[tuple[Any, Any]], chunks: Sequence[Sequence[Chunk]], count: int, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings (1, count * tokens, features) of each encoder's chunks, and pooled (1, features)."""
    every = []
    pooled: torch.Tensor | None = None
    for (tokenizer, encoder), own in zip(encoders, chunks, strict=True):
        padded = [*own, *[Chunk()] * (count - len(own))]
        hidden, first = _encode_with(tokenizer, encoder, padded, layer)
        every.append(hidden)
        pooled = first if pooled is None else pooled
    assert pooled is not None, "text_encoder_2 has a projection"
    return torch.cat(every, dim=-1), pooled


def _encode_with(
    tokenizer: Any, encoder: Any, chunks: Sequence[Chunk], layer: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return one encoder's embeddings (1, tokens, features), and the first chunk's pooled, if it has one."""
    numbers = {tokens: number for number, tokens in enumerate(dict.fromkeys(c.tokens for c in chunks))}
    rows = torch.tensor([_row(tokenizer, tokens) for tokens in numbers])
    hidden = []
    pooled: torch.Tensor | None = None
    for batch in rows.split(_CHUNKS_AT_ONCE):
        output = encoder(batch.to(encoder.device), output_hidden_states=True)
        if pooled is None and output[0].ndim == 2:
            pooled = output[0][:1]
        hidden.append(output.hidden_states[layer])
    encoded = torch.cat(hidden)[[numbers[chunk.tokens] for chunk in chunks]]
    for number, chunk in enumerate(chunks):
        if any(weight != 1 for weight in chunk.weights):
            encoded[number] = weighted(encoded[number], chunk.weights)
    return encoded.flatten(0, 1).unsqueeze(0), pooled


def _row(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    """Return a chunk as its encoder reads it: with begin and end, padded as its tokenizer pads."""
    row = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))


def weighted(hidden: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return a chunk's embeddings (tokens, features) times the weights of what follows its begin token.

    Then the mean is restored, AUTOMATIC1111's emphasis "Original", in float32. The factor that restores it is
    kept within 0.5 to 2: a mean near 0, as small networks may have, would make it anything.
    """
    factors = hidden.new_ones(len(hidden), 1, dtype=torch.float32)
    factors[1 : 1 + len(weights), 0] = torch.tensor(weights, device=hidden.device)
    exact = hidden.float()
    result = exact * factors
    restore = exact.mean() / result.mean()
    return (result * restore.nan_to_num(1.0).clamp(*_MEAN_FACTORS)).to(hidden.dtype)
