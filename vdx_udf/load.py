"""`vdx load`: runs a data set's SQL file, statement by statement, with a progress bar.

The file is ordinary SQL. Three kinds of comment lines tell this runner what a plain client is told by hand:

    -- parameter: dataset = holiday   a parameter, its default if it has one, and what it means
    -- rows: SELECT ...               how many rows there will be when the next statement is done, asked once, and
    -- done: SELECT ...               how many there are, asked again and again: for the bar
    -- for each: SELECT ...           the statements down to a line `-- end` run once for each row of the answer, whose
    -- end                            columns are parameters
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from vdx_udf.engine import statements_of
from vdx_udf.errors import VdxError
from vdx_udf.shell import Session

_PARAMETER = re.compile(r"^-- parameter: (\w+)(?: = (\S*))?\s+(.+)$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^-- (rows|done|for each|end)(?:: (.+))?$", re.MULTILINE)


class LoadError(VdxError):
    """The data set cannot be loaded as asked."""


@dataclass
class Step:
    """A statement and the queries for how many rows there will be and are, if the file gives them."""

    statement: str
    rows: str | None = None
    done: str | None = None


@dataclass
class Group:
    """Steps that run once, or once for each row of `each`."""

    each: str | None = None
    steps: list[Step] = field(default_factory=list)


def dataset_files(folder: Path) -> dict[str, Path]:
    """The data sets' SQL files below an `sql` folder, by name."""
    return {path.stem: path for path in sorted((folder / "datasets").glob("*.sql"))}


def parameters_of(path: Path) -> dict[str, tuple[str | None, str]]:
    """A file's parameters: name to (default, meaning)."""
    return {name: (default, meaning) for name, default, meaning in _declared(path)}


def _declared(path: Path) -> Iterator[tuple[str, str | None, str]]:
    for match in _PARAMETER.finditer(path.read_text()):
        yield match.groups()


def groups_of(path: Path) -> list[Group]:
    """The file's statements with what its comments say about them."""
    groups = [Group()]
    for statement in statements_of(path):
        step = Step(statement)
        for kind, query in _DIRECTIVE.findall(statement):
            if kind in ("rows", "done"):
                setattr(step, kind, query)
            else:
                groups.append(Group(query or None))
        groups[-1].steps.append(step)
    return groups


def complete(path: Path, given: dict[str, str]) -> dict[str, str]:
    """The given parameters and the defaults of the others. Raises LoadError for a missing or an unknown one."""
    known = parameters_of(path)
    listed = "; ".join(
        f"{name}: {meaning}" + (f" (default {d or 'empty'})" if d is not None else "") for name, (d, meaning) in known.items()
    )
    if unknown := set(given) - set(known):
        raise LoadError(f"{path.name} has no parameter {', '.join(sorted(unknown))}; it takes {listed}")
    values = {name: default for name, (default, _) in known.items() if default is not None} | given
    if missing := set(known) - set(values):
        raise LoadError(f"{path.name} needs --param {', '.join(sorted(missing))}; it takes {listed}")
    return values


def run(session: Session, path: Path) -> None:
    """Runs the file with the session's parameters; what its queries answer is printed. Raises ClickHouse's errors."""
    base = session.parameters
    try:
        for group in groups_of(path):
            for row in _rows(session, group.each) if group.each else [{}]:
                session.parameters = base | row
                for step in group.steps:
                    total = session.client.query(step.rows, session.parameters).result_rows[0][0] if step.rows else None
                    session.run(step.statement, step.done, total)
    finally:
        session.parameters = base


def _rows(session: Session, query: str) -> list[dict[str, str]]:
    answer = session.client.query(query, session.parameters)
    return [dict(zip(answer.column_names, map(str, row), strict=True)) for row in answer.result_rows]


def resolve(place: str) -> str:
    """A path as the engine is given it: absolute, where it is no URL."""
    return place if re.match(r"\w+://", place) else str(Path(click.format_filename(place)).absolute())
