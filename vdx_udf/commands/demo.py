"""`vdx demo`: the product's main job on the embedded engine, with pictures drawn on the spot and nothing downloaded.

Every step prints the SQL it runs, a short answer and what was measured, and leaves a contact sheet. The data's own
captions are the truth: they score the searches and play the person who labels.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from vdx_udf import engine
from vdx_udf.commands import server, target, terminal
from vdx_udf.commands.contact_sheet import Cell, contact_sheet
from vdx_udf.errors import VdxError
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import ATTRIBUTES, VALUES, Picture, draw, pair, sample_picture

SEED = 7_000  # neither the training's nor the evaluation's
# Text alone cannot tell which colour belongs to which shape, so this concept is where refinement shows what it does.
CONCEPT = "a red circle and a blue square"
WANTED, SWAPPED = (("red", "circle"), ("blue", "square")), (("blue", "circle"), ("red", "square"))
PAIRS = 0.04  # share of the pictures that show the concept, and as many the swapped one
ROUNDS, LABELS_A_ROUND = 3, 10
MISTAKES = 0.05  # share of the pictures of one shape whose `label` names another one
ZERO_SHOT_LABELS = {"shape": "{}", "colour": "{} object", "size": "{} object", "texture": "{} object",
                    "background": "{} background"}  # fmt: skip


class Demo:
    """One run: a fresh prefix under `output`, its client, and the report that grows with each step."""

    def __init__(self, output: Path):
        self.output = output.absolute()
        self.layout = Layout.embedded(self.output / target.DEMO_PREFIX.name)
        self.pictures_folder = self.output / "pictures"
        self.report: dict[str, Any] = {"pictures": []}

    def prepare(self) -> None:
        """Removes an earlier run, installs the bundle with the bundled model and creates the schema."""
        server.refuse_second(self.layout.data)
        stop_encoder(self.layout)
        if self.layout.manifest.is_file():
            shutil.rmtree(self.output)
        elif self.output.exists() and any(self.output.iterdir()):
            raise VdxError(f"{self.output} holds other files than an earlier demo's: name another folder with --output")
        for _ in install(self.layout, "vdx-tiny"):
            pass
        self.client = target.connect_embedded(self.layout.state)
        engine.apply_schema(self.client, self.layout.sql)

    def step(self, title: str) -> None:
        click.secho(f"\n== {title}", bold=True)

    def sql(self, statement: str, show: bool = True) -> list[tuple]:
        """Runs a statement as a person would type it, prints it and the first rows of its answer."""
        if show:
            click.secho(statement.strip() + ";", fg="cyan")
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            answer = self.client.query(statement)
            if show:
                _print_table(answer.column_names, answer.result_rows[:5], len(answer.result_rows))
            return answer.result_rows
        self.client.command(statement)
        return []

    def sheet(self, name: str, title: str, rows: list[tuple]) -> None:
        """A contact sheet of (source, text, mark) rows."""
        cells = [Cell(Image.open(source), text, mark) for source, text, mark in rows]
        path = contact_sheet(title, cells, self.output / f"{name}.png")
        self.report["pictures"].append(str(path))
        terminal.draw(path)
        click.echo(f"picture: {path}")


def run(output: Path, pictures: int) -> dict[str, Any]:
    """The whole walk; returns the report that it also writes to report.json."""
    demo = Demo(output)
    demo.prepare()
    try:
        load(demo, pictures)
        for walk in (search_by_text, search_by_picture, search_filtered, label_zero_shot, refine, find_mistakes):
            walk(demo)
    finally:
        stop_encoder(demo.layout)
    path = demo.output / "report.json"
    path.write_text(json.dumps(demo.report, indent=1) + "\n")
    demo.step("Done")
    shown = {key: value for key, value in demo.report.items() if key != "pictures"}
    click.echo(json.dumps(shown, indent=1))
    click.echo(f"report: {path}")
    click.echo(f"try: vdx up --data {demo.layout.state}, and open http://127.0.0.1:8123/explorer/")
    click.echo(f"or:  vdx sql --prefix {demo.layout.state} -q \"SELECT * FROM search_text(query = 'a red circle', k = 9)\"")
    return demo.report


def load(demo: Demo, count: int) -> None:
    """Draws pictures into a folder and loads them with one INSERT ... SELECT over the files."""
    demo.step(f"Draw {count} pictures and load them with one INSERT ... SELECT over the files")
    rng = np.random.default_rng(SEED)
    some = max(int(count * PAIRS), 20)
    drawn = [pair(rng, *WANTED) for _ in range(some)] + [pair(rng, *SWAPPED) for _ in range(some)]
    drawn += [sample_picture(rng) for _ in range(count - len(drawn))]
    demo.pictures_folder.mkdir(parents=True)
    with open(demo.output / "captions.jsonl", "w") as captions:
        for number, picture in enumerate(tqdm(drawn, "draw", unit=" pictures", leave=False)):
            known = attributes(picture)
            if "shape" in known:
                wrong = rng.random() < MISTAKES
                known["label"] = (
                    str(rng.choice([s for s in VALUES["shape"] if s != known["shape"]])) if wrong else known["shape"]
                )
            path = demo.pictures_folder / f"{number:05}.{'jpg' if number % 2 else 'png'}"
            draw(picture).save(path, quality=92)
            captions.write(json.dumps({"path": str(path), "caption": picture.describe(), "attributes": known}) + "\n")
    (demo.pictures_folder / "99998.jpg").write_bytes(b"not a picture at all \x00\x01")
    (demo.pictures_folder / "99999.png").write_bytes((demo.pictures_folder / "00000.png").read_bytes()[:200])
    began = time.monotonic()
    demo.sql(f"""
