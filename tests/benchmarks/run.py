"""`make bench`: ours and the peer side by side on the embedded engine, alternating in one run; medians and ratios.

Writes results/speed.json (one object a row) and results/speed.md. QUICK=1 measures less of each. Times are of whole
queries as a client sees them, with the model loaded and every input new to the cache unless the row says otherwise.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vdx_udf import engine, settings
from vdx_udf.install import Layout, install, stop_encoder

RESULTS = Path(__file__).parent / "results"
PEER = Path(__file__).parent / "peer.py"
QUICK = bool(os.environ.get("QUICK"))
REPEATS = 3
MODEL = "ViT-B-32/random"
SCALE = 1 if QUICK else 5
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "old",
    "small",
    "large",
    "house",
    "lake",
    "dog",
    "cat",
    "tree",
    "boat",
    "street",
    "market",
    "window",
    "light",
    "morning",
    "river",
    "child",
]


def peer_xml(name: str) -> str:
    return f"""<functions><function>
    <type>executable_pool</type><name>{name}</name><return_type>Array(Float32)</return_type>
    <argument><type>String</type><name>value</name></argument><format>TabSeparated</format><command>{name} {name}</command>
    <pool_size>1</pool_size><command_read_timeout>600000</command_read_timeout>
    <command_write_timeout>600000</command_write_timeout><stderr_reaction>log_last</stderr_reaction>
</function></functions>"""


def prepare(folder: Path) -> tuple[Layout, object]:
    """An installed prefix with ViT-B-32 in random weights, and the peer's functions beside ours."""
    layout = Layout.embedded(folder / "engine")
    for _ in install(layout, MODEL):
        pass
    for name in ("peer_encode_text", "peer_encode_image"):
        (layout.functions / f"{name}_function.xml").write_text(peer_xml(name))
        script = layout.user_scripts / name
        script.write_text(f"#!{sys.executable}\n{PEER.read_text()}")
        script.chmod(0o755)
    return layout, engine.connect_embedded(layout.state)


def captions(count: int, seed: int) -> list[str]:
    """Distinct captions of about 12 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 11)) + f" {seed * 1_000_000 + n}" for n in range(count)]


def photos(folder: Path, count: int, size: tuple[int, int], seed: int) -> Path:
    """JPEGs with the detail of a photo: smooth colour and noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for n in range(count):
        small = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{n:04}.jpg", quality=85)
    return folder


def compare(work: str, unit: str, rows: int, ours: Callable[[int], None], peer: Callable[[int], None]) -> dict:
    """Alternates the two; each call gets the number of its repeat. Rates in rows per second."""
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in tqdm(range(REPEATS), work, leave=False):
        for name, run in (("ours", ours), ("peer", peer)):
            began = time.perf_counter()
            run(repeat)
            rates[name].append(rows / (time.perf_counter() - began))
    ratios = [a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)]
    return {
        "work": work,
        "ours": round(statistics.median(rates["ours"]), 2),
        "peer": round(statistics.median(rates["peer"]), 2),
        "unit": unit,
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def measure(folder: Path) -> list[dict]:
    layout, client = prepare(folder)

    def texts(function: str, values: list[str]) -> None:
        query = f"SELECT count() FROM (SELECT {function}(arrayJoin({{t:Array(String)}})) AS v) WHERE length(v) = 512"
        assert client.query(query, parameters={"t": values}).result_rows == [(len(values),)]

    def pictures(function: str, source: str, count: int) -> None:
        query = f"SELECT count() FROM (SELECT {function} AS v FROM file('{source}/*.jpg', {{}})) WHERE length(v) = 512"
        # One file is one block: ours takes 16 at a time, the peer's pool has one process.
        query = query.format("RawBLOB") + " SETTINGS max_threads = 16" if "raw_blob" in function else query.format("One")
        assert client.query(query).result_rows == [(count,)]

    def rows(precision: str) -> list[dict]:
        for _ in install(layout, MODEL, precision=precision):
            pass
        for function in ("encode_text", "peer_encode_text"):
            texts(function, ["load the model"])
        (place := folder / precision).mkdir()
        first = photos(place / "first", 1, (640, 480), 0)
        for function in ("encode_image(raw_blob)", "peer_encode_image(_path)"):
            pictures(function, first, 1)
        distinct, many, images = 40 * SCALE, 200 * SCALE, 20 * SCALE
        folders = [
            [photos(place / f"{who}{r}", images, (640, 480), 10 * r + i + 1) for i, who in enumerate("ab")]
            for r in range(REPEATS)
        ]
        return [
            compare(
                f"one new text, {precision}", "queries/s", 1,
                lambda r: texts("encode_text", captions(1, 50 + r)), lambda r: texts("peer_encode_text", captions(1, 60 + r)),
            ),
            compare(
                f"{distinct} distinct captions, {precision}", "rows/s", distinct,
                lambda r: texts("encode_text", captions(distinct, 10 + r)), lambda r: texts("peer_encode_text", captions(distinct, 20 + r)),
            ),
            compare(
                f"{many} captions, 1 % distinct, {precision}", "rows/s", many,
                lambda r: texts("encode_text", captions(many // 100, 30 + r) * 100),
                lambda r: texts("peer_encode_text", captions(many // 100, 40 + r) * 100),
            ),
            compare(
                f"{images} JPEGs of 640x480, {precision}", "rows/s", images,
                lambda r: pictures("encode_image(raw_blob)", folders[r][0], images),
                lambda r: pictures("peer_encode_image(_path)", folders[r][1], images),
            ),
        ]  # fmt: skip

    try:
        return [row for precision in settings.PRECISIONS for row in rows(precision)]
    finally:
        stop_encoder(layout)


def table(rows: list[dict], machine: str) -> str:
    lines = ["| work | ours | peer | unit | ratio (min to max) |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['work']} | {r['ours']} | {r['peer']} | {r['unit']} | {r['ratio']} ({r['spread'][0]} to {r['spread'][1]}) |"
        for r in rows
    ]
    return "\n".join([machine, "", *lines, ""])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    machine = f"ViT-B-32 (the peer in float32), {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, {REPEATS} repeats."
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "speed.md").write_text(table(rows, machine))
    print(table(rows, machine))


if __name__ == "__main__":
    main()
