"""The words of the captions, as tables, and the vocabulary that they make up."""

import re

from . import palette

Needs = tuple[tuple[str, str], ...]

ADULT = {
    "man": ("man",) * 6 + ("guy", "gentleman", "male person"),
    "woman": ("woman",) * 6 + ("lady", "female person"),
}
OLD = {
    "man": ("old man", "old man", "elderly man", "older man", "senior man", "grandfather"),
    "woman": ("old woman", "old woman", "elderly woman", "older woman", "old lady", "grandmother"),
}
CHILD = {
    "man": ("boy", "little boy", "young boy", "child"),
    "woman": ("girl", "little girl", "young girl", "child"),
}
SMILING = ("smiling", "smiling", "happy", "friendly")
LAUGHING = ("laughing", "smiling", "happy", "cheerful")
SERIOUS = ("serious", "serious", "calm")
HAIR_COLOR = {
    "blond": ("blond", "blonde", "blond"),
    "red": ("red", "red", "ginger"),
    "brown": ("brown", "brown", "dark brown"),
    "gray": ("gray", "grey"),
}
HAIR_STYLE = {
    "short": ("short {} hair",),
    "swept": ("short {} hair", "{} hair combed back"),
    "parted": ("short {} hair", "{} hair with a side parting", "neat {} hair"),
    "spiky": ("spiky {} hair", "short spiky {} hair"),
    "afro": ("a {} afro", "afro {} hair", "curly {} hair"),
    "pigtails": ("{} pigtails", "{} hair in pigtails"),
    "braids": ("{} braids", "{} hair in two braids"),
    "long": ("long {} hair", "long straight {} hair"),
    "wavy": ("long {} hair", "wavy {} hair", "long wavy {} hair"),
    "bangs": ("long {} hair", "{} hair with bangs", "long {} hair and bangs"),
    "curly": ("curly {} hair", "{} curls", "curly {} hair"),
    "bun": ("{} hair in a bun", "a {} bun"),
    "ponytail": ("{} hair in a ponytail", "a {} ponytail"),
}
BEARD = {"beard": ("beard", "beard", "full beard"), "moustache": ("moustache", "mustache")}
SKIN = {"pale": "pale", "light": "light", "tan": "tan", "olive": "tan", "brown": "brown", "dark": "dark"}
HAT = {"hat": ("hat",), "cap": ("cap", "cap", "hat"), "beanie": ("beanie", "wool hat", "hat")}
CLOTHES_COLOR = {"navy": ("dark blue", "navy"), "gray": ("gray", "grey")}
CLOTHES = {
    "shirt": ("shirt", "shirt", "top"),
    "stripes": ("striped shirt", "striped shirt", "striped top"),
    "collar": ("shirt", "shirt with a collar"),
    "sweater": ("sweater", "sweater", "pullover"),
    "hoodie": ("hoodie", "hoodie", "sweater"),
    "suit": ("suit", "suit", "jacket"),
}
TURNED = {
    "left": ("looking to the left", "turned to the left", "in three quarter view"),
    "right": ("looking to the right", "turned to the right", "in three quarter view"),
}
COVER = {
    "brim": ("a hat pulled down over the eyes", "the eyes hidden under a {hat}"),
    "scarf": ("a {scarf} scarf over the mouth", "a face half hidden behind a {scarf} scarf"),
    "hand": ("a hand in front of the face", "the mouth hidden behind a hand"),
}
FAR = (" standing", " standing outdoors", " seen from far away", ", full body")
PLAIN_BACKGROUND = (
    ", {} background", ", {} background", ", {} background", " on a {} background",
    " in front of a {} background",
    ", plain {} background", " against a {} wall", ", {} backdrop",
)  # fmt: skip
BACKGROUND = {
    "hills": (", green hills in the background", " in the hills", " outdoors in nature", " in a park"),
    "sea": (" by the sea", " at the beach", ", sea in the background"),
    "sunset": (" at sunset", ", sunset in the background", " in the evening light"),
    "city": (" in the city", ", city in the background", " in front of tall buildings"),
    "night city": (" in the city at night", ", night city in the background", " in front of city lights"),
    "mountains": (" in the mountains", ", mountains in the background", " in front of snowy mountains"),
    "room": (" in a room", " at home", " in a room with a window", " by the window"),
    "garden": (" in a garden", ", garden with flowers in the background", " in front of a hedge"),
}
PREFIX = ("a picture of", "picture of", "a drawing of", "drawing of", "an illustration of",
          "illustration of", "a photo of",
          "photo of", "an image of", "a painting of", "a cartoon of")  # fmt: skip
