"""Which words of a prompt the text encoders do not see.

CLIP reads 77 tokens, start and end tokens included. The tokenizer truncates the rest; the response warns
which words those are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

_SHOWN_CHARS = 200
_UNSPACED = (("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"))
"""Thai and Lao, Burmese, Khmer; Chinese and Japanese are wide characters."""


def truncated_text(tokenizer: Any, text: str) -> str:
    """Return the end of `text` that the tokenizer (of transformers) truncates; empty if it fits.

    A word that is only partly truncated is returned whole; of writing without spaces, the character.
    """
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    if not tokenizer.is_fast:
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        return str(tokenizer.decode(tokens[room:])).strip()
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    if len(offsets) <= room:
        return ""
    start = offsets[room][0]
    while 0 < start < len(text) and _is_in_word(text[start]) and _is_in_word(text[start - 1]):
        start -= 1
    return text[start:].strip()


def truncation_warning(field: str, text: str, tokenizers: Sequence[Any]) -> str | None:
    """Return a warning that names the words of `text` beyond the encoders' limit, None if all fit."""
    limit = min(tokenizer.model_max_length for tokenizer in tokenizers)
    cut = max((truncated_text(tokenizer, text) for tokenizer in tokenizers), key=len)
    if not cut:
        return None
    shown = cut if len(cut) <= _SHOWN_CHARS else f"{_whole_words(cut[:_SHOWN_CHARS])} ..."
    if any(_is_written_without_spaces(character) for character in cut):
        what = f"{sum(not character.isspace() for character in cut)} characters"
    else:
        what = f"{len(cut.split())} words"
    return f'{field}: {what} beyond the text encoders\' {limit} tokens have no effect: "{shown}"'


def _whole_words(text: str) -> str:
    """Return a text that was cut off without its last word, if it has several."""
    return text.rsplit(maxsplit=1)[0] if " " in text else text


def _is_in_word(character: str) -> bool:
    return character.isalnum() and not _is_written_without_spaces(character)


def _is_written_without_spaces(character: str) -> bool:
    """Tell whether a letter is of Chinese, Japanese, Thai, Lao, Khmer or Burmese writing."""
    is_wide = unicodedata.east_asian_width(character) in "WF"
    is_hangul = unicodedata.name(character, "").startswith("HANGUL")
    return character.isalpha() and (
        (is_wide and not is_hangul) or any(a <= character <= b for a, b in _UNSPACED)
    )
