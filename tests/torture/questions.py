"""Queries of every function whose right answer is known, row by row: computed by open_clip and numpy, not by the service."""

import random
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vdx_udf.encoder.decoding import decode, decode_here
from vdx_udf.encoder.image import ImageError
from vdx_udf.encoder.regions import Box, cut_out
from vdx_udf.encoder.thumbnails import jpeg
from vdx_udf.errors import readable
from vdx_udf.tiny.pictures import COLOURS, SHAPES, draw, sample_picture

TEXTS, PICTURES, VECTORS = 2_000, 300, 1_000
SIDE = 48  # of thumbnails
LABELS = ["red circle", "blue square", "star", "heart"]
TOLERANCE = 1e-3  # of a vector's distance to its reference; the references themselves are at least 30 times that apart
REFUSED = 9.0  # in place of a distance: the row of a good picture says in a sentence why it has no vector
# What a failure may say: the worker's and the service's own sentences, the kernel's signal, the pool's and the query's ends.
HALF = Box(0.25, 0.0, 0.5, 0.5)
SENTENCES = (
    "the encoder service", "this encoder service", "its worker process was ended by signal", "Could not get process from pool",
    "Timeout exceeded: elapsed", "Query was cancelled", "is killed in pending state", "the model failed: ", "no memory is left", "ended before it took the query in",
    "rows say why", "cannot be read: ",
)  # fmt: skip


@dataclass
class Outcome:
    """What became of one query."""

    wrong: int = 0
    lost: int = 0
    error: str = ""
    cut_short: bool = False  # KILL QUERY ended it, and the engine answered with other rows than all and without an error

    @property
    def has_sentence(self) -> bool:
        return any(sentence in self.error for sentence in SENTENCES)


