"""`vdx up` as ClickHouse's clients see it, each unchanged: they query it, and each inserts the same 10,000 pictures."""

import asyncio
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from threading import Thread

import clickhouse_connect
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tests.conftest import ask, started, wait_for
from vdx_udf.encoder.native import varint
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout

pytestmark = pytest.mark.long

COUNT = 10_000
COLUMNS = ["source", "dataset", "bytes"]


class Up:
    """A `vdx up`: its ports, and a client of clickhouse-connect that the tests ask what others did."""

    def __init__(self, url: str, native_port: int):
        self.url, self.port, self.native_port = url, int(url.rpartition(":")[2]), native_port
        self.client = clickhouse_connect.get_client(host="127.0.0.1", port=self.port)
        self.client.command("ALTER TABLE images DROP INDEX vector_index")  # half of the time that pictures take here


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    layout = Layout.embedded(tmp_path_factory.mktemp("up"))
    list(install(layout, "vdx-tiny"))
    with started(layout.state) as (_, url, native_port):
        yield Up(url, native_port)


def png(rng: np.random.Generator) -> bytes:
    """A picture of 4 x 4 random pixels."""
    rows = b"".join(b"\0" + rng.bytes(12) for _ in range(4))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """10,000 pictures; every hundredth is broken, each in one of three ways."""
    rng = np.random.default_rng(17)
    found = [png(rng) for _ in range(COUNT)]
    for number in range(0, COUNT, 100):
        found[number] = (b"no picture %d" % number, found[number][:50], b"\x89PNG\r\n\x1a\n" + rng.bytes(40))[number // 100 % 3]
    return found


@pytest.fixture(scope="module")
def parquet(pictures, tmp_path_factory) -> Path:
    """The same as rows of `inbox`, for clients that send files."""
    path = tmp_path_factory.mktemp("parquet") / "inbox.parquet"
    rows = {"source": [f"{n}.png" for n in range(COUNT)], "dataset": ["file"] * COUNT, "bytes": pictures}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    return path


@pytest.fixture
def taken(up):
    """Empties the tables; afterwards 9,900 pictures of this test are images and 100 are rejects."""
    for table in ("images", "rejects"):
        up.client.command(f"TRUNCATE TABLE {table}")
    yield
    found = up.client.query("SELECT (SELECT count() FROM images), (SELECT count() FROM rejects)").result_rows
    assert found == [(COUNT - COUNT // 100, COUNT // 100)]


def rows_of(pictures: list[bytes], dataset: str) -> list[tuple]:
    return [(f"{number}.png", dataset, picture) for number, picture in enumerate(pictures)]


def columns_of(pictures: list[bytes], dataset: str) -> dict[str, list]:
    return dict(zip(COLUMNS, map(list, zip(*rows_of(pictures, dataset), strict=True)), strict=True))


@pytest.fixture
def table(up) -> str:
    """An empty table of this test's own: id UInt64, name String."""
    up.client.command("CREATE OR REPLACE TABLE mine (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
    return "mine"


NAMES = [[n, f"name {n} 'ü\n\t"] for n in range(3_000)]


@pytest.mark.parametrize("compress", [False, True, "gzip", "lz4", "zstd"])
def test_clickhouse_connect(up, table, compress):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=up.port, compress=compress)
    assert client.insert(table, NAMES, column_names=["id", "name"]).written_rows == 3_000
    found = client.query(f"SELECT id, name FROM {table} WHERE id < {{most:UInt64}} ORDER BY id", parameters={"most": 2_000})
    assert [list(row) for row in found.result_rows] == NAMES[:2_000]
    assert client.query(f"SELECT id, name FROM {table} WHERE id > 10000").result_rows == []
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
        assert sum(row[0] for block in blocks for row in block) == 300_000 * 299_999 // 2
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 77}).result_rows == [(77,)]
    assert client.query("SELECT getSetting('max_block_size')").result_rows != [(77,)]  # it was that query's
    assert client.raw_query(f"SELECT count() AS c FROM {table}", fmt="JSONEachRow") == b'{"c":3000}\n'
    assert client.command(f"SELECT count() FROM {table}") == 3_000
    client.command("CREATE TEMPORARY TABLE kept AS SELECT 7 AS x")  # this client keeps a session
    assert client.command("SELECT x FROM kept") == 7
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="code: 47"):
        client.query("SELECT nope")
    assert np.linalg.norm(client.query("SELECT encode_text('a red circle')").result_rows[0][0]) == pytest.approx(1, abs=1e-3)
    client.close()


