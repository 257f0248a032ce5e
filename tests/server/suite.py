"""A server for the SQL suite (`pytest --engine server|docker tests/sql/test_sql.py ...`): any path may be read, as by the embedded engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.server import containers
from tests.server.node import free_nodes
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout


@contextmanager
def serving(kind: str, folder: Path, shared: Path, options: Sequence[str]) -> Iterator[tuple[Layout, str]]:
    """The server's folders, as this process may reach them, and its address. `shared`: what both may write to and read."""
    (node,) = free_nodes(folder, 1)
    layout = replace(node.layout, readable=(Path("/"),))
    if kind == "server":
        node.configure()
        list(install(layout, "vdx-tiny", options=options))
        with node.running():
            yield layout, node.url
    else:
        containers.require()
        list(install(layout, "vdx-tiny", options=options))  # the SQL files and user_files that the tests name
        with containers.single(shared=shared) as server:
            yield layout, server.url
