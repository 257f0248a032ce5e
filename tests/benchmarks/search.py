"""`make bench-search`: searches with and without filters, ours beside the bare statement, LanceDB, faiss, usearch and pgvector.

The vectors have the geometry of real embeddings, by the bundled model: drawn pictures' vectors, mixed in pairs, with noise of
their covariance; queries are its vectors of texts. Everything runs in one process after the other on the same rows. Writes
results/search.{json,md,png}; a row: work, system, rows, k, selectivity (the share that passes), milliseconds (median), recall (mean,
against brute force). ROWS=25000,100000 measures other sizes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tests.benchmarks.run import RESULTS, machine
from tests.benchmarks.search_systems import SHARES, SYSTEMS, Ours, Search
from vdx_udf.commands.sizing import INDEXES
from vdx_udf.encoder.model import Clip
from vdx_udf.tiny.pictures import COLOURS, SHAPES, draw, sample_picture

ROWS = tuple(int(size) for size in os.environ.get("ROWS", "25000,100000").split(","))
SEEDS = 1_500  # drawn pictures that the vectors are mixed of
QUERIES = 60
RESCORED = ", vector_search_with_rescoring = 1, vector_search_index_fetch_multiplier = 4"
SECONDS = 4  # that each number of clients searches


def embeddings(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, float32 (rows, 512), and queries (QUERIES, 512)."""
    clip, rng = Clip("vdx-tiny", "float32"), np.random.default_rng(19)
    pictures = [clip.pixels(draw(sample_picture(rng))) for _ in range(SEEDS)]
    seeds = np.concatenate([clip.encode_images(pictures[start : start + 50]) for start in range(0, SEEDS, 50)])
    values, directions = np.linalg.eigh(np.cov(seeds.T))
    spread = (directions * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    found = np.empty((rows, seeds.shape[1]), np.float32)
    for start in range(0, rows, 50_000):
        part = found[start : start + 50_000]
        share = rng.uniform(0.5, 1, (len(part), 1)).astype(np.float32)
        first, second = (seeds[rng.integers(0, SEEDS, len(part))] for _ in range(2))
        part[:] = share * first + (1 - share) * second + 0.5 * rng.standard_normal(part.shape, np.float32) @ spread.T
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    texts = [f"a {one} {a} and a {other} {b}" for one in COLOURS for a in SHAPES for other in COLOURS for b in SHAPES]
    return found, clip.encode_texts([texts[n] for n in rng.permutation(len(texts))[:QUERIES]])


def exact(vectors: np.ndarray, queries: np.ndarray, share: int) -> np.ndarray:
    """The 100 nearest that pass, (QUERIES, 100) row numbers; fewer where fewer pass."""
    passing = np.flatnonzero(np.arange(len(vectors)) % share == 1) if share else np.arange(len(vectors))
    cosines = queries @ vectors[passing].T
    return passing[np.argsort(-cosines, axis=1)[:, :100]]


def measured(search: Search, queries: np.ndarray, wanted: np.ndarray, k: int, share: int) -> tuple[float, float]:
    """Median milliseconds of a search and mean recall."""
    for query in queries[:3]:
        search(query, k, share)
    taken, recalls = [], []
    for query, nearest in zip(queries, wanted, strict=True):
        began = time.perf_counter()
        found = search(query, k, share)
        taken.append(time.perf_counter() - began)
        recalls.append(len(set(found) & set(nearest[:k].tolist())) / len(nearest[:k]))
    return 1000 * statistics.median(taken), statistics.mean(recalls)


def throughput(searches: list[Search], queries: np.ndarray) -> tuple[float, int]:
    """Searches a second of so many clients at a time, k = 10, and how many failed."""
    end = time.monotonic() + SECONDS

    def ask(search: Search) -> tuple[int, int]:
        done = failed = 0
        while time.monotonic() < end:
            try:
                search(queries[done % len(queries)], 10, 0)
                done += 1
            except Exception as error:
                if "Too many threads" not in str(error):  # more searches of one part at a time than its index was loaded for
                    raise
                failed += 1
        return done, failed

    with ThreadPoolExecutor(len(searches)) as pool:
        done, failed = zip(*pool.map(ask, searches), strict=True)
    return sum(done) / SECONDS, sum(failed)


def compare(rows: int) -> list[dict]:
    """All systems over so many vectors."""
    found: list[dict] = []
    progress = tqdm(total=(len(SYSTEMS) + 1) * 2 * (1 + len(SHARES)), desc=f"{rows:,} vectors", unit=" measurements")
    vectors, queries = embeddings(rows)
    wanted = {share: exact(vectors, queries, share) for share in (0, *SHARES)}
    for name, kind in SYSTEMS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                system = kind(Path(folder))
            except ImportError as missing:
                progress.write(f"{name}: {missing}")
                continue
            built = system.build(vectors)
            found.append({"work": "build", "system": name, "rows": rows, "seconds": round(built, 1), "bytes": system.size()})
            ways = {name: system.connect}
            if isinstance(system, Ours):
                ways["bare statement"] = system.connect_bare
            for way, connect in ways.items():
                search = connect()
                for share in (0, *SHARES):
                    for k in (10, 100):
                        milliseconds, recall = measured(search, queries, wanted[share], k, share)
                        found.append({
                            "work": "search", "system": way, "rows": rows, "k": k, "selectivity": 1 / share if share else 1,
                            "milliseconds": round(milliseconds, 2), "recall": round(recall, 4),
                        })  # fmt: skip
                        progress.update()
                for clients in (1, 8):
                    rate, failed = throughput([connect() for _ in range(clients)], queries)
                    load = {"clients": clients, "per_second": round(rate, 1), "failed": failed}
                    found.append({"work": "load", "system": way, "rows": rows} | load)
            system.close()
    progress.close()
    return found


def indexes(rows: int, index: str) -> list[dict]:
    """ClickHouse's own index of another quantization, M and ef_construction: plain, and comparing four times as many exactly."""
    vectors, queries = embeddings(rows)
    wanted, found = exact(vectors, queries, 0), []
    with tempfile.TemporaryDirectory() as folder:
        system = Ours(Path(folder), index)
        built = system.build(vectors)
        for way, more in (("", ""), (", rescored", RESCORED)):
            milliseconds, recall = measured(system.connect_bare(more), queries, wanted, 10, 0)
            found.append({
                "work": "index", "system": index + way, "rows": rows, "seconds": round(built, 1), "bytes": system.index_size(),
                "milliseconds": round(milliseconds, 2), "recall": round(recall, 4),
            })  # fmt: skip
        system.close()
    return found


def table(found: list[dict]) -> str:
    lines = [f"{machine()}; medians of {QUERIES} queries; vectors mixed of the bundled model's, queries its texts.", ""]
    for rows in dict.fromkeys(row["rows"] for row in found):
        mine = [row for row in found if row["rows"] == rows and row["work"] != "index"]
        for k in (10, 100):
            lines += [f"{rows:,} vectors, k = {k}: milliseconds (recall), by the share of rows that pass.", ""]
            lines += ["| system | all | 50 % | 10 % | 1 % | 0.1 % |", "|---|---|---|---|---|---|"]
            for system in dict.fromkeys(row["system"] for row in mine):
                cells = [
                    f"{r['milliseconds']:.1f} ({r['recall']:.3f})"
                    for r in mine
                    if r["work"] == "search" and r["system"] == system and r["k"] == k
                ]
                if cells:
                    lines.append(f"| {system} | " + " | ".join(cells) + " |")
            lines.append("")
        lines += ["| system | index built in | bytes | searches a second, 1 client | 8 clients |", "|---|---|---|---|---|"]
        for system in dict.fromkeys(row["system"] for row in mine):
            built = next((row for row in mine if row["work"] == "build" and row["system"] == system), None)
            rates = [
                f"{row['per_second']:g}" + f" ({row['failed']} failed)" * (row["failed"] > 0)
                for row in mine
                if row["work"] == "load" and row["system"] == system
            ]
            lines.append(
                f"| {system} | "
                + (f"{built['seconds']:g} s | {built['bytes'] / 1e6:,.0f} MB | " if built else " | | ")
                + " | ".join(rates)
                + " |"
            )
        lines.append("")
    tried = [row for row in found if row["work"] == "index"]
    if tried:
        lines += [f"{tried[0]['rows']:,} vectors, the bare statement, k = 10, by quantization, M and ef_construction:", ""]
        lines += ["| index | built in | bytes | milliseconds | recall |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['system']} | {row['seconds']:g} s | {row['bytes'] / 1e6:.0f} MB | {row['milliseconds']:.1f} | {row['recall']:.3f} |"
            for row in tried
        ]
        lines.append("")
    return "\n".join(lines)


def plot(found: list[dict], path: Path) -> None:
    """Latency and recall by the share that passes, of the largest set, k = 10."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = max(row["rows"] for row in found)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for system in dict.fromkeys(row["system"] for row in found if row["work"] == "search"):
        mine = [r for r in found if r["work"] == "search" and r["system"] == system and r["rows"] == rows and r["k"] == 10]
        shares = [r["selectivity"] for r in mine]
        for axis, key in zip(axes, ("milliseconds", "recall"), strict=True):
            axis.plot(shares, [r[key] for r in mine], marker="o", label=system)
    for axis, key in zip(axes, ("milliseconds (median)", "recall@10"), strict=True):
        axis.set(xscale="log", xlabel="share of rows that pass the filter", ylabel=key)
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    axes[0].set(yscale="log", title=f"{rows:,} vectors of 512, k = 10")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Each size in a process of its own, since a process holds one embedded engine."""
    found: list[dict] = []
    for rows, *index in [*((rows,) for rows in ROWS), *((ROWS[-1], index) for index in INDEXES)]:
        with tempfile.NamedTemporaryFile("r") as answer:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.search", str(rows), answer.name, *index], check=True)
            found += json.load(answer)
    (RESULTS / "search.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "search.md").write_text(text := table(found))
    plot(found, RESULTS / "search.png")
    print(text)


if __name__ == "__main__":
    if sys.argv[1:]:
        size, output, *parameters = sys.argv[1:]
        Path(output).write_text(json.dumps(indexes(int(size), *parameters) if parameters else compare(int(size))))
    else:
        main()
