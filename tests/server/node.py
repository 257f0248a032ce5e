"""A ClickHouse server without Docker: chDB's engine with its HTTP and native ports open, as `vdx up` runs it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_ports
from vdx_udf.commands import server
from vdx_udf.installer.install import stop_encoder
from vdx_udf.installer.layout import Layout


@dataclass(frozen=True)
class Node:
    """A server's folders and ports. `shard` is its place in the cluster of all `tcp_ports`, from 1."""

    folder: Path
    http_port: int
    shard: int
    tcp_ports: Sequence[int]

    @property
    def layout(self) -> Layout:
        return Layout.server(self.folder / "etc", self.folder / "var", None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def configure(self) -> None:
        """Writes the server's own configuration, as a package's or image's would be there before the bundle."""
        layout = self.layout
        shards = "".join(
            "<shard><internal_replication>true</internal_replication>"
            f"<replica><host>127.0.0.1</host><port>{port}</port></replica></shard>"
            for port in self.tcp_ports
        )
        layout.functions.mkdir(parents=True, exist_ok=True)
        layout.user_files.mkdir(parents=True, exist_ok=True)
        (layout.functions / "config.xml").write_text(
            "<clickhouse>"
            f"<path>{self.folder}/var/</path><user_files_path>{layout.user_files}/</user_files_path>"
            f"<http_port>{self.http_port}</http_port><tcp_port>{self.tcp_ports[self.shard - 1]}</tcp_port><listen_host>127.0.0.1</listen_host>"
            f"<macros><cluster>vdx</cluster><shard>{self.shard}</shard><replica>1</replica></macros>"
            f"<remote_servers><vdx>{shards}</vdx></remote_servers>"
            # Keeper's place is taken by one within the process: replicated tables work, and replicate nothing.
            "<zookeeper><implementation>testkeeper</implementation></zookeeper>"
            "</clickhouse>"
        )

    @contextmanager
    def running(self) -> Iterator["Node"]:
        """The server, from when it answers to when it has ended, its encoder too."""
        with server.running(self.folder / "var", self.layout.functions, self.layout.user_files, self.url):
            try:
                yield self
            finally:
                stop_encoder(self.layout)


def free_nodes(folder: Path, count: int) -> list[Node]:
    """That many nodes of one cluster, below a folder, on ports that nobody uses."""
    ports = free_ports(2 * count)
    return [Node(folder / f"node{shard}", ports[shard - 1], shard, ports[count:]) for shard in range(1, count + 1)]
