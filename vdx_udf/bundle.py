"""Where the bundle's own files lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path


def bundle_folder(name: str) -> Path:
    """The folder `user_scripts`, `functions` or `sql`."""
    package = Path(__file__).parent
    inside = package / "bundle" / name
    return inside if inside.is_dir() else package.parent / name
