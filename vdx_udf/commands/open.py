"""`vdx open FOLDER`: sets up, loads what is new of a folder of pictures and serves the explorer; run again it goes on."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import click

from vdx_udf.commands import server
from vdx_udf.commands.door import Door
from vdx_udf.commands.up import serve
from vdx_udf.errors import VdxError
from vdx_udf.installer import explorer, weights
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import PATTERNS, Layout


def prefix_of(folder: Path, model: str) -> Path:
    """Where the tables of a folder's pictures lie: in the user's data folder, one prefix for each folder and model."""
    key = sha256(f"{folder}\0{model}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    name = "".join(each if each.isprintable() and each not in PATTERNS else "_" for each in folder.name)
    return data / "vdx-udf" / f"{name or 'root'}-{key}"


def open_folder(folder: Path, model: str, port: int) -> None:
    """Loads what is new of the folder and serves the explorer until it is interrupted.

    Raises VdxError: no such folder, no weights, a port in use, an engine in use.
    """
    if not folder.is_dir():
        raise VdxError(f"{folder} is no folder: name the one that holds your pictures")
    folder = folder.resolve()
    prefix = prefix_of(folder, model)
    layout = Layout.embedded(prefix)
    weights.fetch(layout, model)
    click.echo(f"tables and index: {prefix}")
    for _ in install(layout, model):
        pass
    _load(folder, prefix)
    url = server.address(layout.server_config)
    if url:
        click.echo(f"explorer: {url}{explorer.URL}/ (an earlier vdx open or vdx up serves it)")
        _show(url)
    else:
        serve(prefix, Door(port), _show)


def _load(folder: Path, prefix: Path) -> None:
    """In a process of its own: the engine, which takes one at a time, is the server's afterwards."""
    command = ["load", "folder", folder, "--prefix", prefix, "--param", f"dataset={folder.name or 'root'}"]
    code = subprocess.run([sys.executable, "-m", "vdx_udf", *command]).returncode
    if code:
        sys.exit(code)


def _show(url: str) -> None:
    """Opens the page where there is a screen to show it on: in a terminal alone a browser of text would take it over."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        click.launch(f"{url}{explorer.URL}/")