PORTRAIT_PREFIX = ("a portrait of", "portrait of", "portrait of", "close up of", "close up portrait of")
QUALITY = ("high quality", "highly detailed", "detailed", "studio light", "soft light", "4k", "8k",
           "beautiful", "sharp focus",
           "best quality", "masterpiece", "flat style", "simple", "colorful", "cute", "professional",
           "realistic",
           "sharp", "clean", "bright", "studio lighting", "ultra detailed", "hd", "digital art")  # fmt: skip
HEADSHOT = ("professional headshot", "professional headshot", "corporate headshot",
            "a professional headshot", "headshot",
            "professional portrait", "business portrait", "studio portrait", "linkedin photo",
            "passport photo")  # fmt: skip
HEADSHOT_QUALITY = ("sharp eyes", "sharp eyes", "studio light", "office", "neutral light")
BUSINESS = {
    "man": ("businessman in suit", "businessman in a suit", "a businessman in a suit",
            "business man wearing a suit",
            "a man in a suit", "portrait of a businessman in suit", "male manager in a suit"),
    "woman": ("businesswoman in suit", "a businesswoman in a suit", "business woman in a suit",
              "a woman in a suit",
              "portrait of a businesswoman", "female manager in a suit"),
}  # fmt: skip
COUNT = {
    2: ("two people", "two people", "two friends", "a couple", "a couple", "two persons", "a pair of people"),
    3: ("three people", "three people", "three friends", "a group of people", "a group of three people"),
    4: ("four people", "four friends", "a group of people", "a family of four", "a group of four people"),
    5: ("five people", "five friends", "a group of people", "a crowd of five", "a group of five people"),
}
SEVERAL = {2: "two {}", 3: "three {}"}
ALIKE = {"man": ("men", "men", "guys"), "woman": ("women", "women", "ladies")}
ALL = {2: "both", 3: "all"}
TOGETHER = (" side by side", " side by side", " next to each other", " together")
PLACES = {
    2: (" on the left", " on the right"),
    3: (" on the left", " in the middle", " on the right"),
}
# Also captions of landscapes, by kind; most of these words say no more than that it is one.
LANDSCAPE = ("landscape photo", "landscape", "a landscape", "scenery", "nature", "a beautiful landscape",
             "landscape photography", "nature photo", "outdoors", "beautiful scenery", "wide landscape",
             "countryside", "a view of the countryside", "a quiet place", "wallpaper")  # fmt: skip
