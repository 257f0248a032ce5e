"""A month of a data set in ordinary use: loads, edits, deletes, merges; after each step every view against numpy."""

import io
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.torture.rig import Rig
from vdx_udf.commands import load
from vdx_udf.commands.shell import Session
from vdx_udf.encoder.decoding import decode
from vdx_udf.tiny.pictures import draw, sample_picture

CONTENTS, FILES = 120, 60
BROKEN = tuple(b"broken %d" % number for number in range(5))
NAMES = (
    "plain {}.png",
    "who{}?.png",
    "a{{b,{}}}.Jpg",
    "new\nline {}.png",
    "deep/er {}/x.png",
    'it\'s "{}".png',
    "käse {}.webp",
)
DATASETS = ("folder", "by hand")
QUERIES = ("a red circle", "two blue hearts", "a green star")
LABELS = ["red", "green", "blue", "white"]
CONCEPT = "c"
WITHIN = 2e-3  # of a vector that was copied with its jitter


@dataclass
class Month:
    """What the files and INSERTs so far come to: (data set, source) to the number of a content, or to a broken one's bytes."""

    rig: Rig
    folder: Path
    random: random.Random
    disk: dict[str, int | bytes] = field(default_factory=dict)
    rows: dict[tuple[str, str], int | bytes] = field(default_factory=dict)
    database: str = "default"
    differences: list[str] = field(default_factory=list)
    queries: int = 0

    def __post_init__(self) -> None:
        from vdx_udf import settings
        from vdx_udf.encoder.model import Clip

        clip, rng = Clip("vdx-tiny", "float32"), np.random.default_rng(7)
        self.contents = []
        for _ in range(CONTENTS):
            buffer = io.BytesIO()
            draw(sample_picture(rng)).save(buffer, "PNG")
            self.contents.append(buffer.getvalue())
        self.vectors = clip.encode_images([clip.pixels(decode(content)) for content in self.contents])
        self.texts = dict(zip(QUERIES, clip.encode_texts(list(QUERIES)), strict=True))
        prompts = np.stack([clip.encode_texts([t.replace("{}", label) for t in settings.PROMPT_TEMPLATES]) for label in LABELS])
        self.labels = prompts.mean(axis=1) / np.linalg.norm(prompts.mean(axis=1), axis=1, keepdims=True)
        for name in ("elsewhere", "default"):
            self.client.command(f"CREATE DATABASE IF NOT EXISTS {name}")
        self.client.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a circle')")
        ((weight, scale, bias),) = self.client.query("SELECT weight, logit_scale, bias FROM classifiers").result_rows
        self.weight, self.scale, self.bias = np.array(weight), scale, bias
        self.steps = (
            (self.load, 10), (self.edit, 20), (self.rename, 5), (self.remove, 5), (self.insert, 15), (self.insert_vector, 5),
            (self.delete, 12), (self.delete_rejects, 3), (self.merge, 10), (self.apply_mask, 3), (self.index, 5), (self.move, 5),
            (self.look_for_neighbours, 3),
        )  # fmt: skip

    @property
    def client(self) -> Any:
        return self.rig.client

    def command(self, statement: str, parameters: dict | None = None) -> None:
        self.client.command(statement, parameters)

    def step(self) -> str:
        """Does one thing that people do and says which."""
        chosen = self.random.choices([step for step, _ in self.steps], [weight for _, weight in self.steps])[0]
        chosen()
        return chosen.__name__

    def content(self) -> int | bytes:
        return self.random.choice(BROKEN) if self.random.random() < 0.1 else self.random.randrange(CONTENTS)

    def bytes_of(self, content: int | bytes) -> bytes:
        return content if isinstance(content, bytes) else self.contents[content]

    # What people do

    def load(self) -> None:
        if not self.disk:
            return
        path = load.dataset_files(self.rig.layout.sql)["folder"]
        session = Session(self.rig.connect, load.complete(path, {"path": str(self.folder)}), "Null")
        load.run(session, path)
        self.rows |= {("folder", str(self.folder / name)): content for name, content in self.disk.items()}

    def edit(self) -> None:
        for _ in range(self.random.randint(1, 8)):
            number = self.random.randrange(FILES)
            name = NAMES[number % len(NAMES)].format(number)
            self.disk[name] = content = self.content()
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(self.bytes_of(content))

    def rename(self) -> None:
        if self.disk:
            old = self.random.choice(sorted(self.disk))
            new = f"renamed {self.random.randrange(9)}.png"
            self.disk[new] = self.disk.pop(old)
            (self.folder / old).rename(self.folder / new)

    def remove(self) -> None:
        if self.disk:
            name = self.random.choice(sorted(self.disk))
            del self.disk[name]
            (self.folder / name).unlink()

    def insert(self) -> None:
        dataset = self.random.choice(DATASETS)
        known = sorted(source for place, source in self.rows if place == dataset)
        fresh = [f"{self.random.randrange(30)}" for _ in range(3)] if dataset == "by hand" else []
        chosen = {source: self.content() for source in self.random.sample(known, min(3, len(known))) + fresh}
        if chosen:
            rows = [(source, dataset, self.bytes_of(content)) for source, content in chosen.items()]
            self.client.insert("default.inbox", rows, ["source", "dataset", "bytes"])
            self.rows |= {(dataset, source): content for source, content in chosen.items()}

    def insert_vector(self) -> None:
        """Embedded elsewhere."""
        content, source = self.random.randrange(CONTENTS), f"{self.random.randrange(30)}"
        self.command(
            "INSERT INTO default.images (source, dataset, model, weights_hash, content_hash, vector) SELECT {s:String}, 'by hand', 'vdx-tiny',"
            " encoder_info()['weights_hash'], SHA256(unhex({b:String})), {v:Array(Float32)}",
            {"s": source, "b": self.contents[content].hex(), "v": self.vectors[content].tolist()},
        )
        self.rows["by hand", source] = content

    def delete(self) -> None:
        if not self.rows:
            return
        if self.random.random() < 0.1:
            gone = [key for key in self.rows if key[0] == "by hand"]
            self.command("DELETE FROM default.images WHERE dataset = 'by hand'")
        else:
            near = self.texts[self.random.choice(QUERIES)]
            images = self.images()
            gone = sorted(images, key=lambda key: -float(self.vectors[images[key]] @ near))[: self.random.randint(1, 6)]
            self.command("DELETE FROM default.images WHERE (dataset, source) IN {k:Array(Tuple(String, String))}", {"k": gone})
        for key in gone:
            if not isinstance(self.rows[key], bytes):  # a reject stays
                del self.rows[key]

    def delete_rejects(self) -> None:
        """To try them again: what they had replaced stays away until then."""
        self.command("ALTER TABLE default.rejects DELETE WHERE 1 SETTINGS mutations_sync = 2")
        self.rows = dict(self.images())

    def merge(self) -> None:
        table = self.random.choice(("images", "images", "rejects", "inputs", "superseded_images"))
        self.command(f"OPTIMIZE TABLE default.{table}{self.random.choice((' FINAL', ''))}")

    def apply_mask(self) -> None:
        self.command("ALTER TABLE default.images APPLY DELETED MASK SETTINGS mutations_sync = 2")

    def index(self) -> None:
        self.command("ALTER TABLE default.images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2")

    def move(self) -> None:
        self.database = self.random.choice(("default", "elsewhere"))

    def look_for_neighbours(self) -> None:
        self.command("INSERT INTO default.neighbours SELECT * FROM default.nearest_neighbours(dataset = '', k = 3)")
        self.command("INSERT INTO default.near_pairs SELECT * FROM default.near_duplicates(dataset = '', least = 0.99)")
        images = self.images()
        matrix = self.vectors[list(images.values())]
        if len(images) > 1:
            cosines = np.sort(matrix @ matrix.T - 9 * np.eye(len(images)), axis=1)[:, ::-1][:, :3]
            wanted = dict(zip(images, cosines[:, : min(3, len(images) - 1)].mean(axis=1), strict=True))
            found = self.asked("SELECT dataset, source, distance FROM (SELECT id, distance FROM uniqueness(dataset = '')) AS near"
                               " INNER JOIN current_images USING (id)")  # fmt: skip
            self.same("uniqueness", {(d, s): 1 - far for d, s, far in found}, wanted, 2 * WITHIN)
        grouped = self.asked("SELECT dataset, source FROM near_duplicate_groups(dataset = '', least = 0.99) INNER JOIN (SELECT id, dataset"
                             " FROM current_images) AS known USING (id)")  # fmt: skip
        matrix = self.vectors[list(images.values())]
        near = matrix @ matrix.T - 9 * np.eye(len(images))
        sure = {key for key, row in zip(images, near, strict=False) if (row > 0.99 + WITHIN).any()}
        maybe = {key for key, row in zip(images, near, strict=False) if (row > 0.99 - WITHIN).any()}
        names = set(grouped)
        if not sure <= names <= maybe:
            self.differences.append(f"near_duplicate_groups: {len(names)} pictures, wanted {len(sure)} to {len(maybe)}")

    # What must be the answer

    def images(self) -> dict[tuple[str, str], int]:
        return {key: content for key, content in self.rows.items() if not isinstance(content, bytes)}

    def asked(self, statement: str) -> list[tuple]:
        """From the current database; the bundle's own names with theirs."""
        self.queries += 1
        named = re.sub(r"\b(FROM|JOIN) (?=[a-z_]+\b(?!\.))", r"\1 default.", statement)
        self.client.database = self.database
        try:
            return self.client.query(named).result_rows
        finally:
            self.client.database = "default"

    def same(self, what: str, found: dict, wanted: dict, within: float = 0.0) -> None:
        off = {
            key for key in found.keys() | wanted.keys()
            if key not in found or key not in wanted or (abs(found[key] - wanted[key]) > within if within else found[key] != wanted[key])
        }  # fmt: skip
        if off:
            one = sorted(off, key=str)[0]
            self.differences.append(f"{what}: {len(off)} rows, {one}: {found.get(one)} for {wanted.get(one)}")

    def check(self) -> None:
        images, rejects = self.images(), {key: c for key, c in self.rows.items() if isinstance(c, bytes)}
        hashes = self.asked("SELECT dataset, source, toString(size) FROM current_images")
        if len(hashes) != len(set(hashes)):
            self.differences.append("current_images: an id twice")
        self.same("current_images", {(d, s): True for d, s, _ in hashes}, dict.fromkeys(images, True))
        found = self.asked("SELECT dataset, source, 1 FROM current_rejects")
        self.same("current_rejects", {(d, s): True for d, s, _ in found}, dict.fromkeys(rejects, True))
        scores = self.asked("SELECT dataset, source, probability FROM scores(concept = 'c')")
        logits = {key: self.scale * float(self.vectors[c] @ self.weight) + self.bias for key, c in images.items()}
        wanted = {key: 1 / (1 + np.exp(-logit)) for key, logit in logits.items()}
        self.same("scores", {(d, s): p for d, s, p in scores}, wanted, 0.05)
        if len(scores) != len(images):
            self.differences.append(f"scores: {len(scores)} rows for {len(images)}")
        self.check_searches(images)
        counted = dict(self.asked("SELECT dataset, sum(images) FROM index_status GROUP BY dataset HAVING sum(images) > 0"))
        self.same("index_status", counted, {d: n for d in DATASETS if (n := sum(key[0] == d for key in images))})
        labels = self.asked(
            "SELECT dataset, source, label FROM zero_shot(labels = ['red', 'green', 'blue', 'white'], template_set = 'default')"
        )
        near = {key: self.labels @ self.vectors[c] for key, c in images.items()}
        sure = {key: LABELS[int(row.argmax())] for key, row in near.items() if np.sort(row)[-1] - np.sort(row)[-2] > 2 * WITHIN}
        self.same("zero_shot", {(d, s): label for d, s, label in labels if (d, s) in sure}, sure)
        subset = self.asked(
            "SELECT source, dataset, id FROM diverse_subset(dataset = '', n = 9) INNER JOIN current_images USING (id)"
        )
        if len(set(subset)) != min(9, len(images)):
            self.differences.append(f"diverse_subset: {len(set(subset))} pictures")

    def check_searches(self, images: dict[tuple[str, str], int]) -> None:
        query, k = self.random.choice(QUERIES), self.random.choice((1, 5, 20))
        dataset = self.random.choice(DATASETS)
        for what, there, vector in (
            (f"search_text(query = '{query}', k = {k})", images, self.texts[query]),
            (f"search_text_where(query = '{query}', dataset = '{dataset}', attribute = '', value = '', k = {k})",
             {key: c for key, c in images.items() if key[0] == dataset}, self.texts[query]),
            (f"search_concept(concept = 'c', k = {k})", images, self.weight / np.linalg.norm(self.weight)),
        ):  # fmt: skip
            rows = self.asked(f"SELECT dataset, source, distance FROM {what}")
            wanted = np.sort([1 - float(self.vectors[c] @ vector) for c in there.values()])[:k]
            keys = {(d, s) for d, s, _ in rows}
            if len(rows) != len(wanted) or len(keys) != len(rows) or not keys <= there.keys():
                self.differences.append(
                    f"{what}: {len(rows)} rows, {len(keys - there.keys())} of them gone, wanted {len(wanted)}"
                )
            elif len(rows) and np.abs(np.array([far for _, _, far in rows]) - wanted).max() > WITHIN:
                self.differences.append(f"{what}: {[far for _, _, far in rows]} for {wanted}")


def ordinary(rig: Rig, folder: Path, steps: int, seed: int = 1) -> dict:
    """So many steps from a seed; what differed, in words, and how much was done."""
    pictures = folder / "pictures {of} a month?"
    pictures.mkdir()
    month = Month(rig, pictures, random.Random(seed))
    done: dict[str, int] = {}
    for number in tqdm(range(steps), desc="steps of ordinary use", disable=None):
        before = len(month.differences)
        name = month.step()
        done[name] = done.get(name, 0) + 1
        month.check()
        if len(month.differences) > before:
            month.differences[before:] = [f"step {number}, {name}: {said}" for said in month.differences[before:]]
    return {
        "steps": steps,
        "queries": month.queries,
        "differences": month.differences[:20],
        "different": len(month.differences),
        "done": done,
    }
