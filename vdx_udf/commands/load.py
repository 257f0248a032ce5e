"""`vdx load`: runs a data set's SQL file, statement by statement, with a progress bar.

The file is ordinary SQL. Some comment lines tell this runner what a plain client is told by hand:

    -- parameter: dataset = holiday   a parameter, its default if it has one, and what it means
    -- rows: SELECT ...               how many rows there will be when the next statement is done, asked once, and
    -- done: SELECT ...               how many there are, asked again and again: for the bar
    -- for each: SELECT ...           the statements down to a line `-- end` run once for each row of the answer, whose
    -- end                            columns are parameters
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from vdx_udf.commands.shell import Session
from vdx_udf.errors import VdxError
from vdx_udf.installer.bundle import with_dimension
from vdx_udf.statements import split_statements

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
class Loop:
    """Steps and inner loops that run once for each row of `each`; the file itself is one that runs once."""

    each: str | None = None
    body: list["Step | Loop"] = field(default_factory=list)


def dataset_files(folder: Path) -> dict[str, Path]:
    """The data sets' SQL files below an `sql` folder, by name."""
    return {path.stem: path for path in sorted((folder / "datasets").glob("*.sql"))}


def parameters_of(path: Path) -> dict[str, tuple[str | None, str]]:
    """A file's parameters: name to (default, meaning)."""
    return {name: (default, meaning) for name, default, meaning in (m.groups() for m in _PARAMETER.finditer(path.read_text()))}


def steps_of(path: Path, dimension: int | str) -> Loop:
    """The file's statements, for vectors of a dimension, with what its comments say about them."""
    open_loops = [Loop()]
    for statement in split_statements(with_dimension(path.read_text(), dimension)):
        step = Step(statement)
        for kind, query in _DIRECTIVE.findall(statement):
            if kind == "for each":
                loop = Loop(query)
                open_loops[-1].body.append(loop)
                open_loops.append(loop)
            elif kind == "end":
                open_loops.pop()
            else:
                setattr(step, kind, query)
        open_loops[-1].body.append(step)
    return open_loops[0]


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
    ((dimension,),) = session.query("SELECT encoder_info()['dimension']").result_rows
    _run(session, steps_of(path, dimension))


def keep_thumbnails(session: Session, dataset: str, side: int) -> None:
    """Makes the thumbnails that a data set ('': all) lacks; prints how many images it has, how many have one, why not all."""
    session.parameters = {"dataset": dataset, "side": str(side)}
    missing = "missing_thumbnails_of(dataset = {dataset:String}, side = {side:UInt16})"
    _keep(session, missing, "thumbnails", "side = {side:UInt16}", "thumbnails", "try_thumbnail", _BY_CONTENT)


def keep_facts(session: Session, dataset: str) -> None:
    """Measures the pictures that are not measured yet, of a data set ('': all); prints the same of them."""
    session.parameters = {"dataset": dataset}
    missing = "missing_picture_facts(dataset = {dataset:String})"
    _keep(session, missing, "picture_facts", "true", "measured", "vdx_picture_facts", _BY_CONTENT)


def keep_regions(session: Session, dataset: str, levels: int) -> None:
    """Cuts and embeds the pictures that have no regions of so many levels, of a data set ('': all); prints the same of them."""
    session.parameters = {"dataset": dataset, "levels": str(levels)}
    missing = "missing_regions(dataset = {dataset:String}, levels = {levels:UInt8})"
    where = "place = 0 AND levels >= {levels:UInt8}"
    _keep(session, missing, "regions", where, "with_regions", "try_encode_regions", _BY_ROW)


# What an image and what a kept row is known by.
_BY_CONTENT = ("vdx_picture_key(source, content_hash)", "content_hash")
_BY_ROW = ("(id, loaded_at)", "image_id, loaded_at")


def _keep(session: Session, missing: str, table: str, where: str, what: str, function: str, keys: tuple[str, str]) -> None:
    """Fills a table of what `function` makes of pictures; `where`: its rows that count, `what`: their name."""
    of_image, of_row = keys
    among = f"{of_image} GLOBAL IN (SELECT {of_row} FROM {table} WHERE {where})"
    images = "current_images WHERE {dataset:String} = '' OR dataset = {dataset:String}"
    done = f"SELECT count() FROM {table} WHERE {where}"
    ((total,),) = session.query(f"SELECT ({done}) + uniqExactIf({of_image}, NOT {among}) FROM {images}").result_rows
    # A block is what is read and stored at a time, which bounds memory and what a stop can lose.
    session.run(
        f"INSERT INTO {table} SELECT * FROM {missing} SETTINGS max_threads = 4, max_block_size = 32,"
        " min_insert_block_size_rows = 1024, min_insert_block_size_bytes = 67108864",
        done,
        total,
    )
    session.run(
        f"SELECT count() AS images, countIf({among}) AS {what},"
        f" if(images = {what}, '', encoder_info()['{function}.last_error']) AS reason FROM {images}"
    )


def _run(session: Session, loop: Loop) -> None:
    outer = session.parameters
    for row in _rows(session, loop.each) if loop.each else [{}]:
        session.parameters = outer | row
        for step in loop.body:
            if isinstance(step, Loop):
                _run(session, step)
            else:
                total = session.query(step.rows).result_rows[0][0] if step.rows else None
                session.run(step.statement, step.done, total)
    session.parameters = outer


def _rows(session: Session, query: str) -> list[dict[str, str]]:
    answer = session.query(query)
    return [dict(zip(answer.column_names, map(str, row), strict=True)) for row in answer.result_rows]


def resolve(place: str) -> str:
    """A path as the engine is given it: absolute, where it is no URL."""
    return place if re.match(r"\w+://", place) else str(Path(place).absolute())
