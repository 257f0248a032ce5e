"""`vdx up` as clients see it: clickhouse-connect, curl, @clickhouse/client and `vdx` itself over HTTP, unchanged."""

import gzip
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import numpy as np
import pytest
import urllib3

from tests.conftest import served, vdx
from vdx_udf.http_statement import Insert, insert_of, only_reads, output_format
from vdx_udf.install import Layout, install

http = urllib3.PoolManager(retries=False)


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> int:
    """The port of a `vdx up` over a prefix of its own."""
    layout = Layout.embedded(tmp_path_factory.mktemp("up"))
    list(install(layout, "vdx-tiny"))
    with served(layout.state) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture
def table(port) -> str:
    """An empty table of this test's own: id UInt64, name String."""
    name = f"t{time.monotonic_ns()}"
    assert ask(port, f"CREATE TABLE {name} (id UInt64, name String) ENGINE = MergeTree ORDER BY id").status == 200
    return name


def ask(port: int, body: bytes | str = "", method: str = "POST", headers: dict | None = None, **parameters: str):
    url = f"http://127.0.0.1:{port}/?{urlencode(parameters)}"
    return http.request(method, url, body=body or None, headers=headers, decode_content=False)


@pytest.mark.parametrize("compress", [False, True, "gzip", "lz4", "zstd"])
def test_clickhouse_connect_works_unchanged(port, table, compress):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=port, compress=compress)
    rows = [[n, f"name {n} 'ü\n\t"] for n in range(3_000)]
    assert client.insert(table, rows, column_names=["id", "name"]).written_rows == 3_000
    found = client.query(f"SELECT id, name FROM {table} WHERE id < {{most:UInt64}} ORDER BY id", parameters={"most": 2_000})
    assert [list(row) for row in found.result_rows] == rows[:2_000]
    empty = client.query(f"SELECT id, name FROM {table} WHERE id > 10000")
    assert (empty.column_names, empty.result_rows) == (("id", "name"), [])
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
        assert sum(row[0] for block in blocks for row in block) == 300_000 * 299_999 // 2
    assert client.query("SELECT getSetting('max_threads')", settings={"max_threads": 1}).result_rows == [(1,)]
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 77}).result_rows == [(77,)]
    assert client.query("SELECT getSetting('max_block_size')").result_rows != [(77,)]  # it was that query's
    assert client.raw_query(f"SELECT count() AS c FROM {table}", fmt="JSONEachRow") == b'{"c":3000}\n'
    assert client.command(f"SELECT count() FROM {table}") == 3_000
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="code: 47"):
        client.query("SELECT nope")
    vector = client.query("SELECT encode_text('a red circle')").result_rows[0][0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    client.close()


def test_dataframes_travel_both_ways(port, table):
    import pandas

    client = clickhouse_connect.get_client(host="127.0.0.1", port=port)
    frame = pandas.DataFrame({"id": np.arange(5, dtype=np.uint64), "name": list("abcde")})
    client.insert_df(table, frame)
    assert client.query_df(f"SELECT * FROM {table} ORDER BY id").to_dict() == frame.to_dict()
    assert client.query_arrow(f"SELECT name FROM {table} ORDER BY id").column("name").to_pylist() == list("abcde")


def test_sessions_keep_temporary_tables_and_settings_and_end(port):
    assert ask(port, "CREATE TEMPORARY TABLE mine AS SELECT 7 AS x", session_id="a", session_timeout="1").status == 200
    assert ask(port, "SET max_threads = 3", session_id="a", session_timeout="1").status == 200
    assert ask(port, "SELECT x, getSetting('max_threads') FROM mine", session_id="a", session_timeout="1").data == b"7\t3\n"
    once = ask(port, "SELECT getSetting('max_threads')", session_id="a", session_timeout="1", max_threads="2")
    assert once.data == b"2\n"
    assert ask(port, "SELECT getSetting('max_threads')", session_id="a", session_timeout="1", session_check="1").data == b"3\n"
    assert ask(port, "SELECT * FROM mine", session_id="b").status == 404
    assert ask(port, "SELECT * FROM mine").status == 404
    time.sleep(1.5)
    gone = ask(port, "SELECT 1", session_id="a", session_check="1")
    assert (gone.status, gone.headers["X-ClickHouse-Exception-Code"]) == (404, "372")


def test_a_session_is_for_one_request_at_a_time(port):
    slow = threading.Thread(target=ask, args=(port, "SELECT sleep(1.5)"), kwargs={"session_id": "slow"})
    slow.start()
    time.sleep(0.5)
    answer = ask(port, "SELECT 1", session_id="slow")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (500, "373")
    assert ask(port, "SELECT 1").data == b"1\n"  # others go on
    slow.join()
    assert ask(port, "SELECT 1", session_id="slow").data == b"1\n"


def test_queries_come_in_the_url_in_the_body_or_in_both(port):
    assert ask(port, method="GET", query="SELECT 1").data == b"1\n"
    assert ask(port, "SELECT 2").data == b"2\n"
    assert ask(port, " FORMAT JSONEachRow", query="SELECT 3 AS x").data == b'{"x":3}\n'
    assert ask(port).data == ask(port, method="GET").data == b"Ok.\n"
    assert ask(port, "SELECT {a:String}, {b:Array(UInt8)}", param_a="x'\\ny", param_b="[1,2]").data == b"x\\'\\ny\t[1,2]\n"


def test_headers_are_those_of_clickhouse(port):
    answer = ask(port, "SELECT number FROM numbers(3)", query_id="mine", default_format="JSON")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "3"
    by_header = ask(
        port, "SELECT currentDatabase() AS d", headers={"X-ClickHouse-Database": "system", "X-ClickHouse-Format": "JSONEachRow"}
    )
    assert by_header.data == b'{"d":"system"}\n'
    assert ask(port, "SELECT currentDatabase()", database="system").data == b"system\n"
    assert http.request("GET", f"http://127.0.0.1:{port}/ping").data == b"Ok.\n"


@pytest.mark.parametrize(
    ("statement", "data"),
    [
        ("INSERT INTO {t} VALUES", b"(1, 'x'), (2, 'FORMAT')"),
        ("INSERT INTO {t} (id, name) FORMAT JSONEachRow", b'{"id": 1, "name": "x"}\n{"id": 2, "name": "FORMAT"}\n'),
        ("INSERT INTO {t} FORMAT CSV", b'1,"x"\n2,"FORMAT"\n'),
        ("INSERT INTO {t} (name, id) FORMAT TabSeparated\n", b"x\t1\nFORMAT\t2\n"),
        ("INSERT INTO {t} SETTINGS async_insert = 0 FORMAT Values ", b"(1,'x'),(2,'FORMAT')"),
        (
            "/* FORMAT CSV */ INSERT INTO `{t}` -- FORMAT\n FORMAT RowBinary\n",
            b"\1" + bytes(7) + b"\1x\2" + bytes(7) + b"\6FORMAT",
        ),
    ],
)
def test_inserts_take_their_data_from_the_body_or_behind_the_statement(port, table, statement, data):
    sql = statement.format(t=table)
    beside = ask(port, data, query=sql)
    assert json.loads(beside.headers["X-ClickHouse-Summary"])["written_rows"] == "2", beside.data
    within = ask(port, sql.encode() + b" " * sql.endswith("VALUES") + b"\n" * (not sql.endswith(("\n", " ", "VALUES"))) + data)
    assert (within.status, within.data) == (200, b"")
    compressed = ask(port, gzip.compress(data), query=sql, headers={"Content-Encoding": "gzip"})
    assert compressed.status == 200, compressed.data
    assert ask(port, f"SELECT id, name, count() FROM {table} GROUP BY ALL ORDER BY id").data == b"1\tx\t3\n2\tFORMAT\t3\n"
    copied = ask(port, f"INSERT INTO {table} SELECT number + 10, 'copy' FROM numbers(2)")
    assert copied.status == 200, copied.data
    assert ask(port, f"SELECT count() FROM {table}").data == b"8\n"


def test_a_row_that_cannot_be_read_fails_the_insert_and_leaves_the_engine_at_work(port, table):
    bad = ask(port, b'{"id": "x"}', query=f"INSERT INTO {table} FORMAT JSONEachRow", session_id="bad")
    assert (bad.status, bad.headers["X-ClickHouse-Exception-Code"]) == (400, "27")
    assert ask(port, f"SELECT count() FROM {table}", session_id="bad").data == b"0\n"


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [("SELECT 1 +", 400, "62"), ("SELECT * FROM nope", 404, "60"), ("SELECT nope()", 404, "46"), ("SELECT 1 FORMAT Nope", 404, "73"),
     ("SELECT throwIf(1, 'so')", 500, "395"), ("DROP TABLE nope", 404, "60")],
)  # fmt: skip
def test_errors_have_clickhouses_code_and_status(port, sql, status, code):
    answer = ask(port, sql)
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (status, code), answer.data
    assert answer.data.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert answer.data.endswith(b")\n")


