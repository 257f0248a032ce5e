"""How well likely_mistakes finds wrong labels, and how long it takes, beside cleanlab over scikit-learn's out-of-fold probabilities.
`python -m tests.benchmarks.mistakes [--data rows.parquet]`.

Of each set 5 % of the labels are made wrong, of a small one three times. cleanlab is run as its documentation does it: five-fold cross_val_predict of
LogisticRegression, then get_label_quality_scores; with scikit-learn's default C = 1, and with C = 10. Times are of the first labels.
"""

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from tests.benchmarks import mistakes_sets
from tests.benchmarks.refinement import engine_with
from tests.conftest import empty_tables, put

RESULTS = Path(__file__).parent / "results"
FLIPPED = 0.05
FLIPS = 3  # draws of wrong labels
SMALL = 1_000  # rows below which one draw says little
# likely_mistakes until 0.1: the mean of the neighbours' share and a classifier of class means.
BEFORE = Path(__file__).parent / "mistakes_before.sql"


def cleanlab(vectors: np.ndarray, given: np.ndarray, strength: float) -> np.ndarray:
    """float (rows,): one less cleanlab's label quality, self-confidence."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    model = LogisticRegression(C=strength, max_iter=300)
    probabilities = cross_val_predict(model, vectors, given, cv=5, method="predict_proba")
    return 1 - get_label_quality_scores(given, probabilities)


def view(client, name: str, ids: list[int]) -> np.ndarray:
    """float (rows,): the suspicion of each image, in the order of ids."""
    rows = client.query(f"SELECT id, suspicion FROM {name}(dataset = 'put', attribute = 'label')").result_rows
    found = dict(rows)
    return np.array([found[id] for id in ids])


def measure(client, name: str, vectors: np.ndarray, truth: np.ndarray) -> list[dict]:
    from sklearn.metrics import average_precision_score

    rows, classes = [], int(truth.max()) + 1
    for seed in range(FLIPS if len(truth) < SMALL else 1):
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(len(truth)) < FLIPPED * len(truth)
        given = np.where(wrong, (truth + rng.integers(1, classes, len(truth))) % classes, truth)
        given = np.unique(given, return_inverse=True)[1]
        empty_tables(client)
        ids = put(client, vectors, attributes=[{"label": f"{label:03d}"} for label in given])

        def neighbours() -> None:
            client.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'put', k = 10)")

        for method, run in {
            "cleanlab": lambda given=given: cleanlab(vectors, given, 1),
            "cleanlab, C = 10": lambda given=given: cleanlab(vectors, given, 10),
            "likely_mistakes, no neighbours": lambda ids=ids: view(client, "likely_mistakes", ids),
            "nearest_neighbours": neighbours,
            "likely_mistakes": lambda ids=ids: view(client, "likely_mistakes", ids),
            "likely_mistakes 0.1": lambda ids=ids: view(client, "likely_mistakes_before", ids),
        }.items():
            start = time.perf_counter()
            try:
                scores = run()
            except Exception as error:
                if "MEMORY_LIMIT_EXCEEDED" not in str(error):
                    raise
                rows.append(
                    {"set": name, "rows": len(truth), "classes": classes, "method": method, "seed": seed, "seconds": None}
                )
                continue
            found = {"set": name, "rows": len(truth), "classes": classes, "method": method, "seed": seed}
            found["seconds"] = round(time.perf_counter() - start, 2)
            if scores is not None:
                found["average_precision"] = round(float(average_precision_score(wrong, scores)), 4)
            rows.append(found)
    return rows


def table(rows: list[dict]) -> str:
    methods = [row["method"] for row in rows if row["set"] == rows[0]["set"] and row["seed"] == 0]
    head = (
        f"Average precision of finding {FLIPPED:.0%} flipped labels, of fewer than {SMALL:,} rows the mean of {FLIPS} draws, and seconds of the first;"
        " the time of nearest_neighbours comes on top where neighbours are used.\n"
    )
    lines = ["| set | rows | classes | " + " | ".join(methods) + " |", "|---|" + "---|" * (len(methods) + 2)]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        cells = []
        for method in methods:
            values = [row["average_precision"] for row in own if row["method"] == method and "average_precision" in row]
            seconds = next(row["seconds"] for row in own if row["method"] == method)
            cells.append((f"{np.mean(values):.3f}, " if values else "") + (f"{seconds:.1f} s" if seconds else "out of memory"))
        lines.append(f"| {name} | {own[0]['rows']:,} | {own[0]['classes']} | " + " | ".join(cells) + " |")
    return "\n".join([head, *lines, ""])


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Parquet with id, vector, label or labels: a set more."
)
@click.option("--rows", type=int, default=25_000, show_default=True, help="Rows of a large set, once.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(data: Path | None, rows: int, output: Path) -> None:
    sets = {data.parent.name: lambda: mistakes_sets.photographs(data)} if data else {}
    sets |= mistakes_sets.SETS
    if rows:
        sets["large"] = lambda: mistakes_sets.mixture(100, rows // 100, 0.4, 6)
    output.mkdir(parents=True, exist_ok=True)
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        client = engine_with(mistakes_sets.unit(np.eye(512, dtype=np.float32)[:1]), Path(folder)).client
        client.command(BEFORE.read_text().strip().removesuffix(";"))
        for name, make in sets.items():
            found += measure(client, name, *make())
            print(table(found), flush=True)
            (output / "mistakes.json").write_text(json.dumps(found, indent=0) + "\n")
            (output / "mistakes.md").write_text(table(found))


if __name__ == "__main__":
    main()
