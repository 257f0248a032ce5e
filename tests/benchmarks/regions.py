"""Small things in large pictures: one vector a picture beside regions, on drawn scenes whose content is known.

`make bench-regions` draws 400 scenes of each kind, an object of a given share of the
picture among clutter, loads them with the bundled model into the embedded engine, fills `regions`, and measures by SQL, for all 64
pairs of a colour and a shape: average precision and recall@10 of text search with whole pictures and with regions; three rounds of
refinement from marked boxes and from whole pictures. Then what a search costs over 10,000 pictures of 21 parts, whose vectors are
mixed of such scenes', and what cutting costs. `found`, `searches` or `cutting` as argument does one of the three anew. Writes results/regions.{json,md,png}.
"""

import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from tests.benchmarks.run import RESULTS, machine
from tests.benchmarks.works import MODEL, photos
from vdx_udf import engine
from vdx_udf.commands import target
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.settings import REGION_LEVELS
from vdx_udf.tiny.pictures import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Thing, jitter, paint

SIDE = 384
SMALL = (1 / 100, 1 / 36)  # shares of the picture's area: the clutter beside a small object
KINDS: dict[str, tuple[Callable[[np.random.Generator], float], int, tuple[float, float]]] = {
    "1/64": (lambda rng: 1 / 64, 11, SMALL),
    "1/32": (lambda rng: 1 / 32, 11, SMALL),
    "1/16": (lambda rng: 1 / 16, 11, SMALL),
    "1/8": (lambda rng: 1 / 8, 6, (1 / 64, 1 / 25)),
    "1/4": (lambda rng: 1 / 4, 3, (1 / 64, 1 / 16)),
    "fills it": (lambda rng: rng.uniform(0.5, 0.9), 0, SMALL),
}  # of a scene the share of its first object, and how many others of which shares
PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
ROUNDS, SHOWN = 3, 10
CONCEPTS = 12  # of the pairs, for refinement
SCENES = 400
MANY, PARTS = 10_000, 21
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """`objects`: pair to box of one of its objects, in shares of the picture; the picture as PNG."""

    objects: dict[tuple[str, str], Box]
    content: bytes


def drawn(rng: np.random.Generator, shares: list[float], width: int, height: int) -> Scene:
    background = str(rng.choice(tuple(BACKGROUNDS)))
    is_dark = sum(BACKGROUNDS[background]) < 3 * 128
    canvas = Image.new("RGB", (width, height), jitter(rng, BACKGROUNDS[background], 6))
    placed: list[tuple[float, float, float]] = []
    objects: dict[tuple[str, str], Box] = {}
    for share in shares:
        radius = min(math.sqrt(share * width * height) / 2, 0.47 * min(width, height))  # whole within the picture
        for _ in range(200):
            x, y = (rng.uniform(radius + 2, max(radius + 3, length - radius - 2)) for length in (width, height))
            if all(math.hypot(x - a, y - b) >= radius + r + 2 for a, b, r in placed):
                break
        else:
            continue
        placed.append((x, y, radius))
        colour, shape = PAIRS[rng.integers(len(PAIRS))]
        base, angle = jitter(rng, COLOURS[colour], 10), rng.uniform(-0.14, 0.14)
        paint(canvas, Thing(colour, shape, "", TEXTURES[rng.integers(4)], x, y, radius), base, angle, is_dark)
        box = ((x - radius) / width, (y - radius) / height, 2 * radius / width, 2 * radius / height)
        objects.setdefault((colour, shape), tuple(float(min(1, max(0, v))) for v in box))
    file = io.BytesIO()
    canvas.save(file, "PNG", compress_level=1)
    return Scene(objects, file.getvalue())


def average_precision(relevant: np.ndarray) -> float:
    """Of a ranking, best first: the mean of the precisions at its relevant places."""
    return float((np.cumsum(relevant) / np.arange(1, len(relevant) + 1))[relevant].mean())


