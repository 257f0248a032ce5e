"""ClickHouse's Native format for the types of the functions' contract; the only place that knows its bytes.

A block is: number of columns and rows (varints), then for each column its name, its type name and its values.
Values in Python, and on the wire:

  String               list of bytes                    varint length and bytes, per value
  Float32, UInt8..64   numpy array                      little-endian, back to back
  Array(T)             Ragged(offsets, values of T)     running ends as UInt64, then all the values
  Tuple(...)           tuple of columns                 one column after the other
  Map(K, V)            Ragged(offsets, (keys, values))  as Array(Tuple(K, V))

ClickHouse writes to executable functions, too, in the form that an HTTP client asks for by its client_protocol_version,
and reads their answers in the plain one (src/Formats/NativeWriter.cpp, src/Processors/Formats/Impl/NativeFormat.cpp).
clickhouse-connect names 54405: a BlockInfo stands before each block. clickhouse-go over HTTP names more than 54453: before the
values of each column stands a flag, zero, too.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RECEIVE = 1 << 18  # bytes asked of the stream at a time,
RECEIVE_MOST = 1 << 22  # and within a large value; a length that is a lie costs no more memory than this
MAX_NAME = 4_096  # bytes of a column's name or type
MAX_STRING = 1 << 30  # longer lengths are taken for a broken stream rather than waited for
MAX_ELEMENTS = 1 << 40  # of an array column, likewise
_SMALL = [bytes([n]) for n in range(128)]
_INFO = b"\x01\x00\x02\xff\xff\xff\xff"  # BlockInfo: no overflow row, no bucket; then a zero, or from 54480 on a third field
_FLAG = b"\x00"  # a column without a serialization of its own
# How long to look whether a block goes on: see _flag. ClickHouse writes a block at once, so what belongs to it is there
# within milliseconds.
SETTLE_SECONDS = 2.0


class NativeError(ValueError):
    """The bytes are not a Native block of the expected types; the message says what was found."""


class StreamEnded(NativeError):
    """The stream ended within a block."""


@dataclass
class Ragged:
    """Rows of different lengths: row i is `values[ends[i-1]:ends[i]]`. `ends`: uint64 (rows,)."""

    ends: np.ndarray
    values: Any

    def __len__(self) -> int:
        return len(self.ends)

    def rows(self) -> Iterator:
        """The rows, as slices of a column that can be sliced."""
        start = 0
        for end in self.ends.tolist():
            yield self.values[start:end]
            start = end

    @staticmethod
    def of_matrix(matrix: np.ndarray) -> "Ragged":
        """From a (rows, width) matrix without a copy: all rows equally long."""
        rows, width = matrix.shape
        return Ragged(np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(width), matrix.reshape(-1))


class Stream:
    """Bytes as they arrive. `read(n)` blocks until it has some, up to n, and returns b"" at the end; `wait(seconds)` says
    whether some arrive in that time.
    """

    def __init__(self, read: Callable[[int], bytes], wait: Callable[[float], bool] = lambda seconds: True):
        self._source, self._wait = read, wait
        self._buffer = b""
        self._at = 0
        self._later: deque[bytes] = deque()  # what a look ahead has read beyond the buffer
        self.flag = b""  # before the values of each column of the block that is being read

    def ahead(self) -> "Stream":
        """A stream over the bytes to come that takes none of them from this one."""
        self._buffer, self._at = b"".join([self._buffer[self._at :], *self._later]), 0
        self._later.clear()

        def read(size: int) -> bytes:
            received = self._source(size)
            self._later.extend([received] if received else [])
            return received

        ahead = Stream(read, self._wait)
        ahead._buffer = self._buffer
        return ahead

    def _read(self, size: int) -> bytes:
        return self._later.popleft() if self._later else self._source(size)

    def at_end(self) -> bool:
        """Whether the stream ended here; waits for the next byte to know."""
        return self._at == len(self._buffer) and not self._more()

    def at_end_within(self, seconds: float) -> bool:
        """Whether nothing more arrives in this time."""
        return self._at == len(self._buffer) and not (self._wait(seconds) and self._more())

    def _more(self) -> bool:
        received = self._read(RECEIVE)
        self._buffer = self._buffer[self._at :] + received
        self._at = 0
        return bool(received)

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises NativeError when the stream ends before."""
        missing = size - (len(self._buffer) - self._at)
        if missing <= 0:
            self._at += size
            return self._buffer[self._at - size : self._at]
        parts = [self._buffer[self._at :]]
        self._buffer, self._at = b"", 0
        while missing > 0:
            received = self._read(min(max(missing, RECEIVE), RECEIVE_MOST))
            if not received:
                raise StreamEnded(f"the stream ended {missing} bytes before a value of {size} bytes was complete")
            parts.append(received)
            missing -= len(received)
        whole = b"".join(parts)
        self._buffer, self._at = whole[size:], 0
        return whole[:size]

    def skip(self, expected: bytes) -> bool:
        """Whether the next bytes are `expected`; if so they are taken."""
        while len(self._buffer) - self._at < len(expected):
            if not expected.startswith(self._buffer[self._at :]) or not self._more():
                return False
        found = self._buffer.startswith(expected, self._at)
        self._at += len(expected) if found else 0
        return found

    def varint(self) -> int:
        """An unsigned LEB128 integer."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise NativeError("a length of more than 64 bits: this is not Native format")

    def string(self, most: int = MAX_STRING) -> bytes:
        size = self.varint()
        if size > most:
            raise NativeError(f"a string of {size} bytes; the limit is {most}")
        return self.take(size)

    def strings(self, count: int, max_bytes: int = 1 << 62) -> list[bytes]:
        """Between 1 and `count` strings: those that have arrived already, or the next one once it has.

        Stops after the string that exceeds `max_bytes`, so that a reader of large values holds few of them.
        """
        found: list[bytes] = []
        if count == 0:
            return found
        if self._at == len(self._buffer):
            self._more()
        buffer, at, end = self._buffer, self._at, len(self._buffer)
        limit = at + max_bytes
        append = found.append
        while len(found) < count and at < end and at < limit:
            size = buffer[at]
            start = at + 1
            if size > 127:
                shift = 7
                size &= 0x7F
                while start < end and buffer[start] > 127 and shift < 63:
                    size |= (buffer[start] & 0x7F) << shift
                    shift += 7
                    start += 1
                if start >= end:
                    break
                size |= buffer[start] << shift
                start += 1
            if start + size > end:
                break
            at = start + size
            append(buffer[start:at])
        self._at = at
        return found or [self.string()]


@dataclass(frozen=True)
class Fixed:
    """Numbers of one size; `comes_as` where they arrive in another."""

    name: str
    dtype: np.dtype
    comes_as: np.dtype | None = None

    def read(self, stream: Stream, rows: int) -> np.ndarray:
        dtype = self.comes_as or self.dtype
        return np.frombuffer(stream.take(rows * dtype.itemsize), dtype).astype(self.dtype, copy=False)

    def write(self, column: Any) -> list[bytes]:
        return [np.ascontiguousarray(column, self.dtype).data]


@dataclass(frozen=True)
class String:
    """Byte strings."""

    name: str = "String"

    def read(self, stream: Stream, rows: int) -> list[bytes]:
        values: list[bytes] = []
        while len(values) < rows:
            values += stream.strings(rows - len(values))
        return values

    def write(self, column: list[bytes]) -> list[bytes]:
        parts: list[bytes] = []
        for value in column:
            size = len(value)
            parts += (_SMALL[size] if size < 128 else varint(size), value)
        return [b"".join(parts)]


@dataclass(frozen=True)
class Array:
    """Arrays of one inner type."""

    inner: Any

    @property
    def name(self) -> str:
        return f"Array({self.inner.name})"

    def read(self, stream: Stream, rows: int) -> Ragged:
        ends = self.read_ends(stream, rows)
        return Ragged(ends, self.inner.read(stream, int(ends[-1]) if rows else 0))

    def read_ends(self, stream: Stream, rows: int) -> np.ndarray:
        ends = np.frombuffer(stream.take(rows * 8), "<u8")
        if rows > 1 and (ends[1:] < ends[:-1]).any():
            raise NativeError(f"the ends of an {self.name} column run backwards: this is not Native format")
        if rows and ends[-1] > MAX_ELEMENTS:
            raise NativeError(f"an {self.name} column of {ends[-1]} elements: this is not Native format")
        return ends

    def read_rows(self, stream: Stream, rows: int) -> Iterator[tuple]:
        """The rows one by one as they arrive; one that equals the row before it is the same object.

        A constant argument comes over the pipe once for every row: so it is compared instead of taken apart.
        """
        last, encoded, start = None, b"", 0
        for end in self.read_ends(stream, rows).tolist():
            if last is None or len(last) != end - start or not stream.skip(encoded):
                last = tuple(self.inner.read(stream, end - start))
                encoded = b"".join(self.inner.write(last))
            yield last
            start = end

    def write(self, column: Ragged) -> list[bytes]:
        return [np.ascontiguousarray(column.ends, "<u8").data, *self.inner.write(column.values)]


@dataclass(frozen=True)
class Tuple:
    """Tuples, with or without names."""

    inner: tuple
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        named = zip(self.names, self.inner, strict=True) if self.names else ((None, t) for t in self.inner)
        return f"Tuple({', '.join(f'{n} {t.name}' if n else t.name for n, t in named)})"

    def read(self, stream: Stream, rows: int) -> tuple:
        return tuple(t.read(stream, rows) for t in self.inner)

    def write(self, column: tuple) -> list[bytes]:
        return [part for t, values in zip(self.inner, column, strict=True) for part in t.write(values)]


@dataclass(frozen=True)
class Map:
    """Maps, on the wire arrays of (key, value)."""

    key: Any
    value: Any

    @property
    def name(self) -> str:
        return f"Map({self.key.name}, {self.value.name})"

    def read(self, stream: Stream, rows: int) -> Ragged:
        return Array(Tuple((self.key, self.value))).read(stream, rows)

    def write(self, column: Ragged) -> list[bytes]:
        return Array(Tuple((self.key, self.value))).write(column)


_FIXED = {f"UInt{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)} | {
    "Float32": np.dtype("<f4"), "Float64": np.dtype("<f8"),
}  # fmt: skip


def parse_type(name: str) -> Any:
    """The type of a name such as `Tuple(vector Array(Float32), error String)`. Raises NativeError for any other."""
    name = name.strip()
    if name.count("(") > 20:
        raise NativeError(f"type {name[:80]} is nested too deeply")
    if name == "String":
        return String()
    if name in _FIXED:
        return Fixed(name, _FIXED[name])
    outer, bracket, rest = name.partition("(")
    if bracket and rest.endswith(")"):
        inside = _split(rest[:-1])
        if outer == "Array" and len(inside) == 1:
            return Array(parse_type(inside[0]))
        if outer == "Map" and len(inside) == 2:
            return Map(parse_type(inside[0]), parse_type(inside[1]))
        if outer == "Tuple" and inside:
            heads = [part.split(" ", 1) for part in inside]
            if all(len(head) == 2 and "(" not in head[0] for head in heads):
                return Tuple(tuple(parse_type(t) for _, t in heads), tuple(n for n, _ in heads))
            return Tuple(tuple(parse_type(part) for part in inside))
    raise NativeError(
        f"type {name[:80]} is not supported: only String, Float32, Float64, UInt8 to UInt64, Array, Tuple and Map are;"
        " convert the value with CAST or toString"
    )


def _split(text: str) -> list[str]:
    """Splits at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()] if text else []


