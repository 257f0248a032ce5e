"""SQL files as statements."""

import re
from collections.abc import Iterator
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


def sql_files(path: Path) -> list[Path]:
    """The file itself, or a folder's own .sql files in the order of their numbers."""
    return sorted(path.glob("*.sql")) if path.is_dir() else [path]


def statements_of(path: Path) -> Iterator[str]:
    """The statements of a file, or of a folder's files one after the other."""
    for file in sql_files(path):
        yield from split_statements(file.read_text())
