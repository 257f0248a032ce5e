"""`make bench-shards`: how index builds, memory and searches grow with the rows of a shard and with the number of shards.

Servers are processes of chDB on this machine's cores, reached over HTTP, each other over the native protocol. Vectors of 512
around 1,000 centres. Part one: one node, growing rows. Part two: 1, 2 and 4 nodes of as many rows each, the searches through the
Distributed table. Writes results/shards.json and shards.md; vdx_udf/commands/sizing.py reckons with the figures.
"""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.benchmarks.run import QUICK, RESULTS, machine
from tests.server.conftest import without_keeper
from tests.server.node import Node, free_nodes
from vdx_udf import engine
from vdx_udf.commands.shell import Session
from vdx_udf.installer.install import install
from vdx_udf.statements import split_statements

ROWS = (5_000, 10_000) if QUICK else (25_000, 50_000, 100_000)
SHARDS = (1, 2) if QUICK else (1, 2, 4)
A_SHARD = 5_000 if QUICK else 25_000
SEARCHES = 50
SEARCH = "SELECT id, cosineDistance(vector, {v:Array(Float32)}) AS distance FROM images ORDER BY distance LIMIT 10"


def vectors(rows: int, seed: int) -> np.ndarray:
    """float32 (rows, 512), unit length, around centres that are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((1_000, 512), dtype=np.float32)
    rng = np.random.default_rng(seed)
    found = centres[rng.integers(0, len(centres), rows)] + rng.standard_normal((rows, 512), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def store(node: Node, rows: int, seed: int) -> None:
    """Adds rows to the node's own table, without an index."""
    np.save(node.layout.user_files / "vectors.npy", vectors(rows, seed))
    engine.connect_server(f"{node.url}/vdx_shard").command(
        "INSERT INTO images (id, source, dataset, model, vector)"
        f" SELECT {seed} * 1000000000 + rowNumberInAllBlocks() AS id, toString(id), 'bench', 'bench', array FROM file('vectors.npy', Npy, 'array Array(Float32)')"
        " SETTINGS materialize_skip_indexes_on_insert = 0, max_insert_block_size = 1000000, min_insert_block_size_rows = 1000000,"
        " min_insert_block_size_bytes = 4000000000"
    )


def build(node: Node) -> float:
    """Seconds to bring the node's rows into one part and to build its index, the second counted."""
    client = engine.connect_server(f"{node.url}/vdx_shard")
    client.command("ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0")
    client.command("OPTIMIZE TABLE images FINAL")
    began = time.perf_counter()
    client.command("ALTER TABLE images MATERIALIZE INDEX vector_index")
    while client.query("SELECT count() FROM system.mutations WHERE table = 'images' AND NOT is_done").result_rows != [(0,)]:
        time.sleep(0.1)
    return time.perf_counter() - began


def searched(client: Any) -> dict[str, float]:
    """Milliseconds of searches by vectors not asked before, index warm: median and 95 %."""
    took = []
    for vector in vectors(SEARCHES + 5, 99).tolist():
        began = time.perf_counter()
        assert len(client.query(SEARCH, {"v": vector}).result_rows) == 10
        took.append(1000 * (time.perf_counter() - began))
    return {"median": round(float(np.median(took[5:])), 1), "p95": round(float(np.quantile(took[5:], 0.95)), 1)}


def sizes(node: Node) -> dict[str, float]:
    """Bytes a row on disk."""
    rows, data, index = engine.connect_server(node.url).query(
        "SELECT sum(rows), sum(data_compressed_bytes), sum(secondary_indices_compressed_bytes) FROM system.parts"
        " WHERE active AND database = 'vdx_shard' AND table = 'images'"
    ).result_rows[0]  # fmt: skip
    return {"data_bytes": round(data / rows, 1), "index_bytes": round(index / rows, 1)}


def start(stack: ExitStack, folder: Path, count: int) -> list[Node]:
    nodes = free_nodes(folder, count)
    for node in nodes:
        node.configure()
        list(install(node.layout, "vdx-tiny"))
        stack.enter_context(node.running())
        session = Session(lambda node=node: engine.connect_server(node.url), {}, "TabSeparated")
        for statement in split_statements(without_keeper((node.layout.sql / "cluster" / "schema.sql").read_text())):
            session.run(statement)
    return nodes


def main() -> None:
    found: list[dict] = []
    with tqdm(total=len(ROWS) + len(SHARDS), unit=" measured") as bar:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            (node,) = start(stack, Path(folder), 1)
            client, there = engine.connect_server(f"{node.url}/vdx"), 0
            for rows in ROWS:
                client.command("TRUNCATE TABLE vdx_shard.images")
                store(node, rows, 1)
                seconds = build(node)
                there = rows
                found.append(
                    {"shards": 1, "rows": there, "build_seconds": round(seconds, 1), "search": searched(client), **sizes(node)}
                )
                bar.update()
        for count in SHARDS:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                nodes = start(stack, Path(folder), count)
                took = []
                for number, node in enumerate(nodes):
                    store(node, A_SHARD, number + 1)
                    took.append(build(node))
                client = engine.connect_server(f"{nodes[0].url}/vdx")
                found.append(
                    {
                        "shards": count,
                        "rows": count * A_SHARD,
                        "build_seconds": round(sum(took), 1),
                        "search": searched(client),
                        **sizes(nodes[0]),
                    }
                )
            bar.update()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shards.json").write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")
    (RESULTS / "shards.md").write_text(table(found))


def table(found: list[dict]) -> str:
    lines = [
        f"{machine()}.\n",
        "| shards | images in all | index built, one shard after the other | rows/s | a search | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['shards']} | {row['rows']:,} | {row['build_seconds']} s | {row['rows'] / row['build_seconds']:,.0f}"
            f" | {row['search']['median']} ms | {row['search']['p95']} ms |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
