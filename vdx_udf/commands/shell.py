"""`vdx sql`: runs statements, shows their rows and the progress of long ones, and reads them from a prompt."""

import ast
import contextlib
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.exceptions import ClickHouseError
from tqdm import tqdm

from vdx_udf.commands import terminal
from vdx_udf.commands.target import USER_ERRORS
from vdx_udf.engine import placed
from vdx_udf.errors import readable
from vdx_udf.statements import split_statements

PRETTY = "PrettyCompact"  # for people; answers that name pictures show them where the terminal can
HISTORY = Path.home() / ".vdx_sql_history"
SLOW_SECONDS = 1.0  # a query that takes longer shows its progress
_ANSWERS = re.compile(r"\s*\(*\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS|CHECK|FROM|VALUES)\b", re.IGNORECASE)
_USE = re.compile(r"\s*USE\s+`?(\w+)`?\s*$", re.IGNORECASE)
_OWN_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*$", re.IGNORECASE)


def default_format() -> str:
    return PRETTY if sys.stdout.isatty() else "TabSeparated"


def parse_parameter(text: str) -> tuple[str, str | list]:
    """`name=value`, where a value in brackets is an array. Raises click.UsageError for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.UsageError(f"--param takes NAME=VALUE, not {text!r}")
    if value.startswith("["):
        with contextlib.suppress(ValueError, SyntaxError):
            return name, ast.literal_eval(value)
    return name, value


class Session:
    """A client, the parameters of its queries and the format of its answers. `connect` gives a client, each time anew."""

    def __init__(self, connect: Callable[[], Any], parameters: dict[str, str], output: str):
        self.client, self._connect = connect(), connect
        self.parameters, self.output = parameters, output

    def run(self, statement: str, done: str | None = None, total: int | None = None) -> None:
        """Runs one statement and writes what it answers to standard output.

        For the progress bar, `done` is a query for how many of `total` rows are there; without it system.processes tells
        how many were read.
        """
        output, values = self.output, self.values_of(statement)
        if own := _OWN_FORMAT.search(statement):
            statement, output = statement[: own.start()], own.group(1)
        if use := _USE.match(_without_comments(statement)):
            self.client.database = use.group(1)  # over HTTP every query names its database
            return
        if not _ANSWERS.match(_without_comments(statement)):
            statement = placed(self.client, statement)
            self._with_progress(lambda settings: self.client.command(statement, values, settings=settings), done, total)
            return
        if output == PRETTY and not own and terminal.can_draw() and self._names_pictures(statement, values):
            found = self._with_progress(lambda settings: self.client.query(statement, values, settings=settings), done, total)
            terminal.draw_table(found.column_names, found.result_rows, self._picture)
            return
        answer = self._with_progress(
            lambda settings: self.client.raw_query(statement, values, settings=settings, fmt=output), done, total
        )
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()

    def _names_pictures(self, statement: str, values: dict[str, Any] | None) -> bool:
        """Whether the answer has a column `source`, as searches have."""
        try:
            return "source" in [row[0] for row in self.client.query(f"DESCRIBE ({statement})", values).result_rows]
        except ClickHouseError:  # SHOW and the like, or a mistake that the statement itself will tell
            return False

    def _picture(self, source: str) -> bytes:
        rows = self.client.query(
            "SELECT bytes FROM picture(source = {source:String})", {"source": source}, query_formats={"String": "bytes"}
        ).result_rows
        return rows[0][0]

    def values_of(self, statement: str) -> dict[str, Any] | None:
        """The parameters that a statement names; in one that names none the client would fill its per cent signs."""
        return {name: value for name, value in self.parameters.items() if re.search(rf"\{{{name}\s*:", statement)} or None

    def query(self, statement: str) -> Any:
        """The answer of a query with this session's parameters."""
        return self.client.query(statement, self.values_of(statement))

    def _with_progress(self, run: Callable[[dict], Any], done: str | None, total: int | None) -> Any:
        """Calls `run`, with a bar on standard error once it takes long."""
        if not sys.stderr.isatty():
            return run({})
        name = f"vdx-{uuid.uuid4()}"
        read = f"SELECT read_rows, total_rows_approx FROM system.processes WHERE Settings['log_comment'] = '{name}' LIMIT 1"
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done or read, total, over), daemon=True)
        watcher.start()
        try:
            return run({"log_comment": name})
        finally:
            over.set()
            watcher.join()

    def _watch(self, query: str, total: int | None, over: threading.Event) -> None:
        if over.wait(SLOW_SECONDS):
            return
        other = self._connect()  # a client runs one query at a time
        bar = None
        try:
            while not over.wait(0.3):
                if not (rows := other.query(query, self.values_of(query)).result_rows):
                    continue
                most = total or max(rows[0]) or None
                if bar is None:
                    # What was done before the first look, by an earlier load, says nothing of the speed of this one.
                    bar = tqdm(total=most, initial=rows[0][0], unit=" rows", unit_scale=True, leave=False)
                bar.total = most
                bar.update(rows[0][0] - bar.n)
        except ClickHouseError:  # a user without rights on system.processes still gets the answer
            pass
        finally:
            if bar is not None:
                bar.close()


def _without_comments(statement: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", " ", statement, flags=re.DOTALL)


def interact(session: Session) -> None:
    """A prompt with history; statements end with a semicolon, Ctrl-D leaves."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    session.output = PRETTY if session.output == "TabSeparated" else session.output
    click.echo(f"ClickHouse {session.client.server_version}; statements end with ';', Ctrl-D leaves")
    prompt = PromptSession(history=FileHistory(str(HISTORY)))
    typed = ""
    while True:
        try:
            typed += prompt.prompt("vdx> " if not typed else "...> ") + "\n"
        except KeyboardInterrupt:
            typed = ""
            continue
        except EOFError:
            return
        if typed.strip() in ("exit", "quit"):
            return
        if not typed.rstrip().endswith(";"):
            continue
        for statement in split_statements(typed):
            began = time.monotonic()
            try:
                session.run(statement)
            except USER_ERRORS as error:
                click.secho(readable(error), fg="red", err=True)
            click.echo(f"{time.monotonic() - began:.3f} s", err=True)
        typed = ""
