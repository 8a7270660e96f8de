"""What an image shows, in everyday words: varied, deliberately incomplete, and never wrong."""

import re

import numpy as np

from . import words
from .person import Person
from .scene import Facts

Rng = np.random.Generator


def _chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def _choose(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _joined(parts: list[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _with_article(phrase: str) -> str:
    return f"a {phrase}"  # `_finished` writes "an" where it belongs


def _noun(rng: Rng, person: Person) -> str:
    if person.age == "child":
        return _choose(rng, words.CHILD[person.sex])
    if person.age == "old" and _chance(rng, 0.85):
        return _choose(rng, words.OLD[person.sex])
    if _chance(rng, 0.05):
        return "person"
    noun = _choose(rng, words.ADULT[person.sex])
    return f"young {noun}" if person.age == "adult" and _chance(rng, 0.08) else noun


def _hair(rng: Rng, person: Person) -> str | None:
    if person.hair_style == "bald":
        return None
    if person.hat and person.hair_style in ("swept", "parted", "bangs"):
        return f"{person.hair_color} hair"
    color = _choose(rng, words.HAIR_COLOR.get(person.hair_color, (person.hair_color,)))
    style = _choose(rng, words.HAIR_STYLE[person.hair_style]) if _chance(rng, 0.88) else "{} hair"
    return style.format(color)


def _clothes(rng: Rng, person: Person) -> str:
    color = _choose(rng, words.CLOTHES_COLOR.get(person.shirt, (person.shirt,)))
    noun = _choose(rng, words.CLOTHES[person.clothes])
    if person.clothes == "suit" and _chance(rng, 0.4):
        return "a suit" + (" and tie" if person.tie and _chance(rng, 0.6) else "")
    phrase = _with_article(f"{color} {noun}")
    if person.tie and _chance(rng, 0.6):
        phrase += f" and a {person.tie} tie" if _chance(rng, 0.5) else " and a tie"
    return phrase


def describe(rng: Rng, person: Person, detail: float = 1.0) -> str:
    """One person in words; `detail` (0 to 1) scales how likely each fact is mentioned."""
    adjectives = []
    if person.hair_style == "bald" and _chance(rng, 0.95):
        adjectives.append("bald")
    if person.expression == "serious":
        if _chance(rng, 0.5 * detail):
            adjectives.append(_choose(rng, words.SERIOUS))
    elif _chance(rng, 0.7 * detail):
        adjectives.append(_choose(rng, words.SMILING if person.expression == "smiling" else words.LAUGHING))
    if _chance(rng, 0.5):
        adjectives.reverse()
    subject = _with_article(" ".join([*adjectives, _noun(rng, person)]))

    features = []
    hair = _hair(rng, person)
    if hair and _chance(rng, 0.95 * detail):
        features.append(hair)
    if person.beard and _chance(rng, 0.97):
        beard = _choose(rng, words.BEARD[person.beard])
        colored = _chance(rng, 0.45)
        features.append(_with_article(f"{person.hair_color} {beard}" if colored else beard))
    if person.glasses and _chance(rng, 0.98):
        features.append(f"{person.glasses} glasses" if _chance(rng, 0.4) else "glasses")
    if person.eye_color != "dark" and _chance(rng, 0.16 * detail):
        features.append(f"{person.eye_color} eyes")
    if _chance(rng, 0.1 * detail):
        features.append(f"{words.SKIN[person.skin]} skin")
    if person.earrings and _chance(rng, 0.5):
        features.append(_choose(rng, ("earrings", "gold earrings")))
    if person.necklace and _chance(rng, 0.5):
        features.append(_choose(rng, ("a necklace", "a pearl necklace")))
    if person.cover and _chance(rng, 0.85):
        cover = _choose(rng, words.COVER[person.cover])
        features.append(cover.format(hat=person.hat, scarf=person.scarf))
    order = rng.permutation(len(features))

    worn = []
    if person.scarf and person.cover != "scarf" and _chance(rng, 0.85):
        worn.append(_with_article(f"{person.scarf} scarf"))
    if person.hat and person.cover != "brim" and _chance(rng, 0.98):
        worn.append(f"a {person.hat_color} {_choose(rng, words.HAT[person.hat])}")
    if _chance(rng, 0.75 * detail):
        worn.append(_clothes(rng, person))
    text = subject
    if features:
        text += " with " + _joined([features[i] for i in order])
    if worn:
        text += (
            (", " if features else " ")
            + ("wearing " if _chance(rng, 0.75) or features else "in ")
            + _joined(worn)
        )
    return text


def _turned(rng: Rng, person: Person) -> str:
    if abs(person.turn) < 0.4 or not _chance(rng, 0.9):
        return ""
    return ", " + _choose(rng, words.TURNED["left" if person.turn < 0 else "right"])


def _background(rng: Rng, background: str) -> str:
    return _choose(rng, words.BACKGROUND.get(background, words.PLAIN_BACKGROUND)).format(background)


def _finished(rng: Rng, text: str, portrait: bool, prefix_rate: float = 0.55) -> str:
    if _chance(rng, prefix_rate):
        prefixes = words.PORTRAIT_PREFIX if portrait and _chance(rng, 0.6) else words.PREFIX
        prefix = _choose(rng, prefixes)
        text = f"{prefix} {text}"
    if _chance(rng, 0.14):
        count = 1 + int(rng.integers(3))
        chosen = rng.permutation(len(words.QUALITY))[:count]
        text += "".join(f", {words.QUALITY[i]}" for i in chosen)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def portrait_caption(rng: Rng, person: Person, background: str, theme: str, far: bool = False) -> str:
    """Caption of an image of one person; `theme` names the common prompt that it stands for, or "any"."""
    if theme != "any":
        return _professional_caption(rng, person, background, theme)
    if far:
        text = describe(rng, person, detail=float(rng.uniform(0.2, 0.7))) + _choose(rng, words.FAR)
        return _finished(rng, text + _background(rng, background), False)
    if _chance(rng, 0.07):
        return _finished(rng, _with_article(_noun(rng, person)), True, 0.85)
    detail = float(rng.uniform(0.8, 1.1) if _chance(rng, 0.93) else rng.uniform(0, 0.3))
    text = describe(rng, person, detail) + _turned(rng, person)
    if _chance(rng, 0.85):
        text += _background(rng, background)
    return _finished(rng, text, True)


def _professional_caption(rng: Rng, person: Person, background: str, theme: str) -> str:
    if theme == "headshot":
        text = _choose(rng, words.HEADSHOT)
        if _chance(rng, 0.45):
            text += f" of a {person.sex}"
            if person.glasses and _chance(rng, 0.8):
                text += " with glasses"
    else:
        text = _choose(rng, words.BUSINESS[person.sex])
        if person.tie and _chance(rng, 0.4):
            text += " and tie"
        hair = _hair(rng, person)
        if hair and _chance(rng, 0.35):
            text += f", {hair}"
    if _chance(rng, 0.4):
        text += ", " + _choose(rng, words.HEADSHOT_QUALITY)
        if _chance(rng, 0.5):
            text += ", natural skin"
    if _chance(rng, 0.45):
        text += _background(rng, background)
    return _finished(rng, text, True, 0.25 if theme != "headshot" else 0.0)


def group_caption(rng: Rng, people: tuple[Person, ...], background: str, far: bool = False) -> str:
    """Caption of an image of two to five people, from left to right."""
    if far:
        text = _choose(rng, words.COUNT[len(people)]) + _choose(rng, words.FAR)
        return _finished(rng, text + _background(rng, background), False)
    if len(people) > 3:
        text = _choose(rng, words.COUNT[len(people)])
    elif _chance(rng, 0.4):
        text = _counted(rng, people)
    else:
        text = _each(rng, people)
    if _chance(rng, 0.7):
        text += _background(rng, background)
    return _finished(rng, text, False)


def _counted(rng: Rng, people: tuple[Person, ...]) -> str:
    """How many there are, and what all of them share."""
    count, first = len(people), people[0]
    text = _choose(rng, words.COUNT[count])
    if {(p.sex, p.age == "child") for p in people} == {(first.sex, False)} and _chance(rng, 0.6):
        text = words.SEVERAL[count].format(_choose(rng, words.ALIKE[first.sex]))
    elif count == 2 and _chance(rng, 0.35):
        text = " and ".join(_with_article(_noun(rng, p)) for p in people)
    shared = []
    if all(p.expression != "serious" for p in people):
        shared.append(_choose(rng, words.SMILING))
    elif all(p.expression == "serious" for p in people):
        shared.append("serious")
    for thing in ("glasses", "beard", "hat"):
        if all(getattr(p, thing) == "beard" or (getattr(p, thing) and thing != "beard") for p in people):
            shared.append({"glasses": "with glasses", "beard": "with beards", "hat": "with hats"}[thing])
    if _chance(rng, 0.4):
        text += _choose(rng, words.TOGETHER)
    if shared and _chance(rng, 0.75):
        text += f", {words.ALL[count]} " + " and ".join(shared[:2])
    return text


def _each(rng: Rng, people: tuple[Person, ...]) -> str:
    """One after the other; from left to right, unless each one's place is given."""
    count = len(people)
    phrases = [
        describe(rng, person, 0.45 if count == 2 else 0.2)
        if count == 2 or _chance(rng, 0.6)
        else _with_article(_noun(rng, person))
        for person in people
    ]
    if _chance(rng, 0.5):
        phrases = [one + place for one, place in zip(phrases, words.PLACES[count], strict=True)]
        if _chance(rng, 0.3):
            phrases.reverse()
        text = _joined(phrases)
    elif count == 2:
        text = phrases[0] + _choose(rng, (" and ", " next to ", " beside ")) + phrases[1]
    else:
        text = _joined(phrases)
    return f"{_choose(rng, words.COUNT[count])}, {text}" if _chance(rng, 0.25) else text


def scene_caption(rng: Rng, kind: str, facts: Facts) -> str:
    """Caption of an image without people."""
    known = dict(facts)
    variants = words.SCENE[kind]
    fitting = [
        text
        for needs, text in variants
        if all(known.get(k) == v or (v == "" and k in known) for k, v in needs)
    ]
    text = fitting[int(rng.integers(len(fitting)))].format(**known)
    if kind in words.LANDSCAPE_OF:
        if _chance(rng, 0.4):
            text = _choose(rng, words.LANDSCAPE if _chance(rng, 0.65) else words.LANDSCAPE_OF[kind])
        if _chance(rng, 0.2):
            text += _choose(rng, words.NOBODY)
    if "background" in known and kind != "empty" and "table" not in text and _chance(rng, 0.7):
        text += _background(rng, known["background"])
    return _finished(rng, text, False, 0.35)
