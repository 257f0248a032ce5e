"""Words for pictures: captions as people phrase them, and the exact truth of each caption for each picture.

A caption is true of a picture when every object it names can be matched with another object of the picture,
and its background and number of objects agree. What a caption leaves out may be anything.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from vdx_udf.tiny.pictures import ATTRIBUTES, VALUES, Picture, Thing

ANY = -1

# Singular wordings; the shapes carry their plurals. The first of each is the value's own name.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "crimson", "scarlet"), "green": ("green", "emerald"), "blue": ("blue", "azure"),
        "yellow": ("yellow", "golden"), "orange": ("orange", "tangerine"), "purple": ("purple", "violet"),
        "pink": ("pink", "rose"), "cyan": ("cyan", "turquoise"),
    },
    "size": {
        "small": ("small", "little", "tiny"), "medium": ("medium", "medium sized", "mid-sized"),
        "large": ("large", "big", "huge"),
    },
    "texture": {
        "solid": ("solid", "plain"), "striped": ("striped", "stripy"), "dotted": ("dotted", "spotted", "polka dot"),
        "checkered": ("checkered", "checked", "chequered"),
    },
    "horizontal": {
        "left": ("on the left", "at the left", "on the left side"),
        "right": ("on the right", "at the right", "on the right side"),
        "centre": ("between left and right",),
    },
    "vertical": {
        "top": ("at the top", "in the upper part"), "bottom": ("at the bottom", "in the lower part"),
        "middle": ("at middle height", "halfway up"),
    },
    "background": {
        "white": ("white",), "black": ("black",), "grey": ("grey", "gray"), "beige": ("beige", "cream"), "brown": ("brown",),
    },
}  # fmt: skip
SHAPE_WORDS = {
    "circle": (("circle", "disc", "disk"), ("circles", "discs", "disks")),
    "square": (("square", "box"), ("squares", "boxes")),
    "triangle": (("triangle",), ("triangles",)),
    "star": (("star",), ("stars",)),
    "cross": (("cross", "plus sign"), ("crosses", "plus signs")),
    "heart": (("heart",), ("hearts",)),
    "ring": (("ring", "hoop", "donut"), ("rings", "hoops", "donuts")),
    "diamond": (("diamond", "rhombus"), ("diamonds", "rhombuses")),
}
ANY_SHAPE = (("object", "shape", "thing", "figure"), ("objects", "shapes", "things", "figures"))
TEXTURE_PHRASES = {
    "striped": ("with stripes", "covered in stripes"), "dotted": ("with dots", "with polka dots", "with spots"),
    "checkered": ("with checks", "with a checkerboard pattern"), "solid": ("without a pattern", "of one colour"),
}  # fmt: skip
CORNERS = ("in the {v} {h} corner", "at the {v} {h}", "in the {v} {h}")
FRAMES = (
    "{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "a picture with {}", "a photo of the {}",
    "there is {}", "a drawing of {}", "show me {}", "find {}", "is there {} ?", "where is {} ?", "pictures of {}",
    "which pictures show {} ?", "this shows {}", "itap of {}", "a good photo of {}",
)  # fmt: skip
BACKGROUND_FRAMES = ("on a {} background", "on {}", "in front of a {} background", "against a {} backdrop", "{} background")
BACKGROUND_ALONE = ("a {} background", "{} background", "something on {}", "anything on a {} background")
COUNT_WORDS = {1: ("one object", "a single object"), 2: ("two objects", "a pair of objects"), 3: ("three objects",)}


@dataclass(frozen=True)
class Caption:
    """`text`, and what it claims: `claims` are objects as value indices in the order of ATTRIBUTES (-1: any)."""

    text: str
    claims: tuple[tuple[int, ...], ...] = ()
    background: int = ANY
    count: int = ANY


def claim(**values: str) -> tuple[int, ...]:
    """The claim of one object: `claim(colour="red", shape="circle")`."""
    return tuple(VALUES[a].index(values[a]) if a in values else ANY for a in ATTRIBUTES)


def _thing_claim(thing: Thing, named: set[str]) -> tuple[int, ...]:
    return tuple(VALUES[a].index(getattr(thing, a)) if a in named else ANY for a in ATTRIBUTES)


# Each attribute value owns one bit, so that "object shows all that is claimed" is one AND; the last bit says "exists".
_FIRST_BIT = dict(zip(ATTRIBUTES, np.cumsum([0] + [len(VALUES[a]) for a in ATTRIBUTES]), strict=False))
_EXISTS = 1 << sum(len(VALUES[a]) for a in ATTRIBUTES)


def _bits(claimed: tuple[int, ...]) -> int:
    return _EXISTS | sum(1 << int(_FIRST_BIT[a] + v) for a, v in zip(ATTRIBUTES, claimed, strict=True) if v != ANY)


def facts(pictures: list[Picture]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the pictures show: objects as bits int32 (P, 3), 0 where none; background and count int8 (P,)."""
    everything = set(ATTRIBUTES)
    objects = np.zeros((len(pictures), 3), np.int32)
    for row, picture in enumerate(pictures):
        for column, thing in enumerate(picture.things):
            objects[row, column] = _bits(_thing_claim(thing, everything))
    background = np.array([VALUES["background"].index(p.background) for p in pictures], np.int8)
    return objects, background, np.array([len(p.things) for p in pictures], np.int8)


