"""Words that captions should not combine, or not contain: short closed lists."""

import re
from collections.abc import Sequence

EXCLUSIVE = (
    ("1girl", "2girls", "3girls", "4girls", "5girls", "6+girls"),
    ("1boy", "2boys", "3boys", "4boys", "5boys", "6+boys"), ("1girl", "multiple girls"),
    ("1boy", "multiple boys"), ("day", "night"), ("sunrise", "night"),
    ("indoors", "outdoors"), ("close-up", "full body"), ("simple background", "detailed background"),
    ("color", "black and white"), ("colour", "black and white"), ("colorful", "monochrome"),
    ("colourful", "monochrome"), ("colorful", "black and white"), ("colourful", "black and white"),
    ("blurry", "sharp focus"), ("lowres", "highres"),
)  # fmt: skip
"""Tags of which a caption should have at most one."""
MANY = tuple(f"{count}{who}" for who in ("girls", "boys") for count in ("2", "3", "4", "5", "6+"))
AGAINST = {
    "solo": (*MANY, "multiple girls", "multiple boys", "couple", "group", "crowd"),
    "no humans": ("1girl", "1boy", *MANY, "solo", "multiple girls", "multiple boys"),
}
"""A tag, and those that it excludes."""
OF_ONE_PERSON = (
    ("long hair", "short hair"),
    ("open mouth", "closed mouth"),
    ("standing", "sitting", "lying"),
    ("male", "female"),
)
"""Likewise, but only with the tag solo."""
WITHOUT_COLOUR = ("monochrome", "greyscale", "grayscale", "black and white")
COLOURED = re.compile(r"(?:red|orange|yellow|green|blue|aqua|purple|pink|blonde|golden) (?!theme$)\w+")
SPOTS = ("spot color", "spot colour", "partially colored", "partially coloured", "limited palette")

STYLE_WORDS = (
    "3d render", "abstract art", "acrylic painting", "anime style", "art deco", "art nouveau", "baroque",
    "cartoon style", "cel shading", "cel-shaded", "chalk drawing", "charcoal drawing", "claymation", "comic style",
    "concept art", "crayon drawing", "cubism", "cubist", "digital art", "digital illustration", "digital painting",
    "engraving", "etching", "expressionism", "expressionist", "flat illustration", "gouache", "impressionism",
    "impressionist", "ink drawing", "ink illustration", "ink wash", "line art", "line drawing", "lineart", "linocut",
    "low poly", "manga style", "minimalist illustration", "oil painting", "oil on canvas", "pastel drawing",
    "pen and ink", "pencil drawing", "pencil sketch", "pixel art", "pop art", "realism", "screen print", "sketch style",
    "stained glass style", "storybook illustration", "surrealism", "surrealist", "ukiyo-e", "vector art",
    "vector illustration", "watercolor", "watercolour", "woodblock print", "woodcut",
)  # fmt: skip
"""Names of styles; in a dataset that teaches a style they attract it instead of the trigger."""
STYLE = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(word) for word in STYLE_WORDS)})(?!\w)", re.IGNORECASE)
OF_ARTIST = re.compile(r"(?<!\w)in the styles? of (?:\w+ ?){1,3}|(?<!\w)art by (?:\w+ ?){1,3}", re.IGNORECASE)


def contradictions(tags: Sequence[str]) -> list[str]:
    """Pairs of tags that exclude each other, e.g. "day and night"."""
    there = set(tags)
    groups = EXCLUSIVE + (OF_ONE_PERSON if "solo" in there else ())
    held = [[tag for tag in group if tag in there] for group in groups]
    held += [[tag, *(other for other in others if other in there)] for tag, others in AGAINST.items() if tag in there]
    pairs = [f"{found[0]} and {found[1]}" for found in held if len(found) > 1]
    without = [tag for tag in WITHOUT_COLOUR if tag in there]
    if without and not there.intersection(SPOTS):
        pairs += [f"{without[0]} and {tag}" for tag in tags if COLOURED.fullmatch(tag)][:1]
    return list(dict.fromkeys(pairs))


def style_words(caption: str, trigger: str | None) -> list[str]:
    """Words that name a style, in lower case, except the trigger's."""
    text = without_trigger(caption, trigger, " ")
    found = [match.group().strip().lower() for pattern in (STYLE, OF_ARTIST) for match in pattern.finditer(text)]
    return list(dict.fromkeys(found))


def without_trigger(caption: str, trigger: str | None, instead: str) -> str:
    """Replace the trigger in a caption."""
    if not trigger:
        return caption
    return re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", lambda match: instead, caption, flags=re.IGNORECASE)
