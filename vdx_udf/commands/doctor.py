"""`vdx doctor`: looks at every part of an installation in the order in which one depends on the other. Changes nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from vdx_udf import __version__, contract, settings
from vdx_udf.errors import readable

OLDEST = (25, 8)  # the long-term release that the bundle supports
TABLES = (
    "images",
    "superseded_images",
    "rejects",
    "inbox",
    "labels",
    "classifiers",
    "prompt_templates",
    "schema_version",
    "thumbnails",
    "picture_facts",
    "regions",
)
WRITTEN = ("inbox", "labels", "classifiers")
MOST_HIDDEN = 500  # rows; as the loaders of sql/datasets have it


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
    yield _bundle(info)
    tables = _tables(client)
    yield tables
    if not tables.good:
        return
    yield _schema(client)
    yield _rights(client)
    if engine := _cluster_of(client):
        yield _encoders(client, engine, info)
    yield _vectors(client, info)
    yield _concepts(client, info)
    yield _index(client)
    yield _deleted(client)
    yield _mutations(client)


def _functions(client: Any) -> Check:
    try:
        found = dict(client.query("SELECT name, loading_error_message FROM system.user_defined_functions").result_rows)
    except ClickHouseError:  # ClickHouse before 26 has no such table: what does not load is not listed
        rows = client.query("SELECT name FROM system.functions WHERE origin = 'ExecutableUserDefined'").result_rows
        found = {name: "" for (name,) in rows}
    missing = [name for name in contract.FUNCTIONS if name not in found]
    broken = [f"{name}: {found[name]}" for name in contract.FUNCTIONS if found.get(name)]
    if missing or broken:
        text = "; ".join([*(f"{name} is not registered" for name in missing), *broken])
        return Check("functions", False, text, "run `vdx install`, then SYSTEM RELOAD CONFIG and SYSTEM RELOAD FUNCTIONS")
    return Check("functions", True, ", ".join(contract.FUNCTIONS))


def _bundle(info: dict[str, str]) -> Check:
    found = info["vdx_udf_version"]
    return Check(
        "bundle", found == __version__, found,
        f"this is vdx-udf {__version__}: run the doctor of {found}, or vdx install with this one",
    )  # fmt: skip


def _tables(client: Any) -> Check:
    found = {row[0] for row in client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows}
    missing = [table for table in TABLES if table not in found]
    return Check(
        "tables",
        not missing,
        f"missing: {', '.join(missing)}" if missing else ", ".join(TABLES),
        "run `vdx sql -f` on the sql folder",
    )


def _schema(client: Any) -> Check:
    ((found,),) = client.query("SELECT max(version) FROM schema_version").result_rows
    remedy = "run `vdx sql -f` on the sql folder"
    if found > settings.SCHEMA_VERSION:
        remedy = "a later bundle made these tables; this one works on them, and its own views are made by `vdx sql -f`"
    return Check("schema", found == settings.SCHEMA_VERSION, f"version {found}", remedy)


def _rights(client: Any) -> Check:
    """What this user may do of what people do, a profile with readonly included. CHECK GRANT changes nothing."""
    wanted = [*(f"SELECT ON {table}" for table in TABLES), *(f"INSERT ON {table}" for table in WRITTEN)]
    lacking = [right for right in wanted if client.command(f"CHECK GRANT {right}") != 1]
    remedy = "GRANT them where this user shall label and train; searching needs SELECT alone"
    return Check(
        "rights",
        not lacking,
        f"lacking: {', '.join(lacking)}" if lacking else f"of {client.command('SELECT currentUser()')}",
        remedy,
    )


def _cluster_of(client: Any) -> str:
    """The cluster of the table images, '' where it lies on this server alone."""
    rows = client.query(
        "SELECT engine_full FROM system.tables"
        " WHERE database = currentDatabase() AND name = 'images' AND engine = 'Distributed'"
    ).result_rows
    return re.search(r"Distributed\('([^']+)'", rows[0][0]).group(1) if rows else ""


def _encoders(client: Any, cluster: str, info: dict[str, str]) -> Check:
    """Whether the encoders of all nodes are the same: each shard embeds its own pictures."""
    asked = "view(SELECT encoder_info()['model'] AS model, encoder_info()['weights_hash'] AS weights_hash)"
    found = client.query(f"SELECT hostName(), model, weights_hash FROM clusterAllReplicas('{cluster}', {asked})").result_rows
    others = [f"{host}: {model} (weights {weights})" for host, model, weights in found if weights != info["weights_hash"]]
    return Check(
        "encoders of all nodes", not others, "; ".join(others) if others else f"{len(found)} of {info['model']}",
        f"run `vdx install --model {info['model']}` on those nodes",
    )  # fmt: skip


def _vectors(client: Any, info: dict[str, str]) -> Check:
    rows = client.query("SELECT model, length(vector) AS dimension, count() FROM images GROUP BY ALL ORDER BY ALL").result_rows
    found = ", ".join(f"{count} of {model} ({dimension} dimensions)" for model, dimension, count in rows) or "none yet"
    good = all(model == info["model"] and str(dimension) == info["dimension"] for model, dimension, _ in rows)
    return Check(
        "vectors in images", good, found, f"embed them again with {info['model']}, or install the model they were made with: "
        "distances between vectors of different models mean nothing"
    )  # fmt: skip


def _concepts(client: Any, info: dict[str, str]) -> Check:
    rows = client.query(
        "SELECT concept, model, weights_hash FROM current_classifiers WHERE weights_hash NOT IN ('', {hash:String})",
        {"hash": info["weights_hash"]},
    ).result_rows
    found = ", ".join(f"{concept} of {model} (weights {weights})" for concept, model, weights in rows)
    return Check(
        "concepts", not rows, found or "all of this model", "start them again: a weight of another model means nothing"
    )


def _deleted(client: Any) -> Check:
    """Rows that are hidden: the searches of the bundle look past them, a statement of one's own does not.

    What is noted as superseded counts although a merge may have removed it: searches count it, too.
    """
    deleted = client.command(
        "SELECT (SELECT count() FROM images SETTINGS apply_deleted_mask = 0) - (SELECT count() FROM images)"
    )
    hidden = client.command("SELECT hidden FROM hidden_rows")
    return Check(
        "hidden rows",
        not deleted and hidden <= MOST_HIDDEN,
        f"{deleted} deleted rows and {hidden - deleted} superseded ones are still in their parts",
        "ORDER BY cosineDistance(...) LIMIT k of your own finds fewer than k, and searches for more than"
        f" {max(0, 1000 - hidden)} images look at all: ALTER TABLE images APPLY DELETED MASK SETTINGS mutations_sync = 2;"
        " ALTER TABLE images DELETE WHERE (id, loaded_at) IN (SELECT id, loaded_at FROM superseded_images)"
        " SETTINGS mutations_sync = 2;"
        " DELETE FROM superseded_images WHERE (id, loaded_at) NOT IN (SELECT id, loaded_at FROM image_rows)."
        " Each writes parts and their graphs anew",
    )


def _mutations(client: Any) -> Check:
    rows = client.query(
        "SELECT table, mutation_id, command, latest_fail_reason FROM system.mutations"
        " WHERE database IN (currentDatabase(), 'vdx_shard') AND NOT is_done AND latest_fail_reason != ''"
    ).result_rows
    found = "; ".join(f"{table}: {command[:80]} fails: {reason[:120]}" for table, _, command, reason in rows)
    remedy = "; ".join(
        f"KILL MUTATION WHERE table = '{table}' AND mutation_id = '{mutation}'" for table, mutation, _, _ in rows
    )
    return Check("mutations", not rows, found or "none is stuck", f"a mutation that fails blocks all later ones: {remedy}")


def _index(client: Any) -> Check:
    """By index_status, which also sees the other shards of a cluster."""
    images, without = client.query("SELECT sum(images), sum(images_without_index) FROM index_status").result_rows[0]
    defined = client.query(
        "SELECT count() FROM system.data_skipping_indices"
        " WHERE database IN (currentDatabase(), 'vdx_shard') AND table = 'images' AND type = 'vector_similarity'"
    ).result_rows[0][0]
    if not defined:
        return Check("vector index", False, "images has none", "create the table with sql/02_tables.sql")
    remedy = "ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2"
    return Check("vector index", without == 0, f"built for {images - without} of {images} images", remedy)
