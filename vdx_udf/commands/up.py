"""`vdx up`: ClickHouse's own server over a prefix, with the explorer page; started, watched and ended here."""

import errno
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from vdx_udf import engine
from vdx_udf.commands import server
from vdx_udf.commands.door import LOOPBACK, Door
from vdx_udf.installer import explorer
from vdx_udf.installer.install import add_page, installed_model
from vdx_udf.installer.layout import Layout


def serve(prefix: Path, door: Door, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serves until it is interrupted; calls `ready` with its address once it answers. Raises InstallError, ServerError."""
    layout = Layout.embedded(prefix)
    installed_model(layout)
    if there := server.address(layout.server_config):
        raise server.ServerError(f"`vdx up` runs over {prefix} already: {there}{explorer.URL}/")
    if door.port == door.native_port:
        raise server.ServerError(f"port {door.port} is for one of --port and --native-port: name another, or --native-port 0")
    for port, option in ((door.port, "--port"), (door.native_port, "--native-port")):
        for address in door.addresses if port else ():
            _require_free(address, port, option)
    add_page(layout)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url = f"http://{LOOPBACK}:{door.port}"
    with (
        suppress(KeyboardInterrupt),
        server.running(
            layout.data,
            layout.server_config,
            layout.user_files,
            url,
            layout.sql,
            native=door.native_port != 0,
            configure=lambda: _configure(layout, door),
        ) as process,
    ):
        click.echo(f"explorer: http://{door.names[0]}:{door.port}{explorer.URL}/")
        if door.native_port:
            click.echo(f"native protocol: {door.names[0]}:{door.native_port}")
        ready(url)
        threading.Thread(target=_warm, args=(url,), daemon=True).start()
        code = process.wait()
        raise server.ServerError(f"the server has ended: {server.why_ended(layout.server_config, code)}")


def _require_free(address: str, port: int, option: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, past connections that have ended
        try:
            probe.bind((address, port))
        except OSError as error:
            option = "--listen" if error.errno == errno.EADDRNOTAVAIL else option
            raise server.ServerError(f"port {port} of {address}: {error.strerror}; name another with {option}") from None


def _configure(layout: Layout, door: Door) -> None:
    """The server's configuration: the prefix's own, and over it the door's."""
    fragments, users = layout.server_config / "config.d", layout.server_config / "users.xml"
    fragments.mkdir(exist_ok=True)
    for path in fragments.iterdir():
        path.unlink()
    (layout.server_config / "config.xml").unlink(missing_ok=True)
    (layout.server_config / "config.xml").symlink_to(layout.config)
    for path in (layout.config.parent / "config.d").glob("*"):
        (fragments / path.name).symlink_to(path)
    users.touch(mode=0o600)
    users.write_text(door.users())
    (fragments / "vdx_up.xml").write_text(door.config(users))


def _warm(url: str) -> None:
    """Starts the encoder, which takes seconds, before anyone waits for it. Where it cannot, the first query says why."""
    with suppress(Exception):
        engine.connect_server(url).command("SELECT encode_text('')")
