"""`make bench`: ours and the peers side by side on the embedded engine, alternating in one run; medians and ratios.

Writes results/speed.json (one object a row), results/speed.md and results/speed.png. QUICK=1 measures less of each.
Times are of whole queries as a client sees them, model loaded and inputs new to the cache unless the row says otherwise.
A peer whose rate does not depend on the number of rows gets fewer of them; rates are compared.

Peers: `docs`, UDFs in the shape that ClickHouse's documentation publishes (peer.py); `docs, per query`, the same as type
`executable`, which starts the script for each query; `client`, a program that embeds row by row and inserts through
clickhouse-connect; `loop`, our model in a plain Python loop over batches without ClickHouse.
"""

import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch

from tests.benchmarks import peers, roofline
from tests.benchmarks.comparisons import QUICK, REPEATS, RESULTS, Comparisons, Side, less, line, machine, plot
from tests.benchmarks.works import MODEL, Bench, captions, photos
from vdx_udf import engine
from vdx_udf.commands import target
from vdx_udf.encoder.decoding import decode
from vdx_udf.encoder.model import Clip
from vdx_udf.installer.install import stop_encoder

OTHER_PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass
class Pictures:
    """Folders of JPEGs of one size, a new one for each repeat."""

    size: tuple[int, int]
    ours: list[Path]
    peer: list[Path]
    many: int
    few: int

    @staticmethod
    def drawn(folder: Path, size: tuple[int, int], many: int, few: int) -> "Pictures":
        place = folder / str(size[0])
        sides = [
            [photos(place / f"{who}{r}", n, size, at + r) for r in range(REPEATS)]
            for who, n, at in (("a", many, 10), ("b", few, 20))
        ]
        return Pictures(size, *sides, many, few)


def texts_and_pictures(bench: Bench, found: Comparisons, pictures: list[Pictures], precision: str) -> None:
    """The main work in one precision against the documented UDFs."""
    count, few = less(2000), less(200)
    tokens = np.mean([len(text.split()) + 2 for text in captions(count, 0)])
    for repeat in range(REPEATS):
        bench.store(f"ours {precision} {repeat}", captions(count, 100 + repeat))
        bench.store(f"peer {precision} {repeat}", captions(few, 200 + repeat))
    found.compare(
        f"{count:,} distinct captions of 12 tokens, {precision}", "docs",
        Side(count, lambda r: bench.texts("encode_text", f"ours {precision} {r}", count)),
        Side(few, lambda r: bench.texts("peer_encode_text", f"peer {precision} {r}", few)),
        most=(precision, roofline.text_operations(tokens)),
    )  # fmt: skip
    for p in pictures:
        found.compare(
            f"{p.many} JPEGs {p.size[0]}x{p.size[1]}, {precision}", "docs",
            Side(p.many, lambda r, p=p: bench.pictures(p.ours[r], p.many)),
            Side(p.few, lambda r, p=p: bench.peer_pictures(p.peer[r], p.few)),
            most=(precision, roofline.image_operations()),
        )  # fmt: skip


def latency(bench: Bench, found: Comparisons) -> None:
    """Single new texts: alone, at once, and from a cold start."""
    fresh = iter(captions(2000, 300))
    found.compare(
        "one new text", "docs, per query", Side(1, lambda r: bench.text("encode_text", next(fresh))),
        Side(1, lambda r: bench.text("peer_encode_text_each_query", next(fresh))), "queries/s",
    )  # fmt: skip
    found.compare(
        "one new text", "docs, loaded", Side(20, lambda r: [bench.text("encode_text", next(fresh)) for _ in range(20)]),
        Side(20, lambda r: [bench.text("peer_encode_text", next(fresh)) for _ in range(20)]), "queries/s",
    )  # fmt: skip

    def cold(repeat: int) -> None:
        stop_encoder(bench.layout)
        bench.text("encode_text", next(fresh))

    found.compare(
        "first text after a cold start", "docs, per query", Side(1, cold),
        Side(1, lambda r: bench.text("peer_encode_text_each_query", next(fresh))), "queries/s",
    )  # fmt: skip

    pairs = []
    clients = [target.connect_embedded(bench.layout.state) for _ in range(16)]

    def timed(client, text: str) -> float:
        began = time.perf_counter()
        assert client.query("SELECT length(encode_text({t:String}))", parameters={"t": text}).result_rows == [(512,)]
        return 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(timed, clients, [next(fresh) for _ in clients]))  # starts 16 workers
        for _ in range(REPEATS):
            alone = statistics.median(timed(clients[0], next(fresh)) for _ in range(20))
            busy = [t for _ in range(10) for t in pool.map(timed, clients, [next(fresh) for _ in clients])]
            pairs.append((float(np.percentile(busy, 95)), alone))
    found.add("p95 of single texts, 16 at a time", "one alone", pairs, "ms", [a / b for a, b in pairs])