class World:
    """The scenes of one kind as a data set of an engine of its own."""

    def __init__(self, folder: Path, scenes: list[Scene]):
        self.scenes = scenes
        self.layout = Layout.embedded(folder / "engine")
        list(install(self.layout, "vdx-tiny"))
        self.client = target.connect_embedded(self.layout.state)
        engine.apply_schema(self.client, self.layout.sql)
        pictures = self.layout.user_files / "scenes"
        pictures.mkdir(parents=True)
        for number, scene in enumerate(scenes):
            (pictures / f"{number}.png").write_bytes(scene.content)
        self.seconds = [
            self.timed(
                "INSERT INTO inbox (dataset, source) SELECT 'scenes', path FROM (SELECT arrayJoin(vdx_files({p:String})).path AS path)",
                p=str(pictures),
            ),
            self.timed("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 2)"),
        ]
        self.number = {id: int(Path(source).stem) for id, source in self.rows("SELECT id, source FROM images")}
        self.id = {number: id for id, number in self.number.items()}

    def rows(self, statement: str, **parameters: Any) -> list[tuple]:
        return self.client.query(statement, parameters).result_rows

    def timed(self, statement: str, **parameters: Any) -> float:
        began = time.perf_counter()
        self.client.command(statement, parameters)
        return time.perf_counter() - began

    def relevant(self, pair: tuple[str, str]) -> np.ndarray:
        return np.array([pair in scene.objects for scene in self.scenes])

    def found(self, view: str, pair: tuple[str, str]) -> tuple[float, float]:
        """Average precision and recall@10 of all images as the view ranks them."""
        rows = self.rows(f"SELECT id FROM {view} ORDER BY distance", v=f"a {' '.join(pair)}")
        relevant = self.relevant(pair)
        ranked = relevant[[self.number[id] for (id,) in rows]]
        return average_precision(ranked), ranked[:10].sum() / min(10, relevant.sum())

    def refined(self, pair: tuple[str, str], regions: bool) -> list[float]:
        """Average precision of all images, the judged ones included, by the text and after each of the rounds."""
        concept, suffix = f"{pair} {regions}", "_regions" if regions else ""
        self.client.command(
            "INSERT INTO classifiers SELECT * FROM start_concept(concept = {c:String}, prompt = {p:String})",
            {"c": concept, "p": f"a {' '.join(pair)}"},
        )
        relevant, found = self.relevant(pair), []
        for round_number in range(ROUNDS + 1):
            rows = self.rows(f"SELECT id FROM scores{suffix}(concept = {{c:String}}) ORDER BY probability DESC, id", c=concept)
            found.append(average_precision(relevant[[self.number[id] for (id,) in rows]]))
            if round_number < ROUNDS:
                for (id,) in self.rows(f"SELECT id FROM next_to_label{suffix}(concept = {{c:String}}, k = {SHOWN})", c=concept):
                    box = self.scenes[self.number[id]].objects.get(pair)
                    self.client.command(
                        "INSERT INTO labels (concept, image_id, positive, box) SELECT {c:String}, {i:UInt64}, {y:Bool},"
                        f" vdx_box({', '.join(map(str, box if box and regions else (0, 0, 0, 0)))})",
                        {"c": concept, "i": id, "y": box is not None},
                    )
                self.client.command(
                    f"INSERT INTO classifiers SELECT * FROM refine{suffix}(concept = {{c:String}})", {"c": concept}
                )
        return found

    def close(self) -> None:
        self.client.close()
        stop_encoder(self.layout)


def cutting(folder: Path) -> list[dict]:
    """Pictures a second that encode_regions cuts and embeds, ViT-B/32 with random weights, JPEGs of 640x480 and 4000x3000."""
    lines = []
    layout = Layout.embedded(folder / "engine")
    list(install(layout, MODEL))
    client = target.connect_embedded(layout.state)
    engine.apply_schema(client, layout.sql)
    for size, count in (((640, 480), 16), ((4000, 3000), 6)):
        place = photos(layout.user_files / f"{size[0]}", count, size, seed=3)
        for levels in range(REGION_LEVELS + 1):
            statement = (
                f"SELECT sum(length(encode_regions(path, {levels}))) FROM (SELECT arrayJoin(vdx_files('{place}')).path AS path)"
            )
            client.query(f"{statement} WHERE path LIKE '%/0000.jpg'")
            began = time.perf_counter()
            ((parts,),) = client.query(f"{statement} WHERE path NOT LIKE '%/0000.jpg'").result_rows
            seconds = time.perf_counter() - began
            line = {"work": f"{count - 1} JPEGs {size[0]}x{size[1]}", "levels": levels, "parts": parts / (count - 1)}
            lines.append(line | {"pictures_per_second": (count - 1) / seconds, "parts_per_second": parts / seconds})
            print(lines[-1], flush=True)
    client.close()
    stop_encoder(layout)
    return lines


