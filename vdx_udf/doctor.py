"""`vdx doctor`: looks at every part of an installation in the order in which one depends on the other. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from vdx_udf import contract
from vdx_udf.errors import readable

OLDEST = (25, 8)  # the long-term release that the bundle supports
TABLES = ("images", "rejects", "inbox", "labels", "classifiers", "prompt_templates")


@dataclass(frozen=True)
class Check:
    """One finding; `remedy` says what to do where it is not good."""

    what: str
    good: bool
    found: str
    remedy: str = ""


def examine(client: Any) -> Iterator[Check]:
    """All checks; those that cannot be made because an earlier one failed are left out."""
    version = tuple(int(part) for part in client.server_version.split(".")[:2])
    yield Check("ClickHouse", version >= OLDEST, client.server_version, f"upgrade to {OLDEST[0]}.{OLDEST[1]} or later")
    functions = _functions(client)
    yield functions
    if not functions.good:
        return
    try:
        info = client.query("SELECT vdx_encoder_info('now')").result_rows[0][0]
    except ClickHouseError as error:
        yield Check("encoder", False, readable(error), "read the log that the message names; start it by hand with `vdx serve`")
        return
    yield Check("encoder", True, f"{info['model']}, {info['dimension']} dimensions, {info['precision']} on {info['device']}")
    tables = _tables(client)
    yield tables
    if tables.good:
        yield _vectors(client, info)
        yield _index(client)


def _functions(client: Any) -> Check:
    found = dict(client.query("SELECT name, loading_error_message FROM system.user_defined_functions").result_rows)
    missing = [name for name in contract.FUNCTIONS if name not in found]
    broken = [f"{name}: {found[name]}" for name in contract.FUNCTIONS if found.get(name)]
    if missing or broken:
        text = "; ".join([*(f"{name} is not registered" for name in missing), *broken])
        return Check("functions", False, text, "run `vdx install`, then SYSTEM RELOAD CONFIG and SYSTEM RELOAD FUNCTIONS")
    return Check("functions", True, ", ".join(contract.FUNCTIONS))


def _tables(client: Any) -> Check:
    found = {row[0] for row in client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows}
    missing = [table for table in TABLES if table not in found]
    return Check(
        "tables",
        not missing,
        f"missing: {', '.join(missing)}" if missing else ", ".join(TABLES),
        "run `vdx sql -f` on the sql folder",
    )


def _vectors(client: Any, info: dict[str, str]) -> Check:
    rows = client.query("SELECT model, length(vector) AS dimension, count() FROM images GROUP BY ALL ORDER BY ALL").result_rows
    found = ", ".join(f"{count} of {model} ({dimension} dimensions)" for model, dimension, count in rows) or "none yet"
    good = all(model == info["model"] and str(dimension) == info["dimension"] for model, dimension, _ in rows)
    return Check(
        "vectors in images", good, found, f"embed them again with {info['model']}, or install the model they were made with: "
        "distances between vectors of different models mean nothing"
    )  # fmt: skip


def _index(client: Any) -> Check:
    remedy = "ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2"
    defined = client.query(
        "SELECT count() FROM system.data_skipping_indices"
        " WHERE database = currentDatabase() AND table = 'images' AND type = 'vector_similarity'"
    ).result_rows[0][0]
    if not defined:
        return Check("vector index", False, "images has none", "create the table with sql/02_tables.sql")
    parts, built = client.query(
        "SELECT count(), countIf(secondary_indices_compressed_bytes > 0) FROM system.parts"
        " WHERE database = currentDatabase() AND table = 'images' AND active"
    ).result_rows[0]
    return Check("vector index", parts == built, f"built for {built} of {parts} parts", remedy)
