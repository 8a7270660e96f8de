"""Which words of a prompt the text encoders do not see.

CLIP reads 77 tokens, start and end tokens included. The tokenizer truncates the rest; the response warns
which words those are.
"""

from __future__ import annotations

from typing import Any

_SHOWN_CHARS = 200


def truncated_text(tokenizer: Any, text: str) -> str:
    """Return the end of `text` that the tokenizer (of transformers) truncates; empty if it fits.

    A word that is only partly truncated is returned whole.
    """
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    if not tokenizer.is_fast:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        return str(tokenizer.decode(tokens[room:])).strip()
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    if len(offsets) <= room:
        return ""
    start = offsets[room][0]
    while 0 < start < len(text) and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    return text[start:].strip()


def truncation_warning(field: str, text: str, tokenizers: list[Any]) -> str | None:
    """Return a warning that names the words of `text` beyond the encoders' limit, None if all fit."""
    limit = min(tokenizer.model_max_length for tokenizer in tokenizers)
    cut = max((truncated_text(tokenizer, text) for tokenizer in tokenizers), key=len)
    if not cut:
        return None
    shown = cut if len(cut) <= _SHOWN_CHARS else f"{cut[:_SHOWN_CHARS].rsplit(maxsplit=1)[0]} ..."
    count = len(cut.split())
    return f'{field}: {count} words beyond the text encoders\' {limit} tokens have no effect: "{shown}"'
