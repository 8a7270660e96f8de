"""The tokenizer of the demo set: in CLIP's format, with one token for each word of the captions.

Words outside the vocabulary are split into smaller known pieces, ultimately bytes, so that every text has
tokens and nothing is silently dropped.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

import drawing

LENGTH = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016) that make each of the words one token.

    Merging continues until no pair is left, and encoding repeats the merges in the same order, so every
    trained word becomes a single token.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=_WORD_END,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer; the same words give the same ids on every machine."""
    merges = _learn_merges(drawing.vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(byte + _WORD_END for byte in alphabet),
        *(first + second for first, second in merges),
    ]
    tokens = [*dict.fromkeys(tokens), BEGIN, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        rules.write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
        return CLIPTokenizer(str(vocabulary), str(rules), model_max_length=LENGTH)