def searching(folder: Path) -> list[dict]:
    """Milliseconds of searches over MANY pictures of PARTS parts: mixtures of two scenes each, part by part."""
    rng = np.random.default_rng(40_423)
    world = World(folder, [drawn(rng, list(rng.uniform(*SMALL, 8)), SIDE, SIDE) for _ in range(200)])
    wholes = {id: np.array(vector) for id, vector in world.rows("SELECT id, vector FROM images")}
    parts = {id: np.array(vectors) for id, vectors in world.rows(
        "SELECT id, arrayMap(r -> r.vector, encode_regions(source, 2)) FROM images")}  # fmt: skip
    ids = list(wholes)
    world.client.command("TRUNCATE TABLE images")
    world.client.command("TRUNCATE TABLE regions")
    mixed = np.empty((MANY, PARTS, 512), np.float32)
    for number in range(MANY):
        a, b = (parts[ids[i]] for i in rng.integers(len(ids), size=2))
        share = rng.uniform(0.2, 0.8)
        mixed[number] = share * a + (1 - share) * b + rng.normal(0, 0.01, a.shape)
    mixed /= np.linalg.norm(mixed, axis=2, keepdims=True)
    path = world.layout.user_files / "parts.npy"
    np.save(path, mixed.reshape(MANY * PARTS, 512))
    source = f"(SELECT rowNumberInAllBlocks() AS n, array FROM file('{path}', Npy, 'array Array(Float32)'))"
    known = "'many' AS dataset, 'vdx-tiny' AS model, (SELECT weights_hash FROM encoder_weights) AS weights_hash"
    one = " SETTINGS max_threads = 1, optimize_on_insert = 0"
    world.client.command(
        "INSERT INTO images (id, source, dataset, model, weights_hash, vector, loaded_at)"
        f" SELECT sipHash64(intDiv(n, {PARTS})), toString(n), {known}, array, '2026-01-01 00:00:00' FROM {source} WHERE n % {PARTS} = 0{one}"
    )
    world.client.command(
        "INSERT INTO regions (image_id, loaded_at, dataset, model, weights_hash, place, levels, box, vector)"
        f" SELECT sipHash64(intDiv(n, {PARTS})), '2026-01-01 00:00:00', {known}, n % {PARTS}, 2, vdx_box(0, 0, 1, 1),"
        f" vdx_region_vector(whole, array) FROM (SELECT n, array, intDiv(n, {PARTS}) AS picture FROM {source}) AS parts"
        f" INNER JOIN (SELECT intDiv(n, {PARTS}) AS picture, array AS whole FROM {source} WHERE n % {PARTS} = 0) AS wholes USING (picture){one}"
    )
    for table in ("images", "regions"):
        world.client.command(f"OPTIMIZE TABLE {table} FINAL")
    queries = [f"a {' '.join(pair)}" for pair in PAIRS]
    views = {
        "whole pictures": "search_text(query = {q:String}, k = 10)",
        "by parts": "search_vector_regions(vector = encode_text({q:String}), k = 10)",
        "by parts, search_text_regions": "search_text_regions(query = {q:String}, k = 10)",
        "by parts, exact about it": "search_vector_regions_where(vector = encode_text({q:String}), dataset = '', attribute = '', value = '', k = 10)",
    }
    exact = "(SELECT image_id AS id, min(cosineDistance(vector, vdx_region_target(encode_text({q:String})))) AS d FROM regions GROUP BY id ORDER BY d LIMIT 10)"
    times: dict[str, list[float]] = {name: [] for name in views}
    hits: dict[str, list[float]] = {name: [] for name in views}
    for turn, query in enumerate(["warm up", *queries]):
        for name, view in views.items():
            text = f"{query}, {name}"  # new to the encoder each time
            began = time.perf_counter()
            found = world.rows(f"SELECT id, distance FROM {view}", q=text)
            taken = time.perf_counter() - began
            truth = {row[0] for row in world.rows(f"SELECT id FROM {exact}", q=text)}
            if turn:
                times[name].append(1000 * taken)
                hits[name].append(len(truth & {row[0] for row in found}) / 10)
    world.close()
    return [
        {"search": name, "milliseconds": statistics.median(times[name]), "recall_at_10": statistics.mean(hits[name]) if turn else None}
        for turn, name in enumerate(views)
    ]  # fmt: skip


