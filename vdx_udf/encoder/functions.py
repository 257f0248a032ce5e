"""The functions as the service answers them, one handler each.

A handler reads a block's columns from the stream and yields `(rows, answer)`: `answer()` waits for the encoder and
returns the result column of these rows. So the next rows are read and queued while the first are computed.
"""

import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from vdx_udf import contract, settings
from vdx_udf.encoder import native
from vdx_udf.encoder.decoding import check
from vdx_udf.encoder.encoder import Encoder
from vdx_udf.encoder.facts import NO_FACTS, Facts
from vdx_udf.encoder.fair_queue import TEXT
from vdx_udf.encoder.image import ImageError, shortened
from vdx_udf.encoder.kmeans import kmeans
from vdx_udf.encoder.layout import layout
from vdx_udf.encoder.near import near
from vdx_udf.encoder.regions import Box
from vdx_udf.encoder.tickets import EncodeError, Regions, Ticket

log = logging.getLogger("vdx")
Answers = Iterator[tuple[int, Callable[[], object]]]


@dataclass
class Context:
    """One function's and connection's view of the encoder; `tickets` are those not answered yet."""

    encoder: Encoder
    function: str
    tickets: set[Ticket] = field(default_factory=set)

    @property
    def client(self) -> Hashable:
        return id(self)

    def failed(self, error: str, rows: int = 1) -> None:
        """Counts and logs rows, or a block, that failed; `error` is the first one's."""
        self.encoder.counters.failed(self.function, error, rows)
        log.info("%s: %d failed: %s", self.function, rows, error)

    def answer(self, ticket: Ticket, column: Callable[[Ticket], object]) -> Callable[[], object]:
        """`column(ticket)` to be called once; until then the ticket counts as waited for."""
        self.tickets.add(ticket)

        def wait() -> object:
            try:
                return column(ticket)
            finally:
                self.tickets.discard(ticket)

        return wait


def encode_text(context: Context, stream: native.Stream, rows: int) -> Answers:
    native.read_column_header(stream, native.String())
    known = partial(context.encoder.is_known, TEXT)
    for texts in _chunks(stream, rows, settings.CHUNK_TEXTS, known):
        ticket = context.encoder.submit_texts(context.client, texts)
        yield len(texts), context.answer(ticket, _vectors)


