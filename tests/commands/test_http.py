"""`vdx up` over HTTP, as ClickHouse's documentation describes the interface."""

import gzip
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from urllib.parse import urlencode

import numpy as np
import pytest
import urllib3

from tests.conftest import served, vdx, wait_for
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import draw, sample_picture

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


def test_sessions_keep_temporary_tables_and_settings_and_end(port):
    assert ask(port, "CREATE TEMPORARY TABLE mine AS SELECT 7 AS x", session_id="a").status == 200
    assert ask(port, "SET max_threads = 3", session_id="a").status == 200
    assert ask(port, "SELECT x, getSetting('max_threads') FROM mine", session_id="a").data == b"7\t3\n"
    assert ask(port, "SELECT getSetting('max_threads')", session_id="a", max_threads="2").data == b"2\n"
    assert ask(port, "SELECT getSetting('max_threads')", session_id="a", session_check="1").data == b"3\n"
    assert ask(port, "SELECT * FROM mine", session_id="b").status == 404
    assert ask(port, "SELECT * FROM mine").status == 404
    assert ask(port, "SELECT 1", session_id="short", session_timeout="1").status == 200

    def gone() -> bool:
        time.sleep(2)  # each look at it lengthens its life
        return ask(port, "SELECT 1", session_id="short", session_check="1").headers.get("X-ClickHouse-Exception-Code") == "372"

    wait_for(gone)


def test_a_session_is_for_one_request_at_a_time(port):
    endless = "SELECT sleepEachRow(0.1) FROM numbers(100000) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
    slow = threading.Thread(target=ask, args=(port, endless), kwargs={"session_id": "slow"})
    slow.start()
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleepEachRow%'"
    wait_for(lambda: ask(port, running).data == b"1\n")
    answer = ask(port, "SELECT 1", session_id="slow")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (500, "373")
    assert ask(port, "SELECT 1").data == b"1\n"  # others go on
    ask(port, "KILL QUERY WHERE query LIKE 'SELECT sleepEachRow%' SYNC")
    slow.join()
    assert ask(port, "SELECT 1", session_id="slow").data == b"1\n"


def test_queries_come_in_the_url_in_the_body_or_in_both(port):
    assert ask(port, method="GET", query="SELECT 1").data == b"1\n"
    assert ask(port, "SELECT 2").data == b"2\n"
    assert ask(port, " FORMAT JSONEachRow", query="SELECT 3 AS x").data == b'{"x":3}\n'
    assert ask(port, "INSERT INTO FUNCTION null('x String') VALUES ({x:String})", param_x="a").status == 200
    assert ask(port, "SELECT {a:String}, {b:Array(UInt8)}", param_a="x'\\ny", param_b="[1,2]").data == b"x\\'\\ny\t[1,2]\n"