class Questions:
    """The tables of inputs with their expected answers, and one query per function over any part of them."""

    def __init__(self, client: Any, folder: Path):
        from vdx_udf.encoder.model import Clip

        clip = Clip("vdx-tiny", "float32")
        rng = np.random.default_rng(606)
        self._texts(client, clip, folder)
        self._pictures(client, clip, folder, rng)
        self._vectors(client, clip, folder, rng)
        self._turn = 0
        self.killed: set[str] = set()  # statements that KILL QUERY has ended
        self.is_killing = False  # a KILL QUERY runs that has not said yet what it ended

    def _texts(self, client: Any, clip: Any, folder: Path) -> None:
        words = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
        texts = [f"{a} and {b}" for a in words for b in words]
        random.Random(1).shuffle(texts)
        kept = _apart(clip.encode_texts(texts), TEXTS)
        np.save(folder / "texts.npy", clip.encode_texts([texts[n] for n in kept]))
        (folder / "texts.tsv").write_text("\n".join(texts[n] for n in kept))
        _table(
            client,
            "torture_texts",
            f"SELECT text FROM file('{folder}/texts.tsv', TSV, 'text String')",
            folder / "texts.npy",
        )

    def _pictures(self, client: Any, clip: Any, folder: Path, rng: np.random.Generator) -> None:
        """Every tenth is none."""
        vectors, lines = np.zeros((PICTURES, 512), np.float32), []
        thumbnails, cuts, brightness = [""] * PICTURES, [""] * PICTURES, [0.0] * PICTURES
        for number in range(PICTURES):
            path = folder / f"{number:04}.{'png' if number % 2 else 'jpg'}"
            if number % 10 == 9:
                path.write_bytes(rng.bytes(500))
            else:
                draw(sample_picture(rng)).save(path)
                try:
                    vectors[number] = clip.encode_images([clip.pixels(decode(path.read_bytes()))])[0]
                    small = decode_here(path.read_bytes(), SIDE, is_thumbnail=True)
                    thumbnails[number] = sha256(jpeg(small)).hexdigest()
                    cuts[number] = sha256(cut_out(HALF, decode(path.read_bytes()))).hexdigest()
                    with Image.open(path) as image:  # small enough that it is measured as it is
                        channels = np.asarray(image.convert("RGB"), float) ** 2
                    brightness[number] = np.sqrt(channels @ (0.241, 0.691, 0.068)).mean() / 255
                except ImageError as error:
                    raise AssertionError(path) from error
            lines.append(f"{path}\t{thumbnails[number]}\t{cuts[number]}\t{brightness[number]}")
        assert len(set(thumbnails)) == PICTURES * 9 // 10 + 1, "a shifted thumbnail would not show"
        good = vectors[[n for n in range(PICTURES) if n % 10 != 9]]
        assert np.linalg.norm(good[1:] - good[:-1], axis=1).min() > 30 * TOLERANCE, "a shifted row would not show"
        np.save(folder / "pictures.npy", vectors)
        (folder / "pictures.tsv").write_text("\n".join(lines))
        source = (
            f"SELECT * FROM file('{folder}/pictures.tsv', TSV, 'path String, thumbnail String, cut String, brightness Float64')"
        )
        _table(client, "torture_paths", source, folder / "pictures.npy")
        client.command(
            "CREATE TABLE torture_pictures ENGINE = Memory AS SELECT k, path, thumbnail, cut, brightness, expected, bytes FROM torture_paths INNER JOIN"
            f" (SELECT _path AS path, raw_blob AS bytes FROM file('{folder}/*.{{png,jpg}}', RawBLOB)) AS files USING (path) ORDER BY k"
        )

    def _vectors(self, client: Any, clip: Any, folder: Path, rng: np.random.Generator) -> None:
        from vdx_udf import settings

        vectors = rng.normal(size=(VECTORS, 512)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        prompts = np.stack([clip.encode_texts([t.replace("{}", label) for t in settings.PROMPT_TEMPLATES]) for label in LABELS])
        labels = prompts.mean(axis=1) / np.linalg.norm(prompts.mean(axis=1), axis=1, keepdims=True)

        def shares(rows: np.ndarray) -> np.ndarray:
            logits = clip.logit_scale * rows @ labels.T
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)

        np.save(folder / "vectors.npy", np.concatenate([vectors, shares(vectors)], axis=1))
        client.command(
            "CREATE TABLE torture_vectors ENGINE = Memory AS SELECT toUInt32(rowNumberInAllBlocks()) AS k,"
            " arraySlice(array, 1, 512) AS vector, arraySlice(array, 513) AS expected"
            f" FROM file('{folder}/vectors.npy', Npy, 'array Array(Float32)') SETTINGS max_threads = 1"
        )
        pictures = np.load(folder / "pictures.npy")
        np.save(folder / "shares.npy", shares(pictures))
        _table(client, "torture_shares", "SELECT path FROM torture_paths ORDER BY k", folder / "shares.npy")

    def check(self, client: Any) -> None:
        """Sees to it that rows which are shifted by one would be noticed."""
        (near,) = client.query(
            f"SELECT countIf(L2Distance(encode_text(text), other.expected) < {TOLERANCE}) FROM torture_texts INNER JOIN"
            " (SELECT k - 1 AS k, expected FROM torture_texts) AS other USING (k)"
        ).result_rows[0]
        assert near == 0

    def ask(self, client: Any, function: str, rows: int, settings: str = "") -> Outcome:
        """Asks for `rows` rows of a function that it has not answered before, where the function can forget, and checks each."""
        self._turn += 1
        salt = self._turn
        sql, expected = getattr(self, f"_{function}")(rows, salt)
        try:
            found = client.query(f"{sql} {settings}").result_rows
        except Exception as error:
            return Outcome(error=readable(error))
        seen = [key for key, _ in found]
        refused = sum(off == REFUSED for _, off in found)
        wrong = sum(not (off < TOLERANCE or off == REFUSED) for _, off in found) + len(seen) - len(set(seen))
        if wrong:
            off = [(key, off) for key, off in found if not (off < TOLERANCE or off == REFUSED)][:5]
            print(
                f"wrong: {function} of {rows} rows, {len(seen)} answered, {len(set(seen))} of them different, {off}",
                file=sys.stderr,
            )
        if len(seen) != len(expected) and self._was_killed(sql) and all(off < TOLERANCE for _, off in found):
            return Outcome(cut_short=True)
        if refused:
            return Outcome(wrong=wrong, error=f"{function}: {refused} rows say why they have no answer")
        return Outcome(wrong=wrong + len(set(seen) - expected), lost=len(expected - set(seen)))

    def _was_killed(self, sql: str) -> bool:
        began = time.monotonic()
        while self.is_killing and time.monotonic() - began < 60:  # it may hear of it later than who asked
            time.sleep(0.05)
        return any(statement.startswith(sql) for statement in self.killed)

    # A text with other spaces at its end and a picture with other bytes after its end are the same to the model and new to
    # the cache. Every query gives (k, distance of its row to the expected one).

    def _encode_text(self, rows: int, salt: int) -> tuple[str, set[int]]:
        first = salt * 37 % (TEXTS - min(rows, TEXTS) + 1)
        last = min(TEXTS, first + rows)
        value = f"encode_text(concat(text, repeat(' ', {salt % 900} + 1)))"
        return f"SELECT k, L2Distance({value}, expected) FROM torture_texts WHERE k >= {first} AND k < {last}", {
            *range(first, last)
        }

    def _encode_image(self, rows: int, salt: int) -> tuple[str, set[int]]:
        good, wanted = _good(rows)
        value = f"encode_image(concat(bytes, '{salt}'))" if salt % 2 else "encode_image(path)"
        return (
            f"SELECT k, L2Distance({value}, expected) FROM (SELECT * FROM torture_pictures WHERE {wanted} LIMIT {PICTURES})",
            good,
        )

    def _try_encode_image(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, PICTURES)
        value = f"try_encode_image(concat(bytes, '{salt}'))" if salt % 2 else "try_encode_image(path)"
        return (
            f"SELECT k, multiIf(empty(tried.vector) AND notEmpty(tried.error), if(k % 10 = 9, 0, {REFUSED}),"
            f" length(tried.vector) != 512 OR notEmpty(tried.error), 1, L2Distance(arrayResize(tried.vector, 512), expected))"
            f" FROM (SELECT k, expected, {value} AS tried FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _encode_regions(self, rows: int, salt: int) -> tuple[str, set[int]]:
        """Of the parts the first is the whole."""
        good, wanted = _good(min(rows, 60))
        value = f"encode_regions(concat(bytes, '{salt}'), 1)" if salt % 2 else "encode_regions(path, 1)"
        return (
            f"SELECT k, if(length(parts) = 5, L2Distance(parts[1].vector, expected), 1) FROM (SELECT k, expected, {value} AS parts"
            f" FROM (SELECT * FROM torture_pictures WHERE {wanted} LIMIT {PICTURES}))",
            good,
        )

    def _try_encode_regions(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, 60)
        value = f"try_encode_regions(concat(bytes, '{salt}'), 1)" if salt % 2 else "try_encode_regions(path, 1)"
        return (
            f"SELECT k, multiIf(empty(tried.regions) AND notEmpty(tried.error), if(k % 10 = 9, 0, {REFUSED}),"
            " length(tried.regions) != 5 OR notEmpty(tried.error), 1,"
            " L2Distance(arrayResize(tried.regions[1].vector, 512), expected))"
            f" FROM (SELECT k, expected, {value} AS tried FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _vdx_cut(self, rows: int, salt: int) -> tuple[str, set[int]]:
        good, wanted = _good(rows)
        value = f"vdx_cut({'bytes' if salt % 2 else 'path'}, {', '.join(map(str, HALF))})"
        return (
            f"SELECT k, if(lower(hex(SHA256({value}))) = cut, 0, 1)"
            f" FROM (SELECT * FROM torture_pictures WHERE {wanted} LIMIT {PICTURES})",
            good,
        )

    def _thumbnail(self, rows: int, salt: int) -> tuple[str, set[int]]:
        good, wanted = _good(rows)
        value = f"thumbnail({'bytes' if salt % 2 else 'path'}, {SIDE})"
        return (
            f"SELECT k, if(lower(hex(SHA256({value}))) = thumbnail, 0, 1)"
            f" FROM (SELECT * FROM torture_pictures WHERE {wanted} LIMIT {PICTURES})",
            good,
        )

    def _try_thumbnail(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, PICTURES)
        value = f"try_thumbnail({'bytes' if salt % 2 else 'path'}, {SIDE})"
        return (
            f"SELECT k, multiIf(empty(tried.bytes) AND notEmpty(tried.error), if(k % 10 = 9, 0, {REFUSED}),"
            " lower(hex(SHA256(tried.bytes))) = thumbnail, 0, 1)"
            f" FROM (SELECT k, thumbnail, {value} AS tried FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _vdx_picture_facts(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, PICTURES)
        value = f"vdx_picture_facts({'bytes' if salt % 2 else 'path'})"
        return (
            f"SELECT k, multiIf(facts.width = 0 AND notEmpty(facts.error), if(k % 10 = 9, 0, {REFUSED}),"
            " facts.format = if(k % 2, 'PNG', 'JPEG'), abs(facts.brightness - brightness), 1)"
            f" FROM (SELECT k, brightness, {value} AS facts FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _classify(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, VECTORS)
        return (
            f"SELECT k, L2Distance(classify(vector, {LABELS}), expected) FROM torture_vectors WHERE k < {rows}",
            {*range(rows)},
        )

    def _classify_image(self, rows: int, salt: int) -> tuple[str, set[int]]:
        good, wanted = _good(rows)
        return (
            f"SELECT k, L2Distance(classify_image(path, {LABELS}), expected)"
            f" FROM (SELECT * FROM torture_shares WHERE {wanted} LIMIT {PICTURES})",
            good,
        )

    def _vdx_near(self, rows: int, salt: int) -> tuple[str, set[int]]:
        """Each vector against all: its nearest, above all others, is itself."""
        rows = min(rows, 100)
        return (
            f"SELECT toUInt32(pair.1 - 1), if(pair.1 = pair.2, abs(pair.3 - 1), 1) FROM (SELECT arrayJoin(vdx_near("
            f"(SELECT groupArray(vector) FROM (SELECT vector FROM torture_vectors ORDER BY k LIMIT {rows})), (SELECT groupArray(vector)"
            f" FROM (SELECT vector FROM torture_vectors ORDER BY k LIMIT {rows})), 1::UInt32, {0.3 + salt % 1000 / 1e4}::Float32)) AS pair)",
            {*range(rows)},
        )

    def _vdx_kmeans(self, rows: int, salt: int) -> tuple[str, set[int]]:
        """As many clusters as vectors: each is a centre."""
        rows = min(rows, 30)
        return (
            "SELECT k, arrayMin(arrayMap(centre -> L2Distance(centre, vector), centres)) FROM torture_vectors CROSS JOIN"
            f" (SELECT vdx_kmeans(groupArray(vector), {rows}::UInt32) AS centres FROM (SELECT vector FROM torture_vectors ORDER BY k LIMIT {rows}))"
            f" AS found WHERE k < {rows}",
            {*range(rows)},
        )

    def _vdx_layout(self, rows: int, salt: int) -> tuple[str, set[int]]:
        """Of three vectors, which lie in a plane, the map keeps the distances."""
        rows = min(rows, 10)  # each takes 60 ms
        return (
            "SELECT k, abs(L2Distance([points[1].1, points[1].2], [points[-1].1, points[-1].2]) - L2Distance(three[1], three[-1]))"
            " FROM (SELECT k, three, vdx_layout(three) AS points FROM (SELECT k, groupArray(vector)"
            f" OVER (ORDER BY k ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING) AS three FROM torture_vectors WHERE k < {rows}))",
            {*range(rows)},
        )

    def _vdx_files(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, PICTURES)
        return (
            "SELECT k, if(length(found) = 1 AND found[1].1 = path AND found[1].2 = length(bytes) AND found[1].3 = '', 0, 1)"
            f" FROM (SELECT k, path, bytes, vdx_files(path) AS found FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _vdx_read(self, rows: int, salt: int) -> tuple[str, set[int]]:
        """Of a file that is no picture the reason."""
        rows = min(rows, PICTURES)
        return (
            f"SELECT k, multiIf(found.1 = '' AND found.2 != '', if(k % 10 = 9, 0, {REFUSED}), k % 10 != 9 AND found.1 = bytes AND found.2 = '', 0, 1)"
            f" FROM (SELECT k, bytes, vdx_read(path) AS found FROM (SELECT * FROM torture_pictures WHERE k < {rows} LIMIT {PICTURES}))",
            {*range(rows)},
        )

    def _vdx_check_weights(self, rows: int, salt: int) -> tuple[str, set[int]]:
        rows = min(rows, VECTORS)
        return (
            f"SELECT k, if(vdx_check_weights('vdx-tiny', '', toUInt8((k + {salt}) % 2)) = (k + {salt}) % 2, 0, 1) FROM torture_vectors WHERE k < {rows}",
            {*range(rows)},
        )

    def _vdx_encoder_info(self, rows: int, salt: int) -> tuple[str, set[int]]:
        return f"SELECT 0, if(vdx_encoder_info('{salt}')['dimension'] = '512', 0, 1)", {0}


def _good(rows: int) -> tuple[set[int], str]:
    """The first so many pictures that are some, and the condition that picks them."""
    good = [k for k in range(PICTURES) if k % 10 != 9][: max(1, min(rows, PICTURES))]
    return {*good}, f"k % 10 != 9 AND k <= {good[-1]}"


def _table(client: Any, name: str, source: str, vectors: Path) -> None:
    """A table of k, the input and the expected vector."""
    client.command(
        f"CREATE TABLE {name} ENGINE = Memory AS SELECT toUInt32(rowNumberInAllBlocks()) AS k, * FROM ({source}) PASTE JOIN"
        f" (SELECT array AS expected FROM file('{vectors}', Npy, 'array Array(Float32)')) SETTINGS max_threads = 1"
    )


def _apart(vectors: np.ndarray, count: int) -> list[int]:
    """Numbers of vectors that are all at a distance of at least 30 tolerances from each other."""
    kept: list[int] = []
    for number, vector in enumerate(vectors):
        if not kept or (vectors[kept] @ vector).max() < 1 - (30 * TOLERANCE) ** 2 / 2:
            kept.append(number)
        if len(kept) == count:
            return kept
    raise AssertionError(f"only {len(kept)} texts are apart")
