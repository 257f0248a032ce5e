"""One server with the bundle, over HTTP as its users reach it."""

import io
import json
import threading
import time
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest

from tests.conftest import vdx
from vdx_udf.commands.doctor import examine
from vdx_udf.installer import explorer
from vdx_udf.tiny.pictures import draw, sample_picture

pytestmark = pytest.mark.long


def ask(server, statement: str, **parameters: object) -> list[str]:
    """The lines of an HTTP answer in TabSeparated; a failure's text raises."""
    try:
        with urlopen(Request(f"{server.url}/?{urlencode(parameters)}", statement.encode())) as answer:
            return answer.read().decode().splitlines()
    except HTTPError as error:
        raise AssertionError(error.read().decode()) from error


@pytest.fixture(scope="module")
def pictures(server):
    """300 pictures, inserted as bytes by clickhouse-connect; the client that did."""
    client, rng, rows = server.client(), np.random.default_rng(3), []
    for number in range(300):
        file = io.BytesIO()
        draw(sample_picture(rng)).save(file, "png")
        rows.append((f"{number}.png", "drawn", file.getvalue() if number else b"no picture"))
    client.insert("inbox", rows, ["source", "dataset", "bytes"])
    assert client.query("SELECT count() FROM images").result_rows == [(299,)]
    assert client.query("SELECT source FROM rejects").result_rows == [("0.png",)]
    return client


def test_the_doctor_finds_every_part_in_order(server, pictures):
    checks = list(examine(pictures))
    assert [check.what for check in checks if not check.good] == []
    said = vdx("doctor", "--url", server.url).stdout
    assert said.count("ok  ") == len(checks)


def test_the_doctor_changes_nothing_and_says_what_a_reader_may_not(server, pictures):
    state = "SELECT name, total_rows, metadata_modification_time FROM system.tables WHERE database = currentDatabase() ORDER BY name"
    before = pictures.query(state).result_rows
    client = server.client(readonly=1)
    wrong = [check for check in examine(client) if not check.good]
    assert [(check.what, check.found) for check in wrong] == [
        ("rights", "lacking: INSERT ON inbox, INSERT ON labels, INSERT ON classifiers")
    ]
    assert pictures.query(state).result_rows == before


@pytest.mark.parametrize("statement", [
    "SELECT encode_text('a red circle')[1], encode_text('')[1]",
    "SELECT length(encode_text(text)) FROM values('text String', '', 'a', 'b', '')",
    "SELECT arraySum(encode_text(if(number = 0, '', toString(number % 3)))) FROM numbers(100000) WHERE number % 33333 = 0",
    "SELECT classify(encode_text(text), ['a', 'b']) FROM values('text String', '', 'a', 'b', '')",
    "SELECT classify(if(number = 0, [], encode_text('q')), ['a', '', 'c']) FROM numbers(3)",
    "SELECT try_encode_image(image).error FROM values('image String', '', 'x')",
    "SELECT encoder_info()['model'], encoder_info()['dimension']",
    "SELECT vdx_near([encode_text('a'), encode_text('b')], [encode_text('c')], 0::UInt32, 0.1::Float32)",
    "SELECT vdx_near(arrayMap(i -> [i / 256, 1]::Array(Float32), range(256)), [[1, 1]::Array(Float32)], 2::UInt32, 0.1::Float32)",
    "SELECT length(vdx_layout(groupArray(vector))) FROM images WHERE dataset = 'nope'",
    "SELECT length(vdx_layout(arrayMap(i -> [cos(i), sin(i)]::Array(Float32), range(256))))",
])  # fmt: skip
def test_clients_of_every_protocol_version_get_the_same(server, statement):
    """Plain HTTP, clickhouse-connect's version and clickhouse-go's: ClickHouse changes the blocks that a function is sent."""
    answers = [
        ask(server, statement, **({"client_protocol_version": version} if version else {})) for version in (0, 54405, 54460)
    ]
    assert answers[0]
    assert answers[1] == answers[2] == answers[0]


def test_a_newer_protocol_version_is_refused_with_a_sentence(server):
    with pytest.raises(AssertionError, match="client_protocol_version of 54480 or more"):
        ask(server, "SELECT encode_text('a')", client_protocol_version=54483)


def test_search_label_refine(pictures):
    found = pictures.query("SELECT source, distance FROM search_text(query = 'a red circle', k = 9)").result_rows
    assert len(found) == 9
    assert [distance for _, distance in found] == sorted(distance for _, distance in found)
    plan = pictures.query("EXPLAIN indexes = 1 SELECT * FROM search_text(query = 'a red circle', k = 9)").result_rows
    assert any("vector_similarity" in line for (line,) in plan)
    pictures.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'red', prompt = 'a red circle')")
    pictures.command(
        "INSERT INTO labels (concept, image_id, positive) SELECT 'red', id, rowNumberInAllBlocks() % 2 = 0 FROM next_to_label(concept = 'red', k = 20)"
    )
    pictures.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'red')")
    assert pictures.query("SELECT max(round) FROM classifiers WHERE concept = 'red'").result_rows == [(1,)]
    assert pictures.query("SELECT count() FROM scores(concept = 'red')").result_rows == [(299,)]


def test_paths_stay_within_user_files(server):
    (reason,) = ask(server, "SELECT try_encode_image('/etc/passwd').error")
    assert "lies outside the allowed folders" in reason


def test_the_server_serves_the_explorer_page_and_its_own(server):
    for path in explorer.files():
        name = "" if path.name == "index.html" else path.name
        with urlopen(f"{server.url}{explorer.URL}/{name}") as answer:
            assert answer.read() == path.read_bytes()
            assert answer.headers["Content-Type"].startswith("text/")
    with urlopen(f"{server.url}/ping") as answer:
        assert answer.read() == b"Ok.\n"
    with urlopen(f"{server.url}/dashboard") as answer:
        assert b"<title>ClickHouse Dashboard" in answer.read()


def test_many_clients_at_once_get_their_own_rows(server):
    """Each asks for texts of its own; a vector of another's would show."""
    failures = []

    def one(number: int) -> None:
        statement = f"SELECT encode_text('text {number}') = encode_text(materialize('text {number}')) FROM numbers(50)"
        for _ in range(5):
            if ask(server, statement) != ["1"] * 50:
                failures.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_functions_can_be_reloaded_while_they_answer(server):
    stop, failures = threading.Event(), []

    def ask_on() -> None:
        while not stop.is_set():
            try:
                assert ask(server, "SELECT length(encode_text(toString(number))) FROM numbers(20)") == ["512"] * 20
            except AssertionError as error:
                failures.append(str(error))

    thread = threading.Thread(target=ask_on)
    thread.start()
    for _ in range(5):
        ask(server, "SYSTEM RELOAD FUNCTIONS")
        time.sleep(0.2)
    stop.set()
    thread.join()
    assert not failures


def test_clickhouse_client_itself(server, pictures):
    if server.command_line is None:
        pytest.skip("no clickhouse-client: it is in the server's image, chDB has none")
    assert server.command_line("SELECT length(encode_text('a red circle'))").split() == ["512"]
    found = server.command_line("SELECT source FROM search_text(query = 'a red circle', k = 3) FORMAT JSONEachRow")
    assert len([json.loads(line) for line in found.splitlines()]) == 3
