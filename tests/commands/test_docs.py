"""The README says what is there, and its commands and SQL run."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import put
from tests.sql.test_sql import documented, states_its_purpose
from vdx_udf import contract, settings
from vdx_udf.commands import load, sizing
from vdx_udf.commands.cli import main
from vdx_udf.commands.demo import SWAPPED, WANTED, attributes
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.statements import split_statements
from vdx_udf.tiny.pictures import draw, pair, sample_picture

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_sql_runs_as_printed(fresh_tables, drawn):
    text = blocks("sql")[0]
    statements = list(split_statements(text.replace("/pictures/", f"{drawn[0]}/")))
    assert len(statements) == 11
    for statement in statements:
        if re.search(r"^SELECT", statement, re.MULTILINE) and not re.search(r"^INSERT", statement, re.MULTILINE):
            assert fresh_tables.query(statement).result_rows
        else:
            fresh_tables.command(statement)
    assert fresh_tables.query("SELECT max(round), max(labels) FROM classifiers").result_rows == [(1, 20)]


def test_the_walk_through_runs_as_printed(fresh_tables, clip):
    """On pictures as the demo draws them, with the attributes that it gives them."""
    rng = np.random.default_rng(77)
    pictures = [pair(rng, *WANTED) for _ in range(30)] + [pair(rng, *SWAPPED) for _ in range(30)]
    pictures += [sample_picture(rng) for _ in range(340)]
    vectors = np.asarray(clip.encode_images([clip.pixels(draw(picture)) for picture in pictures]))
    known = [attributes(picture) for picture in pictures]
    put(fresh_tables, vectors, "demo", [{"label": each["objects"], **each} for each in known], "vdx-tiny")
    _, text, _ = blocks("sql")
    may_be_empty = ("near_duplicate_groups",)
    for statement in split_statements(text):
        code = re.sub(r"^--.*\n", "", statement, flags=re.MULTILINE)
        if code.startswith("SELECT"):
            rows = fresh_tables.query(code.replace(" FORMAT JSONEachRow", "")).result_rows
            assert rows or any(name in code for name in may_be_empty), code
        else:
            fresh_tables.command(code)
    assert fresh_tables.query(
        "SELECT max(round), argMax(labels, round) FROM classifiers WHERE concept = 'pairs'"
    ).result_rows == [(3, 19)]


def test_what_the_service_counted_is_shown_as_printed(client):
    with pytest.raises(Exception, match="no/such/picture"):
        client.query("SELECT encode_image('/no/such/picture.png')")
    for statement in split_statements(blocks("sql")[2]):
        assert client.query(statement).result_rows


def test_the_commands_are_those_of_make_and_vdx():
    first, after_demo = blocks("bash")
    targets = re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split() for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test", "lint", "bench", "clean"} <= set(targets)
    listed = subprocess.run(["make", "--no-print-directory", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^{target}\s", listed, re.MULTILINE) for target in targets)
    for line in (*after_demo.splitlines(), *(line for line in blocks("console")[0].splitlines() if "vdx " in line)):
        command = re.search(r"vdx (\w+)", line).group(1)
        options = {option for parameter in main.commands[command].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[\w-]+", line.partition('"')[0])) <= options | {"-"}


@pytest.mark.parametrize("function", contract.FUNCTIONS.values(), ids=lambda f: f.name)
def test_every_function_has_its_row(function):
    assert f"| `{function.signature}` | `{function.returns}` | {function.meaning} |" in README


def test_every_sql_object_is_listed():
    section = README.partition("## SQL objects")[2].partition("\n## ")[0]
    listed = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `")))
    )
    assert listed == {name for _, name, _ in documented()}


DATASETS = load.dataset_files(bundle_folder("sql"))


def test_every_data_set_has_its_row():
    section = README.partition("## Data sets")[2].partition("\n## ")[0]
    rows = {
        line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `") and not line.startswith("| `NAME")
    }
    assert rows.keys() == DATASETS.keys()
    for name, path in DATASETS.items():
        assert re.findall(r"`(\w+)`", rows[name].split("|")[3]) == [p for p in load.parameters_of(path) if p != "path"]


@pytest.mark.parametrize("name", DATASETS)
def test_every_object_of_a_data_set_states_its_purpose_and_is_listed(name):
    section = README.partition("## Data sets")[2].partition("\n## ")[0]
    for _, made, comment in documented(f"datasets/{name}.sql"):
        assert states_its_purpose(made, comment), made
        assert "Example: " in comment, made  # tests/sql/test_datasets.py runs it
        assert f"`{made}`" in section


def test_every_command_and_setting_is_listed():
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"`vdx (\w+)`", section)) == set(main.commands)
    assert f"`{settings.DEFAULT_MODEL}` is the default" in README
    assert f"{settings.CACHE_ENTRIES:,} embeddings" in README
    assert f"stops after {settings.IDLE_SECONDS // 60} minutes" in README


def test_precisions_and_defaults_are_the_settings():
    for name, least in settings.PARITY.items():
        assert f"| `{name}` | {least} | " in README
    assert "| `auto` | 0.999 | 98 % | the default: " in README
    assert settings.PRECISION == "auto"
    assert f"`--jpeg-scale {settings.JPEG_SCALE}`, the default, " in README
    assert f"the last {settings.LABEL_SETS} sets of labels" in README


def test_limits_are_the_settings():
    flat = " ".join(README.split())
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


@pytest.mark.parametrize("name", ["speed", "laion", "refinement", "torture", "explorer", "versions", "shards"])
def test_the_tables_are_the_benchmarks(name):
    assert (ROOT / "tests" / "benchmarks" / "results" / f"{name}.md").read_text() in README


def test_the_sizing_table_is_the_models_and_its_figures_are_measured():
    """The model is pinned: what 1 million, 100 million and 10 billion pictures need, from what the benchmarks found."""
    assert sizing.table() in README
    assert f"nodes of {sizing.CORES} cores and {sizing.MEMORY >> 30} GiB" in " ".join(README.split())
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
    million, hundred, billions = map(sizing.needs, (10**6, 10**8, 10**10))
    assert (million.nodes, million.index_memory) == (1, 10**6 * sizing.INDEX_MEMORY)
    assert hundred.nodes == -(-hundred.index_memory // int(sizing.MEMORY * sizing.INDEX_SHARE))
    # As many pictures a node: the hours stay, the nodes grow.
    assert billions.build_hours == pytest.approx(hundred.build_hours, rel=0.3)
    assert billions.nodes == pytest.approx(100 * hundred.nodes, rel=0.3)
    assert sizing.build_rate(10**7) < sizing.build_rate(10**5) < sizing.build_rate(25_000)


def test_the_index_is_as_large_in_memory_as_the_sizing_says(fresh_tables):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5_000, 512))
    put(fresh_tables, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    held = "SELECT sum(secondary_indices_uncompressed_bytes) / sum(rows) FROM system.parts WHERE database = currentDatabase() AND table = 'images' AND active"
    assert fresh_tables.query(held).result_rows[0][0] == pytest.approx(sizing.INDEX_MEMORY, rel=0.05)


def test_the_models_figures_are_those_of_its_training_log():
    from vdx_udf.encoder.model_name import TINY_FOLDER

    log = json.loads((TINY_FOLDER / "training.json").read_text())
    for name in ("colour_shape", "colour_shape_size", "colour_shape_size_texture"):
        assert f"| {round(log['figures'][f'precision_at_10_{name}'] + 1e-9, 3):.3f} |" in README
    assert f"{round(log['seconds'] / 60)}\nminutes" in README
