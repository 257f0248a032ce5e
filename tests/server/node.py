"""A ClickHouse server without Docker: `python -m tests.server.node FOLDER` runs chDB's engine with its HTTP and native ports open.

chDB carries ClickHouse's whole server code; its embedded connection opens no port, but the statement SYSTEM START LISTEN, given
as a process's first query, opens those of the configuration. What answers then is ClickHouse itself: HTTP with its handlers,
the native protocol, Distributed tables over other processes. What it lacks of a server: users, Keeper, ON CLUSTER, the
interserver port.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from vdx_udf.install import Layout, stop_encoder

LISTEN = "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT sleep(3) FROM numbers(1000000) SETTINGS max_block_size = 1 FORMAT Null"


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
        # This engine reads config.xml of the working folder, which is also its user_files.
        for name in ("config.xml", "config.d"):
            if not (link := layout.user_files / name).is_symlink():
                link.symlink_to(layout.functions / name)

    @contextmanager
    def running(self) -> Iterator["Node"]:
        """The server, from when it answers to when it has ended, its encoder too."""
        command = [sys.executable, "-m", "tests.server.node", str(self.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                deadline = time.monotonic() + 60
                while True:
                    try:
                        urlopen(f"{self.url}/ping").close()
                        break
                    except OSError:
                        assert process.poll() is None, process.stdout.read()
                        assert time.monotonic() < deadline, "the server does not answer"
                        time.sleep(0.1)
                yield self
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
                stop_encoder(self.layout)


def free_nodes(folder: Path, count: int) -> list[Node]:
    """That many nodes of one cluster, below a folder, on ports that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2 * count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return [Node(folder / f"node{shard}", ports[shard - 1], shard, ports[count:]) for shard in range(1, count + 1)]


if __name__ == "__main__":
    from chdb import _chdb

    var = Path(sys.argv[1]) / "var"
    os.chdir(var / "user_files")
    _chdb.query(LISTEN, "TabSeparated", path=str(var))
