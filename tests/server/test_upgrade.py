"""A bundle that is installed over another one on a running server, forwards and back, while people ask it; and its tables' schema."""

import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import vdx, wait_for
from tests.server.node import Node, free_nodes
from vdx_udf import engine, settings
from vdx_udf.commands.doctor import examine
from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.installer import live
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.statements import split_statements

pytestmark = pytest.mark.long

BEFORE_VERSIONS = Path(__file__).parent.parent / "data" / "schema_before_versions.sql"  # as of the first loaders


@pytest.fixture
def node(tmp_path):
    (node,) = free_nodes(tmp_path, 1)
    node.configure()
    list(install(node.layout, "vdx-tiny"))
    with node.running():
        yield node


@contextmanager
def asked_all_the_time(node: Node, threads: int = 4):
    """Yields (answers, failures) that grow while others ask the server."""
    answers, failures, over = [], [], threading.Event()

    def ask(number: int) -> None:
        client = engine.connect_server(node.url)
        while not over.is_set():
            text = f"text {number} {len(answers)}"
            try:
                answers.append(
                    client.query(f"SELECT length(encode_text('{text}')), vdx_encoder_info('now')['pid']").result_rows[0]
                )
            except Exception as error:
                failures.append(error)

    running = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield answers, failures
    finally:
        over.set()
        for thread in running:
            thread.join()


def is_alive(pid: int) -> bool:
    """A worker that started the service and still runs does not ask how it ended: it stays in the process table as a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_an_upgrade_and_its_rollback_fail_no_query(node):
    """The new pool beside the old one: those who are connected are answered by the service they have."""
    client = engine.connect_server(node.url)
    with asked_all_the_time(node) as (answers, failures):
        wait_for(lambda: failures or len(answers) > 20)
        pids = [int(answers[-1][1])]
        for options in (("--jpeg-scale", "1"), ("--jpeg-scale", "2")):  # the upgrade, the rollback
            written = [path.name for action, path in install(node.layout, "vdx-tiny", options=options) if action == "write"]
            assert written == ["vdx_worker.json"]
            client.command("SYSTEM RELOAD FUNCTIONS")  # chDB has no SYSTEM RELOAD CONFIG
            wait_for(lambda: failures or int(answers[-1][1]) not in pids)
            pids.append(int(answers[-1][1]))
            wait_for(lambda: failures or not is_alive(pids[-2]))  # with the last of its workers
        assert client.query("SELECT vdx_encoder_info('now')['jpeg_scale']").result_rows == [("2",)]
    assert failures == []
    assert {length for length, _ in answers} == {512}
    assert len(pids) == 3


def test_another_model_never_answers_beside_the_old_one(node, tmp_path):
    """Its vectors would mix with the old one's: the old service ends at once, a query of that moment with a sentence."""
    client = engine.connect_server(node.url)
    old = int(client.query("SELECT vdx_encoder_info('now')['pid']").result_rows[0][0])
    (tmp_path / "copy").symlink_to(TINY_FOLDER)
    list(install(node.layout, f"local-dir:{tmp_path}/copy"))
    assert not is_alive(old)
    assert client.query("SELECT vdx_encoder_info('now')['model']").result_rows == [(f"local-dir:{tmp_path}/copy",)]


def test_a_draining_service_ends_although_nothing_reloads(node):
    """Workers that stay connected get their answers; once the old service was idle long enough, it ends."""
    client = engine.connect_server(node.url)
    old = client.query("SELECT vdx_encoder_info('now')['pid']").result_rows
    stop_encoder(node.layout, signal.SIGUSR1)
    assert client.query("SELECT vdx_encoder_info('now')['pid']").result_rows == old
    assert not (node.layout.run / "encoder.sock").exists()


def test_the_running_server_tells_its_folders(node, tmp_path):
    """As vdx install --url: without --config-dir where the server keeps a trace of its configuration, which chDB does not."""
    client = engine.connect_server(node.url)
    found = live.detect(client, node.layout.functions)
    assert (found.functions, found.user_scripts, found.user_files) == (
        node.layout.functions, node.layout.user_scripts, node.layout.user_files,
    )  # fmt: skip
    assert found.state == node.layout.state
    arguments = ("install", "--url", node.url, "--config-dir", node.layout.functions, "--model", "vdx-tiny", "--verify")
    vdx(*arguments, check=False)
    done = vdx(*arguments, check=False)
    assert "write" not in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("clickhouse-client")] == [
        'clickhouse-client -q "SYSTEM RELOAD CONFIG"', 'clickhouse-client -q "SYSTEM RELOAD FUNCTIONS"',
    ]  # fmt: skip
    # The doctor ran: all is well but for the tables, which nobody has made.
    assert "ok    encoder: vdx-tiny" in done.stdout
    assert (done.returncode, "FAIL  tables: missing: images" in done.stdout) == (1, True)
    refused = vdx("install", "--url", node.url, "--model", "vdx-tiny", check=False)
    assert "where the server's configuration lies is not known: name it with --config-dir" in refused.stderr
    kept = node.folder / "var" / "preprocessed_configs" / "config.xml"
    kept.write_text(
        "<!-- This file was generated automatically.\n     Do not edit it: it is likely to be discarded and generated again before it's"
        f" read next time.\n     Files used to generate this file:\n       {node.layout.functions}/config.xml\n"
        f"       {node.layout.config}      -->\n<clickhouse/>\n"
    )
    assert live.detect(client).functions == node.layout.functions
    (node.folder / "var" / "uuid").write_text("00000000-0000-0000-0000-00000000000a")
    refused = vdx("install", "--url", node.url, "--model", "vdx-tiny", check=False)
    assert "is another server's than the one that answers" in refused.stderr


