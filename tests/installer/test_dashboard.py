"""Every panel of ClickHouse's and Grafana's dashboards, executed over rows whose counts are known."""

import itertools
import json
import time
from html import escape
from pathlib import Path

import pytest

from tests.conftest import ask, served
from vdx_udf.installer import grafana
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout

# The encoder restarts between the second and the third sample: its counters begin at zero again.
SAMPLES = {
    "text.rows": (100, 110, 20),
    "image.rows": (50, 52, 10),
    "text.cache_hits": (0, 15, 6),
    "text.batches": (1, 5, 2),
    "text.encoded": (0, 20, 10),
    "image.batches": (1, 2, 1),
    "image.encoded": (0, 4, 2),
    "text.queue_seconds": (0, 5, 1),
    "image.queue_seconds": (0, 1, 0.2),
    "text.compute_seconds": (0, 3, 0.6),
    "encode_text.errors": (1, 4, 1),
}
ARTEFACTS = Path("test-artefacts")  # screenshots, to be looked at
DECADE = 10 * 365 * 86_400  # seconds: one bucket holds everything
SEEN = {  # title: the columns behind the time, in one bucket
    "Images loaded": [40],
    "Pictures rejected": [1],
    "Rows asked of the encoder": [30, 12],
    "Share of rows that needed no model pass": [21 / 42],
    "Inputs in a batch": [5, 3],
    "Milliseconds an input: queue and model": [200, 100],
    "Errors of the functions": [4],
    "Search latency, milliseconds": [pytest.approx(5_000, abs=5_000)] * 2,
    "Searches, and those that failed": [3, 1],
    "Labels": [1, 1],
    "Average precision of new rounds": [0.75, 0.5],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory, drawn):
    """A `vdx up` whose engine logs its queries, as servers do, over a few rows of everything that panels show."""
    layout = Layout.embedded(tmp_path_factory.mktemp("dashboard"))
    list(install(layout, "vdx-tiny"))
    log = "<query_log><database>system</database><table>query_log</table></query_log></clickhouse>"
    layout.config.write_text(layout.config.read_text().replace("</clickhouse>", log))
    folder, _ = drawn
    with served(layout.state) as address:
        ask(
            address,
            f"INSERT INTO inbox (source, dataset, bytes) SELECT _path, 'd', raw_blob FROM file('{folder}/00{{0,1,2,3}}*.png', RawBLOB)",
        )
        ask(address, "INSERT INTO inbox (source, dataset, bytes) VALUES ('broken', 'd', 'no picture')")
        ask(
            address,
            "INSERT INTO labels (concept, image_id, positive, withdrawn) SELECT 'c', id, t.1, t.2 FROM (SELECT id FROM images ORDER BY id LIMIT 2)"
            " ARRAY JOIN if(rowNumberInAllBlocks() = 0, [(true, false)], [(false, false), (false, true)]) AS t",
        )
        ask(
            address,
            "INSERT INTO classifiers (concept, round, method, weight, average_precision, text_average_precision)"
            " SELECT 'c', number, 'anchored', encode_text('x'), if(number = 0, NULL, 0.75), if(number = 0, NULL, 0.5) FROM numbers(2)",
        )
        for counter, values in SAMPLES.items():
            for minutes, value in zip((3, 2, 1), values, strict=True):
                ask(address, f"INSERT INTO encoder_samples VALUES (now() - {60 * minutes}, '{counter}', {value})")
        for text in ("a", "b", "c"):
            ask(address, f"SELECT * FROM search_text(query = '{text}', k = 3)")
        with pytest.raises(OSError, match="500"):
            ask(address, "SELECT * FROM search_id(image_id = 1, k = 3)")
        ask(address, "SYSTEM FLUSH LOGS")
        time.sleep(1.1)  # panels end with the last full second
        yield address


def test_there_is_a_count_for_every_panel(server):
    assert list(SEEN) == [title for title, _ in grafana.panels()]
    assert ask(server, "SELECT title, query FROM dashboard_panels") == [list(panel) for panel in grafana.panels()]


@pytest.mark.parametrize("title", SEEN)
def test_clickhouse_panels(server, title):
    ((time_of_bucket, *values),) = ask(server, dict(grafana.panels())[title], rounding=DECADE, seconds=86_400)
    assert 0 < time_of_bucket <= time.time()
    assert [float(value) for value in values] == SEEN[title]


def of_kind(kind: str) -> list[dict]:
    return [panel for panel in grafana.dashboard()["panels"] if panel["type"] == kind]


@pytest.mark.parametrize("panel", of_kind("timeseries"), ids=lambda panel: panel["title"])
def test_grafana_panels(server, panel):
    """With the macros filled in as the plugin does, so that nothing of ours or theirs is left over."""
    query = panel["targets"][0]["rawSql"]
    for macro, value in (
        ("$__fromTime", f"toDateTime({int(time.time()) - 86_400})"),
        ("$__toTime", f"toDateTime({int(time.time()) + 1})"),
        ("$__interval_s", str(DECADE)),
    ):
        query = query.replace(macro, value)
    assert "$" not in query
    assert "{" not in query
    ((_, *values),) = ask(server, query)
    assert [float(value) for value in values] == SEEN[panel["title"]]


def test_the_tables_are_those_of_the_view(server):
    assert ask(server, "SELECT title, query FROM dashboard_tables") == [list(table) for table in grafana.tables()]
    assert [(panel["title"], panel["targets"][0]["rawSql"]) for panel in of_kind("table")] == [
        (title, query.strip()) for title, query in grafana.tables()
    ]
    places = [panel["gridPos"] for panel in grafana.dashboard()["panels"]]
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


@pytest.mark.parametrize("panel", of_kind("table"), ids=lambda panel: panel["title"])
def test_tables_show_pictures(server, browser, panel):
    """Grafana cannot run here: its Image cell is an <img> of the column's URL, which a table of HTML is, too."""
    ((override,),) = (panel["fieldConfig"]["overrides"],)
    assert override["matcher"] == {"id": "byName", "options": "picture"}
    assert {"id": "custom.cellOptions", "value": {"type": "image"}} in override["properties"]
    rows = ask(server, panel["targets"][0]["rawSql"])
    assert len(rows) == {"Pictures loaded last": 20, "Pictures judged last": 2}[panel["title"]]
    lines = "".join(
        f"<tr><td><img src='{picture}'></td>{''.join(f'<td>{escape(str(value))}</td>' for value in values)}</tr>"
        for picture, *values in rows
    )
    page = browser.new_page()
    page.set_content(f"<h2>{panel['title']}</h2><table>{lines}</table>")
    until_shown = "[...document.images].map(image => image.complete && Math.max(image.naturalWidth, image.naturalHeight))"
    assert page.evaluate(until_shown) == [96] * len(rows)
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{panel['title']}.png")
    page.close()


def test_buckets_without_a_row_are_filled(server):
    rows = ask(server, dict(grafana.panels())["Rows asked of the encoder"], rounding=60, seconds=3_600)
    times = [row[0] for row in rows]
    assert len(times) >= 3
    assert {after - before for before, after in itertools.pairwise(times)} == {60}


def test_the_encoder_is_sampled_on_demand(server):
    ask(server, "CREATE TABLE own_samples AS encoder_samples")
    ask(server, "INSERT INTO own_samples SELECT * FROM encoder_sample")
    found = dict(ask(server, "SELECT counter, value FROM own_samples"))
    assert found["image.rows"] >= 40
    assert set(SAMPLES) <= set(found)


def test_the_written_dashboard_is_the_generated_one():
    assert json.loads(grafana.PATH.read_text()) == grafana.dashboard()