def encode_image(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _pictures(context, stream, rows, context.encoder.submit_images, _vectors)


def try_encode_image(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _pictures(context, stream, rows, context.encoder.submit_images, partial(_vectors_and_errors, context))


def encode_regions(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _cut(context, stream, rows, lambda ticket: _region_column(ticket.values()))


def try_encode_regions(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _cut(context, stream, rows, partial(_regions_and_errors, context))


def vdx_cut(context: Context, stream: native.Stream, rows: int) -> Answers:
    images, *sides = (_column(stream, kind, rows) for _, kind in contract.FUNCTIONS["vdx_cut"].arguments)
    boxes = [Box(*shares) for shares in np.stack(sides, axis=1).tolist()]
    return _with_another(context, images, boxes, settings.CHUNK_REGIONS, context.encoder.submit_parts, Ticket.values)


def thumbnail(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _thumbnails(context, stream, rows, Ticket.values)


def try_thumbnail(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _thumbnails(context, stream, rows, partial(_thumbnails_and_errors, context))


def vdx_picture_facts(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _pictures(context, stream, rows, context.encoder.submit_facts, partial(_facts_and_errors, context))


def classify(context: Context, stream: native.Stream, rows: int) -> Answers:
    vectors = _column(stream, "Array(Float32)", rows)
    ends = vectors.ends.tolist()
    labels = _labels(stream, rows)
    for start in range(0, rows, settings.CHUNK_ROWS):
        wanted = list(islice(labels, settings.CHUNK_ROWS))
        begin, stops = ends[start - 1] if start else 0, ends[start : start + len(wanted)]
        part = native.Ragged(np.array(stops, np.int64) - begin, vectors.values[begin : stops[-1]])
        yield len(wanted), partial(_probabilities, context, part, wanted)


def classify_image(context: Context, stream: native.Stream, rows: int) -> Answers:
    images = _column(stream, "String", rows)
    labels = _labels(stream, rows)
    for start in range(0, rows, settings.CHUNK_IMAGES):
        part = images[start : start + settings.CHUNK_IMAGES]
        ticket = context.encoder.submit_images(context.client, part)
        column = partial(_classified, context, list(islice(labels, len(part))))
        yield len(part), context.answer(ticket, column)


def vdx_near(context: Context, stream: native.Stream, rows: int) -> Answers:
    lefts, rights, ks, leasts = (_column(stream, kind, rows) for _, kind in contract.FUNCTIONS["vdx_near"].arguments)
    for row in range(rows):
        yield 1, partial(_near, _matrix(lefts, row), _matrix(rights, row), int(ks[row]), float(leasts[row]))


def vdx_kmeans(context: Context, stream: native.Stream, rows: int) -> Answers:
    vectors, numbers = (_column(stream, kind, rows) for _, kind in contract.FUNCTIONS["vdx_kmeans"].arguments)
    for row in range(rows):
        yield 1, partial(_centres, _matrix(vectors, row), int(numbers[row]))


def vdx_layout(context: Context, stream: native.Stream, rows: int) -> Answers:
    vectors = _column(stream, contract.VECTORS, rows)
    for row in range(rows):
        yield 1, partial(_positions, _matrix(vectors, row))


def vdx_files(context: Context, stream: native.Stream, rows: int) -> Answers:
    for place in _column(stream, "String", rows):
        yield 1, partial(_files, context, place)


def vdx_read(context: Context, stream: native.Stream, rows: int) -> Answers:
    for path in _column(stream, "String", rows):
        yield 1, partial(_read, context, path)


def vdx_check_weights(context: Context, stream: native.Stream, rows: int) -> Answers:
    models, hashes, counts = (_column(stream, kind, rows) for _, kind in contract.FUNCTIONS["vdx_check_weights"].arguments)
    held = {pair for pair, counted in zip(zip(models, hashes, strict=True), counts.tolist(), strict=True) if counted}
    yield rows, partial(_checked, context, held, counts)


def vdx_encoder_info(context: Context, stream: native.Stream, rows: int) -> Answers:
    _column(stream, "String", rows)
    info = context.encoder.info()
    keys, values = ([text.encode() for text in part] * rows for part in (info.keys(), info.values()))
    ends = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(len(info))
    yield rows, lambda: native.Ragged(ends, (keys, values))


HANDLERS = {
    handler.__name__: handler
    for handler in (
        encode_text,
        encode_image,
        try_encode_image,
        encode_regions,
        try_encode_regions,
        vdx_cut,
        thumbnail,
        try_thumbnail,
        vdx_picture_facts,
        classify,
        classify_image,
        vdx_near,
        vdx_kmeans,
        vdx_layout,
        vdx_files,
        vdx_read,
        vdx_check_weights,
        vdx_encoder_info,
    )
}


def _column(stream: native.Stream, kind: str, rows: int):
    return native.read_column_header(stream, native.parse_type(kind)).read(stream, rows)


def _chunks(stream: native.Stream, rows: int, batch: int, known: Callable[[bytes], bool]) -> Iterator[list[bytes]]:
    """The column's strings as they arrive, cut where one batch of unknown ones is together."""
    while rows:
        chunk: list[bytes] = []
        fresh: set[bytes] = set()
        size = 0
        while rows and len(fresh) < batch and len(chunk) < settings.CHUNK_ROWS and size < settings.CHUNK_BYTES:
            arrived = stream.strings(min(rows, batch - len(fresh)), settings.CHUNK_BYTES - size)
            fresh.update(value for value in arrived if not known(value))
            size += sum(map(len, arrived))
            rows -= len(arrived)
            chunk += arrived
        yield chunk


def _pictures(
    context: Context, stream: native.Stream, rows: int, submit: Callable, column: Callable[[Ticket], object]
) -> Answers:
    native.read_column_header(stream, native.String())
    for images in _chunks(stream, rows, settings.CHUNK_IMAGES, lambda value: False):
        yield len(images), context.answer(submit(context.client, images), column)


def _thumbnails(context: Context, stream: native.Stream, rows: int, column: Callable[[Ticket], object]) -> Answers:
    sided = _column(stream, "String", rows), _column(stream, "UInt16", rows).tolist()
    return _with_another(context, *sided, settings.CHUNK_IMAGES, context.encoder.submit_thumbnails, column)


def _cut(context: Context, stream: native.Stream, rows: int, column: Callable[[Ticket], object]) -> Answers:
    levelled = _column(stream, "String", rows), _column(stream, "UInt8", rows).tolist()
    return _with_another(context, *levelled, settings.CHUNK_REGIONS, context.encoder.submit_regions, column)


def _with_another(
    context: Context, images: list[bytes], others: list, size: int, submit: Callable, column: Callable[[Ticket], object]
) -> Answers:
    """Of pictures and what else is asked of each, `size` at a time."""
    for start in range(0, len(images), size):
        chunk = slice(start, start + size)
        ticket = submit(context.client, images[chunk], others[chunk])
        yield len(images[chunk]), context.answer(ticket, column)


def _vectors(ticket: Ticket) -> native.Ragged:
    return native.Ragged.of_matrix(ticket.vectors())


def _outcomes(context: Context, outcomes: list, instead: object) -> tuple[list, list[bytes]]:
    """The outcomes, `instead` for each that is an error, and the errors, which are noted."""
    if failed := [outcome for outcome in outcomes if isinstance(outcome, str)]:
        context.failed(failed[0], len(failed))
    errors = [outcome.encode() if isinstance(outcome, str) else b"" for outcome in outcomes]
    return [instead if error else outcome for outcome, error in zip(outcomes, errors, strict=True)], errors


def _region_column(cut: list[Regions | None]) -> native.Ragged:
    """contract.REGIONS of each picture, none of None."""
    found = [regions for regions in cut if regions]
    boxes = np.array([box for regions in found for box in regions.boxes], np.float32).reshape(-1, len(Box._fields))
    vectors = np.concatenate([regions.ticket.vectors() for regions in found]) if found else np.empty((0, 0), np.float32)
    ends = np.cumsum([len(regions.boxes) if regions else 0 for regions in cut], dtype=np.uint64)
    return native.Ragged(ends, (*boxes.T, native.Ragged.of_matrix(vectors)))


def _regions_and_errors(context: Context, ticket: Ticket) -> tuple[native.Ragged, list[bytes]]:
    cut, errors = _outcomes(context, [_with_its_parts(outcome) for outcome in ticket.outcomes()], None)
    return _region_column(cut), errors


def _with_its_parts(outcome: Regions | str) -> Regions | str:
    """The error instead where the model failed on a part."""
    if isinstance(outcome, str):
        return outcome
    return next((error for error in outcome.ticket.outcomes() if isinstance(error, str)), outcome)


def _thumbnails_and_errors(context: Context, ticket: Ticket) -> tuple[list[bytes], list[bytes]]:
    return _outcomes(context, ticket.outcomes(), b"")


def _facts_and_errors(context: Context, ticket: Ticket) -> tuple:
    """The columns of contract's vdx_picture_facts; of a picture without facts zeros and ''."""
    rows, errors = _outcomes(context, ticket.outcomes(), NO_FACTS)
    columns = Facts(*zip(*rows, strict=True))._asdict() | {"format": [row.format.encode() for row in rows]}
    kinds = {"width": np.uint32, "height": np.uint32, "orientation": np.uint8}
    numbers = [c if name == "format" else np.array(c, kinds.get(name, np.float32)) for name, c in columns.items()]
    return (*numbers, errors)


def _vectors_and_errors(context: Context, ticket: Ticket) -> tuple[native.Ragged, list[bytes]]:
    vectors, errors = _outcomes(context, ticket.outcomes(), np.empty(0, np.float32))
    return native.Ragged(np.cumsum([len(vector) for vector in vectors], dtype=np.uint64), np.concatenate(vectors)), errors


def _matrix(column: native.Ragged, row: int) -> np.ndarray:
    """float32 (N, dimension): one row of an Array(Array(Float32)) column."""
    first, last = int(column.ends[row - 1]) if row else 0, int(column.ends[row])
    vectors: native.Ragged = column.values
    begin, stop = int(vectors.ends[first - 1]) if first else 0, int(vectors.ends[last - 1]) if last else 0
    lengths = np.diff(vectors.ends[first:last].astype(np.int64), prepend=begin)
    if len(lengths) and (lengths != lengths[0]).any():
        raise EncodeError(f"vectors of {lengths.min()} and of {lengths.max()} numbers in one array do not compare")
    return vectors.values[begin:stop].reshape(last - first, -1) if first < last else np.empty((0, 0), np.float32)


def _near(left: np.ndarray, right: np.ndarray, k: int, least: float) -> native.Ragged:
    if len(left) and len(right) and left.shape[1] != right.shape[1]:
        raise EncodeError(f"vdx_near: vectors of {left.shape[1]} and of {right.shape[1]} numbers do not compare")
    pairs = near(left, right, k, least)
    return native.Ragged(np.array([len(pairs[0])], np.uint64), pairs)


def _centres(vectors: np.ndarray, number: int) -> native.Ragged:
    centres = kmeans(vectors, number)
    return native.Ragged(np.array([len(centres)], np.uint64), native.Ragged.of_matrix(centres))


def _positions(vectors: np.ndarray) -> native.Ragged:
    points = layout(vectors)
    return native.Ragged(np.array([len(points)], np.uint64), (points[:, 0], points[:, 1]))


def _files(context: Context, place: bytes) -> native.Ragged:
    try:
        found = context.encoder.source.files(place)
    except ImageError as error:
        raise EncodeError(f"{shortened(place)}: {error}") from None
    columns = ([f.path for f in found], np.array([f.size for f in found], np.uint64), [f.error.encode() for f in found])
    return native.Ragged(np.array([len(found)], np.uint64), columns)


def _read(context: Context, path: bytes) -> tuple[list[bytes], list[bytes]]:
    """Of a file that is no picture nobody gets to see what it holds."""
    try:
        content = context.encoder.source.read_path(path)
        check(content)
    except ImageError as error:
        return [b""], [str(error).encode()]
    return [content], [b""]


def _checked(context: Context, held: set[tuple[bytes, bytes]], counts: np.ndarray) -> np.ndarray:
    """`counts`. Raises EncodeError for vectors of other weights; those that came without a hash go by the model's name."""
    model = context.encoder.model
    known = {(name.decode("utf-8", "replace"), weights_hash.decode("utf-8", "replace")) for name, weights_hash in held}
    others = sorted(each for each in known if each[1] != model.weights_hash and (each[1] or each[0] != model.name))
    if others:
        said = ", ".join(
            f"{name or 'a model that is not named'} (weights {weights_hash or 'unknown'})" for name, weights_hash in others
        )
        raise EncodeError(
            f"images holds vectors of {said}, but the encoder runs {model.name} (weights {model.weights_hash}), and vectors of"
            " different models do not compare: install the other model with vdx install, or load the pictures again and"
            f" DELETE FROM images WHERE weights_hash != '{model.weights_hash}'"
        )
    return counts


def _labels(stream: native.Stream, rows: int) -> Iterator[tuple[bytes, ...]]:
    return native.read_column_header(stream, native.parse_type("Array(String)")).read_rows(stream, rows)


def _classified(context: Context, labels: list[tuple[bytes, ...]], ticket: Ticket) -> native.Ragged:
    return _probabilities(context, native.Ragged.of_matrix(ticket.vectors()), labels)


def _probabilities(context: Context, vectors: native.Ragged, labels: list[tuple[bytes, ...]]) -> native.Ragged:
    """Zero-shot probabilities, rows with the same labels computed together; an empty vector gets an empty answer."""
    dimension = context.encoder.model.dimension
    lengths = np.diff(vectors.ends.astype(np.int64), prepend=0)
    wrong = (lengths != 0) & (lengths != dimension)
    if wrong.any() or not np.isfinite(vectors.values).all():
        what = f"{lengths[wrong.argmax()]} values" if wrong.any() else "values that are not finite"
        raise EncodeError(
            f"a vector of {what} cannot be classified: model {context.encoder.model.name} needs {dimension} finite"
            " values, as encode_image gives them"
        )
    full = np.flatnonzero(lengths)
    matrix = vectors.values.reshape(len(full), dimension)
    groups: dict[int, list[int]] = {}  # by identity: equal labels in consecutive rows are one object
    for row, number in enumerate(full.tolist()):
        groups.setdefault(id(labels[number]), []).append(row)
    if len(groups) == 1 and len(full) == len(labels):
        return native.Ragged.of_matrix(_shares(context, matrix, labels[0]))
    answers = [np.empty(0, np.float32)] * len(labels)
    for rows in groups.values():
        for number, shares in zip(full[rows], _shares(context, matrix[rows], labels[full[rows[0]]]), strict=True):
            answers[number] = shares
    return native.Ragged(np.cumsum([len(a) for a in answers], dtype=np.uint64), np.concatenate(answers))


def _shares(context: Context, vectors: np.ndarray, labels: tuple[bytes, ...]) -> np.ndarray:
    """float32 (N, labels): softmax of the logit scale times cosine."""
    if not labels:
        return np.empty((len(vectors), 0), np.float32)
    encoder = context.encoder
    scale = encoder.model.logit_scale / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    logits = vectors @ encoder.embed_labels(context.client, labels).T
    logits *= scale.astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
