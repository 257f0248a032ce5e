"""The Native codec against the engine: what ClickHouse writes we read, what we write ClickHouse reads."""

import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdx_udf.encoder import native

ROWS = 5


def column_strategy(kind):
    """Values of one column of ROWS rows, as ClickHouse JSON shows them."""
    return st.lists(value_strategy(kind), min_size=ROWS, max_size=ROWS)


def value_strategy(kind):
    match kind:
        case native.String():
            return st.binary(max_size=200)
        case native.Fixed(name="Float32"):
            return st.floats(width=32, allow_nan=False, allow_infinity=False)
        case native.Fixed():
            return st.integers(0, 2 ** (8 * kind.dtype.itemsize) - 1)
        case native.Array():
            return st.lists(value_strategy(kind.inner), max_size=4)
        case native.Tuple():
            return st.tuples(*map(value_strategy, kind.inner))
        case native.Map():
            return st.dictionaries(value_strategy(kind.key), value_strategy(kind.value), max_size=3)


def to_column(kind, values):
    """Python values as the codec's columns."""
    match kind:
        case native.String():
            return list(values)
        case native.Fixed():
            return np.array(values, kind.dtype)
        case native.Array():
            flat = [item for value in values for item in value]
            ends = np.cumsum([len(value) for value in values], dtype=np.uint64)
            return native.Ragged(ends, to_column(kind.inner, flat))
        case native.Tuple():
            return tuple(to_column(t, [value[i] for value in values]) for i, t in enumerate(kind.inner))
        case native.Map():
            pairs = [list(value.items()) for value in values]
            return to_column(native.Array(native.Tuple((kind.key, kind.value))), pairs)


def to_values(kind, column):
    """The codec's columns as Python values."""
    match kind:
        case native.String():
            return list(column)
        case native.Fixed():
            return column.tolist()
        case native.Array():
            flat = to_values(kind.inner, column.values)
            return [flat[a:b] for a, b in itertools.pairwise([0, *column.ends.tolist()])]
        case native.Tuple():
            return list(zip(*(to_values(t, part) for t, part in zip(kind.inner, column, strict=True)), strict=True))
        case native.Map():
            inner = native.Array(native.Tuple((kind.key, kind.value)))
            return [dict(pairs) for pairs in to_values(inner, column)]


TYPES = [
    "String", "Float32", "UInt8", "UInt16", "UInt32", "UInt64", "Array(Float32)", "Array(String)", "Array(Array(String))",
    "Tuple(vector Array(Float32), error String)", "Tuple(String, UInt8)", "Map(String, String)", "Map(String, Array(UInt64))",
]  # fmt: skip


def read_all(data: bytes, kind, piece: int | None = None):
    """The one column of a Native stream, read in pieces of the given size."""
    source = io.BytesIO(data)
    stream = native.Stream(lambda size: source.read(min(size, piece or size)))
    values = []
    while (block := native.read_block(stream, [kind])) is not None:
        values += to_values(kind, block[0])
    return values


@pytest.mark.parametrize("name", TYPES)
def test_round_trip_through_the_engine(client, layout, name):
    kind = native.parse_type(name)
    assert kind.name == name

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(column_strategy(kind))
    def check(values):
        written = b"".join(native.write_block([("x", kind, to_column(kind, values))], len(values)))
        (layout.user_files / "ours.native").write_bytes(written)
        # The engine reads our bytes and writes its own; both must mean the same values.
        theirs = client.raw_query(
            f"SELECT x FROM file('{layout.user_files}/ours.native', Native) SETTINGS max_threads = 1", fmt="Native"
        )
        assert read_all(theirs, kind) == [tuple(v) if isinstance(v, tuple) else v for v in values]
        # And it understands them as values, not only as bytes that it copies.
        count = client.query(
            f"SELECT count(), uniqExact(toString(x)) FROM file('{layout.user_files}/ours.native', Native)"
        ).result_rows[0]
        assert count == (len(values), len({repr(v) for v in values})) or name == "Float32"

    check()


@pytest.mark.parametrize("name", TYPES)
def test_a_stream_in_single_bytes_reads_the_same(client, name):
    expression = f"SELECT x FROM generateRandom('x {name.replace(chr(39), '')}', 7, 20, 3) LIMIT 50"
    kind = native.parse_type(name)
    data = client.raw_query(expression, fmt="Native")
    whole = read_all(data, kind)
    assert len(whole) == 50
    assert repr(read_all(data, kind, piece=1)) == repr(whole)


def test_a_stream_cut_at_any_byte_is_an_error_and_never_a_value(client):
    kind = native.parse_type("Tuple(vector Array(Float32), error String)")
    data = client.raw_query(
        "SELECT ([toFloat32(number), 2]::Array(Float32), repeat('é', number))::Tuple(vector Array(Float32), error String) AS x"
        " FROM numbers(3)",
        fmt="Native",
    )
    assert len(read_all(data, kind)) == 3
    for cut in range(1, len(data)):
        with pytest.raises(native.NativeError, match="the stream ended"):
            read_all(data[:cut], kind)