INSERT INTO inbox (source, dataset, caption, attributes, bytes)
SELECT _path, 'demo', caption, attributes, raw_blob
FROM file('{demo.pictures_folder}/*.{{jpg,png}}', RawBLOB) AS files
LEFT JOIN file('{demo.output}/captions.jsonl', JSONEachRow,
    'path String, caption String, attributes Map(String, String)') AS captions ON captions.path = files._path
SETTINGS min_insert_block_size_rows = 1024, materialize_skip_indexes_on_insert = 0""")  # fmt: skip
    seconds = time.monotonic() - began
    demo.sql("ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2")
    (rows,) = demo.sql("SELECT count() AS images FROM images")[0]
    demo.sql("SELECT source, error FROM rejects")
    demo.report |= {"rows": rows, "rows_per_second": round((rows + 2) / seconds, 1)}
    click.echo(f"{rows} pictures embedded by ClickHouse in {seconds:.1f} s: {demo.report['rows_per_second']} rows/s")


def search_by_text(demo: Demo) -> None:
    """Finds pictures by a sentence, through the vector index; measures precision@10 over many queries."""
    demo.step("Search by text")
    statement = (
        "SELECT id, source, caption, distance FROM search_text(query = 'a green star', k = 10) INNER JOIN images USING (id)"
    )
    demo.sql(statement + " ORDER BY distance")
    rows = hits(demo, "search_text(query = 'a green star', k = 10)", {"colour": "green", "shape": "star"})
    demo.sheet("1-search-text", "search_text(query = 'a green star', k = 10)", rows)
    plan = demo.client.query("EXPLAIN indexes = 1 SELECT * FROM search_text(query = 'a green star', k = 10)").result_rows
    demo.report["index_used"] = any("vector_similarity" in line for (line,) in plan)
    precisions = []
    for colour in VALUES["colour"]:
        for shape in VALUES["shape"]:
            wanted = {"colour": colour, "shape": shape}
            (relevant,) = demo.sql(f"SELECT countIf({shows(wanted)}) FROM images", show=False)[0]
            if relevant >= 10:
                found = hits(demo, f"search_text(query = 'a {colour} {shape}', k = 10)", wanted)
                precisions.append(sum(mark for _, _, mark in found) / 10)
    demo.report["text_precision_at_10"] = round(float(np.mean(precisions)), 4) if precisions else None
    click.echo(
        f"precision@10 over {len(precisions)} queries of colour and shape: {demo.report['text_precision_at_10']};"
        f" vector index used: {demo.report['index_used']}"
    )


def search_by_picture(demo: Demo) -> None:
    """Finds pictures like one that is not in the table."""
    demo.step("Search by picture")
    rng = np.random.default_rng(SEED + 1)
    query = sample_picture(rng, 1)
    path = demo.output / "query.png"
    draw(query).save(path)
    click.echo(f"the query shows {query.describe()}")
    statement = f"search_image(image = '{path}', k = 9)"
    demo.sql(f"SELECT source, caption, distance FROM {statement} INNER JOIN images USING (id) ORDER BY distance")
    shown = {"colour": query.things[0].colour, "shape": query.things[0].shape}
    demo.sheet(
        "2-search-image",
        "the query, and the pictures nearest to it",
        [(str(path), "query", None), *hits(demo, statement, shown)],
    )


def search_filtered(demo: Demo) -> None:
    """Search and filter at once, complete however few rows the filter leaves."""
    demo.step("Filtered search: a heart, on black backgrounds only")
    statement = "search_text_where(query = 'a heart', dataset = 'demo', attribute = 'background', value = 'black', k = 10)"
    demo.sql(f"SELECT source, caption, distance FROM {statement} INNER JOIN images USING (id) ORDER BY distance")
    demo.sheet("3-search-filtered", "a heart, filtered to black backgrounds", hits(demo, statement, {"shape": "heart"}))


def label_zero_shot(demo: Demo) -> None:
    """Names what pictures show from words alone, for each attribute that all objects of a picture share."""
    demo.step("Zero-shot labels")
    demo.report["zero_shot_accuracy"] = {}
    for attribute, label in ZERO_SHOT_LABELS.items():
        labels = {label.format(value): value for value in VALUES[attribute]}
        ((accuracy, total),) = demo.sql(
            f"""
