"""Where the bundle's own files lie: beside the package in a checkout, inside it in an installed wheel."""

import re
from pathlib import Path

_VIEW = re.compile(r"^CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO \w+ AS\n(.*?);$", re.MULTILINE | re.DOTALL)
_DIMENSION = re.compile(r"\b\d+ /\* dimension( \+ 1)? \*/")
_INDEX = re.compile(r"'\w+', \d+, \d+ /\* index \*/")


def bundle_folder(name: str) -> Path:
    """The folder `user_scripts`, `functions` or `sql`."""
    package = Path(__file__).parents[1]
    inside = package / "bundle" / name
    return inside if inside.is_dir() else package.parent / name


def with_dimension(text: str, dimension: int | str) -> str:
    """The text of a SQL file with a model's embedding dimension in every place that it marks."""
    return _DIMENSION.sub(lambda mark: f"{int(dimension) + bool(mark[1])} /* dimension{mark[1] or ''} */", text)


def with_index(text: str, index: str) -> str:
    """The text of a SQL file whose vector index, where it marks one, is as settings.INDEX says it."""
    quantization, m, ef_construction = index.split(",")
    return _INDEX.sub(f"'{quantization}', {m}, {ef_construction} /* index */", text)


def with_renewed_views(text: str) -> str:
    """The text of a SQL file whose materialized views, where an earlier version made them, get this one's query in one step.

    ClickHouse 25.8 cannot CREATE OR REPLACE them, and between DROP and CREATE inserts would be lost.
    """
    return _VIEW.sub(r"\g<0>\n\nALTER TABLE \1 MODIFY QUERY\n\2;", text)
