"""Draws pictures whose content is known exactly: one to three objects on a plain background.

The training of vdx-tiny, the demo and the tests all draw here, so a caption's truth is a fact of the
picture, never a guess.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (216, 36, 40), "green": (36, 160, 64), "blue": (36, 80, 220), "yellow": (244, 216, 36),
    "orange": (244, 132, 24), "purple": (136, 52, 180), "pink": (252, 136, 196), "cyan": (44, 204, 216),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond")
SIZES = {"small": 17.0, "medium": 27.0, "large": 40.0}  # radius in pixels of the 128-pixel canvas
TEXTURES = ("solid", "striped", "dotted", "checkered")
HORIZONTAL = ("left", "centre", "right")
VERTICAL = ("top", "middle", "bottom")
BACKGROUNDS = {
    "white": (250, 250, 250), "black": (12, 12, 12), "grey": (136, 136, 136),
    "beige": (236, 216, 176), "brown": (104, 68, 40),
}  # fmt: skip
ATTRIBUTES = ("colour", "shape", "size", "texture", "horizontal", "vertical")
CANVAS = 128
_COLOUR_NAMES, _SIZE_NAMES, _BACKGROUND_NAMES = tuple(COLOURS), tuple(SIZES), tuple(BACKGROUNDS)
VALUES = {
    "colour": _COLOUR_NAMES, "shape": SHAPES, "size": _SIZE_NAMES, "texture": TEXTURES,
    "horizontal": HORIZONTAL, "vertical": VERTICAL, "background": _BACKGROUND_NAMES,
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One object: attribute values by name, and where it lies (pixels of the canvas)."""

    colour: str
    shape: str
    size: str
    texture: str
    x: float
    y: float
    radius: float

    @property
    def horizontal(self) -> str:
        return HORIZONTAL[_third(self.x)]

    @property
    def vertical(self) -> str:
        return VERTICAL[_third(self.y)]


@dataclass(frozen=True)
class Picture:
    """What a picture shows. `seed` fixes the small variations of colour and angle when it is drawn."""

    background: str
    things: tuple[Thing, ...]
    seed: int

    def describe(self) -> str:
        """The full description, one clause an object: `a small red striped circle at the top left, ...`."""
        clauses = [f"a {t.size} {t.colour} {t.texture} {t.shape} at the {t.vertical} {t.horizontal}" for t in self.things]
        return f"{' and '.join(clauses)} on a {self.background} background"


def _third(coordinate: float) -> int:
    """0, 1 or 2: before, within or after the middle band (0.42 to 0.58 of the canvas)."""
    return int(coordinate > 0.42 * CANVAS) + int(coordinate > 0.58 * CANVAS)


def sample_picture(rng: np.random.Generator, count: int | None = None) -> Picture:
    """A random picture of `count` objects (1 to 3 at random when None), none overlapping another."""
    count = count or int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))
    while True:
        things = _place(rng, count)
        if things:
            return Picture(str(rng.choice(_BACKGROUND_NAMES)), things, int(rng.integers(2**31)))


def _place(rng: np.random.Generator, count: int) -> tuple[Thing, ...]:
    things: list[Thing] = []
    for _ in range(count):
        size = _SIZE_NAMES[rng.integers(3)]
        radius = SIZES[size] * rng.uniform(0.94, 1.06)
        x, y = rng.uniform(radius + 2, CANVAS - radius - 2, size=2)
        if any(math.hypot(x - t.x, y - t.y) < radius + t.radius + 3 for t in things):
            return ()
        colour, shape = _COLOUR_NAMES[rng.integers(8)], SHAPES[rng.integers(8)]
        things.append(Thing(colour, shape, size, TEXTURES[rng.integers(4)], x, y, radius))
    return tuple(things)


def pair(rng: np.random.Generator, first: tuple[str, str], second: tuple[str, str]) -> Picture:
    """A picture of two objects with these (colour, shape) pairs, everything else random, in random order."""
    wanted = [first, second] if rng.integers(2) else [second, first]
    picture = sample_picture(rng, 2)
    things = tuple(
        Thing(colour, shape, t.size, t.texture, t.x, t.y, t.radius)
        for (colour, shape), t in zip(wanted, picture.things, strict=True)
    )
    return Picture(picture.background, things, picture.seed)


def draw(picture: Picture) -> Image.Image:
    """The picture as RGB, 128 x 128 pixels; the same picture always gives the same pixels."""
    rng = np.random.default_rng(picture.seed)
    canvas = Image.new("RGB", (CANVAS, CANVAS), jitter(rng, BACKGROUNDS[picture.background], 6))
    dark = sum(BACKGROUNDS[picture.background]) < 3 * 128
    for thing in picture.things:
        base = jitter(rng, COLOURS[thing.colour], 10)
        paint(canvas, thing, base, rng.uniform(-0.14, 0.14), dark)
    return canvas


def paint(canvas: Image.Image, thing: Thing, base: tuple[int, ...], angle: float, is_dark: bool) -> None:
    """An object in its colour as jittered, turned by an angle in radians, onto a dark or a light background."""
    # The second colour of a texture contrasts with the object and stays visible on the background.
    second = tuple(round(c + (255 - c) * 0.65) if is_dark else round(c * 0.35) for c in base)
    side = 2 * math.ceil(thing.radius) + 4
    mask = Image.new("L", (side, side), 0)
    _outline(ImageDraw.Draw(mask), thing.shape, side / 2, thing.radius, angle)
    place = round(thing.x - side / 2), round(thing.y - side / 2)
    canvas.paste(_texture(thing.texture, side, base, second), place, mask)


def jitter(rng: np.random.Generator, colour: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.clip(np.array(colour) + rng.integers(-by, by + 1, size=3), 0, 255))


def _texture(texture: str, side: int, base: tuple, second: tuple) -> Image.Image:
    paint = Image.new("RGB", (side, side), base)
    pen = ImageDraw.Draw(paint)
    if texture == "striped":
        for y in range(0, side, 12):
            pen.rectangle((0, y, side, y + 5), fill=second)
    elif texture == "dotted":
        for y in range(1, side, 12):
            for x in range(1, side, 12):
                pen.ellipse((x, y, x + 6, y + 6), fill=second)
    elif texture == "checkered":
        for y in range(0, side, 9):
            for x in range(9 * (y // 9 % 2), side, 18):
                pen.rectangle((x, y, x + 8, y + 8), fill=second)
    return paint


def _outline(pen: ImageDraw.ImageDraw, shape: str, centre: float, r: float, angle: float) -> None:
    def polygon(points: list[tuple[float, float]]) -> None:
        cos, sin = math.cos(angle), math.sin(angle)
        pen.polygon([(centre + r * (x * cos - y * sin), centre + r * (x * sin + y * cos)) for x, y in points], fill=255)

    if shape in ("circle", "ring"):
        pen.ellipse((centre - r, centre - r, centre + r, centre + r), fill=255)
        if shape == "ring":
            hole = 0.5 * r
            pen.ellipse((centre - hole, centre - hole, centre + hole, centre + hole), fill=0)
    else:
        polygon(_POLYGONS[shape])


def _star() -> list[tuple[float, float]]:
    radii = [1.0, 0.42] * 5
    return [(k * math.sin(i * math.pi / 5), -k * math.cos(i * math.pi / 5)) for i, k in enumerate(radii)]


def _heart() -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return list(zip(x / 17, (-y - 2) / 17, strict=True))


_POLYGONS = {
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0, -0.98), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "cross": [
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ],
    "star": _star(),
    "heart": _heart(),
}  # fmt: skip