def test_headers_are_those_of_clickhouse(port):
    answer = ask(port, "SELECT number FROM numbers(3)", query_id="mine", default_format="JSON", wait_end_of_query="1")
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
        ("INSERT INTO {t} (name, id) FORMAT TabSeparated", b"x\t1\nFORMAT\t2\n"),
        ("INSERT INTO {t} SETTINGS async_insert = 0 FORMAT Values ", b"(1,'x'),(2,'FORMAT')"),
        (
            "/* FORMAT CSV */ INSERT INTO `{t}` -- FORMAT\n FORMAT RowBinary",
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
        assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    assert ask(port, "SELECT 1", compress="1").data[16] in (0x82, 0x90)  # ClickHouse's own frame of LZ4 or ZSTD
    accepts = {"Accept-Encoding": "gzip"}
    failed = ask(port, "SELECT nope()", headers=accepts, enable_http_compression="1").data
    assert gzip.decompress(failed).startswith(b"Code: 46. ")
    assert gzip.decompress(ask(port, "SELECT 1", headers=accepts, enable_http_compression="1").data) == b"1\n"


curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@curl
def test_curl_works_as_in_clickhouses_documentation(port, table):
    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(["curl", "-sS", *arguments], capture_output=True, **options)

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
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT number, sleepEachRow%'"
    wait_for(lambda: ask(port, running).data == b"0\n")


def test_vdx_talks_to_it_like_to_a_server(port, table):
    url = f"http://127.0.0.1:{port}/default"
    vdx("sql", "--url", url, "-q", f"INSERT INTO {table} VALUES (1, 'x'); INSERT INTO {table} SELECT 2, 'y'")
    assert vdx("sql", "--url", url, "-q", f"SELECT * FROM {table} ORDER BY id").stdout == "1\tx\n2\ty\n"
    assert "ok    encoder: vdx-tiny" in vdx("doctor", "--url", url, check=False).stdout


def test_inserts_with_settings_store_their_rows(port):
    """As clickhouse-connect sends them."""
    file = io.BytesIO()
    draw(sample_picture(np.random.default_rng(5))).save(file, "png")
    body = json.dumps({"source": "a.png", "dataset": "settings", "bytes": "no picture"}) + "\n"
    given = {"query": "INSERT INTO inbox FORMAT JSONEachRow", "date_time_input_format": "best_effort", "session_id": "i"}
    assert ask(port, body, **given).status == 200
    blob = (
        "INSERT INTO inbox (source, dataset, bytes) SELECT 'b.png', 'settings', data FROM input('data String') FORMAT RawBLOB"
    )
    assert ask(port, file.getvalue(), query=blob, max_threads="1").status == 200
    assert ask(port, "SELECT count() FROM rejects WHERE dataset = 'settings'").data == b"1\n"
    assert ask(port, "SELECT source FROM images WHERE dataset = 'settings'").data == b"b.png\n"


def test_the_order_of_parameters_and_a_read_only_query_leave_a_session_alone(port):
    for given in ({"session_id": "s", "readonly": "1"}, {"readonly": "1", "session_id": "s"}):
        refused = ask(port, "CREATE TABLE after_readonly (x Int8) ENGINE = Null", **given)
        assert refused.headers["X-ClickHouse-Exception-Code"] == "164"
        assert ask(port, "SELECT 1", **given).data == b"1\n"
        assert ask(port, "CREATE OR REPLACE TABLE after_readonly (x Int8) ENGINE = Null", session_id="s").status == 200


def test_external_tables_come_as_forms(port):
    answer = http.request(
        "POST", f"http://127.0.0.1:{port}/?{urlencode({'query': 'SELECT sum(x) FROM ext', 'ext_structure': 'x Int32'})}",
        fields={"ext": ("ext", "1\n2\n")},
    )  # fmt: skip
    assert answer.data == b"3\n"


def test_progress_comes_in_headers_before_the_answer(port):
    given = urlencode({"send_progress_in_http_headers": 1, "http_headers_progress_interval_ms": 100, "wait_end_of_query": 1})
    with socket.create_connection(("127.0.0.1", port)) as connection:
        query = b"SELECT sum(sleepEachRow(0.2)) FROM numbers(15) SETTINGS max_block_size = 1"
        head = f"POST /?{given} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(query)}\r\n\r\n"
        connection.sendall(head.encode() + query)
        received = connection.recv(65_536)
        while b"X-ClickHouse-Progress: " not in received:
            received += connection.recv(65_536)
        assert b"\r\n\r\n" not in received  # the head goes on
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65_536)
    assert received.count(b"X-ClickHouse-Progress: ") > 3
    assert b"\r\n0\n\r\n" in received


def test_a_query_can_be_ended_by_its_id(port):
    said = []
    query = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    thread = threading.Thread(target=lambda: said.append(ask(port, query, query_id="long")))
    thread.start()
    wait_for(lambda: ask(port, "SELECT 1 FROM system.processes WHERE query_id = 'long'").data)
    assert ask(port, "KILL QUERY WHERE query_id = 'long' SYNC").status == 200
    thread.join()
    assert said[0].headers["X-ClickHouse-Exception-Code"] == "394"


def test_ending_every_query_leaves_the_server_up(port):
    """Its own, which keeps it up, among them."""
    assert b"FROM file(0" in ask(port, "KILL QUERY WHERE 1").data
    wait_for(lambda: ask(port, "SELECT count() FROM system.processes WHERE NOT is_cancelled").data == b"1\n")
    assert ask(port, "SELECT length(encode_text('a'))").data == b"512\n"