def test_clickhouse_connect_with_dataframes(up, table):
    frame = pandas.DataFrame({"id": np.arange(5, dtype=np.uint64), "name": list("abcde")})
    up.client.insert_df(table, frame)
    assert up.client.query_df(f"SELECT * FROM {table} ORDER BY id").to_dict() == frame.to_dict()
    assert up.client.query_arrow(f"SELECT name FROM {table} ORDER BY id").column("name").to_pylist() == list("abcde")


def test_clickhouse_connect_inserts_labels(up):
    up.client.insert("labels", [["l", 1, True], ["l", 2, False]], column_names=["concept", "image_id", "positive"])
    up.client.insert_df("labels", pandas.DataFrame({"concept": ["l"], "image_id": np.uint64([3]), "positive": [True]}))
    positive = up.client.query("SELECT image_id FROM current_labels WHERE concept = 'l' AND positive ORDER BY image_id")
    assert positive.result_rows == [(1,), (3,)]


def test_clickhouse_connect_inserts_pictures(up, pictures, taken):
    up.client.insert("inbox", rows_of(pictures, "connect"), column_names=COLUMNS, settings={"max_insert_block_size": 3_000})


def test_clickhouse_connect_inserts_a_dataframe_of_pictures(up, pictures, taken):
    up.client.insert_df("inbox", pandas.DataFrame(columns_of(pictures, "df")))


def test_clickhouse_connect_inserts_an_arrow_table_of_pictures(up, pictures, taken):
    up.client.insert_arrow("inbox", pyarrow.table(columns_of(pictures, "arrow")))


def test_the_asynchronous_clickhouse_connect(up, table, pictures, taken):
    async def use():
        client = await clickhouse_connect.get_async_client(host="127.0.0.1", port=up.port)
        await client.insert(table, NAMES, column_names=["id", "name"])
        many = await asyncio.gather(*(
            client.query(f"SELECT name FROM {table} WHERE id = {{n:UInt64}}", {"n": n}, settings={"max_threads": 1})
            for n in range(20)
        ))  # fmt: skip
        assert [found.result_rows[0][0] for found in many] == [name for _, name in NAMES[:20]]
        async with await client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
            assert sum([row[0] async for block in blocks for row in block]) == 300_000 * 299_999 // 2
        await client.insert("inbox", rows_of(pictures, "async"), column_names=COLUMNS)
        await client.close()

    asyncio.run(use())


