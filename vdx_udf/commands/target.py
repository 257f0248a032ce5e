"""The engine that a command's options name: the embedded one over a prefix, the `vdx up` over it, or a server."""

import os
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from vdx_udf.commands import server
from vdx_udf.engine import connect_server
from vdx_udf.errors import VdxError
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.installer.install import installed_model
from vdx_udf.installer.layout import Layout

PREFIX_ENVIRONMENT = "VDX_PREFIX"
DEMO_PREFIX = Path("demo-output") / "engine"
USER_ERRORS = (ClickHouseError, VdxError, OSError)


def default_prefix() -> Path:
    """`VDX_PREFIX`, else the demo's prefix under the current folder."""
    return Path(os.environ.get(PREFIX_ENVIRONMENT) or DEMO_PREFIX)


def connect(prefix: Path) -> Any:
    """A client of an installed prefix: of the `vdx up` that runs over it or else of the embedded engine."""
    url = server.address(Layout.embedded(prefix).server_config)
    return connect_server(url) if url else connect_embedded(prefix)


def connect_embedded(prefix: Path) -> Any:
    """A clickhouse-connect client over the embedded engine (chDB) of an installed prefix. One prefix per process.

    Raises InstallError where nothing is installed, ServerError where another process has the engine.
    """
    layout = Layout.embedded(prefix)
    installed_model(layout)
    server.refuse_second(layout.data)
    options = {"config-file": str(layout.config)}
    return clickhouse_connect.get_client(interface="chdb", path=str(layout.data), chdb_options=options)


def sql_folder(prefix: Path | None, url: str | None) -> Path:
    """The SQL files for an engine: those installed in the prefix or, for a server, this package's own."""
    return bundle_folder("sql") if url else Layout.embedded(prefix or default_prefix()).sql
