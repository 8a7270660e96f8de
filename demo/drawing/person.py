"""What a person looks like, as plain facts: sampled here, drawn in figure.py, described in caption.py."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from . import palette

Theme = Literal["any", "headshot", "businessman", "businesswoman"]
Sex = Literal["man", "woman"]
Age = Literal["child", "adult", "old"]
HairStyle = Literal[
    "short", "swept", "parted", "spiky", "long", "wavy", "bangs", "curly", "afro", "bun", "ponytail",
    "pigtails", "braids", "bald",
]  # fmt: skip
Expression = Literal["laughing", "smiling", "serious"]
Beard = Literal["beard", "moustache"]
Glasses = Literal["round", "square"]
Hat = Literal["hat", "cap", "beanie"]
Clothes = Literal["shirt", "stripes", "collar", "sweater", "hoodie", "suit"]
Cover = Literal["brim", "scarf", "hand"]
Word = TypeVar("Word", bound=str | None)


@dataclass(frozen=True)
class Person:
    """Facts about one person; colors are names from palette.py, the numbers at the end shape the head."""

    sex: Sex
    age: Age
    skin: str
    eye_color: str
    hair_color: str
    hair_style: HairStyle
    expression: Expression
    beard: Beard | None
    glasses: Glasses | None
    hat: Hat | None
    hat_color: str | None
    earrings: bool
    necklace: bool
    clothes: Clothes
    shirt: str
    tie: str | None
    scarf: str | None
    """Color of a scarf around the neck."""
    cover: Cover | None
    """What hides part of the face: a hat's brim pulled down, a scarf pulled up, or a hand."""
    width: float
    jaw: float
    turn: float
    """Head turned to the image's right (positive) or left; at -1 and 1 a three-quarter view."""

    @property
    def has_hair_on_top(self) -> bool:
        """Whether the hair's color shows above the forehead."""
        return self.hair_style != "bald" and self.hat is None


_SEX: dict[Sex, float] = {"man": 0.5, "woman": 0.5}
_AGE: dict[Age, float] = {"child": 0.07, "adult": 0.76, "old": 0.17}
_HAIR: dict[Age, dict[str, float]] = {
    "child": {"black": 0.3, "brown": 0.3, "blond": 0.25, "red": 0.15},
    "adult": {"black": 0.2, "brown": 0.2, "blond": 0.2, "red": 0.17, "gray": 0.07, "white": 0.03,
              "blue": 0.065,
              "pink": 0.065},
    "old": {"gray": 0.5, "white": 0.5},
}  # fmt: skip
_STYLE: dict[Sex, dict[HairStyle, float]] = {
    "man": {"short": 0.28, "swept": 0.16, "parted": 0.12, "spiky": 0.08, "curly": 0.12, "afro": 0.04,
            "bald": 0.13, "long": 0.07},
    "woman": {"long": 0.2, "wavy": 0.15, "bangs": 0.12, "short": 0.11, "curly": 0.11, "afro": 0.05,
              "bun": 0.1, "ponytail": 0.08, "braids": 0.05, "pigtails": 0.03},
}  # fmt: skip
_EYES = {"blue": 0.28, "green": 0.2, "brown": 0.34, "dark": 0.18}
_EXPRESSION: dict[Expression, float] = {"laughing": 0.3, "smiling": 0.35, "serious": 0.35}
_BEARD: dict[Beard | None, float] = {"beard": 0.32, "moustache": 0.1, None: 0.58}
_GLASSES: dict[Glasses | None, float] = {"round": 0.15, "square": 0.12, None: 0.73}
_HAT: dict[Hat | None, float] = {"hat": 0.065, "cap": 0.05, "beanie": 0.045, None: 0.84}
_HAT_COLORS = ("red", "blue", "green", "yellow", "black", "purple", "white")
_CLOTHES: dict[Clothes, float] = {
    "shirt": 0.29, "stripes": 0.1, "collar": 0.2, "sweater": 0.16, "hoodie": 0.12, "suit": 0.13,
}  # fmt: skip
_OFFICE_CLOTHES: dict[Clothes, float] = {"suit": 0.75, "collar": 0.25}
_MIN_HAIR_CONTRAST = 45.0
"""By `palette.distance`, so that hair never blends into the forehead."""
_NOT_UNDER_HATS = ("bun", "curly", "afro", "spiky", "pigtails")
_COVERED_SHARE = 0.055
_STRONGLY_TURNED_SHARE = 0.15
_TIES = ("red", "blue", "green", "yellow", "purple")


