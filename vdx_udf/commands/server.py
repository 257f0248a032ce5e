"""ClickHouse's own server over a data folder, run by chDB in a process of its own: for `vdx up` and for the tests' servers.

chDB carries the whole server; its embedded connection opens no port, but the statement SYSTEM START LISTEN, among a process's
first ones, opens those of the configuration. What answers then is ClickHouse itself: HTTP with its handlers, the native
protocol, users with passwords. What it lacks: Keeper, ON CLUSTER, the interserver port.
"""

import fcntl
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from vdx_udf.errors import VdxError, readable
from vdx_udf.statements import placed

STOP_SECONDS = 10  # for queries that cannot be cancelled at once, when the server is to end
_ADDRESS, _LOG = "address", "server.log"  # files beside the configuration; the first is locked while the server runs
_READY = "ready"


class ServerError(VdxError):
    """The server cannot start, or has ended."""


@contextmanager
def running(
    data: Path,
    config: Path,
    user_files: Path,
    url: str,
    schema: Path | None = None,
    native: bool = True,
    configure: Callable[[], None] = lambda: None,
) -> Iterator[subprocess.Popen]:
    """The server, from when it answers to when it has ended. It ends with this process, however that ends.

    `config`: the folder of its config.xml and config.d. `schema`: SQL files that run before a port opens. `native`: whether one
    opens for the native protocol, which would be 9000 where the configuration names none. `configure` writes the configuration,
    once no other process can start a server with it. Raises ServerError.
    """
    refuse_second(data)
    config.mkdir(parents=True, exist_ok=True)
    with open(config / _ADDRESS, "a+") as address:
        _lock(address, data)
        configure()
        address.truncate(0)
        command = [
            sys.executable,
            "-m",
            "vdx_udf.commands.server",
            data,
            user_files,
            str(int(native)),
            *([schema] if schema else []),
        ]
        # In a session of its own: Ctrl-C is for this process, which then ends the server. chDB reads a config.xml of the
        # working folder as it is imported, and again as the server starts: that one must be ours and the folder user_files.
        with (
            open(config / _LOG, "w") as log,
            _linked(config, user_files) as unlink,
            subprocess.Popen(
                command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            ) as process,
        ):
            try:
                if not process.stdout.readline():
                    raise ServerError(why_ended(config, process.wait()))
                unlink()
                address.write(url)
                address.flush()
                yield process
            finally:
                address.truncate(0)
                process.stdin.close()
                try:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(STOP_SECONDS)
                finally:
                    process.kill()


def _lock(address: TextIO, data: Path) -> None:
    for _ in range(20):  # a reader holds it for a moment
        with suppress(BlockingIOError):
            return fcntl.flock(address, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    raise ServerError(f"another server over {data} is starting")


def address(config: Path) -> str | None:
    """Where the server of this configuration answers, waiting while it starts; None where none runs."""
    while (config / _ADDRESS).exists():
        with open(config / _ADDRESS) as file:
            # Whoever can take the lock knows that no server runs, whatever the file still says.
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            if url := file.read():
                return url
        time.sleep(0.05)
    return None


def refuse_second(data: Path) -> None:
    """Raises ServerError where another process has the engine's data folder open: it takes one at a time."""
    with suppress(FileNotFoundError), open(data / "status") as status:
        try:
            fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found = re.search(r"PID: (\d+)", status.read())
            if found and int(found[1]) != os.getpid():
                raise ServerError(
                    f"{data} is in use by process {found[1]}, such as an open `vdx sql`, and the engine takes one at a time:"
                    " end it first; beside a `vdx up` any number of them can run"
                ) from None


def why_ended(config: Path, code: int) -> str:
    """What the server said last; `code`: what its process ended with."""
    said = (config / _LOG).read_text(errors="replace").strip()
    if "LISTEN query is not supported" in said or (code == 0 and not said):  # as chDB before 3.7.2 gives its errors, unsaid
        return "this chDB opens no ports: install chdb 4.4 or later (pip install --upgrade chdb)"
    return readable(Exception(said[said.rfind("Code: ") :] if "Code: " in said else said[-1_000:] or "it was killed"))


@contextmanager
def _linked(config: Path, user_files: Path) -> Iterator:
    """While the server starts, its configuration lies in user_files, too; call what this yields once it has."""
    links = [user_files / name for name in ("config.xml", "config.d")]

    def unlink() -> None:
        for link in links:
            if link.is_symlink():  # of an earlier start that was killed, or this one's
                link.unlink()

    unlink()
    try:
        for link in links:
            link.symlink_to(config / link.name)
        yield unlink
    finally:
        unlink()


def _program(native: bool, schema: Path | None) -> str:
    """The server's life in SQL. Standard input is a pipe that ends when the parent closes it or is gone."""
    ports = ("HTTP", "TCP") if native else ("HTTP",)
    statements = (
        "SYSTEM STOP LISTEN HTTP",  # an engine that cannot listen says so before anything else fails on it
        *(placed(schema, "default") if schema else ()),
        *(f"SYSTEM START LISTEN {port}" for port in ports),
        f"INSERT INTO FUNCTION file(1, LineAsString, 'line String') SELECT '{_READY}'",
        "SELECT * FROM file(0, LineAsString, 'line String') FORMAT Null",
        *(f"SYSTEM STOP LISTEN {port}" for port in ports),
        "KILL QUERY WHERE query_id != queryID() ASYNC FORMAT Null",  # or the process would wait for them
    )
    return ";\n".join(statements)


def _end_in_time() -> None:
    """A query that does not hear KILL QUERY, such as one that waits for a function, must not keep the server up."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.poll()
    time.sleep(STOP_SECONDS)
    os._exit(1)


def _serve(data: str, user_files: str, native: str, schema: str | None = None) -> None:
    from chdb import _chdb

    os.chdir(user_files)
    threading.Thread(target=_end_in_time, daemon=True).start()
    # The format is also what HTTP answers in unless told otherwise.
    _chdb.query(_program(native == "1", Path(schema) if schema else None), "TabSeparated", path=data)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