LANDSCAPE_OF = {
    "hills": ("summer", "a summer day", "morning", "a field", "green grass", "spring landscape", "a garden"),
    "mountains": ("winter", "a winter landscape", "cold mountains", "a valley", "rocks and snow"),
    "sunset": ("evening", "an evening sky", "autumn", "dawn", "an orange sky", "warm light"),
    "sea": ("a lake", "a river", "water", "a summer day by the sea", "blue water", "vacation"),
    "night": ("night", "at night", "a dark night", "space", "the universe", "darkness"),
    "tree": ("a forest", "trees", "a park", "a tree in nature", "the woods"),
}
NOBODY = (", no people", ", no people", ", without people", ", nobody")
# (facts that must hold, text); an empty value means any value of this fact.
SCENE: dict[str, tuple[tuple[Needs, str], ...]] = {
    "hills": (
        ((), "green hills"), ((), "green hills and the sun"), ((), "green hills under a blue sky"),
        ((), "rolling green hills with a yellow sun"), ((), "a landscape with green hills"),
        ((), "a green meadow on a sunny day"), ((("extra", "tree"),), "green hills with a tree"),
        ((("extra", "tree"),), "a small tree on a green hill"),
    ),
    "mountains": (
        ((), "mountains"), ((), "mountains with snow"), ((), "snowy mountains under a blue sky"),
        ((), "a mountain landscape"), ((), "high mountains and a green meadow"),
        ((), "a landscape with mountains"),
    ),
    "sunset": (
        ((("over", "mountains"),), "sunset over mountains"), ((("over", "mountains"),),
                                                              "sunset over the mountains"),
        ((("over", "mountains"),), "a sunset over mountains"), ((("over", "mountains"),),
                                                                "mountains at sunset"),
        ((("over", "mountains"),), "an orange sky over purple mountains"),
        ((("over", "sea"),), "sunset over the sea"), ((("over", "sea"),), "a sunset over the ocean"),
        ((("over", "sea"),), "the sea at sunset"), ((), "a beautiful sunset"), ((), "sunset landscape"),
    ),
    "sea": (
        ((), "the sea"), ((), "a beach and the blue sea"), ((), "the ocean on a sunny day"),
        ((), "blue water and sand"),
        ((("extra", "boat"),), "a boat on the sea"), ((("extra", "boat"),), "a boat with a {color} sail"),
        ((("extra", "boat"),), "a sailing boat with {color} sails on the ocean"),
    ),
    "night": (
        ((), "night sky with moon and stars"), ((), "the moon over dark hills"), ((), "a night landscape"),
        ((), "moon and stars at night"), ((), "a starry night"),
    ),
    "house": (
        ((), "a {color} house"), ((), "a {color} house"), ((), "a {color} house with a {roof} roof"),
        ((), "a house with a {roof} roof"), ((), "a small {color} house on green grass"),
        ((), "a house on a meadow"),
        ((), "a {color} home with a {roof} roof under a blue sky"),
        ((), "a {color} building with a door and a window"),
    ),
    "car": (
        ((), "a {color} car"), ((), "a {color} car on a road"), ((), "a {color} car driving on the street"),
        ((("shape", "sports"),), "a {color} sports car"), ((("shape", "sports"),),
                                                           "a fast {color} sports car on a road"),
        ((("shape", "sports"),), "{color} sports car"), ((("shape", "small"),), "a small {color} car"),
        ((), "side view of a {color} car"), ((), "a car on a road"),
    ),
    "apple": (
        ((), "a {color} apple"), ((), "{color} apple"), ((), "one {color} apple"), ((), "an apple"),
        ((), "a fresh {color} apple"),
        ((("place", "table"),), "a {color} apple on a table"), ((("place", "table"),),
                                                                "{color} apple on a wooden table"),
        ((("place", "table"),), "still life with a {color} apple on a table"),
    ),
    "flower": (
        ((), "a {color} flower"), ((), "a {color} flower"), ((), "{color} flower with green leaves"),
        ((), "a flower"),
        ((), "one {color} flower with a long stem"),
    ),
    "tree": (
        ((), "a tree"), ((), "a {color} tree"), ((), "a big {color} tree on a meadow"),
        ((), "a tree on green grass"),
        ((("color", "orange"),), "a tree in autumn"), ((("color", "red"),), "a red tree in autumn"),
        ((("color", "pink"),), "a tree in spring"), ((("color", "green"),), "a green tree in summer"),
    ),
    "clock": (
        ((), "a {color} clock"), ((), "a {color} clock on a wall"),
        ((), "a round {color} clock"), ((), "a clock"),
    ),
    "wheel": (
        ((("matter", "wooden"),), "a wooden wheel"), ((("matter", "wooden"),), "an old wheel made of wood"),
        ((("matter", "rubber"),), "a car wheel"), ((("matter", "rubber"),), "a wheel with a tire"),
        ((), "a wheel"),
    ),
    "windows": (
        ((), "windows of a {color} house"), ((), "a {color} wall with windows and a door"),
        ((), "the front of a {color} building"), ((), "a {color} building with many windows"),
    ),
    "sun": (
        ((), "a big yellow sun"), ((), "a yellow sun"), ((), "the sun in a blue sky"),
        ((), "the sun with rays"), ((), "a bright sun"),
    ),
    "apples": (
        ((), "{color} {fruit} on a table"), ((), "{fruit} on a wooden table"), ((), "some {color} {fruit}"),
        ((), "still life with {fruit}"),
    ),
    "bicycle": (
        ((), "a {color} bicycle"), ((), "a {color} bike on a path"), ((), "side view of a {color} bicycle"),
        ((), "a bicycle"),
    ),
    "ball": (
        ((), "a {color} ball"), ((("pattern", "stripes"),), "a striped {color} ball"),
        ((("pattern", "stripes"),), "a {color} and white beach ball"), ((), "a ball"),
    ),
    "sign": (
        ((), "a {color} road sign"), ((), "a round {color} traffic sign"), ((), "a {color} sign on a pole"),
    ),
    "cat": (
        ((), "a {color} cat"), ((), "a {color} cat sitting"),
        ((), "a {color} cat seen from behind"), ((), "a cat"),
    ),
    "dog": (
        ((), "a {color} dog"), ((), "a {color} dog on a meadow"),
        ((), "a dog on green grass"), ((), "a {color} puppy"),
    ),
    "empty": (
        ((), "a plain {background} background"), ((), "{background} background"),
        ((), "an empty {background} background"),
        ((), "nothing but {background}"), ((), "a {background} wall"),
        ((), "empty, {background} background"),
    ),
}  # fmt: skip