def truth(captions: list[Caption], known: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Whether caption c is true of picture p: bool (C, P), from `facts` of the pictures."""
    objects, background, count = known
    claims = np.array([[_bits(x) for x in c.claims] + [0] * (2 - len(c.claims)) for c in captions], np.int32)
    first, second = (
        (objects[None] & claims[:, None, None, i]) == claims[:, None, None, i] for i in (0, 1)
    )  # caption, picture, object; a claim of 0 bits is matched by any object
    held = np.zeros((len(captions), len(background)), bool)
    for a, b in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
        held |= first[:, :, a] & second[:, :, b]
    told_background = np.array([c.background for c in captions])[:, None]
    told_count = np.array([c.count for c in captions])[:, None]
    held &= (told_background == ANY) | (told_background == background)
    return held & ((told_count == ANY) | (told_count == count))


def _pick(rng: np.random.Generator, options: tuple):
    return options[rng.integers(len(options))]


def phrase(rng: np.random.Generator, thing: Thing, named: set[str]) -> str:
    """Words for one object: the attributes in `named`, in a random wording, singular or plural."""
    plural = rng.random() < 0.2
    shape = _pick(rng, (SHAPE_WORDS[thing.shape] if "shape" in named else ANY_SHAPE)[plural])
    before, after = [], []
    if "size" in named:
        before.append(_pick(rng, WORDS["size"][thing.size]))
    if "texture" in named:
        if rng.random() < 0.3:
            after.append(_pick(rng, TEXTURE_PHRASES[thing.texture]))
        else:
            before.append(_pick(rng, WORDS["texture"][thing.texture]))
    if "colour" in named:
        before.append(_pick(rng, WORDS["colour"][thing.colour]))
    rng.shuffle(before)
    if {"horizontal", "vertical"} <= named and thing.horizontal != "centre" and thing.vertical != "middle":
        after.append(_pick(rng, CORNERS).format(h=thing.horizontal, v=thing.vertical))
    else:
        after += [_pick(rng, WORDS[a][getattr(thing, a)]) for a in ("horizontal", "vertical") if a in named]
    words = " ".join([*before, shape, *after])
    if plural or rng.random() < 0.3:
        return words
    return ("an " if words[0] in "aeio" else "a ") + words


def caption(rng: np.random.Generator, picture: Picture) -> Caption:
    """A true caption of the picture that names a random part of what it shows."""
    background = count = ANY
    kind = rng.random()
    if kind < 0.06:  # the background alone
        background = VALUES["background"].index(picture.background)
        text = _pick(rng, BACKGROUND_ALONE).format(_pick(rng, WORDS["background"][picture.background]))
        return Caption(_pick(rng, FRAMES).format(text), (), background)
    if kind < 0.09:  # the number of objects alone
        count = len(picture.things)
        return Caption(_pick(rng, FRAMES).format(_pick(rng, COUNT_WORDS[count])), (), ANY, count)
    two = len(picture.things) > 1 and rng.random() < 0.35
    chosen = [picture.things[i] for i in rng.permutation(len(picture.things))[: 1 + two]]
    claims, phrases = [], []
    for thing in chosen:
        named = _named(rng, short=two)
        claims.append(_thing_claim(thing, named))
        phrases.append(phrase(rng, thing, named))
    text = " and ".join(phrases)
    if rng.random() < (0.25 if two else 0.35):
        background = VALUES["background"].index(picture.background)
        text += " " + _pick(rng, BACKGROUND_FRAMES).format(_pick(rng, WORDS["background"][picture.background]))
    return Caption(_pick(rng, FRAMES).format(text), tuple(claims), background)


def foil(rng: np.random.Generator, picture: Picture) -> Caption:
    """A caption of the picture with one attribute swapped between two of its objects, so that it is false of it.

    Such near misses teach which attribute belongs to which object (after NegCLIP, Yuksekgonul et al., 2023). Pictures
    in which no swap makes a difference give an ordinary true caption.
    """
    for one, other in itertools.permutations(picture.things, 2):
        differing = [a for a in ("colour", "size", "texture") if getattr(one, a) != getattr(other, a)]
        if one.shape != other.shape and differing:
            attribute = _pick(rng, tuple(differing))
            swapped = replace(one, **{attribute: getattr(other, attribute)})
            named = {"shape", attribute} | {a for a in ("colour", "size") if rng.random() < 0.5}
            return Caption(_pick(rng, FRAMES).format(phrase(rng, swapped, named)), (_thing_claim(swapped, named),))
    return caption(rng, picture)


def _named(rng: np.random.Generator, short: bool) -> set[str]:
    """Which attributes a caption names: colour and shape mostly, seldom the place."""
    if short:
        odds = {"colour": 0.8, "shape": 0.8, "size": 0.25, "texture": 0.2, "horizontal": 0.08, "vertical": 0.08}
    else:
        odds = {"colour": 0.7, "shape": 0.75, "size": 0.5, "texture": 0.5, "horizontal": 0.12, "vertical": 0.12}
    named = {a for a, p in odds.items() if rng.random() < p}
    return named or {_pick(rng, ("colour", "shape", "texture"))}