def varint(value: int) -> bytes:
    """An unsigned LEB128 integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_header(stream: Stream, arguments: Sequence[tuple[str, str]]) -> tuple[int, int] | None:
    """Number of columns and of rows of the next block, of columns of these names and types; None where the stream ends before.

    Raises NativeError for a client_protocol_version that is not supported.
    """
    if stream.at_end():
        return None
    stream.flag = b""
    has_info = stream.skip(_INFO)
    if has_info and stream.take(1) != b"\x00":
        raise NativeError(
            "this query came over HTTP with a client_protocol_version of 54480 or more, which executable functions do not"
            " support: let the client ask for 54405, or use the native protocol"
        )
    columns, rows = stream.varint(), stream.varint()
    if has_info and columns == len(arguments) and rows:
        stream.flag = _flag(stream.ahead(), rows, [(name.encode(), parse_type(kind)) for name, kind in arguments])
    return columns, rows


def _flag(ahead: Stream, rows: int, arguments: list[tuple[bytes, Any]]) -> bytes:
    """What stands before the values of each column: a flag or nothing. The block does not say; a flag may be a value as well.

    Where the first byte is a zero it is taken for a flag, and the next column's head must follow where it then should. (The
    other way round array lengths would come out too large, and bytes be waited for that never come.) A block of one column of
    strings has one string more with the flag than without, and nothing follows it.
    """
    kind = read_column_header(ahead, arguments[0][1])
    if len(arguments) == 1 and isinstance(kind, Array):
        return _flag_before_arrays(ahead, rows, kind)
    if ahead.take(1) != _FLAG:
        return b""
    if len(arguments) > 1:
        try:
            kind.read(ahead, rows)
            name, following = arguments[1]
            return _FLAG if ahead.skip(varint(len(name)) + name) and _read_type(ahead, name.decode(), following) else b""
        except NativeError:
            return b""
    kind.read(ahead, rows - 1)  # the zero may have been an empty string
    return b"" if _ends(ahead) else _FLAG


def _flag_before_arrays(ahead: Stream, rows: int, kind: Array) -> bytes:
    """The same before the only column, of arrays: where the first byte is a zero, a block with a flag must end where it should.

    Read with a flag that is not there, lengths come out as a 256th of what they are, so no more bytes are waited for than
    arrive; but where all arrays are empty, one more.
    """
    trial = ahead.ahead()
    if trial.take(1) != _FLAG:
        return b""
    if not any(trial.take(8 * rows - 1)):
        return b"" if _ends(trial) else _FLAG
    trial = ahead.ahead()
    trial.take(1)
    try:
        kind.read(trial, rows)
    except NativeError:
        return b""
    return _FLAG if _ends(trial) else b""


def _ends(ahead: Stream) -> bool:
    """Whether a block ends here: nothing follows, or the next block."""
    return ahead.at_end_within(SETTLE_SECONDS) or ahead.skip(_INFO)


def read_column_header(stream: Stream, expected: Any) -> Any:
    """The type to read the next column with, which gives the values of the expected one.

    Numbers may be narrower, and floating-point ones of either size: ClickHouse before 26.7 passes them as they are written, 96
    as UInt8. Raises NativeError for any other type.
    """
    name = stream.string(MAX_NAME).decode("utf-8", "replace")
    kind = _read_type(stream, name, expected)
    if stream.take(len(stream.flag)) != stream.flag:
        raise NativeError(f"column {name[:80]!r} comes in a serialization of its own: call the function on materialize(...)")
    return kind


def _read_type(stream: Stream, name: str, expected: Any) -> Any:
    found = stream.string(MAX_NAME).decode("utf-8", "replace")
    kind = expected if found == expected.name else _taken(parse_type(found), expected)
    if kind is None:
        raise NativeError(f"column {name[:80]!r} is {found[:80]}, not {expected.name}: convert it with CAST")
    return kind


def _taken(found: Any, expected: Any) -> Any | None:
    """The type that reads `found` and gives the values of `expected`; None where some would not fit."""
    if found.name == expected.name:
        return expected
    if isinstance(found, Array) and isinstance(expected, Array):
        inner = _taken(found.inner, expected.inner)
        return inner and Array(inner)
    if isinstance(found, Fixed) and isinstance(expected, Fixed):
        floats = found.dtype.kind == expected.dtype.kind == "f"
        if floats or np.can_cast(found.dtype, expected.dtype):
            return Fixed(expected.name, expected.dtype, comes_as=found.dtype)
    return None


def read_block(stream: Stream, types: list) -> list | None:
    """The next block's columns, which must have these types; None where the stream ends before one."""
    header = read_header(stream, [("", kind.name) for kind in types])
    if header is None:
        return None
    columns, rows = header
    if columns != len(types):
        raise NativeError(f"a block of {columns} columns where {len(types)} are expected")
    block = []
    for expected in types:
        block.append(read_column_header(stream, expected).read(stream, rows))
    return block


def write_block(columns: list[tuple[str, Any, Any]], rows: int) -> list[bytes]:
    """A block of (name, type, values) columns as buffers to send one after the other."""
    parts = [varint(len(columns)) + varint(rows)]
    for name, kind, values in columns:
        encoded = name.encode()
        parts.append(varint(len(encoded)) + encoded + varint(len(kind.name)) + kind.name.encode())
        parts += kind.write(values)
    return parts