def _pick(rng: np.random.Generator, weights: dict[Word, float]) -> Word:
    share = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(weights), p=share / share.sum()))]


def sample_person(rng: np.random.Generator, theme: Theme = "any") -> Person:
    """Sample the facts of one person; the professional themes use office clothes."""
    sex, age = _pick(rng, _SEX), _pick(rng, _AGE)
    if theme in ("businessman", "businesswoman"):
        sex = "man" if theme == "businessman" else "woman"
    if theme != "any" and age == "child":
        age = "adult"
    style = _pick(rng, _STYLE[sex])
    if age == "child" and style == "bald":
        style = "short"
    if style == "pigtails" and age != "child":
        style = "ponytail"
    elif age == "child" and sex == "woman" and rng.random() < 0.4:
        style = "pigtails"
    beard = _pick(rng, _BEARD)
    hat = _pick(rng, _HAT)
    if theme != "any":
        hat = None
    if hat and style in _NOT_UNDER_HATS:
        style = "long" if sex == "woman" else "short"
    clothes = _pick(rng, _OFFICE_CLOTHES if theme == "headshot" else _CLOTHES)
    if theme in ("businessman", "businesswoman"):
        clothes = "suit"
    if age == "child" and clothes == "suit":
        clothes = "shirt"
    hair_color = _pick(rng, _HAIR[age])
    if style == "bald" and hair_color in ("blue", "pink"):
        hair_color = "brown"  # dyed brows alone look like a mistake
    skins = [
        name
        for name, color in palette.SKIN.items()
        if palette.distance(color, palette.HAIR[hair_color]) >= _MIN_HAIR_CONTRAST
    ]
    with_tie = clothes == "suit" and rng.random() < (0.85 if sex == "man" else 0.12)
    scarf = None
    if clothes in ("shirt", "stripes", "sweater") and rng.random() < 0.09:
        scarf = str(rng.choice(_HAT_COLORS))
    cover: Cover | None = None
    if theme == "any" and rng.random() < _COVERED_SHARE:
        cover = "brim" if hat in ("hat", "cap") else "hand" if rng.random() < 0.5 else "scarf"
        if cover == "scarf" and scarf is None:
            scarf = str(rng.choice(_HAT_COLORS))
    turned = rng.random() < _STRONGLY_TURNED_SHARE
    turn = float(np.clip(rng.normal(0, 0.11), -0.25, 0.25))
    if turned:
        turn = float(rng.uniform(0.45, 1.0) * rng.choice([-1.0, 1.0]))
    return Person(
        sex=sex,
        age=age,
        skin=str(rng.choice(skins)),
        eye_color=_pick(rng, _EYES),
        hair_color=hair_color,
        hair_style=style,
        expression=_pick(rng, _EXPRESSION),
        beard=beard if sex == "man" and age != "child" else None,
        glasses=_pick(rng, _GLASSES),
        hat=hat,
        hat_color=str(rng.choice(_HAT_COLORS)) if hat else None,
        earrings=age != "child" and rng.random() < (0.3 if sex == "woman" else 0.08),
        necklace=sex == "woman" and clothes in ("shirt", "stripes") and not scarf and rng.random() < 0.3,
        clothes=clothes,
        shirt=str(rng.choice(palette.SUITS if clothes == "suit" else palette.CLOTHES)),
        tie=str(rng.choice(_TIES)) if with_tie else None,
        scarf=scarf,
        cover=cover,
        width=float(rng.uniform(0.96, 1.06)) * (1.06 if age == "child" else 1.0),
        jaw=float(rng.uniform(0.0, 1.0)),
        turn=turn,
    )
