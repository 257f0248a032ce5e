"""A page of thumbnails with a line of text under each: what people look at after a search."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

THUMBNAIL, MARGIN, LINE = 128, 10, 18
PAPER, INK = (252, 252, 252), (32, 32, 32)
MARKS = {True: (30, 150, 70), False: (205, 45, 45), None: (200, 200, 200)}


def contact_sheet(title: str, pictures: Sequence[tuple[Path, str, bool | None]], path: Path, columns: int = 5) -> Path:
    """Writes a PNG of (file, text, mark) tuples; a mark frames the thumbnail green (True) or red (False)."""
    font, bold = ImageFont.load_default(13), ImageFont.load_default(18)
    rows = -(-len(pictures) // columns)
    cell_width, cell_height = THUMBNAIL + 2 * MARGIN, THUMBNAIL + 2 * MARGIN + LINE
    head = 44
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, head + rows * cell_height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 12), _fitting(pen, title, bold, sheet.width - 2 * MARGIN), INK, bold)
    for place, (file, text, mark) in enumerate(pictures):
        left = MARGIN + place % columns * cell_width
        top = head + place // columns * cell_height
        with Image.open(file) as image:
            thumbnail = image.convert("RGB")
        thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
        pen.rectangle((left - 4, top - 4, left + THUMBNAIL + 3, top + THUMBNAIL + 3), outline=MARKS[mark], width=3)
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
