"""`vdx grid`: a query's pictures on one sheet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import vdx
from vdx_udf.commands.contact_sheet import LINE, MARGIN, MARKS, THUMBNAIL
from vdx_udf.commands.grid import GridError, grid, through_sql
from vdx_udf.encoder.image import ImageError, ImageSource
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout


@pytest.fixture
def sheet(loaded, tmp_path):
    """Draws the sheet of a query; returns the number of pictures and the sheet."""

    def run(query: str, read=None, columns: int = 5, **parameters: str) -> tuple[int, Image.Image]:
        read = read or ImageSource((Path("/"),)).read
        count = grid(loaded, query, parameters, read, tmp_path / "grid.png", columns)
        return count, Image.open(tmp_path / "grid.png")

    return run


def cell(sheet: Image.Image, place: int, columns: int = 5) -> tuple[np.ndarray, tuple[int, ...]]:
    """A thumbnail's pixels and its frame's colour."""
    left = MARGIN + place % columns * (THUMBNAIL + 2 * MARGIN)
    top = 44 + place // columns * (THUMBNAIL + 2 * MARGIN + LINE)
    inside = np.asarray(sheet)[top : top + THUMBNAIL, left : left + THUMBNAIL]
    return inside, sheet.getpixel((left - 3, top + 20))


@pytest.mark.parametrize("through", [None, through_sql], ids=["files", "sql"])
def test_the_pictures_are_those_of_the_rows_in_their_order(sheet, loaded, drawn, through):
    query = "SELECT source, distance, distance < 0.68 AS near FROM search_text(query = {q:String}, k = 7)"
    rows = loaded.query(query.replace("distance < 0.68 AS near", "(distance < 0.68)::Bool"), {"q": "a red circle"}).result_rows
    count, page = sheet(
        query.replace("distance < 0.68", "(distance < 0.68)::Bool"), through and through(loaded), q="a red circle"
    )
    assert count == 7
    assert page.width == 5 * (THUMBNAIL + 2 * MARGIN) + MARGIN
    for place, (source, _, near) in enumerate(rows):
        inside, frame = cell(page, place)
        with Image.open(source) as picture:
            picture = picture.convert("RGB")
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        margin = (THUMBNAIL - picture.width) // 2
        assert np.array_equal(inside[margin : margin + picture.height, margin : margin + picture.width], np.asarray(picture))
        assert frame == MARKS[near]


def test_bytes_paths_and_what_cannot_be_shown(sheet, drawn, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not at all")
    folder = drawn[0]
    query = f"""
        SELECT picture, 'text' AS words, 42 AS n FROM (
            SELECT raw_blob AS picture FROM file('{folder}/0001.png', RawBLOB)
            UNION ALL SELECT arrayJoin(['{folder}/0002.png', '{tmp_path}/broken.png', '/no/such.png', 'http://127.0.0.1/x.png', '']))"""
    count, page = sheet(query, columns=3)
    assert count == 6
    assert page.width == 3 * (THUMBNAIL + 2 * MARGIN) + MARGIN
    shown = [len(np.unique(cell(page, place, 3)[0].reshape(-1, 3), axis=0)) for place in range(6)]
    assert all(colours > 1 for colours in shown)  # a picture or a sentence in every place


def test_nothing_and_too_much_are_errors(sheet):
    with pytest.raises(GridError, match="the query found nothing to show"):
        sheet("SELECT source FROM images WHERE source = 'nothing'")
    with pytest.raises(GridError, match="the query found 1001 rows, more than the 1000 of a sheet: add a LIMIT"):
        sheet("SELECT toString(number) FROM numbers(1001)")


def test_a_servers_refusal_is_the_cells_sentence(loaded):
    with pytest.raises(ImageError, match="cannot be read: No such file or directory"):
        through_sql(loaded)(b"/no/such/file.png")


def test_the_command(drawn, tmp_path):
    layout = Layout.embedded(tmp_path / "prefix")
    list(install(layout, "vdx-tiny"))
    try:
        vdx("load", "folder", f"{drawn[0]}/000*.png", "--prefix", layout.state)
        search = "SELECT source, distance FROM search_text(query = 'a star', k = 4)"
        done = vdx("grid", "--prefix", layout.state, "-q", search, "-o", tmp_path / "stars.png")
        assert done.stdout == f"4 pictures: {tmp_path}/stars.png\n"
        with Image.open(tmp_path / "stars.png") as page:
            assert page.width == 4 * (THUMBNAIL + 2 * MARGIN) + MARGIN
        nothing = vdx("grid", "--prefix", layout.state, "-q", "SELECT source FROM images WHERE 0", check=False)
        assert nothing.stderr == "Error: the query found nothing to show\n"
    finally:
        stop_encoder(layout)