def test_clickhouse_driver_over_the_native_protocol(up, table, pictures, taken):
    from clickhouse_driver import Client, errors

    client = Client("127.0.0.1", up.native_port, settings={"strings_as_bytes": True})
    rows = [(source.encode(), dataset.encode(), picture) for source, dataset, picture in rows_of(pictures, "driver")]
    assert client.execute("INSERT INTO inbox (source, dataset, bytes) VALUES", rows) == COUNT
    plain = Client("127.0.0.1", up.native_port)
    plain.execute(f"INSERT INTO {table} VALUES", NAMES)
    assert plain.execute(f"SELECT * FROM {table} WHERE id < %(n)s ORDER BY id", {"n": 5}) == [tuple(row) for row in NAMES[:5]]
    assert sum(n for (n,) in plain.execute_iter("SELECT number FROM numbers(300000)")) == 300_000 * 299_999 // 2
    progress = plain.execute_with_progress("SELECT max(number) FROM numbers(3000000)")
    assert max(read for read, _ in progress) == 3_000_000
    assert plain.execute("SELECT getSetting('max_block_size')", settings={"max_block_size": 77}) == [(77,)]
    tables = [{"name": "ext", "structure": [("x", "Int32")], "data": [{"x": 1}, {"x": 2}]}]
    assert plain.execute("SELECT sum(x) FROM ext", external_tables=tables) == [(3,)]
    ((vector, source),) = plain.execute(
        "SELECT encode_text('a red circle'), (SELECT source FROM search_text(query = 'a red circle', k = 1))"
    )
    assert (len(vector), source.endswith(".png")) == (512, True)
    with pytest.raises(errors.ServerException, match="nope"):
        plain.execute("SELECT nope")
    with pytest.raises(errors.ServerException, match=r"encode_image: .*/no/such\.png"):
        plain.execute("SELECT encode_image('/no/such.png')")
    for each in (client, plain):
        each.disconnect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its socket to the collector
def test_asynch_over_the_native_protocol(up, table, pictures, taken):
    from asynch import Connection

    async def use():
        async with Connection(host="127.0.0.1", port=up.native_port) as connection, connection.cursor() as cursor:
            await cursor.execute(f"INSERT INTO {table} (id, name) VALUES", NAMES)
            await cursor.execute(f"SELECT name FROM {table} ORDER BY id LIMIT 2")
            assert await cursor.fetchall() == [(name,) for _, name in NAMES[:2]]
            await cursor.execute("SELECT length(encode_text('a red circle'))")
            assert await cursor.fetchone() == (512,)
            await cursor.execute("INSERT INTO inbox (source, dataset, bytes) VALUES", rows_of(pictures, "asynch"))
            # It does not wait for the server's answer to an INSERT, and a connection that closes earlier cancels it.
            counts = "SELECT (SELECT count() FROM images) + (SELECT count() FROM rejects)"
            wait_for(lambda: up.client.command(counts) == COUNT)

    asyncio.run(use())


def test_sqlalchemy(up, table, pictures, taken):
    import sqlalchemy as sa

    engine = sa.create_engine(f"clickhousedb://127.0.0.1:{up.port}/default")
    assert {"images", "inbox", "labels", table} <= set(sa.inspect(engine).get_table_names())
    kept = sa.MetaData()
    images, inbox, mine = (sa.Table(name, kept, autoload_with=engine) for name in ("images", "inbox", table))
    assert {"id", "source", "dataset", "vector", "attributes"} <= set(images.columns.keys())
    with engine.begin() as connection:
        connection.execute(sa.insert(mine), [{"id": number, "name": name} for number, name in NAMES[:10]])
        query = sa.select(mine.c.name).where(mine.c.id < 3).order_by(mine.c.id)
        assert connection.execute(query).scalars().all() == [name for _, name in NAMES[:3]]
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(pictures, "sqlalchemy")]
        connection.execute(sa.insert(inbox), rows)
        assert connection.execute(sa.select(sa.func.count()).select_from(images)).scalar() == COUNT - COUNT // 100
    engine.dispose()


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")  # ibis 12 asks pandas 3 for it
def test_ibis(up, table, pictures, taken):
    import ibis

    connection = ibis.clickhouse.connect(host="127.0.0.1", port=up.port)
    assert {"images", "inbox", table} <= set(connection.list_tables())
    connection.insert("inbox", pandas.DataFrame(columns_of(pictures, "ibis")))
    images = connection.table("images")
    assert images.filter(images.dataset == "ibis").count().execute() == COUNT - COUNT // 100
    nearest = connection.sql("SELECT source, distance FROM search_text(query = 'a red circle', k = 5)").execute()
    assert list(nearest.distance) == sorted(nearest.distance)
    connection.disconnect()


