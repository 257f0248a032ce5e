"""Pictures in the terminal itself, where it shows them: by the sixel or the kitty graphics protocol, through textual-image."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vdx_udf.commands.target import USER_ERRORS
from vdx_udf.errors import readable

PICTURES = 20  # rows of a table that show their picture
_LARGEST = 256  # pixels of its longer side
_COLUMNS = 12  # of the terminal that a thumbnail takes


@cache
def can_draw() -> bool:
    """Whether standard output is a terminal that shows pictures; it is asked once."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return False
    from textual_image import renderable  # asks the terminal when it is imported

    return renderable.Image in (renderable.SixelImage, renderable.TGPImage)


def draw(path: Path) -> None:
    """Shows a picture as wide as the terminal allows; nothing where the terminal cannot."""
    if can_draw():
        from rich.console import Console
        from textual_image.renderable import Image as Shown

        Console().print(Shown(path))


def draw_table(names: Sequence[str], rows: Sequence[tuple], read: Callable[[str], bytes]) -> None:
    """A query's answer as a table, with the pictures that its column `source` names; only where `can_draw()`.

    `read` gives a picture's bytes or raises; what cannot be shown says why. Only the first PICTURES rows show theirs.
    """
    from rich.console import Console
    from rich.table import Table
    from textual_image.renderable import Image as Shown

    from vdx_udf.encoder.decoding import decode  # with Pillow, a tenth of a second that most statements need not wait for
    from vdx_udf.encoder.image import ImageError

    table = Table("", *names)
    for place, row in enumerate(rows):
        shown: Any = ""
        if place < PICTURES:
            try:
                picture = decode(read(row[names.index("source")]), _LARGEST)
                picture.thumbnail((_LARGEST, _LARGEST))
                shown = Shown(picture.convert("RGB"), width=_COLUMNS)
            except (*USER_ERRORS, ImageError) as error:
                shown = readable(error)[:80]
        table.add_row(shown, *(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row))
    Console().print(table)
