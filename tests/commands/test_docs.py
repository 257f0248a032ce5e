"""The README and the pages of docs/ say what is there, and their commands and SQL run."""

import json
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tests.conftest import put
from tests.sql.conftest import documented, states_its_purpose
from vdx_udf import settings
from vdx_udf.commands import load, sizing
from vdx_udf.commands.cli import main
from vdx_udf.commands.demo import SWAPPED, WANTED, attributes
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.statements import split_statements
from vdx_udf.tiny.pictures import draw, pair, sample_picture

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGES = {path.stem: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
DOCS = "\n".join(PAGES.values())
MAY_BE_EMPTY = ("near_duplicate_groups", "function_counters")


def blocks(page: str, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def section(page: str, title: str) -> str:
    return PAGES[page].partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def gallery(fresh_tables, clip):
    """The data set `demo`: pictures as the demo draws them, with the attributes that it gives them."""
    rng = np.random.default_rng(77)
    pictures = [pair(rng, *WANTED) for _ in range(30)] + [pair(rng, *SWAPPED) for _ in range(30)]
    pictures += [sample_picture(rng) for _ in range(340)]
    vectors = np.asarray(clip.encode_images([clip.pixels(draw(picture)) for picture in pictures]))
    known = [attributes(picture) for picture in pictures]
    put(fresh_tables, vectors, "demo", [{"label": each["objects"], **each} for each in known], "vdx-tiny")
    yield fresh_tables
    # What pages show of changing the table is for this one's rows alone.
    fresh_tables.command("TRUNCATE TABLE images")
    fresh_tables.command("ALTER TABLE images DROP INDEX IF EXISTS words SETTINGS mutations_sync = 2")
    fresh_tables.command("ALTER TABLE images MODIFY COLUMN vector Array(Float32) SETTINGS mutations_sync = 2")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")])
def test_every_statement_of_a_page_runs_as_printed(page, gallery, drawn):
    """One after the other, with the drawn pictures in place of /pictures."""
    for statement in split_statements("\n".join(blocks(page, "sql")).replace("/pictures/", f"{drawn[0]}/")):
        code = re.sub(r"^--.*\n", "", statement, flags=re.MULTILINE)
        if code.startswith("SELECT"):
            rows = gallery.query(code.replace(" FORMAT JSONEachRow", "")).result_rows
            assert rows or any(name in code for name in MAY_BE_EMPTY), code
        else:
            gallery.command(code)
    trained = "SELECT argMax(round, round), argMax(labels, round) FROM classifiers WHERE concept = '{}'"
    if page == "README":
        assert gallery.query(trained.format("mine")).result_rows == [(1, 20)]
    if page == "refine":
        assert gallery.query(trained.format("pairs")).result_rows == [(3, 19)]


def test_what_the_service_counted_is_shown_as_printed(client):
    with pytest.raises(Exception, match="no/such/picture"):
        client.query("SELECT encode_image('/no/such/picture.png')")
    for statement in split_statements("\n".join(blocks("operate", "sql"))):
        assert client.query(statement).result_rows


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash", "console")])
def test_every_command_of_a_page_is_one(page, client):
    """Targets of make, options of `vdx`, modules of the package; and what clickhouse-client is given is SQL."""
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "\n".join(blocks(page, "bash", "console")).splitlines():
        for command in filter(None, line.split(" && ")):
            words = shlex.split(command)
            words = words[1:] if words[0] == "sudo" else words
            program = Path(words[0]).name
            if program == "make":
                assert words[1] in targets, command
            elif program == "vdx":
                parsed(words[1:])
            elif words[1:2] == ["-m"]:
                assert find_spec(words[2]), command
            elif program in ("clickhouse-client", "curl"):
                given = next((words[at + 1] for at, word in enumerate(words) if word in ("-q", "--query", "-d")), "SELECT 1")
                client.query(f"EXPLAIN AST {given}")
            elif program == "CREATE":
                client.query(f"EXPLAIN AST {command}")
            else:
                assert program in ("pip", "docker", "CLICKHOUSE_PASSWORD=..."), command


def parsed(words: list[str]) -> None:
    """Fails if `vdx` does not know the command, an option or an argument; a path need not be there."""
    command = main.commands[words[0]]
    try:
        with command.make_context(words[0], words[1:]):
            pass
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise


@pytest.mark.parametrize("page", PAGES)
def test_every_vdx_command_in_the_text_is_one(page):
    for command in re.findall(r"`(?:\.venv/bin/)?vdx ([\w-]+)[^`]*`", PAGES[page]):
        assert command in main.commands, command


def test_make_lists_its_targets_and_the_readme_begins_with_two_of_them():
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split() for line in blocks("README", "bash")[0].splitlines()] == [["make", "demo"], ["make", "test"]]
    listed = subprocess.run(["make", "--no-print-directory", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^{target}\s", listed, re.MULTILINE) for target in targets)


def test_the_readme_fits_a_screen_or_three():
    assert len(PAGES["README"].splitlines()) <= 120


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("work", "name", "measured"),
    [
        ("2,000 distinct captions", "speed", "2,000 distinct captions of 12 tokens, int8"),
        ("500 JPEGs of 640x480, decoded and embedded", "speed", "500 JPEGs 640x480, int8"),
        ("one new text", "speed", "one new text"),
        ("loading 200,000 of LAION's embeddings", "laion", "200,000 rows: loading"),
    ],
)
def test_the_readmes_ratios_are_the_benchmarks(work, name, measured):
    (line,) = (line for line in PAGES["README"].splitlines() if line.startswith(f"| {work} |"))
    row = next(row for row in results(name) if row["work"] == measured and row["against"] != "docs, per query")
    assert f"| {row['ours']:g} {row['unit']} |" in line
    assert f" {row['ratio']:g} times" in line


def test_the_readmes_other_figures_are_the_benchmarks():
    text = PAGES["README"]
    last = {}
    for row in results("refinement"):
        if row["round"] == 6:
            last.setdefault(row["method"], []).append(row["average_precision"])
    shown = [f"{np.mean(last[method]):.3f}" for method in ("refine", "text only", "published recipe")]
    assert f"| {shown[0]} | text alone {shown[1]}, the published recipe {shown[2]} |" in text
    assert f"mean average precision of {len(last['refine'])} concepts" in text
    assert f"| {results('explorer')['milliseconds']['first picture']['p50']} ms |" in text
    faults = results("torture")["faults"]
    assert {row["wrong_rows"] + row["lost_rows"] for row in faults} == {0}
    assert f"| {len({row['fault'] for row in faults} - {'random ones, one a second'})} kinds of fault |" in text


DATASETS = load.dataset_files(bundle_folder("sql"))


def test_every_data_set_has_its_row():
    section = PAGES["datasets"].partition("## Rows that count")[0]
    rows = {
        line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `") and not line.startswith("| `NAME")
    }
    assert rows.keys() == DATASETS.keys()
    for name, path in DATASETS.items():
        assert re.findall(r"`(\w+)`", rows[name].split("|")[3]) == [p for p in load.parameters_of(path) if p != "path"]


@pytest.mark.parametrize("name", DATASETS)
def test_every_object_of_a_data_set_states_its_purpose_and_is_listed(name):
    section = PAGES["datasets"].partition("## Rows that count")[0]
    for _, made, comment in documented(f"datasets/{name}.sql"):
        assert states_its_purpose(made, comment), made
        assert "Example: " in comment, made  # tests/sql/test_datasets.py runs it
        assert f"`{made}`" in section


def test_settings_are_those_of_the_package():
    assert f"`{settings.DEFAULT_MODEL}` is the default" in DOCS
    assert f"{settings.CACHE_ENTRIES:,} embeddings" in DOCS
    assert f"stops after {settings.IDLE_SECONDS // 60} minutes" in DOCS


def test_precisions_and_defaults_are_the_settings():
    for name, least in settings.PARITY.items():
        assert f"| `{name}` | {least} | " in DOCS
    assert "| `auto` | 0.999 | 98 % | the default: " in DOCS
    assert settings.PRECISION == "auto"
    assert f"`--jpeg-scale {settings.JPEG_SCALE}`, the default, " in DOCS
    assert f"the last {settings.LABEL_SETS} sets of labels" in DOCS


def test_limits_are_the_settings():
    flat = " ".join(DOCS.split())
    for limit in (
        f"up to {round(settings.MAX_PIXELS / 1e6)} million pixels, {settings.MAX_IMAGE_BYTES >> 20} MiB, sides of 1 to"
        f" {settings.MAX_ASPECT:,} and, for a JPEG, {settings.MAX_SCANS} scans",
        f"its first {settings.MAX_TEXT:,} letters",
        f"after every redirect ({settings.URL_REDIRECTS} at most)",
        f"A picture has {settings.URL_SECONDS} s and {settings.MAX_IMAGE_BYTES >> 20} MiB",
        f"all {settings.POOL['pool_size']} processes of the function were busy for {settings.POOL['max_command_execution_time']} s",
        f"`Pipe read timeout exceeded {settings.POOL['command_read_timeout']} milliseconds`",
    ):
        assert limit in flat, limit


@pytest.mark.parametrize(
    "name",
    [
        "speed",
        "laion",
        "refinement",
        "torture",
        "explorer",
        "versions",
        "shards",
        "search",
        "thumbnails",
        "calibration",
        "clusters",
        "mistakes",
        "health",
    ],
)
def test_the_tables_are_the_benchmarks(name):
    assert (ROOT / "tests" / "benchmarks" / "results" / f"{name}.md").read_text() in DOCS


def test_the_sizing_table_is_the_models_and_its_figures_are_measured():
    """The model is pinned: what 1 million, 100 million and 10 billion pictures need, from what the benchmarks found."""
    assert sizing.table() in DOCS
    assert sizing.indexes_table() in DOCS
    assert sizing.regions_table() in DOCS
    assert f"nodes of {sizing.CORES} cores and {sizing.MEMORY >> 30} GiB" in " ".join(DOCS.split())
    results = ROOT / "tests" / "benchmarks" / "results"
    measured = json.loads((results / "shards.json").read_text())
    cores = int(measured["machine"].split()[0])
    alone = [row for row in measured["rows"] if row["shards"] == 1]
    assert pytest.approx(alone[-1]["data_bytes"], rel=0.02) == sizing.ROW_BYTES
    assert pytest.approx(max(row["index_bytes"] for row in alone), rel=0.05) == sizing.INDEX_BYTES
    for rows, rate in sizing.BUILD_RATES:
        (found,) = {row["rows"] / row["build_seconds"] / cores for row in alone[:3] if row["rows"] == rows}
        assert rate == pytest.approx(found, rel=0.1)
    (images,) = [
        row
        for row in json.loads((results / "speed.json").read_text())
        if row["work"].startswith("500 JPEGs") and "bfloat16" in row["work"]
    ]
    assert pytest.approx(images["ours"] / cores, rel=0.1) == sizing.EMBED_RATE
    tried = {row["system"]: row for row in json.loads((results / "search.json").read_text()) if row["work"] == "index"}
    for index, figures in sizing.INDEXES.items():
        row, rescored = tried[index], tried[f"{index}, rescored"]
        assert figures == (row["seconds"], round(row["recall"], 3), round(rescored["recall"], 3))
    million, hundred, billions = map(sizing.needs, (10**6, 10**8, 10**10))
    assert (million.nodes, million.index_memory) == (1, 10**6 * sizing.index_memory(settings.INDEX))
    assert hundred.nodes == -(-hundred.index_memory // int(sizing.MEMORY * sizing.INDEX_SHARE))
    # The nodes grow with the pictures, which leaves as many to each, but for what rounds up.
    assert billions.build_hours == pytest.approx(hundred.build_hours, rel=0.5)
    assert billions.nodes == pytest.approx(100 * hundred.nodes, rel=0.3)
    assert sizing.build_rate(10**7) < sizing.build_rate(10**5) < sizing.build_rate(25_000)


def test_the_index_is_as_large_in_memory_as_the_sizing_says(fresh_tables):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5_000, 512))
    put(fresh_tables, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    held = "SELECT sum(secondary_indices_uncompressed_bytes) / sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = 'images' AND active"
    assert fresh_tables.query(held).result_rows[0][0] == pytest.approx(sizing.index_memory(settings.INDEX), rel=0.05)


def test_the_models_figures_are_those_of_its_training_log():
    from vdx_udf.encoder.model_name import TINY_FOLDER

    log = json.loads((TINY_FOLDER / "training.json").read_text())
    for name in ("colour_shape", "colour_shape_size", "colour_shape_size_texture"):
        assert f"| {round(log['figures'][f'precision_at_10_{name}'] + 1e-9, 3):.3f} |" in DOCS
    assert f"{round(log['seconds'] / 60)}\nminutes" in DOCS
