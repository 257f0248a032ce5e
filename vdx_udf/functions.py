"""The six functions as the service answers them, one handler each.

A handler reads a block's columns from the stream and yields `(rows, answer)`: `answer()` waits for the encoder and
returns the result column of these rows. So the next rows are read and queued while the first are computed.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from vdx_udf import native, settings
from vdx_udf.encoder import TEXT, EncodeError, Encoder, Ticket

Answers = Iterator[tuple[int, Callable[[], object]]]


@dataclass
class Context:
    """One connection's view of the encoder; `tickets` are those not answered yet."""

    encoder: Encoder
    tickets: set[Ticket] = field(default_factory=set)

    @property
    def client(self) -> Hashable:
        return id(self)

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
    return _encode_images(context, stream, rows, _vectors)


def try_encode_image(context: Context, stream: native.Stream, rows: int) -> Answers:
    return _encode_images(context, stream, rows, _vectors_and_errors)


def classify(context: Context, stream: native.Stream, rows: int) -> Answers:
    vectors = list(_column(stream, "Array(Float32)", rows).rows())
    labels = list(_column(stream, "Array(String)", rows).rows())
    for start in range(0, rows, settings.CHUNK_ROWS):
        part = slice(start, start + settings.CHUNK_ROWS)
        yield len(vectors[part]), partial(_probabilities, context, vectors[part], labels[part])


def classify_image(context: Context, stream: native.Stream, rows: int) -> Answers:
    images = _column(stream, "String", rows)
    labels = list(_column(stream, "Array(String)", rows).rows())
    for start in range(0, rows, settings.CHUNK_IMAGES):
        part = slice(start, start + settings.CHUNK_IMAGES)
        ticket = context.encoder.submit_images(context.client, images[part])
        column = partial(_classified, context, labels[part])
        yield len(images[part]), context.answer(ticket, column)


def vdx_encoder_info(context: Context, stream: native.Stream, rows: int) -> Answers:
    _column(stream, "String", rows)
    info = context.encoder.info()
    keys, values = ([text.encode() for text in part] * rows for part in (info.keys(), info.values()))
    ends = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(len(info))
    yield rows, lambda: native.Ragged(ends, (keys, values))


HANDLERS = {
    handler.__name__: handler
    for handler in (encode_text, encode_image, try_encode_image, classify, classify_image, vdx_encoder_info)
}


def _column(stream: native.Stream, kind: str, rows: int):
    expected = native.parse_type(kind)
    native.read_column_header(stream, expected)
    return expected.read(stream, rows)


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


def _encode_images(context: Context, stream: native.Stream, rows: int, column: Callable[[Ticket], object]) -> Answers:
    native.read_column_header(stream, native.String())
    for images in _chunks(stream, rows, settings.CHUNK_IMAGES, lambda value: False):
        ticket = context.encoder.submit_images(context.client, images)
        yield len(images), context.answer(ticket, column)


def _vectors(ticket: Ticket) -> native.Ragged:
    return native.Ragged.of_matrix(ticket.vectors())


def _vectors_and_errors(ticket: Ticket) -> tuple[native.Ragged, list[bytes]]:
    outcomes = ticket.outcomes()
    vectors = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
    ends = np.cumsum([len(o) if isinstance(o, np.ndarray) else 0 for o in outcomes], dtype=np.uint64)
    flat = np.concatenate(vectors) if vectors else np.empty(0, np.float32)
    errors = [str(o).encode() if isinstance(o, Exception) else b"" for o in outcomes]
    return native.Ragged(ends, flat), errors


def _classified(context: Context, labels: list[list[bytes]], ticket: Ticket) -> native.Ragged:
    return _probabilities(context, list(ticket.vectors()), labels)


def _probabilities(context: Context, vectors: list[np.ndarray], labels: list[list[bytes]]) -> native.Ragged:
    """Zero-shot probabilities, rows with the same labels computed together."""
    dimension = context.encoder.model.dimension
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for row, (vector, wanted) in enumerate(zip(vectors, labels, strict=True)):
        if len(vector) not in (0, dimension) or not np.isfinite(vector).all():
            what = f"{len(vector)} values" if len(vector) != dimension else "values that are not finite"
            raise EncodeError(
                f"a vector of {what} cannot be classified: model {context.encoder.model.name} needs {dimension} finite"
                " values, as encode_image gives them"
            )
        if len(vector) and wanted:
            groups.setdefault(tuple(wanted), []).append(row)
    answers = [np.empty(0, np.float32)] * len(vectors)
    for wanted, members in groups.items():
        matrix = np.stack([vectors[row] for row in members])
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        cosine = (
            matrix / np.maximum(lengths, np.finfo(np.float32).tiny) @ context.encoder.embed_labels(context.client, wanted).T
        )
        logits = context.encoder.model.logit_scale * cosine
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        for row, shares in zip(members, odds / odds.sum(axis=1, keepdims=True), strict=True):
            answers[row] = shares.astype(np.float32, copy=False)
    ends = np.cumsum([len(a) for a in answers], dtype=np.uint64)
    return native.Ragged(ends, np.concatenate(answers) if answers else np.empty(0, np.float32))
