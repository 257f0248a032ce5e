"""The `vdx` command as a person uses it: processes of its own, a real terminal for the prompt."""

import json
import os
import re

import pytest

from tests.commands.conftest import Terminal
from tests.conftest import vdx
from vdx_udf.installer.install import stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.statements import split_statements


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """A prefix installed by the command, with the schema; the embedded engine takes one process at a time."""
    prefix = tmp_path_factory.mktemp("cli") / "engine"
    vdx("install", "--prefix", prefix, "--model", "vdx-tiny")
    vdx("sql", "--prefix", prefix, "-f", prefix / "sql")
    yield prefix
    stop_encoder(Layout.embedded(prefix))


def test_a_query_prints_its_answer(prefix):
    assert vdx("sql", "--prefix", prefix, "-q", "SELECT length(encode_text('a red circle'))").stdout == "512\n"
    from_environment = vdx("sql", "-q", "SELECT 1; SELECT 2", env=os.environ | {"VDX_PREFIX": str(prefix)})
    assert from_environment.stdout == "1\n2\n"


def test_files_parameters_and_formats(prefix, tmp_path):
    script = tmp_path / "two.sql"
    script.write_text(
        "-- a comment; with a semicolon\nCREATE TABLE IF NOT EXISTS t (s String) ENGINE = Memory;\nINSERT INTO t VALUES ('a;b'), ('it''s');\nSELECT s FROM t WHERE s = {wanted:String};"
    )
    done = vdx("sql", "--prefix", prefix, "-f", script, "--param", "wanted=a;b", "--format", "JSONEachRow")
    assert json.loads(done.stdout) == {"s": "a;b"}
    own = vdx("sql", "--prefix", prefix, "-q", "SELECT 1 AS x FORMAT CSVWithNames")
    assert own.stdout == '"x"\n1\n'


