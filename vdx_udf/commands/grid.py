"""`vdx grid`: the answer of a query as a contact sheet.

The first column is the picture: its bytes, a path or a URL. A Bool column frames the thumbnail green or red, the others are
written below it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from vdx_udf.commands.contact_sheet import THUMBNAIL, Cell, contact_sheet
from vdx_udf.encoder.decoding import decode
from vdx_udf.encoder.image import ImageError, is_content
from vdx_udf.errors import VdxError, readable

MOST = 1_000  # thumbnails on a sheet: 200 rows of five


class GridError(VdxError):
    """The query's answer is nothing to look at."""


def grid(client: Any, query: str, parameters: dict[str, str], read: Callable[[bytes], bytes], path: Path, columns: int) -> int:
    """Writes the answer's pictures to `path` as PNG and returns how many they are; one that cannot be shown says why.

    `read` gives the bytes of a path or URL or raises ImageError. Raises GridError for an answer of no rows or over MOST.
    """
    rows = client.query(query, parameters, query_formats={"String": "bytes"}).result_rows  # for a picture is a String
    if not rows:
        raise GridError("the query found nothing to show")
    if len(rows) > MOST:
        raise GridError(f"the query found {len(rows)} rows, more than the {MOST} of a sheet: add a LIMIT")
    contact_sheet(" ".join(query.split()), [_cell(row, read) for row in rows], path, min(columns, len(rows)))
    return len(rows)


def through_sql(client: Any) -> Callable[[bytes], bytes]:
    """Reads paths where the server's encoder has them."""

    def read(value: bytes) -> bytes:
        statement = f"SELECT found.1, found.2 FROM (SELECT vdx_read(unhex('{value.hex()}')) AS found)"  # a path is any bytes
        try:
            ((content, reason),) = client.query(statement, query_formats={"String": "bytes"}).result_rows
        except ClickHouseError as error:
            raise ImageError(readable(error)) from None
        if reason:
            raise ImageError(reason.decode())
        return content

    return read


def _cell(row: tuple, read: Callable[[bytes], bytes]) -> Cell:
    marks = [value for value in row[1:] if isinstance(value, bool)]
    texts = [_text(value) for value in row[1:] if not isinstance(value, bool)]
    value = row[0] if isinstance(row[0], bytes) else str(row[0]).encode()
    try:
        picture = decode(value if is_content(value) else read(value), THUMBNAIL)
        picture.thumbnail((THUMBNAIL, THUMBNAIL))  # now, or a thousand of them would be in memory whole
    except ImageError as error:
        picture = str(error)
    return Cell(picture, "  ".join(texts), marks[0] if marks else None)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return f"{value:.3f}" if isinstance(value, float) else str(value)
