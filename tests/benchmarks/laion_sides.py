"""The sides of `make bench-laion`, each run as a process of its own: `python -m tests.benchmarks.laion_sides SIDE FOLDER PREFIX`.

Prints the seconds of its work, the engine's start included, and the process's peak memory in megabytes (VmHWM).
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from vdx_udf import engine
from vdx_udf.commands import load, shell, target
from vdx_udf.installer.layout import Layout

STRUCTURE = (
    "id Int64, url String, caption String, NSFW String, similarity Float32,"
    " image_embedding Array(Float32), text_embedding Array(Float32)"
)


def schema(folder: Path, prefix: Path) -> None:
    """The bundle's tables, which are there before anything is loaded."""
    engine.apply_schema(target.connect_embedded(prefix), Layout.embedded(prefix).sql)


def ours(folder: Path, prefix: Path) -> None:
    path = load.dataset_files(Layout.embedded(prefix).sql)["laion"]
    parameters = load.complete(path, {"path": str(folder), "model": "vdx-tiny", "index": "no"})
    load.run(shell.Session(partial(target.connect_embedded, prefix), parameters, "TabSeparated"), path)


def prepare(folder: Path, prefix: Path) -> None:
    """The peer's first half: from the three files to CSV."""
    import pandas as pd

    images, texts = np.load(folder / "img_emb_0.npy"), np.load(folder / "text_emb_0.npy")
    data = pd.read_parquet(folder / "metadata_0.parquet")
    data = pd.concat([data, pd.DataFrame({"image_embedding": [*images]}), pd.DataFrame({"text_embedding": [*texts]})], axis=1)
    data = data[["url", "caption", "NSFW", "similarity", "image_embedding", "text_embedding"]]
    for column in ("image_embedding", "text_embedding"):
        data[column] = data[column].apply(lambda vector: vector.tolist())
    data["caption"] = data["caption"].apply(lambda caption: caption.replace("'", " ").replace('"', " "))
    data.to_csv(folder / "0.csv", header=False)


def insert(folder: Path, prefix: Path) -> None:
    """The peer's second half: from CSV to the table."""
    client = target.connect_embedded(prefix)
    client.command(f"CREATE TABLE peer ({STRUCTURE}) ENGINE = MergeTree ORDER BY id")
    client.command(f"INSERT INTO peer SELECT * FROM file('{folder}/0.csv', CSV, '{STRUCTURE}')")


if __name__ == "__main__":
    began = time.perf_counter()
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    print(seconds, peak)