def test_a_million_rows(client):
    data = client.raw_query("SELECT toString(number % 1013) AS x FROM numbers(1000000)", fmt="Native")
    values = read_all(data, native.String())
    assert values == [b"%d" % (n % 1013) for n in range(1_000_000)]


def test_strings_of_every_length_around_the_varint_bounds(client, layout):
    values = [b"\xff" * size for size in (0, 1, 127, 128, 16383, 16384, 300_000)]
    (layout.user_files / "lengths.native").write_bytes(
        b"".join(native.write_block([("x", native.String(), values)], len(values)))
    )
    lengths = client.raw_query(
        f"SELECT length(x), x = repeat(char(255), length(x)) FROM file('{layout.user_files}/lengths.native', Native)", fmt="TSV"
    )
    assert lengths.decode().split("\n")[:-1] == [f"{len(v)}\t1" for v in values]
    assert read_all((layout.user_files / "lengths.native").read_bytes(), native.String(), piece=1000) == values


def test_arriving_strings_are_handed_over_as_they_come():
    data = b"".join(native.String().write([b"one", b"two", b"three"]))
    pieces = [data[:9], data[9:]]
    stream = native.Stream(lambda size: pieces.pop(0) if pieces else b"")
    assert stream.strings(3) == [b"one", b"two"]
    assert stream.strings(1) == [b"three"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LowCardinality(String)", "type LowCardinality(String) is not supported"),
        ("Nullable(String)", "type Nullable(String) is not supported"),
        ("Array(Int8)", "type Int8 is not supported"),
        ("Tuple()", "type Tuple() is not supported"),
    ],
)
def test_other_types_are_refused_with_a_sentence(name, message):
    with pytest.raises(native.NativeError) as error:
        native.parse_type(name)
    assert str(error.value).startswith(message)
    assert "CAST" in str(error.value)


def test_the_wrong_type_names_column_and_types(client):
    data = client.raw_query("SELECT toFloat32(1) AS price", fmt="Native")
    with pytest.raises(native.NativeError) as error:
        read_all(data, native.String())
    assert str(error.value) == "column 'price' is Float32, not String: convert it with CAST"


def test_bytes_that_are_not_native_are_refused():
    with pytest.raises(native.NativeError):
        read_all(b"\xff" * 40, native.String())
    with pytest.raises(native.NativeError, match="2 columns where 1 are expected"):
        read_all(b"\x02\x01" + json.dumps("x").encode() * 9, native.String())


@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=150), max_size=5), st.integers(1, 4)), max_size=8),
    st.sampled_from([1, 7, 1 << 18]),
)
def test_rows_that_repeat_are_one_object(runs, piece):
    """A constant argument: read row by row, in pieces of any size, without taking equal rows apart again."""
    kind = native.parse_type("Array(String)")
    rows = [tuple(row) for row, times in runs for _ in range(times)]
    column = native.Ragged(np.cumsum([len(row) for row in rows], dtype=np.uint64), [value for row in rows for value in row])
    source = io.BytesIO(b"".join(kind.write(column)) + b"rest")
    stream = native.Stream(lambda size: source.read(min(size, piece)))
    found = list(kind.read_rows(stream, len(rows)))
    assert found == rows
    assert all((a is b) == (a == b) for a, b in itertools.pairwise(found))
    assert stream.take(4) == b"rest"


INFO = bytes.fromhex("010002ffffffff00")  # as ClickHouse 26.9 writes it to an executable function with client_protocol_version
VECTORS = native.parse_type("Array(Float32)")
NUMBERS = native.Ragged(np.array([0, 512, 1024], np.uint64), np.arange(1024, dtype=np.float32))
FORMS = {
    "texts": [("text", native.String(), [b"a", b"", b"c"])],
    "an empty text first": [("text", native.String(), [b"", b"b", b""])],
    "one empty text": [("text", native.String(), [b""])],
    "a zero byte first": [("image", native.String(), [b"\x00", b"\x00\x00"])],
    "vectors": [("vector", VECTORS, NUMBERS), ("labels", native.parse_type("Array(String)"), native.Ragged(np.array([1, 2, 2]), [b"", b"a"]))],
    "vectors of 512": [("vector", VECTORS, native.Ragged.of_matrix(np.zeros((2, 512), np.float32))), ("labels", native.parse_type("Array(String)"), native.Ragged(np.array([0, 0]), []))],
    "no vectors": [("vector", VECTORS, native.Ragged(np.zeros(4, np.uint64), np.empty(0, np.float32))), ("labels", native.parse_type("Array(String)"), native.Ragged(np.zeros(4, np.uint64), []))],
    "vectors of vectors": [("left", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([256]), native.Ragged.of_matrix(np.ones((256, 512), np.float32)))), ("k", native.parse_type("UInt32"), np.array([0]))],
    "no vectors alone": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([0]), native.Ragged(np.array([]), np.array([]))))],
    "no vectors in two rows": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([0, 0]), native.Ragged(np.array([]), np.array([]))))],
    "none, then one": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([0, 1]), native.Ragged.of_matrix(np.ones((1, 512), np.float32))))],
    "256 vectors of 512": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([256]), native.Ragged.of_matrix(np.ones((256, 512), np.float32))))],
    "256 vectors of 77": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([256]), native.Ragged.of_matrix(np.ones((256, 77), np.float32))))],
    "3 vectors": [("vectors", native.parse_type("Array(Array(Float32))"), native.Ragged(np.array([3]), native.Ragged.of_matrix(np.ones((3, 512), np.float32))))],
}  # fmt: skip


