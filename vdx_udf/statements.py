"""SQL files as statements."""

import re
from collections.abc import Container, Iterator
from pathlib import Path

# A quoted piece, a comment or one other character: enough of SQL's surface to find the semicolons that end statements.
_PIECE = re.compile(
    r"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.)*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$"""
    r"""| --[^\n]* | \#[!\ ][^\n]* | /\*.*?\*/ | .""",
    re.VERBOSE | re.DOTALL,
)


def split_statements(text: str) -> Iterator[str]:
    """The statements of a SQL file, without those that hold comments only."""
    statement, has_code = [], False
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece == ";":
            if has_code:
                yield "".join(statement).strip()
            statement, has_code = [], False
            continue
        statement.append(piece)
        has_code |= not piece.isspace() and not piece.startswith(("--", "/*", "# ", "#!"))
    if has_code:
        yield "".join(statement).strip()


_KEPT = re.compile(r"\s*(CREATE\s+(OR\s+REPLACE\s+)?(MATERIALIZED\s+)?VIEW|ALTER\s+TABLE|DELETE\s+FROM)\b", re.IGNORECASE)
_VIEW = re.compile(r"\s*CREATE\s+OR\s+REPLACE\s+VIEW\s+(\w+)", re.IGNORECASE)
_CALL = re.compile(r"(\b(?:FROM|(?<!ARRAY )JOIN)\s+)(\w+)(?=\s*\()|\bcurrentDatabase\(\)", re.IGNORECASE)


def is_kept(statement: str) -> bool:
    """Whether ClickHouse keeps the statement's query: a view's, or a mutation's."""
    return bool(_KEPT.match(_blanked(statement)))


def qualified(statement: str, database: str, table_functions: Container[str]) -> str:
    """The statement with its database before the parameterised views that it reads, and in place of currentDatabase().

    ClickHouse looks such views up where the reader is, or, for a mutation, nowhere; names of tables it completes itself.
    """
    literal = "'" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"
    name = "`" + database.replace("\\", "\\\\").replace("`", "\\`") + "`"
    written, end = [], 0
    for call in _CALL.finditer(_blanked(statement)):
        if call[2] and call[2] in table_functions:
            continue
        written += [statement[end : call.start()], f"{call[1]}{name}.{call[2]}" if call[2] else literal]
        end = call.end()
    return "".join((*written, statement[end:]))


def placed(path: Path, database: str) -> Iterator[str]:
    """The statements of files that create every view with parameters that they read, as they are to be kept in a database."""
    statements = list(statements_of(path))
    own = {made[1] for statement in statements if (made := _VIEW.match(_blanked(statement)))}
    for statement in statements:
        others = {*re.findall(r"\w+", statement)} - own
        yield qualified(statement, database, others) if is_kept(statement) else statement


def _blanked(statement: str) -> str:
    """The statement with spaces for its comments and what it quotes, as long as before."""
    return "".join(piece if len(piece := match.group()) == 1 else " " * len(piece) for match in _PIECE.finditer(statement))


def sql_files(path: Path) -> list[Path]:
    """The file itself, or a folder's own .sql files in the order of their numbers."""
    return sorted(path.glob("*.sql")) if path.is_dir() else [path]


def statements_of(path: Path) -> Iterator[str]:
    """The statements of a file, or of a folder's files one after the other."""
    for file in sql_files(path):
        yield from split_statements(file.read_text())