def found_by_size() -> list[dict]:
    scenes = SCENES
    rng = np.random.default_rng(40_422)
    pairs = [PAIRS[i] for i in rng.permutation(len(PAIRS))]
    lines: list[dict] = []
    for kind, (share, others, clutter) in KINDS.items():
        # A third each square, 4 to 3 and 2 to 3.
        sizes = [(SIDE, SIDE), (SIDE * 4 // 3, SIDE), (SIDE, SIDE * 3 // 2)]
        drawn_scenes = [drawn(rng, [share(rng), *rng.uniform(*clutter, others)], *sizes[n % 3]) for n in range(scenes)]
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), drawn_scenes)
            ((rows,),) = world.rows("SELECT count() FROM regions")
            judged = [pair for pair in pairs if world.relevant(pair).any()]
            line: dict[str, Any] = {
                "share": kind, "scenes": scenes, "regions": rows / scenes, "load_s": world.seconds[0], "regions_s": world.seconds[1],
            }  # fmt: skip
            views = {
                "whole": "(SELECT id, cosineDistance(vector, encode_text({v:String})) AS distance FROM images)",
                "regions": f"search_vector_regions_where(vector = encode_text({{v:String}}), dataset = '', attribute = '', value = '', k = {scenes})",
            }
            for name in ("whole", "regions"):
                found = [world.found(views[name], pair) for pair in judged]
                line[f"{name}_average_precision"], line[f"{name}_recall_at_10"] = (
                    statistics.mean(column) for column in zip(*found, strict=True)
                )
            for regions in (False, True):
                rounds = [world.refined(pair, regions) for pair in judged[:CONCEPTS]]
                line[f"{'regions' if regions else 'whole'}_rounds"] = [
                    statistics.mean(column) for column in zip(*rounds, strict=True)
                ]
            world.close()
        print(line, flush=True)
        lines.append(line)
    return lines


def main() -> None:
    which = sys.argv[1] if len(sys.argv) > 1 else ""
    kept = json.loads((RESULTS / "regions.json").read_text()) if which else {}
    if which in ("", "found"):
        kept["found"] = found_by_size()
    if which in ("", "searches"):
        with tempfile.TemporaryDirectory() as folder:
            kept["searches"] = searching(Path(folder))
        print(kept["searches"], flush=True)
    if which in ("", "cutting"):
        with tempfile.TemporaryDirectory() as folder:
            kept["cutting"] = cutting(Path(folder))
    write(kept)


def write(kept: dict) -> None:
    (RESULTS / "regions.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = kept.get("found", [])
    head = "| share of the picture | whole | regions | recall@10 whole | regions | rounds on whole pictures | rounds on boxes |\n|---|---|---|---|---|---|---|\n"
    text = "".join(
        f"| {line['share']} | {line['whole_average_precision']:.3f} | {line['regions_average_precision']:.3f} | {line['whole_recall_at_10']:.2f}"
        f" | {line['regions_recall_at_10']:.2f} | {' '.join(f'{v:.2f}' for v in line['whole_rounds'])}"
        f" | {' '.join(f'{v:.2f}' for v in line['regions_rounds'])} |\n"
        for line in lines
    )
    text += f"\n| search over {MANY:,} pictures of {PARTS} parts, k = 10 | ms | recall@10 |\n|---|---|---|\n" + "".join(
        f"| {line['search']} | {line['milliseconds']:.1f} | {'' if line['recall_at_10'] is None else format(line['recall_at_10'], '.3f')} |\n"
        for line in kept.get("searches", [])
    )
    text += "\n| ViT-B/32 | levels | parts each | pictures/s | parts/s |\n|---|---|---|---|---|\n" + "".join(
        f"| {line['work']} | {line['levels']} | {line['parts']:.0f} | {line['pictures_per_second']:.2f} | {line['parts_per_second']:.1f} |\n"
        for line in kept.get("cutting", [])
    )
    (RESULTS / "regions.md").write_text(f"{machine()}.\n\n{head}{text}")
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, style in (("whole", "o--"), ("regions", "o-")):
        axes.plot([line["share"] for line in lines], [line[f"{name}_average_precision"] for line in lines], style, label=name)
    axes.set(xlabel="share of the picture that the object takes", ylabel="average precision", ylim=(0, 1.02))
    axes.legend()
    figure.savefig(RESULTS / "regions.png", dpi=150)


if __name__ == "__main__":
    main()
