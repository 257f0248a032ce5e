"""Renders the schema of a cluster: the statements of the SQL files in the places that sql/cluster/schema.sql names."""

import re
from pathlib import Path

from vdx_udf.installer.bundle import with_renewed_views
from vdx_udf.statements import split_statements, sql_files

SCHEMA = "schema.sql"  # in the folder sql/cluster
ON_CLUSTER = " ON CLUSTER '{cluster}'"
_CREATE = re.compile(r"^CREATE (?:OR REPLACE )?(TABLE|VIEW|MATERIALIZED VIEW|FUNCTION) (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
_CHANGE = re.compile(r"^ALTER TABLE (\w+)", re.MULTILINE)
_FILL = re.compile(r"^INSERT INTO (\w+)", re.MULTILINE)
_ENGINE = re.compile(r"^ENGINE = (\w*MergeTree)(?:\(([^)]*)\))?|(?<=\) )ENGINE = (\w*MergeTree)(?:\(([^)]*)\))?", re.MULTILINE)
_HERE = re.compile(r"^-- here(?:, ([^:\n]+))?: (.+)$", re.MULTILINE)
# Where Keeper keeps a table, and what it calls this node's copy.
_PATHS = {
    "the same rows on every node": "'/clickhouse/tables/vdx/{table}', '{shard}-{replica}'",
    "each shard's own rows": "'/clickhouse/tables/vdx_shard/{shard}/{table}', '{replica}'",
    None: "",
}


def schema(folder: Path) -> str:
    """The whole text of `cluster/schema.sql` below an `sql` folder."""
    template = (folder / "cluster" / SCHEMA).read_text()
    statements = {}  # by name; what follows a table, rows of its own, belongs to it
    texts = [with_renewed_views(path.read_text()) for path in sql_files(folder)]
    for statement in (statement for text in texts for statement in split_statements(text)):
        if made := _CREATE.search(statement):
            name, kind = made.group(2), made.group(1)
            statements[name] = (kind, [statement])
        elif (filled := _FILL.search(statement)) and filled.group(1) != name:
            pass  # the first look at a single server's rows, when its tables are brought up to date: loads look at a cluster's
        else:
            changed = _CHANGE.search(statement)
            statements[changed.group(1) if changed else name][1].append(statement)
    placed = {name for _, names in _HERE.findall(template) for name in names.split()}
    placed |= {made.group(2) for made in _CREATE.finditer(template)}

    def fill(match: re.Match) -> str:
        where, names = match.groups()
        if names == "functions":
            chosen = [name for name, (kind, _) in statements.items() if kind == "FUNCTION"]
        elif names == "everything else":
            chosen = [name for name, (kind, _) in statements.items() if kind != "FUNCTION" and name not in placed]
        else:
            chosen = names.split()
        return "\n\n".join(f"{on_cluster(s, _PATHS[where])};" for name in chosen for s in statements[name][1])

    return _HERE.sub(fill, template)


def on_cluster(statement: str, path: str) -> str:
    """The statement for all nodes of the cluster; a table that keeps rows is replicated, under a path with {table} in it."""
    made = _CREATE.search(statement) or _CHANGE.search(statement)
    if not made:
        return statement
    statement = statement[: made.end()] + ON_CLUSTER + statement[made.end() :]

    def replicated(engine: re.Match) -> str:
        name, arguments = engine.group(1) or engine.group(3), engine.group(2) or engine.group(4)
        return f"ENGINE = Replicated{name}({', '.join(filter(None, (path.replace('{table}', made.group(2)), arguments)))})"

    # A shard that answers for another node does not do so in its own database.
    database = "'vdx_shard'" if "{shard}/" in path else "'vdx'"
    return _ENGINE.sub(replicated, statement, count=1).replace("currentDatabase()", database)
