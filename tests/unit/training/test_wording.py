"""Captions with odd words and without some of their own."""

import numpy as np

import drawing
from training.wording import LANDSCAPES, odd_word, reworded, swap_sides


def test_odd_words_are_outside_the_vocabulary() -> None:
    rng, known = np.random.default_rng(0), set(drawing.vocabulary())
    odd = {odd_word(rng) for _ in range(2000)}
    assert len(odd) > 300
    assert len(odd & known) < 3  # an invented one may happen to be a word


def test_prompts_of_odd_words_alone_stand_for_landscapes_alone() -> None:
    rng = np.random.default_rng(1)
    for kind in drawing.KINDS:
        said = [drawing.split_words(reworded(rng, "bald left hat", kind)) for _ in range(200)]
        without = sum(not {"bald", "left", "hat"} & set(words) for words in said)
        assert (without > 30) if kind in LANDSCAPES else (without == 0)


def test_most_captions_stay_and_glasses_beards_hats_and_counts_are_never_left_out() -> None:
    rng = np.random.default_rng(2)
    caption = "two people, a man with a beard and glasses on the left and a woman in a hat on the right"
    said = [reworded(rng, caption, "pair") for _ in range(500)]
    assert 0.7 < said.count(caption) / 500 < 0.85
    for text in said:
        assert {"two", "people", "beard", "glasses", "left", "hat", "right"} <= set(drawing.split_words(text))


def test_sides_change_places_in_a_mirror() -> None:
    assert swap_sides("a man on the left, looking to the right") == "a man on the right, looking to the left"