def test_curl(up, parquet, taken):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    url = f"{up.url}/?query=INSERT%20INTO%20inbox%20FORMAT%20Parquet&max_insert_block_size=5000"
    done = subprocess.run(["curl", "-sS", "--fail", url, "-T", parquet, "-X", "POST"], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr


NODE = """
import { createClient } from '@clickhouse/client'
import { createReadStream } from 'node:fs'
const [url, table, file] = process.argv.slice(2)
const client = createClient({ url, compression: { request: true, response: true } })
await client.insert({ table, values: [{ id: 1, name: 'x' }, { id: 2, name: 'ü' }], format: 'JSONEachRow' })
const rows = await client.query({ query: `SELECT id, name FROM ${table} WHERE id > {least: UInt64} ORDER BY id`,
  format: 'JSONEachRow', query_params: { least: 0 }, clickhouse_settings: { max_threads: 1 } })
const found = await rows.json()
const whole = await (await client.query({ query: `SELECT count() AS c FROM ${table}`, format: 'JSON' })).json()
let streamed = 0
const stream = (await client.query({ query: 'SELECT number FROM numbers(100000)', format: 'JSONEachRow' })).stream()
for await (const some of stream) streamed += some.length
let code = ''
try { await client.command({ query: 'SELECT nope()' }) } catch (error) { code = error.code }
const ping = await client.ping()
await client.insert({ table: 'inbox', values: createReadStream(file), format: 'Parquet' })
console.log(JSON.stringify({ found, count: whole.data[0].c, streamed, code, ping: ping.success }))
await client.close()
"""


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node.js with npm is not installed")
def test_the_client_for_javascript(up, table, parquet, tmp_path, request):
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    installed = subprocess.run(
        ["npm", "install", "--silent", "@clickhouse/client@1"], cwd=tmp_path, capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install @clickhouse/client: {installed.stderr.strip()[-200:]}")
    request.getfixturevalue("taken")
    (tmp_path / "use.mjs").write_text(NODE)
    done = subprocess.run(["node", "use.mjs", up.url, table, parquet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [{"id": "1", "name": "x"}, {"id": "2", "name": "ü"}]
    answer = json.loads(done.stdout)
    assert [{"id": str(row["id"]), "name": row["name"]} for row in answer["found"]] == rows
    assert (str(answer["count"]), answer["streamed"], answer["code"], answer["ping"]) == ("2", 100_000, "46", True)


def test_clickhouse_client_itself(up, pictures, request):
    program = shutil.which("clickhouse-client")
    if not program:
        pytest.skip("clickhouse-client is not installed")
    request.getfixturevalue("taken")
    command = [program, "--host", "127.0.0.1", "--port", str(up.native_port), "--query"]
    rows = [
        varint(len(value)) + value
        for source, dataset, picture in rows_of(pictures, "client")
        for value in (source.encode(), dataset.encode(), picture)
    ]
    insert = [*command, "INSERT INTO inbox (source, dataset, bytes) FORMAT RowBinary"]
    subprocess.run(insert, input=b"".join(rows), check=True)
    done = subprocess.run([*command, "SELECT length(encode_text('a'))"], capture_output=True, text=True, check=True)
    assert done.stdout == "512\n"


def test_clients_see_one_anothers_queries_and_end_them(up):
    """KILL QUERY over HTTP of a query of the native protocol."""
    from clickhouse_driver import Client, errors

    said = []

    def run() -> None:
        client = Client("127.0.0.1", up.native_port)
        try:
            client.execute("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1", query_id="long")
        except errors.ServerException as error:
            said.append(error.code)
        client.disconnect()

    thread = Thread(target=run)
    thread.start()
    wait_for(lambda: ask(up.url, "SELECT 1 FROM system.processes WHERE query_id = 'long'"))
    ask(up.url, "KILL QUERY WHERE query_id = 'long' SYNC")
    thread.join()
    assert said == [394]
