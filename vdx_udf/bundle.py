"""Where the bundle's own files lie: beside the package in a checkout, inside it in an installed wheel."""

import re
from pathlib import Path

_DIMENSION = re.compile(r"\b\d+ /\* dimension \*/")


def bundle_folder(name: str) -> Path:
    """The folder `user_scripts`, `functions` or `sql`."""
    package = Path(__file__).parent
    inside = package / "bundle" / name
    return inside if inside.is_dir() else package.parent / name


def with_dimension(text: str, dimension: int | str) -> str:
    """The text of a SQL file with a model's embedding dimension in every place that it marks."""
    return _DIMENSION.sub(f"{dimension} /* dimension */", text)