def test_settings_are_checked_and_a_get_changes_nothing(port, table):
    assert ask(port, "SELECT 1", nonsense="1").headers["X-ClickHouse-Exception-Code"] == "115"
    assert ask(port, "SELECT 1", **{"max_threads = 1; DROP": "1"}).headers["X-ClickHouse-Exception-Code"] == "115"
    for statement in (
        f"DROP TABLE {table}",
        f"INSERT INTO {table} VALUES (1, 'x')",
        f"WITH 1 AS x INSERT INTO {table} SELECT x, ''",
    ):
        answer = ask(port, method="GET", query=statement)
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "164")
    assert ask(port, "SELECT 1", compress="1").status == 501
    accepts = {"Accept-Encoding": "gzip"}
    assert ask(port, "SELECT nope()", headers=accepts, enable_http_compression="1").data.startswith(b"Code: 46. ")
    assert gzip.decompress(ask(port, "SELECT 1", headers=accepts, enable_http_compression="1").data) == b"1\n"


def test_pages_of_other_sites_cannot_send_queries(port):
    """A browser says where a page comes from; a name that was made to resolve to this machine shows in Host."""
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        assert ask(port, "SELECT 1", headers=headers).status in (400, 403)
    assert ask(port, "SELECT 1", headers={"Origin": f"http://127.0.0.1:{port}"}).data == b"1\n"
    with socket.socket() as elsewhere, pytest.raises(OSError, match=r"refused|unreachable|reach"):
        elsewhere.connect((socket.gethostbyname(socket.gethostname()).replace("127.0.", "127.9."), port))


curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@curl
def test_curl_works_as_in_clickhouses_documentation(port, table):
    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(["curl", "-sS", *arguments], capture_output=True, timeout=60, **options)

    base = f"http://localhost:{port}/"
    assert run(f"{base}?query=SELECT%201").stdout == b"1\n"
    assert run(base, "--data-binary", "@-", input=b"SELECT 'from stdin'").stdout == b"from stdin\n"
    assert (
        run(f"{base}?query=INSERT%20INTO%20{table}%20FORMAT%20TabSeparated", "--data-binary", "@-", input=b"1\tx\n").returncode
        == 0
    )
    assert run("--compressed", f"{base}?enable_http_compression=1", "-d", f"SELECT * FROM {table}").stdout == b"1\tx\n"
    late = "SELECT throwIf(number = 900000, 'late') FROM numbers(1000000) SETTINGS max_block_size = 10000"
    broken = run(base, "-d", late)
    assert broken.returncode == 18  # curl: the transfer ended early
    assert b"DB::Exception: late" in broken.stdout[-400:]


def test_a_large_answer_comes_as_it_is_found_and_ends_when_nobody_reads(port):
    answer = http.request(
        "POST", f"http://127.0.0.1:{port}/", body="SELECT number, sleepEachRow(0.001) FROM numbers(1000000) SETTINGS max_block_size = 100",
        preload_content=False,
    )  # fmt: skip
    assert answer.read(10).startswith(b"0\t0\n")  # of a query that takes a quarter of an hour
    answer.close()
    deadline = time.monotonic() + 30
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT number, sleepEachRow%'"
    while (left := ask(port, running).data) != b"0\n" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == b"0\n"


def test_vdx_talks_to_it_like_to_a_server(port, table):
    url = f"http://127.0.0.1:{port}/default"
    vdx("sql", "--url", url, "-q", f"INSERT INTO {table} VALUES (1, 'x'); INSERT INTO {table} SELECT 2, 'y'")
    assert vdx("sql", "--url", url, "-q", f"SELECT * FROM {table} ORDER BY id").stdout == "1\tx\n2\ty\n"
    assert "ok    encoder: vdx-tiny" in vdx("doctor", "--url", url, check=False).stdout


