"""A client of a ClickHouse server, and statements given to any engine so that they hold from wherever they are read later."""

from pathlib import Path
from typing import Any

import clickhouse_connect

from vdx_udf.statements import is_kept, qualified, statements_of


def connect_server(url: str, settings: dict[str, Any] | None = None) -> Any:
    """A clickhouse-connect client of a server: `http://user:password@host:8123/database`; `settings` of every query."""
    return clickhouse_connect.get_client(dsn=url, settings=settings)


def placed(client: Any, statement: str) -> str:
    """The statement as it is to be kept: a view, or a mutation, reads the same from wherever it is read later."""
    if not is_kept(statement):
        return statement
    ((database, functions),) = client.query(
        "SELECT currentDatabase(), groupArray(name) FROM system.table_functions"
    ).result_rows
    return qualified(statement, database, functions)


def apply_schema(client: Any, folder: Path) -> None:
    """Creates functions, tables and views; running it again changes nothing."""
    for statement in statements_of(folder):
        client.command(placed(client, statement))