def test_tables_of_an_earlier_bundle_are_brought_up_and_serve_it_still(node):
    client = engine.connect_server(node.url)
    earlier = list(split_statements(BEFORE_VERSIONS.read_text().replace("vdx_encoder_info('')", "vdx_encoder_info('now')")))

    def run(statements) -> None:
        for statement in statements:
            client.command(statement)

    def work(number: int) -> int:
        """What both bundles can do: a picture in, a label, a round of the published recipe; the rounds so far."""
        client.insert(
            "inbox", [(f"{number}.png", "kept", (TINY_FOLDER / "no.png").name.encode())], ["source", "dataset", "bytes"]
        )
        client.command(f"INSERT INTO images (source, model, vector) SELECT 'x{number}', 'vdx-tiny', encode_text('{number}')")
        client.command(
            f"INSERT INTO labels (concept, image_id, positive) SELECT 'c', id, id % 2 FROM images WHERE source = 'x{number}'"
        )
        client.command("INSERT INTO classifiers SELECT * FROM fit(concept = 'c', steps = 5, learning_rate = 0.1)")
        return client.query("SELECT max(round) FROM classifiers").result_rows[0][0]

    def made(view: str) -> str:
        return client.query(f"SELECT create_table_query FROM system.tables WHERE name = '{view}'").result_rows[0][0]

    run(earlier)
    before = made("inbox_embed")
    client.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a star')")
    assert work(1) == 1
    engine.apply_schema(client, node.layout.sql)
    assert client.query("SELECT max(version) FROM schema_version").result_rows == [(settings.SCHEMA_VERSION,)]
    assert [check.found for check in examine(client) if check.what == "schema"] == [f"version {settings.SCHEMA_VERSION}"]
    assert work(2) == 2
    client.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'c')")
    assert made("inbox_embed") != before  # the view that embeds is this bundle's
    # Back: that bundle searches, embeds and labels; its own statement for a round has fewer columns than the table by now.
    run(statement for statement in earlier if "CREATE TABLE" not in statement)
    assert len(client.query("SELECT * FROM search_text(query = 'a star', k = 2)").result_rows) == 2
    with pytest.raises(Exception, match="Number of columns doesn't match"):
        work(3)
    engine.apply_schema(client, node.layout.sql)  # and forth again
    assert work(4) == 4
    assert client.query("SELECT count(), uniqExact(image_id) FROM labels").result_rows == [(4, 4)]
    assert client.query("SELECT count() FROM rejects").result_rows == [(4,)]
    engine.apply_schema(client, node.layout.sql)
    assert client.query("SELECT count() FROM schema_version FINAL").result_rows == [(settings.SCHEMA_VERSION,)]


def test_the_settings_name_the_last_step():
    from vdx_udf.installer.bundle import bundle_folder

    text = (bundle_folder("sql") / "02_upgrade.sql").read_text()
    assert f"arrayJoin({list(range(1, settings.SCHEMA_VERSION + 1))})" in text
    assert f"\n-- {settings.SCHEMA_VERSION}: " in text
    assert f"\n-- {settings.SCHEMA_VERSION + 1}: " not in text


# What people insert into by SELECT *. A later version of the schema may not change these: see sql/02_upgrade.sql.
COLUMNS = {
    "labels": "concept image_id positive withdrawn labelled_at",
    "classifiers": "concept round method weight logit_scale bias uncertainty labels freedom average_precision text_average_precision model weights_hash created_at",
    "kept_scores": "concept image_id round probability",
    "near_pairs": "dataset first_id second_id cosine",
    "neighbours": "dataset id neighbour_id cosine",
    "map_points": "dataset map_id id x y placed",
    "thumbnails": "content_hash side bytes",
    "kept_mistakes": "dataset attribute id given suggested suspicion",
    "picture_facts": "content_hash width height format orientation brightness darkest brightest sharpness entropy colourfulness",
    "concept_inbox": "concept rounds judgements",
    "regions": "image_id loaded_at dataset model weights_hash place levels box vector",
}


@pytest.mark.parametrize("table", COLUMNS)
def test_tables_that_are_filled_by_select_star_keep_their_columns(client, table):
    found = client.query(
        f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}' AND default_kind NOT IN ('MATERIALIZED', 'EPHEMERAL') ORDER BY position"
    )
    assert [name for (name,) in found.result_rows] == COLUMNS[table].split()
