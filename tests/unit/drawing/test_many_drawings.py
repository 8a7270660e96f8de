"""What many drawings show and what their captions say. One module, so that one process draws them, once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from drawing import KINDS, PEOPLE_KINDS, Drawing, draw, split_words, vocabulary


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    """A thousand small drawings, with each kind as often as `draw` chooses it."""
    rng = np.random.default_rng(9)
    return [draw(rng, 16) for _ in range(1000)]


@pytest.fixture(scope="module")
def portraits(drawings: list[Drawing]) -> list[Drawing]:
    """Several hundred small portraits: what they show and what their captions say, not their pixels."""
    return [drawing for drawing in drawings if drawing.kind == "portrait"]


def test_most_drawings_show_people_half_are_single_portraits_and_one_in_five_two_or_three_people(
    drawings: list[Drawing],
) -> None:
    kinds = [drawing.kind for drawing in drawings]
    assert 0.66 < sum(kind in PEOPLE_KINDS for kind in kinds) / 1000 < 0.78
    assert 0.43 < kinds.count("portrait") / 1000 < 0.54
    assert 0.16 < sum(kind in ("pair", "group") for kind in kinds) / 1000 < 0.27
    assert set(kinds) == set(KINDS)


def test_captions_are_plain_lower_case_words_of_the_vocabulary(drawings: list[Drawing]) -> None:
    known = set(vocabulary())
    for drawing in drawings:
        caption = drawing.caption
        words = split_words(caption)
        assert words
        assert len(words) <= 60
        assert caption == caption.lower()
        assert "{" not in caption
        assert set(words) <= known, caption
        assert not any(first == "a" and second[0] in "aeio" for first, second in pairwise(words)), caption


def test_captions_tell_the_truth_about_what_they_name(portraits: list[Drawing]) -> None:
    for drawing in portraits:
        person, words = drawing.attributes["people"][0], set(split_words(drawing.caption))
        assert ("glasses" not in words) or person["glasses"]
        assert ("beard" not in words) or person["beard"] == "beard"
        assert ("bald" not in words) or person["hair_style"] == "bald"
        assert not words & {"woman", "lady", "girl", "businesswoman"} or person["sex"] == "woman"
        assert not words & {"man", "gentleman", "boy", "businessman"} or person["sex"] == "man"
        assert not words & {"old", "elderly"} or person["hair_color"] in ("gray", "white")
        assert ("suit" not in words) or person["clothes"] == "suit"


def test_captions_name_what_hides_a_face_and_where_a_head_turns(portraits: list[Drawing]) -> None:
    named: set[str] = set()
    for drawing in portraits:
        facts, words = drawing.attributes["people"][0], set(split_words(drawing.caption))
        assert not {"hand", "hidden", "pulled"} & words or facts["cover"]
        assert "scarf" not in words or facts["scarf"]
        assert not {"afro", "pigtails", "braids", "spiky"} & words or facts["hair_style"] in words
        assert not {"turned", "looking"} & words or ("left" in words) == (facts["turn"] < 0)
        named |= words
    assert {"hand", "scarf", "turned", "three", "braids", "spiky", "striped", "necklace"} <= named


def test_hidden_is_zero_for_an_open_face_and_a_share_of_a_covered_one(portraits: list[Drawing]) -> None:
    open_faces, covered = [], []
    for drawing in portraits:
        face, facts = drawing.faces[0], drawing.attributes["people"][0]
        inside = face.box[0] > 0 and face.box[2] < 16
        if facts["cover"]:
            covered.append(face.hidden)
        elif inside:
            open_faces.append(face.hidden)
    assert len(covered) > 5 and min(covered) > 0.15 and max(covered) < 0.85
    assert max(open_faces) < 0.1
