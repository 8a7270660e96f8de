"""Captions as people type them: with words that no drawing knows, and with words left out.

A prompt of nothing but unknown words would else give the network no signal at all, and gray noise be drawn.
Landscapes are what such prompts stand for; of people and things unknown words change nothing.
"""

import re

import numpy as np

from drawing import split_words, words

LANDSCAPES = frozenset(words.LANDSCAPE_OF)
MOST_WORDS = 26
"""Longer captions stay as they are: each unknown word is several tokens."""
_ODD = split_words("""abstract ancient angel anime antique architecture artstation atmosphere autumnal
balloon bamboo banner bear bedroom bottle bread bubble butterfly cake canyon cathedral cave chaos cherry
chocolate christmas cinematic cliff concept cosmic cottage coral creature crystal cyberpunk dance desert
diamond dinosaur dragon dream eagle earth electric elephant elegant energy epic fantasy feather festival
fire fireworks fog frog galaxy ghost giraffe glacier glass golden gothic grunge guitar harbor harvest
helicopter holiday horizon hyperrealistic ice idea island jazz jungle kitchen kite lantern leaf lemon
library lighthouse lightning lion love machine magic map marble maze melody meteor minimal misty monster
mosaic motion mushroom music mystery neon nebula origami owl palace paper parrot peace penguin piano pixel
pizza planet plastic poem pottery pyramid rainbow rain rabbit render retro ribbon robot rocket rose ruins
sculpture shadow shark ship silence skyline smoke snake spaceship spiral station steampunk stone storm
strawberry surreal symmetry temple texture thunder tiger tower toy train treasure trending tropical tulip
tunnel turtle umbrella unicorn unreal vase velvet victorian village vintage violin volcano waterfall
watercolor whale whimsical wild wind windmill wolf wonder yacht zebra zen""")
_ROLES = split_words("""actor astronaut athlete baker captain chef clown cowboy dancer detective engineer
elf fairy farmer fireman guitarist hero hunter judge knight lawyer magician mechanic model monk nurse
officer painter pilot pirate poet policeman prince princess professor programmer runner sailor samurai
scientist singer soldier superhero surfer tourist vampire viking waiter warrior witch wizard writer
zombie""")
_NOUN = re.compile(r"\b(?:man|woman|guy|lady|gentleman|person)\b(?! (?:in|wearing) a suit)")
# What pictures are asked for most is never left out.
_KEPT = re.compile(
    r"(?:a|an|hats?|cap|beanie|beards?|mo?ustache|glasses|hair|bald|curly|curls|wavy|left|right|middle|two|three"
    r"|both|all|m[ae]n|wom[ae]n|people|person|couple|friends)"
)


def odd_word(rng: np.random.Generator) -> str:
    """A word outside the vocabulary: an English one, or one that nobody has heard of."""
    if rng.random() < 0.7:
        return _ODD[int(rng.integers(len(_ODD)))]
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiouy"
    parts = [rng.choice(list(consonants)) + rng.choice(list(vowels)) for _ in range(int(rng.integers(1, 4)))]
    return "".join(parts) + str(rng.choice(["", *consonants]))


def reworded(rng: np.random.Generator, caption: str, kind: str) -> str:
    """The caption of a drawing of this kind, mostly as it is: else with odd, or without some of its words."""
    chance = rng.random()
    if kind in LANDSCAPES and chance < 0.3:
        odd = [odd_word(rng) for _ in range(int(rng.integers(1, 4)))]
        if rng.random() < 0.35:
            odd.insert(0, "a")
        if rng.random() < 0.35:
            odd.insert(0, str(rng.choice(words.PREFIX)))
        ends = [*words.NOBODY, *(f", {quality}" for quality in words.QUALITY[::4])]
        return " ".join(odd) + (str(rng.choice(ends)) if rng.random() < 0.4 else "")
    if kind in LANDSCAPES and chance < 0.34:
        return ", ".join(rng.permutation(words.QUALITY)[: int(rng.integers(1, 4))])
    told = caption.split(" ")
    if chance > 0.24 or len(told) > MOST_WORDS:
        return caption
    if chance < 0.05:
        role = _ROLES[int(rng.integers(len(_ROLES)))]
        return re.sub(r"\ba (?=[aeiou])", "an ", _NOUN.sub(role, caption, count=1))
    if chance < 0.17:
        for _ in range(1 + int(rng.random() < 0.4)):
            told.insert(int(rng.integers(len(told) + 1)), odd_word(rng))
        return " ".join(told)
    share = rng.uniform(0.1, 0.35)
    kept = [word for word in told if _KEPT.fullmatch(word.strip(",")) or rng.random() > share]
    return " ".join(kept) or caption


def swap_sides(caption: str) -> str:
    """The caption of the mirrored picture."""
    return re.sub(r"\b(left|right)\b", lambda word: "right" if word[0] == "left" else "left", caption)