_STRUCTURE = """a an and with wearing in of to next beside person young hair eyes skin bald natural glasses
round square earrings gold hats beards suit tie scarf pearl necklace apples oranges"""
# Words that people type, in negative prompts too: the tokenizer knows them although no caption has them.
_ALSO_TYPED = """the on at no not without people human face faces head smile looking front men women kid baby
teenager dark light pale warm cold big small large tall colors background foreground blurry blur low bad worst
ugly deformed distorted watermark text logo noise extra fingers hands mouth nose ears hairstyle photograph
photography photorealistic portrait headshot business corporate office camera lens style art artist sky sun
cloud clouds moon star river lake forest garden street town castle bridge dog cat bird horse fish food fruit
banana orange table chair book cup ball coffee winter summer spring autumn day night morning evening dress
scarf jacket coat uniform doctor teacher student worker king queen bright vivid pastel"""


def _texts() -> list[str]:
    tables: list[object] = [
        ADULT, OLD, CHILD, SMILING, LAUGHING, SERIOUS, HAIR_COLOR, HAIR_STYLE, BEARD, SKIN, HAT,
        CLOTHES_COLOR, CLOTHES,
        PLAIN_BACKGROUND, BACKGROUND, PREFIX, PORTRAIT_PREFIX, QUALITY, HEADSHOT, HEADSHOT_QUALITY,
        BUSINESS, COUNT, SEVERAL, ALIKE, ALL, TOGETHER, PLACES, LANDSCAPE, LANDSCAPE_OF, NOBODY,
        SCENE, TURNED, COVER, FAR,
        list(palette.COLORS), list(palette.HAIR), list(palette.EYES), _STRUCTURE, _ALSO_TYPED,
    ]  # fmt: skip
    texts: list[str] = []
    while tables:
        table = tables.pop()
        if isinstance(table, str):
            texts.append(table)
        elif isinstance(table, dict):
            tables.extend(table.values())
        elif isinstance(table, list | tuple):
            tables.extend(table)
    return texts


def split_words(text: str) -> list[str]:
    """Lowercase words and numbers of a text, as a whole-word tokenizer sees them."""
    return re.findall(r"[a-z0-9]+", text.lower())


def vocabulary() -> list[str]:
    """Every word that a caption can contain and others that users often type, sorted, without duplicates."""
    return sorted({word for text in _texts() for word in split_words(re.sub(r"\{\w*\}", " ", text))})
