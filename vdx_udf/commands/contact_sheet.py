"""A page of thumbnails with a line of text under each: what people look at after a search."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

THUMBNAIL, MARGIN, LINE = 128, 10, 18
PAPER, INK = (252, 252, 252), (32, 32, 32)
MARKS = {True: (30, 150, 70), False: (205, 45, 45), None: (200, 200, 200)}


class Cell(NamedTuple):
    """A picture, or a sentence why there is none; the text below it; a frame in green (True), red (False) or grey."""

    picture: Image.Image | str
    text: str
    mark: bool | None = None


def contact_sheet(title: str, cells: Sequence[Cell], path: Path, columns: int = 5) -> Path:
    """Writes a PNG of the cells below a title."""
    small, font, bold = (ImageFont.load_default(size) for size in (11, 13, 18))
    rows = -(-len(cells) // columns)
    cell_width, cell_height = THUMBNAIL + 2 * MARGIN, THUMBNAIL + 2 * MARGIN + LINE
    head = 44
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, head + rows * cell_height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 12), _fitting(pen, title, bold, sheet.width - 2 * MARGIN), INK, bold)
    for place, (picture, text, mark) in enumerate(cells):
        left = MARGIN + place % columns * cell_width
        top = head + place // columns * cell_height
        pen.rectangle((left - 4, top - 4, left + THUMBNAIL + 3, top + THUMBNAIL + 3), outline=MARKS[mark], width=3)
        if isinstance(picture, str):
            pen.multiline_text((left + 2, top + 4), textwrap.fill(picture, 20, max_lines=9), INK, small)
        else:
            thumbnail = picture.convert("RGB")
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
            sheet.paste(thumbnail, (left + (THUMBNAIL - thumbnail.width) // 2, top + (THUMBNAIL - thumbnail.height) // 2))
        pen.text((left, top + THUMBNAIL + 6), _fitting(pen, text, font, THUMBNAIL), INK, font)
    sheet.save(path)
    return path


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
