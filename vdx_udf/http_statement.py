"""What an HTTP request's SQL is: a query with its output format, or an INSERT with its input format and data."""

import re
from dataclasses import dataclass

# Enough of SQL to find words that stand outside of brackets, quotes and comments.
_PIECE = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.)*`|\d[\w.]*)"""
    rb"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<word>[A-Za-z_]\w*)|(?P<other>.)""",
    re.DOTALL,
)
_OUTPUT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^']*)?;?\s*$", re.IGNORECASE)
_READING = {"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"}
HEAD = 1 << 18  # bytes within which the words of an INSERT stand before its data


@dataclass(frozen=True)
class Insert:
    """`INSERT INTO ... FORMAT x` or `... VALUES`: `head` without that, and what of the data came with the statement."""

    head: str
    format: str
    data: bytes


def insert_of(statement: bytes) -> Insert | None:
    """The parts of an INSERT that takes data; None for any other statement, INSERT ... SELECT included."""
    words = _words(statement[:HEAD])
    first = next(words, None)
    if first is None or first[0] != "INSERT":
        return None
    for word, start, end in words:
        if word in ("SELECT", "WITH", "INFILE"):
            return None
        if word == "VALUES":
            return Insert(statement[:start].decode(), "Values", statement[end:])
        if word == "FORMAT" and (name := re.compile(rb"\s+(\w+)").match(statement, end)):
            data = statement[name.end() :]
            # As ClickHouse's parser: blanks and one line break belong to the statement, the rest to the data.
            data = re.sub(rb"^[ \t\f]*;?\r?\n?", b"", data, count=1)
            return Insert(statement[:start].decode(), name[1].decode(), data)
    return Insert(statement.decode(), "Values", b"")


def output_format(statement: bytes) -> str | None:
    """The format that the statement itself asks for."""
    found = _OUTPUT.search(statement[-HEAD:])
    return found[1].decode() if found else None


def only_reads(statement: bytes) -> bool:
    """Whether a GET may run it."""
    return _begins(statement, _READING)


def selects(statement: bytes) -> bool:
    """Whether it is a SELECT, whose rows can be sent as they come."""
    return _begins(statement, {"SELECT", "WITH"})


def _begins(statement: bytes, first: set[str]) -> bool:
    """Whether it begins with one of these words and inserts nothing."""
    words = [word for word, _, _ in _words(statement[:HEAD])]
    return bool(words) and words[0] in first and "INSERT" not in words


def _words(text: bytes):
    """(WORD, start, end) of the words outside of brackets, in capitals."""
    depth = 0
    for piece in _PIECE.finditer(text):
        kind = piece.lastgroup
        depth += (kind == "open") - (kind == "close")
        if kind == "word" and depth == 0:
            yield piece.group().decode().upper(), piece.start(), piece.end()
