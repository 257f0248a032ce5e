"""`make bench-laion`: LAION's shards into a table, ours against the recipe that ClickHouse's documentation publishes.

Ours is `vdx load laion` (sql/datasets/laion.sql). The peer merges the three files of a shard with pandas, writes CSV and
inserts that; its shape is that of the published process.py, on the same engine and into the same columns. Neither builds
a vector index. Every side is a process of its own, the peer two, of which the larger peak counts. Writes
results/laion.json, laion.md and laion.png; QUICK=1: 20,000 rows only.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.comparisons import QUICK, RESULTS, Comparisons, line, machine, plot
from tests.stand_ins import laion_shard
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

SIZES = (20_000,) if QUICK else (50_000, 100_000, 200_000)
WORDS = ["a", "photo", "of", "the", "old", "house", "by", "lake", "dog", "cat", "woman", '"quoted"', "isn't", "über", "日本"]
COLUMNS = "| work | against | ours | peer | unit | ratio |"


def shard(folder: Path, rows: int) -> None:
    """One shard of random unit vectors and captions of 12 words."""
    rng = np.random.default_rng(rows)
    vectors = [rng.standard_normal((rows, 512), dtype=np.float32) for _ in range(2)]
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    captions = [" ".join(words) for words in rng.choice(WORDS, (rows, 12))]
    laion_shard(folder, 0, *vectors, captions, nested=False, ugly=())


def alone(side: str, folder: Path, prefix: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a side."""
    command = [sys.executable, "-m", "tests.benchmarks.laion_sides", side, folder, prefix]
    seconds, peak = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
    return seconds, peak


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measure(found: Comparisons, rows: int, folder: Path) -> None:
    layout = Layout.embedded(folder / "prefix")
    list(install(layout, "vdx-tiny"))
    shard(folder / "laion", rows)
    sizes = [0.0]
    try:
        timed = {}
        for side in ("schema", "ours", "prepare", "insert"):
            timed[side] = alone(side, folder / "laion", layout.state)
            sizes.append(megabytes(layout.data))
    finally:
        stop_encoder(layout)
    mine, theirs = sizes[2] - sizes[1], sizes[4] - sizes[3]
    csv = (folder / "laion" / "0.csv").stat().st_size / 1e6
    seconds, peak = timed["ours"]
    their_seconds = timed["prepare"][0] + timed["insert"][0]
    their_peak = max(timed["prepare"][1], timed["insert"][1])

    def add(what: str, ours: float, peer: float, unit: str) -> None:
        found.add(f"{rows:,} rows: {what}", "pandas to CSV", [(ours, peer)], unit, [ours / peer])

    add("loading", rows / seconds, rows / their_seconds, "rows/s")
    add("peak memory", peak, their_peak, "MB")
    add("table on disk", mine, theirs, "MB")
    add("written to disk", mine, theirs + csv, "MB")


def main() -> None:
    found = Comparisons({})
    for rows in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            measure(found, rows, Path(folder))
    found.progress.close()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "laion.json").write_text(json.dumps(found.rows, indent=1) + "\n")
    lines = [
        f"{machine()}.",
        "",
        COLUMNS,
        "|---|---|---|---|---|---|",
        *(line(row).removesuffix("  |") for row in found.rows),
        "",
    ]
    (RESULTS / "laion.md").write_text("\n".join(lines))
    plot([row for row in found.rows if row["unit"] == "rows/s"], RESULTS / "laion.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
