"""How a picture is cut into regions: the whole, then at each finer level squares that overlap by half.

At level l the shorter side holds 2**l squares, so each is 2 / (2**l + 1) of it: 1, 4 and 16 of a square picture, 1, 6 and 24
of one of 4 to 3. What is at most half as long as a square lies whole in at least one of them, wherever it is. The levels of a
pyramid and one vector a tile are those of SeeSaw (Moll et al., interactive ad-hoc search over image databases).
"""

import io
from collections.abc import Iterator
from math import ceil, floor
from typing import NamedTuple

from PIL import Image

from vdx_udf import settings


class Box(NamedTuple):
    """Shares of the upright picture's width and height, from its top left corner."""

    x: float
    y: float
    width: float
    height: float

    def lies_within(self) -> bool:
        """Whether it is a part of a picture: not empty, and nowhere beyond it by more than float32 rounds."""
        least, most = min(self), max(self.x + self.width, self.y + self.height)
        return least >= 0 and most <= 1 + 1e-6 and self.width > 0 and self.height > 0

    def described(self) -> str:
        return f"({', '.join(f'{share:g}' for share in self)})"


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class Level(NamedTuple):
    """A picture resized to `height` and `width`, and the top left corners of its squares, row after row."""

    height: int
    width: int
    corners: list[tuple[int, int]]

    def boxes(self, side: int) -> Iterator[Box]:
        for top, left in self.corners:
            yield Box(left / self.width, top / self.height, side / self.width, side / self.height)


def shorter_side(level: int, side: int) -> int:
    """Pixels that a picture's shorter side needs for a level of squares of `side` pixels."""
    return side * (2**level + 1) // 2


def pyramid(height: int, width: int, levels: int, side: int) -> list[Level]:
    """Levels 1 to `levels` of a picture of that size.

    Without those whose squares would have fewer than half of `side` pixels of the picture's own, which show nothing more,
    and those that would bring the regions of a very long picture over MAX_REGIONS.
    """
    found: list[Level] = []
    regions, shorter = 1, min(height, width)
    for level in range(1, levels + 1):
        short = shorter_side(level, side)
        if 2 * shorter < short:
            break
        rows, columns = (max(short, round(short * length / shorter)) for length in (height, width))
        corners = [(top, left) for top in _starts(rows, side) for left in _starts(columns, side)]
        regions += len(corners)
        if regions > settings.MAX_REGIONS:
            break
        found.append(Level(rows, columns, corners))
    return found


def cut_out(box: Box, image: Image.Image) -> bytes:
    """The part of a picture as PNG, with every pixel that the box touches."""
    area = (
        floor(box.x * image.width + 1e-3), floor(box.y * image.height + 1e-3),
        ceil((box.x + box.width) * image.width - 1e-3), ceil((box.y + box.height) * image.height - 1e-3),
    )  # fmt: skip
    left, top = min(area[0], image.width - 1), min(area[1], image.height - 1)
    part = image.crop((left, top, max(left + 1, area[2]), max(top + 1, area[3])))
    file = io.BytesIO()
    part = part if part.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else part.convert("RGB")
    part.save(file, "PNG", compress_level=1, exif=b"", icc_profile=None)
    return file.getvalue()


def _starts(length: int, side: int) -> list[int]:
    """From the one edge to the other in even steps of half a side at most."""
    steps = ceil((length - side) / (side / 2))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]