NODE = """
import { createClient } from '@clickhouse/client'
const client = createClient({ url: `http://127.0.0.1:${process.argv[2]}`, compression: { request: true, response: true } })
const table = process.argv[3]
await client.insert({ table, values: [{ id: 1, name: 'x' }, { id: 2, name: 'ü' }], format: 'JSONEachRow' })
const rows = await client.query({ query: `SELECT id, name FROM ${table} WHERE id > {least: UInt64} ORDER BY id`,
  format: 'JSONEachRow', query_params: { least: 0 }, clickhouse_settings: { max_threads: 1 } })
const found = await rows.json()
const whole = await (await client.query({ query: `SELECT count() AS c FROM ${table}`, format: 'JSON' })).json()
let code = ''
try { await client.command({ query: 'SELECT nope()' }) } catch (error) { code = error.code }
const ping = await client.ping()
console.log(JSON.stringify({ found, count: whole.data[0].c, code, ping: ping.success }))
await client.close()
"""


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="Node.js with npm is not installed")
def test_the_client_for_javascript_works_unchanged(port, table, tmp_path):
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    installed = subprocess.run(
        ["npm", "install", "--silent", "@clickhouse/client@1"], cwd=tmp_path, capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install @clickhouse/client: {installed.stderr.strip()[-200:]}")
    (tmp_path / "use.mjs").write_text(NODE)
    done = subprocess.run(["node", "use.mjs", str(port), table], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [{"id": "1", "name": "x"}, {"id": "2", "name": "ü"}]
    answer = json.loads(done.stdout)
    assert [{"id": str(row["id"]), "name": row["name"]} for row in answer["found"]] == rows
    assert (str(answer["count"]), answer["code"], answer["ping"]) == ("2", "46", True)


@pytest.mark.parametrize(
    ("statement", "insert"),
    [
        (b"SELECT 1", None),
        (b"", None),
        (b"INSERT INTO t SELECT 1", None),
        (b"INSERT INTO t WITH 1 AS x SELECT x", None),
        (b"INSERT INTO t FROM INFILE 'x.csv' FORMAT CSV", None),
        (b"INSERT INTO t", Insert("INSERT INTO t", "Values", b"")),
        (b"insert into t values (1)", Insert("insert into t ", "Values", b" (1)")),
        (b"INSERT INTO t FORMAT Native\n\x01\xff", Insert("INSERT INTO t ", "Native", b"\x01\xff")),
        (b"INSERT INTO t FORMAT Native \n\n\x01", Insert("INSERT INTO t ", "Native", b"\n\x01")),
        (b"INSERT INTO `a FORMAT b` (`VALUES`, format) FORMAT CSV 1", Insert("INSERT INTO `a FORMAT b` (`VALUES`, format) ", "CSV", b"1")),
        (b"INSERT INTO FUNCTION file('x', 'CSV', 'a FORMAT') VALUES (1)", Insert("INSERT INTO FUNCTION file('x', 'CSV', 'a FORMAT') ", "Values", b" (1)")),
    ],
)  # fmt: skip
def test_the_parts_of_an_insert(statement, insert):
    assert insert_of(statement) == insert


def test_what_a_statement_asks_for_and_may_do():
    assert output_format(b"SELECT 1 FORMAT JSONEachRow;") == "JSONEachRow"
    assert output_format(b"SELECT 1 FORMAT CSV SETTINGS max_threads = 1") == "CSV"
    assert output_format(b"SELECT 'FORMAT CSV'") is None
    for reads in (b"SELECT 1", b"-- x\n WITH 1 AS x SELECT x", b"(SELECT 1)", b"SHOW TABLES", b"EXPLAIN SELECT 1"):
        assert only_reads(reads) is (not reads.startswith(b"("))
    for writes in (
        b"INSERT INTO t VALUES (1)",
        b"WITH 1 AS x INSERT INTO t SELECT x",
        b"DROP TABLE t",
        b"SYSTEM RELOAD CONFIG",
        b"",
    ):
        assert not only_reads(writes)


def test_a_prefix_without_a_bundle_is_said_so(tmp_path):
    done = vdx("up", "--data", tmp_path / "nothing", "--port", "1", check=False)
    assert done.returncode == 1
    assert f"no bundle is installed in {Path(tmp_path / 'nothing')}: run `vdx install --prefix" in done.stderr