SELECT round(avg(label = transform(attributes['{attribute}'], {list(labels.values())}, {list(labels)}, '')), 4)
    AS accuracy, count() AS images
FROM zero_shot(labels = {list(labels)}, template_set = 'default')
INNER JOIN images USING (id)
WHERE mapContains(attributes, '{attribute}')""",
            show=attribute == "shape",
        )
        demo.report["zero_shot_accuracy"][attribute] = accuracy
        click.echo(f"{attribute}: accuracy {accuracy} over {total} pictures, {len(labels)} labels")
    rows = demo.sql(
        "SELECT source, label, probability"
        " FROM zero_shot(labels = ['circle', 'star', 'heart', 'cross'], template_set = 'default')"
        " ORDER BY probability DESC LIMIT 2 BY label"
    )
    demo.sheet("4-zero-shot", "zero-shot: the surest two of each label", [(s, f"{n} {p:.2f}", None) for s, n, p in rows])


def refine(demo: Demo) -> None:
    """Three rounds of few-shot refinement of a concept that text alone gets wrong."""
    demo.step(f"Refine the concept {CONCEPT!r}: text cannot tell which colour belongs to which shape")
    relevant = " AND ".join(shows({"colour": c, "shape": s}) for c, s in WANTED)
    demo.sql(f"INSERT INTO classifiers SELECT * FROM start_concept(concept = '{CONCEPT}', prompt = '{CONCEPT}')")
    precision = [average_precision(demo, relevant)]
    click.echo(f"average precision of the text vector: {precision[0]}")
    refinement_sheet(demo, relevant, 0)
    for number in range(1, ROUNDS + 1):
        demo.sql(f"SELECT id, source, probability, reason FROM next_to_label(concept = '{CONCEPT}', k = {LABELS_A_ROUND})")
        demo.sql(
            f"""
INSERT INTO labels (concept, image_id, positive)
SELECT '{CONCEPT}', id, {relevant}
FROM next_to_label(concept = '{CONCEPT}', k = {LABELS_A_ROUND}) INNER JOIN images USING (id)"""
        )
        demo.sql(f"INSERT INTO classifiers SELECT * FROM refine(concept = '{CONCEPT}')")
        precision.append(average_precision(demo, relevant))
        ((right, wrong),) = demo.sql(
            f"SELECT countIf(positive) AS right, countIf(NOT positive) AS wrong FROM current_labels WHERE concept = '{CONCEPT}'"
        )
        click.echo(f"round {number}: {right} right and {wrong} hard negatives so far; average precision {precision[-1]}")
        refinement_sheet(demo, relevant, number)
    demo.sql(
        f"SELECT moved, count() FROM compare_rounds(concept = '{CONCEPT}', before = 0, after = {ROUNDS}, k = 50) GROUP BY moved"
    )
    demo.sql(f"SELECT threshold, reached, images, right_low, right_high FROM threshold(concept = '{CONCEPT}', precision = 0.8)")
    demo.report["average_precision"] = precision


def find_mistakes(demo: Demo) -> None:
    """Finds the pictures whose label is wrong, by their neighbours and a classifier."""
    demo.step(f"Find wrong labels: {MISTAKES:.0%} of the pictures of one shape carry another shape's name")
    demo.sql("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'demo', k = 10)")
    found = """