def repeated(bench: Bench, found: Comparisons) -> None:
    """Captions that repeat, and the client that embeds row by row."""
    count, few = less(100_000), 100 if QUICK else 200
    for repeat in range(REPEATS):
        bench.store(f"repeated {repeat}", captions(count // 100, 400 + repeat) * 100)
        bench.store(f"few {repeat}", captions(few // 100, 500 + repeat) * 100)
        bench.store(f"insert {repeat}", captions(less(1000), 600 + repeat))
    found.compare(
        f"{count:,} captions, 1 % distinct", "docs",
        Side(count, lambda r: bench.texts("encode_text", f"repeated {r}", count)),
        Side(few, lambda r: bench.texts("peer_encode_text", f"few {r}", few)),
    )  # fmt: skip
    model, tokenizer = open_clip.create_model("ViT-B-32", pretrained=None).eval(), open_clip.get_tokenizer("ViT-B-32")

    @torch.no_grad()
    def row_by_row(repeat: int) -> None:
        rows = []
        for text in captions(few, 700 + repeat):
            features = model.encode_text(tokenizer([text]))
            rows.append([(features / features.norm(dim=-1, keepdim=True))[0].tolist()])
        bench.client.insert("vectors", rows, column_names=["v"])

    found.compare(
        f"{less(1000):,} captions embedded and inserted", "client",
        Side(less(1000), lambda r: bench.client.command(
            f"INSERT INTO vectors SELECT encode_text(text) FROM captions WHERE name = 'insert {r}'")),
        Side(few, row_by_row),
    )  # fmt: skip
    bench.client.command("TRUNCATE TABLE vectors")


def overhead(bench: Bench, found: Comparisons, folder: Path, precision: str) -> None:
    """What a column through ClickHouse keeps of a plain loop over the same model."""
    clip = Clip(MODEL, precision)
    count, many = less(2000), less(200)
    for repeat in range(REPEATS):
        bench.store(f"column {repeat}", captions(count, 800 + repeat))

    def texts(repeat: int) -> None:
        values = captions(count, 900 + repeat)
        for start in range(0, count, 64):
            clip.encode_texts(values[start : start + 64])

    found.compare(
        f"{count:,} distinct captions, {precision}", "loop",
        Side(count, lambda r: bench.texts("encode_text", f"column {r}", count)), Side(count, texts),
    )  # fmt: skip
    ours, peer = (
        [photos(folder / f"{who}{r}", many, (640, 480), at + r) for r in range(REPEATS)]
        for who, at in (("column", 30), ("loop", 40))
    )

    def pictures(repeat: int) -> None:
        files = sorted(peer[repeat].iterdir())
        for start in range(0, many, 32):
            clip.encode_images([clip.pixels(decode(file.read_bytes())) for file in files[start : start + 32]])

    found.compare(
        f"{many} JPEGs 640x480, {precision}", "loop", Side(many, lambda r: bench.pictures(ours[r], many)), Side(many, pictures),
    )  # fmt: skip


def zero_shot(bench: Bench, found: Comparisons) -> None:
    """classify over stored vectors."""
    stored, many, few = less(10_000), less(1000), less(50)
    bench.client.command(
        "INSERT INTO vectors SELECT arrayMap(i -> toFloat32(randNormal(0, 1, number + i)), range(512)) FROM numbers({n:UInt32})",
        parameters={"n": 10 * stored},
    )
    question = (
        "SELECT count() FROM (SELECT classify(v, {l:Array(String)}) AS p FROM vectors LIMIT {k:UInt64})"
        " WHERE length(p) = {n:UInt64}"
    )

    def classify(rows: int, labels: list[str]) -> None:
        bench.rows(question, rows, l=labels, k=rows, n=len(labels))

    def in_sql(rows: int, labels: list[str]) -> None:
        products = ", ".join(f"logit_scale * dotProduct(v, known[{n + 1}])" for n in range(len(labels)))
        bench.rows(
            "WITH (SELECT groupArray(embedding) FROM label_embeddings(labels = {l:Array(String)}, template_set = 'default')) AS known,"
            f" toFloat64(encoder_info()['logit_scale']) AS logit_scale SELECT count() FROM (SELECT vdx_softmax([{products}]) AS p"
            " FROM vectors LIMIT {k:UInt64}) WHERE length(p) = {n:UInt64}", rows, l=labels, k=rows, n=len(labels),
        )  # fmt: skip

    def reencode(repeat: int) -> None:
        for label in captions(few, 1100 + repeat):
            bench.text("peer_encode_text", label)

    found.compare(
        f"classify {stored:,} stored vectors, {many:,} new labels", "docs, labels encoded in every row",
        Side(stored, lambda r: classify(stored, captions(many, 1000 + r))),
        Side(few / many, reencode),  # one template where ours averages five
    )  # fmt: skip
    for rows, count in ((10 * stored, 10), (stored, 100)):
        labels = captions(count, 1200)
        classify(1, labels)
        found.compare(
            f"classify {rows:,} stored vectors, {count:,} known labels", "plain SQL",
            Side(rows, lambda r, rows=rows, labels=labels: classify(rows, labels)),
            Side(rows, lambda r, rows=rows, labels=labels: in_sql(rows, labels)),
        )  # fmt: skip


def measure(folder: Path, found: Comparisons) -> str:
    bench = Bench.prepare(folder)
    try:
        bench.serve()
        bench.text("peer_encode_text", "load the model")
        first = photos(folder / "first", 64, (640, 480), 0)
        bench.pictures(first, 64)  # starts 16 workers
        bench.peer_pictures(first, 64)
        engine.apply_schema(bench.client, bench.layout.sql)
        (info,) = bench.client.query("SELECT encoder_info()").result_rows[0]
        precision = info["precision"]
        found.progress.write(f"{machine()}; precision chosen: {precision}")
        pictures = [
            Pictures.drawn(folder, (640, 480), less(500), less(100)),
            Pictures.drawn(folder, (4000, 3000), less(60), less(20)),
        ]  # fmt: skip
        texts_and_pictures(bench, found, pictures, precision)
        repeated(bench, found)
        overhead(bench, found, folder, precision)
        zero_shot(bench, found)
        latency(bench, found)
        peers.compare(bench, found, folder, precision)
        for other in OTHER_PRECISIONS:
            if other == precision or other not in found.roof:
                continue  # measured above, or not there
            bench.serve("--precision", other)
            texts_and_pictures(bench, found, pictures, other)
        return precision
    finally:
        bench.close()


def table(found: Comparisons, precision: str) -> str:
    roofs = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in found.roof.items())
    head = (
        f"ViT-B-32 with random weights in {precision} unless stated, the documented UDFs in float32; {machine()}; medians of {REPEATS}.\n"
        f"A large matrix product reaches, in billions of operations a second: {roofs}; `roofline` is that over the model's\n"
        "operations a row. Against `docs`: UDFs in the shape that ClickHouse's documentation publishes, one process, one row at a\n"
        "time, TabSeparated; `per query`: the same as type `executable`, which loads the model for each query; `client`: a\n"
        "program that embeds row by row and inserts; `loop`: our model in a plain Python loop over batches, no ClickHouse."
    )
    lines = [
        "| work | against | ours | peer | unit | ratio (least to most) | roofline | cosine, ours and peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"{line(row)} {' '.join(f'{cosine:.4f}' for cosine in row.get('cosines') or [])} |" for row in found.rows]
    return "\n".join([head, "", *lines, ""])


def main() -> None:
    found = Comparisons(roofline.measured())
    with tempfile.TemporaryDirectory() as folder:
        precision = measure(Path(folder), found)
    found.progress.close()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(found.rows, indent=1) + "\n")
    (RESULTS / "speed.md").write_text(table(found, precision))
    plot(found.rows, RESULTS / "speed.png")
    print(table(found, precision))


if __name__ == "__main__":
    main()