def in_form(columns, info: bytes, flag: bytes) -> bytes:
    """A block as ClickHouse writes it for an HTTP client of some client_protocol_version."""
    rows = len(columns[0][2])
    parts = [info, native.varint(len(columns)), native.varint(rows)]
    for name, kind, values in columns:
        parts += [
            native.varint(len(name)),
            name.encode(),
            native.varint(len(kind.name)),
            kind.name.encode(),
            flag,
            *kind.write(values),
        ]
    return b"".join(parts)


@pytest.mark.parametrize("piece", [5, 1 << 18])
@pytest.mark.parametrize(("info", "flag"), [(b"", b""), (INFO, b""), (INFO, b"\x00")], ids=["plain", "54405", "54460"])
@pytest.mark.parametrize("name", FORMS)
def test_blocks_in_every_form_of_client_protocol_version(name, info, flag, piece):
    """Two in a row, so that a look ahead which took a byte too many or too few is noticed; each as long as it is."""
    columns = FORMS[name]
    content = in_form(columns, info, flag) * 2
    source, closed = io.BytesIO(content), []

    def read(size: int) -> bytes:
        received = source.read(min(size, piece))
        assert received or closed, "waits for bytes that never come"
        return received

    stream = native.Stream(read, lambda seconds: source.tell() < len(content))
    for _ in range(2):
        found_columns, rows = native.read_header(stream, [(name, kind.name) for name, kind, _ in columns])
        assert (found_columns, rows) == (len(columns), len(columns[0][2]))
        for _, kind, values in columns:
            native.read_column_header(stream, kind)
            assert repr(to_values(kind, kind.read(stream, rows))) == repr(to_values(kind, values))
    closed.append(True)
    assert native.read_header(stream, [(name, kind.name) for name, kind, _ in columns]) is None


@pytest.mark.parametrize(("info", "flag"), [(b"", b""), (INFO, b""), (INFO, b"\x00")], ids=["plain", "54405", "54460"])
@pytest.mark.parametrize(
    ("wanted", "given", "values"),
    [
        ("UInt16", "UInt8", [0, 96, 255]),
        ("UInt32", "UInt16", [65535, 0]),
        ("Float32", "Float64", [0.9, -3.0]),
        ("Float64", "Float32", [0.5]),
        ("Float32", "UInt8", [0, 1]),
        ("Array(Array(Float32))", "Array(Array(Float64))", [[[1.0, 0.1]], []]),
    ],
)
def test_numbers_as_clickhouse_before_26_7_passes_them(wanted, given, values, info, flag):
    wanted, given = native.parse_type(wanted), native.parse_type(given)
    texts = [b"t"] * len(values)
    columns = [("text", native.String(), texts), ("side", given, to_column(given, values)), ("again", native.String(), texts)]
    stream = native.Stream(io.BytesIO(in_form(columns, info, flag)).read)
    kinds = [native.String(), wanted, native.String()]
    native.read_header(stream, [(name, kind.name) for (name, _, _), kind in zip(columns, kinds, strict=True)])
    read = [native.read_column_header(stream, kind).read(stream, len(values)) for kind in kinds]
    assert (read[0], read[2]) == (texts, texts)
    assert native.write_block([("x", wanted, read[1])], 1) == native.write_block([("x", wanted, to_column(wanted, values))], 1)


@pytest.mark.parametrize(
    ("wanted", "given"), [("UInt8", "UInt16"), ("UInt16", "Float32"), ("Float32", "UInt32"), ("Array(Float32)", "Float32")]
)
def test_numbers_that_may_not_fit_are_refused(wanted, given):
    given = native.parse_type(given)
    stream = native.Stream(io.BytesIO(b"".join(native.write_block([("x", given, [1])], 1))).read)
    with pytest.raises(native.NativeError, match=f"is {given.name}, not "):
        native.read_block(stream, [native.parse_type(wanted)])


def test_newer_forms_are_refused_with_a_sentence():
    stream = native.Stream(io.BytesIO(INFO[:-1] + b"\x03\x00\x00" + in_form(FORMS["texts"], b"", b"\x00")).read)
    with pytest.raises(native.NativeError, match="client_protocol_version of 54480 or more"):
        native.read_header(stream, [("text", "String")])
    stream = native.Stream(io.BytesIO(in_form(FORMS["vectors"], INFO, b"\x00").replace(b"Float32)\x00", b"Float32)\x01")).read)
    native.read_header(stream, [("vector", "Array(Float32)"), ("labels", "Array(String)")])
    stream.flag = b"\x00"
    with pytest.raises(native.NativeError, match="serialization of its own"):
        native.read_column_header(stream, VECTORS)