SELECT source, given, suggested, round(suspicion, 3) AS suspicion, given != attributes['shape'] AS wrong
FROM likely_mistakes(dataset = 'demo', attribute = 'label') INNER JOIN images USING (id)
WHERE suspicion > 0.5 ORDER BY suspicion DESC"""
    rows = demo.sql(found)
    ((planted,),) = demo.sql("SELECT countIf(attributes['label'] != attributes['shape']) FROM images", show=False)
    right = sum(wrong for *_, wrong in rows)
    demo.report["mistakes"] = {
        "planted": planted,
        "precision": round(right / max(1, len(rows)), 3),
        "recall": round(right / planted, 3),
    }
    click.echo(f"{len(rows)} labels look wrong, {right} of them are, of {planted} that were planted")
    sheet = [(source, f"{given}? {suggested}", bool(wrong)) for source, given, suggested, _, wrong in rows[:20]]
    demo.sheet("6-likely-mistakes", "likely label mistakes: given? suggested", sheet)


def average_precision(demo: Demo, relevant: str) -> float:
    """Average precision of the concept's current scores over all images."""
    statement = f"""
SELECT round(vdx_average_precision(groupArray({relevant}), groupArray(probability)), 4)
FROM scores(concept = '{CONCEPT}') INNER JOIN images USING (id)"""
    return demo.sql(statement, show=False)[0][0]


def refinement_sheet(demo: Demo, relevant: str, number: int) -> None:
    statement = (
        f"SELECT source, round(probability, 3), {relevant} FROM scores(concept = '{CONCEPT}') INNER JOIN images USING (id)"
        " ORDER BY probability DESC, id LIMIT 20"
    )
    rows = [(source, f"{p:.3f}", bool(good)) for source, p, good in demo.sql(statement, show=False)]
    title = f"{CONCEPT}: the 20 best " + ("by text alone" if not number else f"after round {number}")
    demo.sheet(f"5-refine-round-{number}", title, rows)


def attributes(picture: Picture) -> dict[str, str]:
    """What the table keeps of a picture's truth: each attribute that all its objects share, and each object."""
    shared = {"background": picture.background, "objects": str(len(picture.things))}
    for attribute in ATTRIBUTES:
        values = {getattr(thing, attribute) for thing in picture.things}
        if len(values) == 1:
            shared[attribute] = values.pop()
    for thing in picture.things:
        shared[f"shows {thing.colour} {thing.shape}"] = "yes"
        shared[f"shows {thing.shape}"] = "yes"
    return shared


def shows(wanted: dict[str, str]) -> str:
    """The SQL condition that a picture shows an object of this shape and, if named, colour."""
    return f"mapContains(attributes, 'shows {' '.join(wanted[a] for a in ('colour', 'shape') if a in wanted)}')"


def hits(demo: Demo, search: str, wanted: dict[str, str]) -> list[tuple[str, str, bool]]:
    """A search's answer for a contact sheet: source, distance as text, and whether it shows what was wanted."""
    statement = f"SELECT source, distance, {shows(wanted)} FROM {search} INNER JOIN images USING (id) ORDER BY distance"
    return [(source, f"{distance:.3f}", bool(good)) for source, distance, good in demo.sql(statement, show=False)]


def _print_table(names: tuple[str, ...], rows: list[tuple], total: int) -> None:
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(names)]
    for line in [names, *cells]:
        click.echo("   " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if total > len(rows):
        click.echo(f"   ... {total} rows")


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if len(text) <= 70:
        return text
    return "..." + text[-67:] if text.startswith("/") else text[:67] + "..."  # of a path the end tells more
