import pytest

from atelier_generator.prompt_words import truncated_text, truncation_warning

# The tiny tokenizer makes a token of every letter; 75 of them fit between the start and end tokens.


def test_a_prompt_that_fits_gives_no_warning(plain_models):
    tokenizer = plain_models.text_to_image.tokenizer
    assert truncated_text(tokenizer, "x" * 75) == ""
    assert truncation_warning("prompt", "x " * 75, [tokenizer, tokenizer]) is None


def test_truncated_words_are_named(plain_models):
    tokenizer = plain_models.text_to_image.tokenizer
    warning = truncation_warning("negative_prompt", "x" * 75 + " red  Apple", [tokenizer, tokenizer])
    assert warning is not None and warning.startswith(
        "negative_prompt: 2 words beyond the text encoders' 77 tokens"
    )
    assert '"red  Apple"' in warning


def test_a_partly_truncated_word_is_named_in_full(plain_models):
    tokenizer = plain_models.text_to_image.tokenizer
    assert truncated_text(tokenizer, "x" * 73 + " apple pie") == "apple pie"


def test_the_encoders_receive_exactly_what_is_not_named(plain_models):
    tokenizer = plain_models.text_to_image.tokenizer
    kept, cut = "x" * 75, "red apple"
    ids = tokenizer(f"{kept} {cut}", truncation=True, max_length=77).input_ids
    assert tokenizer.decode(ids[1:-1]).strip() == kept
    assert truncated_text(tokenizer, f"{kept} {cut}") == cut


@pytest.mark.parametrize(
    ("seen", "cut"),
    [
        ("\u4e00\u5f35\u7f8e\u9e97\u7684\u8096\u50cf" * 12, "\u7d05\u9aee\u5973\u5b50"),  # Chinese
        (
            "\u7f8e\u3057\u3044\u4eba\u306e\u8096\u50cf\u753b" * 11,
            "\u8d64\u3044\u9aea\u306e\u5973",
        ),  # Japanese
        ("\u0e20\u0e32\u0e1e\u0e27\u0e32\u0e14" * 14, "\u0e1c\u0e21\u0e41\u0e14\u0e07"),  # Thai
    ],
)
def test_of_writing_without_spaces_only_what_is_not_seen_is_named(plain_models, seen, cut):
    tokenizer = ByteTokenizer()
    seen = seen[: ByteTokenizer.room // 3]
    assert truncated_text(tokenizer, seen + cut) == cut
    assert truncated_text(tokenizer, seen) == ""
    warning = truncation_warning("prompt", seen + cut, [tokenizer]) or ""
    assert f"{len(cut)} characters" in warning and f'"{cut}"' in warning
    assert seen[-3:] not in warning


def test_korean_is_written_with_spaces():
    seen, cut = "\ubbf8" * 24, "\uc5ec\uc790 \ucd08\uc0c1\ud654"
    warning = truncation_warning("prompt", f"{seen} {cut}", [ByteTokenizer()])
    assert warning is not None and "2 words" in warning and f'"{cut}"' in warning


class ByteTokenizer:
    """Three tokens for a character of three bytes, as CLIP's tokenizer has them for rare characters."""

    model_max_length = 77
    room = 75
    is_fast = True

    def num_special_tokens_to_add(self):
        return 2

    def __call__(self, text, add_special_tokens, return_offsets_mapping):
        offsets = [(i, i + 1) for i, char in enumerate(text) if not char.isspace() for _ in char.encode()]
        return type("Tokens", (), {"offset_mapping": offsets})


def test_a_long_rest_is_shortened_but_counted(plain_models):
    tokenizer = plain_models.text_to_image.tokenizer
    warning = truncation_warning("prompt", "x" * 75 + " word" * 300, [tokenizer])
    assert warning is not None and "300 words" in warning
    assert len(warning) < 350


def test_slow_tokenizers_name_truncated_words_too():
    class SlowTokenizer:
        model_max_length = 4
        is_fast = False

        def num_special_tokens_to_add(self):
            return 2

        def __call__(self, text, add_special_tokens):
            return type("Tokens", (), {"input_ids": text.split()})

        def decode(self, tokens):
            return " ".join(tokens)

    assert truncated_text(SlowTokenizer(), "one two three four") == "three four"
