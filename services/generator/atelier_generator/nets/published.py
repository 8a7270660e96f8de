"""SDXL 1.0 as published: configurations, scheduler, tokenizers.

`published/base` and `published/refiner` have the layout of the published folders, without weights. A
single-file checkpoint contains only weights, so loading one needs the rest; `inspect` compares against it.
The values are those of the published configuration files, without those that merely repeat a default of
diffusers or transformers. The refiner shares the VAE and the second text encoder of the base.

Both tokenizers are CLIP's (Radford et al. 2021, byte-level BPE). Its vocabulary follows from its merges, so
only those are stored: 48,894 lines, 0.2 MB. They are the first lines of OpenAI's
`bpe_simple_vocab_16e6.txt.gz` (MIT license, see NOTICE).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from transformers import CLIPTokenizer

Kind = Literal["base", "refiner"]

PUBLISHED = Path(__file__).with_name("published")
MAX_TOKENS = 77
PAD_TOKENS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
"""OpenCLIP pads with token 0, which is "!"."""


@cache
def configuration(kind: Kind, part: str) -> Mapping[str, Any]:
    """Return the published configuration of `scheduler` or of a network, such as `unet`."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    own = PUBLISHED / kind / part / name
    return _read(own if own.is_file() else PUBLISHED / "base" / part / name)


@cache
def pipeline_index(kind: Kind) -> Mapping[str, Any]:
    """Return the published `model_index.json`: the class of each part, and the pipeline's own settings."""
    return _read(PUBLISHED / kind / "model_index.json")


def tokenizer(part: str) -> CLIPTokenizer:
    """Return the published `tokenizer` or `tokenizer_2`."""
    merges: Any = _merges()  # transformers' annotation says strings, but pairs are what it takes
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        pad_token=PAD_TOKENS[part],
        model_max_length=MAX_TOKENS,
    )


def byte_letters() -> list[str]:
    """Return the characters by which byte-level BPE represents the 256 bytes, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(number) for number in (*printable, *range(256, 512 - len(printable)))]


def _merges() -> list[tuple[str, str]]:
    with gzip.open(PUBLISHED / "clip_merges.txt.gz", "rt", encoding="utf-8") as file:
        pairs = (line.split() for line in file)
        return [(first, second) for first, second in pairs]


def _read(path: Path) -> Mapping[str, Any]:
    data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