def test_errors_are_one_line_and_exit_code_1(prefix, tmp_path):
    done = vdx("sql", "--prefix", prefix, "-q", "SELECT encode_image('/nope.png')", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: encode_image: '/nope.png': cannot be read: No such file or directory\n",
    )
    done = vdx("sql", "--prefix", tmp_path / "nothing", "-q", "SELECT 1", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: no bundle is installed in {tmp_path}/nothing: run `vdx install --prefix")
    assert vdx("sql", "--prefix", prefix, "--param", "x", "-q", "SELECT 1", check=False).returncode == 2
    assert vdx("sql", "--prefix", prefix, "--url", "http://x", "-q", "SELECT 1", check=False).returncode == 2


def test_use_holds_for_the_statements_after_it(prefix):
    done = vdx("sql", "--prefix", prefix, "-q",
        "CREATE DATABASE other; USE other; CREATE TABLE t (a Int32) ENGINE = Memory; SELECT currentDatabase(), count() FROM t; USE default;"
        "SELECT count() FROM system.tables WHERE database = 'other'; DROP DATABASE other")  # fmt: skip
    assert done.stdout.splitlines() == ["other\t0", "1"]


def test_doctor_finds_everything_well(prefix):
    done = vdx("doctor", "--prefix", prefix)
    assert re.findall(r"^(\w+)", done.stdout, re.MULTILINE) == ["ok"] * 12


@pytest.mark.long
def test_doctor_names_what_is_broken_and_the_remedy(prefix, tmp_path):
    other = tmp_path / "engine"
    vdx("install", "--prefix", other, "--model", "vdx-tiny")
    xml = other / "functions" / "classify_function.xml"
    xml.unlink()
    done = vdx("doctor", "--prefix", other, check=False)
    assert done.returncode == 1
    assert "FAIL  functions: classify is not registered\n      -> run `vdx install`" in done.stdout
    vdx("install", "--prefix", other, "--model", "vdx-tiny")
    done = vdx("doctor", "--prefix", other, check=False)
    assert "FAIL  tables: missing: images, superseded_images, rejects" in done.stdout
    vdx("sql", "--prefix", other, "-f", other / "sql")
    vdx("sql", "--prefix", other, "-q", "SET materialize_skip_indexes_on_insert = 0;"
        "INSERT INTO images (source, model, vector) SELECT 'x', 'another model', encode_text('x') SETTINGS materialize_skip_indexes_on_insert = 0")  # fmt: skip
    done = vdx("doctor", "--prefix", other, check=False)
    assert (
        "FAIL  vectors in images: 1 of another model (512 dimensions)\n      -> embed them again with vdx-tiny" in done.stdout
    )
    assert "FAIL  vector index: built for 0 of 1 images\n      -> ALTER TABLE images MATERIALIZE INDEX" in done.stdout
    config = other / "user_scripts" / "vdx_worker.json"
    stop_encoder(Layout.embedded(other))
    config.write_text(config.read_text().replace('"vdx-tiny"', '"no/model"'))
    done = vdx("doctor", "--prefix", other, check=False)
    assert "FAIL  encoder: vdx_encoder_info: the encoder service stopped while starting: " in done.stdout


def test_the_prompt_runs_statements_keeps_history_and_survives_errors(prefix, tmp_path):
    terminal = Terminal("sql", "--prefix", prefix, HOME=str(tmp_path))
    terminal.wait_for("vdx> ")
    terminal.type("SELECT 40 +\r")
    terminal.wait_for("...> ")
    terminal.type("2 AS answer;\r")
    terminal.wait_for("answer")
    terminal.wait_for("42")
    terminal.wait_for("vdx> ")
    terminal.type("SELECT nonsense;\r")
    terminal.wait_for("Unknown expression identifier")
    terminal.wait_for(" s\r\n")  # the time it took, printed last
    terminal.wait_for("vdx> ")
    terminal.ends(key="\x04")
    assert "SELECT 40 +" in (tmp_path / ".vdx_sql_history").read_text()


def test_parameters_beside_statements_that_name_none(prefix, tmp_path):
    path = tmp_path / "a.sql"
    path.write_text("-- 5 %, or 10 %d\nSELECT 'abc' LIKE '%b%'; SELECT {word:String} || '%s', {list:Array(String)};")
    done = vdx("sql", "--prefix", prefix, "-f", path, "--param", "word=it's", "--param", "list=['a', 'b']")
    assert done.stdout == "1\nit\\'s%s\t['a','b']\n"


def test_a_long_query_shows_its_progress(prefix, tmp_path):
    slow = "SELECT sum(sleepEachRow(0.01)) AS done FROM numbers(300) SETTINGS max_block_size = 20"
    terminal = Terminal("sql", "--prefix", prefix, "-q", slow, HOME=str(tmp_path))
    terminal.wait_for("/300 ")
    terminal.wait_for("done")
    terminal.ends()


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT ';'; SELECT \"a;b\", `c;d`;", ["SELECT ';'", 'SELECT "a;b", `c;d`']),
        (r"SELECT 'it\'s;', 'it''s;'; SELECT 2", [r"SELECT 'it\'s;', 'it''s;'", "SELECT 2"]),
        ("-- only a comment;\n;/* and; this */;", []),
        ("SELECT 1 -- one; comment\n, 2;\n# another; comment\nSELECT 3", ["SELECT 1 -- one; comment\n, 2", "# another; comment\nSELECT 3"]),
        ("SELECT $tag$ a; 'b $tag$; SELECT 2", ["SELECT $tag$ a; 'b $tag$", "SELECT 2"]),
        ("SELECT 5 /* a ; b */ - 1;;; ", ["SELECT 5 /* a ; b */ - 1"]),
    ],
)  # fmt: skip
def test_statements_end_at_semicolons_that_are_code(text, statements):
    assert list(split_statements(text)) == statements


@pytest.mark.parametrize("what", ["sql", "grid"])
def test_a_terminal_that_shows_pictures_gets_them(prefix, drawn, what, tmp_path):
    folder, _ = drawn
    rows = f"SELECT '{folder}/0000.png' AS source, 0.25 AS distance UNION ALL SELECT '/no/such.png', 0.5"
    arguments = ["sql", "--prefix", prefix, "-q", f"SELECT * FROM ({rows}) ORDER BY distance"]
    if what == "grid":
        arguments = ["grid", "--prefix", prefix, "-q", f"SELECT '{folder}/0000.png'", "-o", tmp_path / "grid.png"]
    terminal = Terminal(*arguments, TERM="xterm-256color")
    terminal.answers_that_it_knows_sixel()
    terminal.wait_for("\x1bP0;0;0q")  # sixel data begin
    terminal.wait_for("\x1b\\")  # and end
    terminal.wait_for("1 pictures: " if what == "grid" else "/no/such.png")
    terminal.ends()
