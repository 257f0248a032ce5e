"""How well clusters agree with known labels, and how long they take, beside scikit-learn's KMeans and HDBSCAN.
`python -m tests.benchmarks.clusters [--data rows.parquet]`. Purity is the share of images whose label is the most frequent of their
cluster; HDBSCAN's images without a cluster count as one.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from tests.benchmarks import mistakes_sets
from tests.benchmarks.mistakes import RESULTS
from tests.benchmarks.refinement import engine_with
from tests.conftest import empty_tables, put

SETS = {name: mistakes_sets.SETS[name] for name in ("digits", "segments", "coarse")}
SETS["large"] = partial(mistakes_sets.mixture, 20, 1_250, 0.4, 3)


def ours(client, ids: list[int], n: int) -> np.ndarray:
    rows = client.query(f"SELECT id, cluster FROM cluster_members(dataset = 'put', n = {n})").result_rows
    found = dict(rows)
    return np.array([found[id] for id in ids])


def measure(client, name: str, vectors: np.ndarray, truth: np.ndarray) -> list[dict]:
    from sklearn.cluster import HDBSCAN, KMeans
    from sklearn.metrics import normalized_mutual_info_score

    empty_tables(client)
    ids, classes, rows = put(client, vectors), int(truth.max()) + 1, []
    ways: dict[str, Callable[[], np.ndarray]] = {
        "clusters, n = classes": lambda: ours(client, ids, classes),
        "clusters, n = 0": lambda: ours(client, ids, 0),
        "KMeans, n = classes": lambda: KMeans(classes, random_state=0).fit_predict(vectors),
        "HDBSCAN": lambda: HDBSCAN(min_cluster_size=max(5, len(vectors) // 200), copy=True).fit_predict(vectors),
    }
    for way, run in ways.items():
        if way == "HDBSCAN" and len(vectors) > 5_000:
            continue  # all pairs
        start = time.perf_counter()
        labels = run()
        taken = time.perf_counter() - start
        purity = sum(np.bincount(truth[labels == each]).max() for each in set(labels)) / len(truth)
        rows.append({
            "set": name, "rows": len(truth), "classes": classes, "method": way, "clusters": len(set(labels)), "purity": round(purity, 3),
            "normalized_mutual_information": round(float(normalized_mutual_info_score(truth, labels)), 3), "seconds": round(taken, 1),
        })  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| set | rows | classes | method | clusters | purity | mutual information | seconds |", "|---" * 8 + "|"]
    lines += [
        f"| {r['set']} | {r['rows']:,} | {r['classes']} | {r['method']} | {r['clusters']} | {r['purity']:.3f}"
        f" | {r['normalized_mutual_information']:.3f} | {r['seconds']:.1f} |"
        for r in rows
    ]
    return "\n".join([*lines, ""])


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Parquet with id, vector, label or labels: a set more."
)
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(data: Path | None, output: Path) -> None:
    sets = ({data.parent.name: lambda: mistakes_sets.photographs(data)} if data else {}) | SETS
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        client = engine_with(mistakes_sets.unit(np.eye(512, dtype=np.float32)[:1]), Path(folder)).client
        for name, make in sets.items():
            found += measure(client, name, *make())
    output.mkdir(parents=True, exist_ok=True)
    (output / "clusters.json").write_text(json.dumps(found, indent=0) + "\n")
    (output / "clusters.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
