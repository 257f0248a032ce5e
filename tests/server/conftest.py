"""Servers for the tests here: each runs on server processes of chDB and, where a Docker engine answers, on containers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from tests.conftest import wait_for
from tests.server import containers
from tests.server.node import free_nodes
from vdx_udf import engine
from vdx_udf.commands.shell import Session
from vdx_udf.installer import cluster as cluster_schema
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.installer.install import install
from vdx_udf.statements import split_statements

KINDS = ("process", "container")
# Every statement on the first replica of each shard, so that none has to wait for another replica.
SYNCHRONOUS = {"distributed_foreground_insert": 1, "mutations_sync": 2, "load_balancing": "in_order"}


@dataclass(frozen=True)
class Server:
    """One server with the bundle and its tables. `command_line(query)`: what clickhouse-client answers, None where there is none."""

    url: str
    command_line: Callable[[str], str] | None

    def client(self, database: str = "default", **settings: Any) -> Any:
        return engine.connect_server(f"{self.url}/{database}", settings)


@dataclass(frozen=True)
class Cluster:
    """Two shards with the cluster's schema. `replicate(table)`: all nodes have the first one's rows of a table of `vdx` after it."""

    first: Server
    replicate: Callable[[str], None]


@pytest.fixture(scope="session", params=KINDS)
def server(request, tmp_path_factory):
    """A single server."""
    if request.param == "container":
        containers.require()
        with containers.single() as container:
            yield Server(container.url, lambda query: container.client("--query", query))
        return
    (node,) = free_nodes(tmp_path_factory.mktemp("server"), 1)
    node.configure()
    list(install(node.layout, "vdx-tiny"))
    with node.running():
        found = Server(node.url, None)
        engine.apply_schema(found.client(), node.layout.sql)
        yield found


@pytest.fixture(scope="session", params=KINDS)
def cluster(request, tmp_path_factory):
    """Two shards: of one process each, or of two containers each with a Keeper."""
    if request.param == "container":
        containers.require()
        with containers.cluster() as (url, shards):
            found = Server(url, lambda query: shards[0].client("--database", "vdx", "--query", query))
            wait_for(lambda: _has_schema(found))
            yield Cluster(
                found, lambda table: found.client().command(f"SYSTEM SYNC REPLICA ON CLUSTER '{{cluster}}' vdx.{table}")
            )
        return
    nodes = free_nodes(tmp_path_factory.mktemp("cluster"), 2)
    for node in nodes:
        node.configure()
        list(install(node.layout, "vdx-tiny"))
    with nodes[0].running(), nodes[1].running():
        text = without_keeper((nodes[0].layout.sql / "cluster" / "schema.sql").read_text())
        for node in nodes:
            session = Session(lambda node=node: engine.connect_server(node.url), {}, "TabSeparated")
            for statement in split_statements(text):
                session.run(statement)
        first = Server(nodes[0].url, None)
        yield Cluster(first, lambda table: _copy(first, nodes[1].tcp_ports[1], table))


def without_keeper(text: str) -> str:
    """A cluster's statements as each node runs them itself, its tables not replicated: ON CLUSTER and replication need Keeper."""
    text = text.replace(cluster_schema.ON_CLUSTER, "")
    return re.sub(r"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?", r"\1(", text)


def single_database(server: Server, name: str) -> Any:
    """A client of a database with the schema of a single server on one node: what the cluster is compared with."""
    server.client().command(f"CREATE DATABASE {name}")
    client = server.client(name)
    engine.apply_schema(client, bundle_folder("sql"))
    return client


def _copy(first: Server, port: int, table: str) -> None:
    client = first.client("vdx")
    client.command(f"INSERT INTO FUNCTION remote('127.0.0.1:{port}', vdx, {table}) SELECT * FROM {table}")


def _has_schema(server: Server) -> bool:
    try:
        server.client().command("SELECT count() FROM vdx.dashboard_panels")  # of the file that comes last
    except ClickHouseError:
        return False
    return True


def rows_of(answer: Any) -> Sequence[Sequence]:
    """The answer's rows with arrays, tuples and maps as flat lists of numbers and texts, to be compared with a tolerance."""

    def flat(value: Any):
        if isinstance(value, dict):
            value = list(value.items())
        if isinstance(value, list | tuple):
            for one in value:
                yield from flat(one)
        else:
            yield value

    return [list(flat(row)) for row in answer.result_rows]
