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
