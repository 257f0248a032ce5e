"""Batches what all connections ask of the one model, and remembers recent answers.

A chunk of inputs becomes a Ticket. Inputs seen before are answered from the cache, inputs that another ticket
already waits for are shared with it, and the rest queue for the model thread, which takes its batches from all
clients in turn. On the way files and URLs are read and pictures decoded on threads of their own, so that a batch is
made of what is ready and never waits for a slow one.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np

from vdx_udf import __version__, contract, settings
from vdx_udf.encoder.counters import Counters
from vdx_udf.encoder.decoding import decoded, opened
from vdx_udf.encoder.fair_pool import FairPool
from vdx_udf.encoder.image import ImageError, ImageSource, is_content, shortened

TEXT, IMAGE = contract.KINDS
log = logging.getLogger("vdx")
In, Out = TypeVar("In"), TypeVar("Out")


class EncodeError(ValueError):
    """This input cannot be encoded; the message says which, why and what to do."""


class Entry:
    """One distinct input: `value` becomes its unit vector, float32 (dimension,), or the reason why it has none.

    `key` is None until a file or URL was read: then it may turn out to follow another entry with the same content.
    """

    __slots__ = ("followers", "key", "name", "payload", "queued", "tickets", "value")

    def __init__(self, key: tuple[str, Hashable] | None, payload: Any, value: np.ndarray | None = None):
        self.key, self.payload = key, payload
        self.name = "" if payload is None else shortened(payload)
        self.queued = 0.0  # when it was ready for the model
        self.value: np.ndarray | EncodeError | None = value
        self.tickets: list[Ticket] = []
        self.followers: list[Entry] = []

    def is_wanted(self) -> bool:
        return not all(ticket.dropped for entry in (self, *self.followers) for ticket in entry.tickets)


class Ticket:
    """The rows of one chunk: row i is `entries[row_of[i]]`."""

    def __init__(self, entries: list[Entry], row_of: list[int]):
        self.entries, self.row_of = entries, row_of
        self.pending = 0  # entries without a value; guarded by the encoder's lock
        self.dropped = False
        self._done = threading.Event()

    def finish(self) -> None:
        self._done.set()

    def _wait(self) -> None:
        self._done.wait()
        if self.dropped:
            raise ConnectionAbortedError

    def vectors(self) -> np.ndarray:
        """The rows' unit vectors, float32 (rows, dimension), once all are there. Raises the first error among them."""
        self._wait()
        for entry in self.entries:
            if isinstance(entry.value, EncodeError):
                raise EncodeError(f"{entry.name}: {entry.value}")
        return np.stack([entry.value for entry in self.entries])[self.row_of]

    def outcomes(self) -> list[np.ndarray | str]:
        """The rows' unit vectors or the reasons why there is none, once all are there; each row knows its own input."""
        self._wait()
        found = [str(e.value) if isinstance(e.value, EncodeError) else e.value for e in self.entries]
        return [found[i] for i in self.row_of]


class Encoder:
    """The model, its queue and its cache; one per process. `model` is a loaded vdx_udf.encoder.model.Clip."""

    def __init__(
        self,
        model: Any,
        source: ImageSource,
        cache_entries: int = settings.CACHE_ENTRIES,
        jpeg_scale: int = settings.JPEG_SCALE,
    ):
        self.model, self.source = model, source
        self._budget = settings.BATCH["cuda" if model.device.type == "cuda" else "cpu"]
        self._jpeg_scale, self._jpeg_side = jpeg_scale, jpeg_scale * max(model.preprocess.size)
        self._cache_entries = cache_entries
        self._label_sets: OrderedDict[tuple[bytes, ...], np.ndarray] = OrderedDict()
        self._cache: OrderedDict[tuple[str, Hashable], np.ndarray] = OrderedDict()
        self._in_flight: dict[tuple[str, Hashable], Entry] = {}
        self._ready: dict[str, OrderedDict[Hashable, deque[Entry]]] = {TEXT: OrderedDict(), IMAGE: OrderedDict()}
        self._wake = threading.Condition()
        self._readers = FairPool(settings.READERS, "read")
        self._read_ahead = threading.Semaphore(settings.READ_AHEAD)
        self._decoders = FairPool(os.cpu_count() or 1, "decode")
        self._large = threading.Lock()
        self._started = time.monotonic()
        # Once: the look-up reads files, and every insert into `ingest` asks for the info.
        self._versions = {"open_clip_version": version("open_clip_torch"), "torch_version": version("torch")}
        self.counters = Counters()
        self._last_kind = IMAGE

    # What connections call

    def is_known(self, kind: str, value: bytes) -> bool:
        """Whether a text needs no model pass; a hint, taken without the lock."""
        return (kind, _text_identity(value)) in self._cache

    def submit_texts(self, client: Hashable, texts: list[bytes]) -> Ticket:
        """A ticket for UTF-8 texts; bytes that are not UTF-8 are read as U+FFFD."""
        return self._submit(client, TEXT, texts, _text_identity)

    def submit_images(self, client: Hashable, values: list[bytes]) -> Ticket:
        """A ticket for pictures given as bytes, path or URL. What cannot be read becomes that row's error."""
        return self._submit(client, IMAGE, values, lambda value: _digest(value) if is_content(value) else None)

    def embed_labels(self, client: Hashable, labels: tuple[bytes, ...]) -> np.ndarray:
        """One unit vector per label, float32 (labels, dimension): its prompts' mean, normalised, as open_clip does."""
        with self._wake:
            if (known := _recall(self._label_sets, labels)) is not None:
                return known
        prompts = [t.replace("{}", label.decode("utf-8", "replace")) for label in labels for t in settings.PROMPT_TEMPLATES]
        vectors = self.submit_texts(client, [p.encode() for p in prompts]).vectors()
        means = vectors.reshape(len(labels), len(settings.PROMPT_TEMPLATES), -1).mean(axis=1)
        embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
        with self._wake:
            _remember(self._label_sets, labels, embeddings, settings.LABEL_SETS)
            while sum(map(len, self._label_sets)) > settings.CACHE_ENTRIES:  # a set can be of any size
                self._label_sets.popitem(last=False)
        return embeddings

    def drop(self, tickets: list[Ticket]) -> None:
        """Work that nobody waits for any more is not done, unless another ticket wants it too."""
        with self._wake:
            for ticket in tickets:
                ticket.dropped = True
                ticket.finish()

    def info(self) -> dict[str, str]:
        """What encoder_info() answers; the keys are the contract's ENCODER_INFO_KEYS."""
        with self._wake:
            known = {
                "model": self.model.name,
                "dimension": self.model.dimension,
                "device": self.model.device,
                "precision": self.model.precision,
                "parity": f"{self.model.parity:.6f}",
                "jpeg_scale": self._jpeg_scale,
                "preprocessing": f"{self.model.preprocess.description}, jpeg scale {self._jpeg_scale}",
                "logit_scale": f"{self.model.logit_scale:.6f}",
                "weights_hash": self.model.weights_hash,
                "vdx_udf_version": __version__,
                **self._versions,
                "uptime_seconds": int(time.monotonic() - self._started),
                "cached_embeddings": len(self._cache),
                "pid": os.getpid(),
                **self.counters.all(),
            }
        return {key: str(value) for key, value in known.items()}

    # The queue

    def _submit(self, client: Hashable, kind: str, values: list[bytes], identity: Callable[[bytes], Hashable]) -> Ticket:
        """`identity` gives the bytes that two equal inputs share, or None where they must be read first."""
        place: dict[bytes, int] = {}
        row_of = [place.setdefault(value, len(place)) for value in values]
        identities = [identity(value) for value in place]
        ticket = Ticket([], row_of)
        fresh: list[Entry] = []
        try:
            with self._wake:
                for value, known_by in zip(place, identities, strict=True):
                    key = None if known_by is None else (kind, known_by)
                    if (vector := _recall(self._cache, key)) is not None:
                        entry = Entry(key, None, vector)
                    elif (entry := self._in_flight.get(key)) is None:
                        entry = Entry(key, value)
                        fresh.append(entry)
                        if key is not None:
                            self._in_flight[key] = entry
                    ticket.entries.append(entry)
                    if entry.value is None:
                        entry.tickets.append(ticket)
                        ticket.pending += 1
                self.counters.add(kind, rows=len(values), cache_hits=len(values) - len(fresh))
                if ticket.pending == 0:
                    ticket.finish()
            if kind == TEXT:
                self._tokenize(client, fresh)
            else:
                for entry in fresh:
                    pool, work = (self._decoders, self._decode) if entry.key else (self._readers, self._read)
                    pool.submit(client, partial(self._attempt, work, client, entry))
        except Exception as error:  # memory may end anywhere; others may already wait for these entries
            self._deliver([(entry, _picture_error(error)) for entry in fresh])
            raise
        return ticket

    def _attempt(self, work: Callable[[Hashable, Entry], None], client: Hashable, entry: Entry) -> None:
        """Does a thread's work for an entry; whatever goes wrong becomes its outcome, or its query would wait for ever."""
        try:
            work(client, entry)
        except Exception as error:
            self._deliver([(entry, _picture_error(error))])

    def _enqueue(self, client: Hashable, kind: str, entries: list[Entry]) -> None:
        now = time.monotonic()
        for entry in entries:
            entry.queued = now
        with self._wake:
            self._ready[kind].setdefault(client, deque()).extend(entries)
            self._wake.notify()

    def _tokenize(self, client: Hashable, entries: list[Entry]) -> None:
        tokenized = _each(self._tokens, [entry.payload for entry in entries])
        for entry, tokens in zip(entries, tokenized, strict=True):
            if isinstance(tokens, EncodeError):
                self._deliver([(entry, tokens)])
            else:
                entry.payload = tokens
        if ready := [entry for entry in entries if entry.value is None]:
            self._enqueue(client, TEXT, ready)

    def _tokens(self, texts: list[bytes]) -> list[Any]:
        return self.model.tokens([_readable(text) for text in texts])

    def _read(self, client: Hashable, entry: Entry) -> None:
        """What a path or URL names; the content says whether this picture is known."""
        if not entry.is_wanted():
            return
        self._read_ahead.acquire()  # until it is decoded: a bound on the files in memory, however many are asked for
        is_handed_on = False
        try:
            content = self.source.read(entry.payload)
            key = (IMAGE, _digest(content))
            with self._wake:
                vector, other = _recall(self._cache, key), self._in_flight.get(key)
                if vector is None and other is None:
                    entry.key, entry.payload = key, content
                    self._in_flight[key] = entry
                elif vector is None:
                    other.followers.append(entry)
                self.counters.add(IMAGE, cache_hits=entry.key is None)
            if entry.key:
                self._decoders.submit(client, partial(self._attempt, self._decode_read, client, entry))
                is_handed_on = True
        finally:
            if not is_handed_on:
                self._read_ahead.release()
        if vector is not None:
            self._deliver([(entry, vector)])

    def _decode_read(self, client: Hashable, entry: Entry) -> None:
        try:
            self._decode(client, entry)
        finally:
            self._read_ahead.release()

    def _decode(self, client: Hashable, entry: Entry) -> None:
        if self._forget_unwanted(entry):
            return
        picture = opened(entry.payload, self._jpeg_side)  # a picture can break its decoder in any way: see _attempt
        with self._large if picture.pixels > settings.LARGE_PIXELS else nullcontext():
            entry.payload = self.model.pixels(decoded(picture))
        self._enqueue(client, IMAGE, [entry])

    def _forget_unwanted(self, entry: Entry) -> bool:
        """Whether nobody waits for this entry any more; then nobody can join it either."""
        with self._wake:
            if unwanted := not entry.is_wanted():
                self._in_flight.pop(entry.key, None)
            return unwanted

    def _take(self) -> tuple[str, list[Entry]]:
        """The next batch, texts and pictures in turn where both wait; blocks until there is one."""
        with self._wake:
            while True:
                for kind in sorted(self._budget, key=lambda k: k == self._last_kind):
                    if batch := self._next_batch(kind):
                        self._last_kind = kind
                        return kind, batch
                self._wake.wait()

    def _next_batch(self, kind: str) -> list[Entry]:
        """An equal share from every client that waits; a client goes to the back after its turn."""
        queues, room = self._ready[kind], self._budget[kind]
        batch: list[Entry] = []
        while queues and room > 0:
            client, queue = queues.popitem(last=False)
            share = max(1, room // (len(queues) + 1))
            while queue and share > 0:
                entry = queue.popleft()
                if entry.value is not None or self._forget_unwanted(entry):
                    continue
                batch.append(entry)
                cost = len(entry.payload) if kind == TEXT else 1
                share, room = share - cost, room - cost
            if queue:
                queues[client] = queue
        return batch

    def start(self) -> "Encoder":
        """Encodes on a thread of its own, where no thread calls `run`."""
        threading.Thread(target=self.run, name="model", daemon=True).start()
        return self

    def run(self) -> None:
        """Encodes batch after batch and does not return.

        On a CPU to be called by the thread that loaded the model: torch keeps a team of threads for every thread that
        it computes on, and as soon as there are two teams they yield to each other, which doubles a short text's time.
        """
        for _ in range(self.model.streams - 1):
            threading.Thread(target=self._encode, name="model", daemon=True).start()
        self._encode()

    def _encode(self) -> None:
        passes = {TEXT: partial(_vectors, self.model.encode_tokens), IMAGE: partial(_vectors, self.model.encode_images)}
        try:
            with self.model.stream():
                while True:
                    kind, batch = self._take()
                    began = time.monotonic()
                    vectors = _each(passes[kind], [entry.payload for entry in batch])
                    self._count(kind, began, batch)
                    self._deliver(list(zip(batch, vectors, strict=True)))
        except BaseException:
            # Without this thread every query would hang; workers start a new service when this one is gone.
            log.exception("the model thread failed; the service stops")
            os._exit(1)

    def _count(self, kind: str, began: float, batch: list[Entry]) -> None:
        queued, computed = sum(began - entry.queued for entry in batch), time.monotonic() - began
        self.counters.add(kind, batches=1, encoded=len(batch), queue_seconds=queued, compute_seconds=computed)
        log.debug(
            "batch: %d of %s, computed in %.4f s, queued %.4f s on average", len(batch), kind, computed, queued / len(batch)
        )

    def _deliver(self, outcomes: list[tuple[Entry, np.ndarray | EncodeError]]) -> None:
        with self._wake:
            for entry, value in outcomes:
                if entry.key is not None:
                    self._in_flight.pop(entry.key, None)
                if entry.key is not None and not isinstance(value, EncodeError):
                    _remember(self._cache, entry.key, value, self._cache_entries)
                for each in (entry, *entry.followers):
                    if each.value is not None:  # an error came first
                        continue
                    each.value, each.payload = value, None
                    for ticket in each.tickets:
                        ticket.pending -= 1
                        if ticket.pending == 0:
                            ticket.finish()


def _recall(cache: OrderedDict[Hashable, np.ndarray], key: Hashable) -> np.ndarray | None:
    value = cache.get(key)
    if value is not None:
        cache.move_to_end(key)
    return value


def _remember(cache: OrderedDict[Hashable, np.ndarray], key: Hashable, value: np.ndarray, most: int) -> None:
    """Keeps the value; beyond `most` of them the least recently used one goes."""
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)


def _each(work: Callable[[list[In]], Sequence[Out]], payloads: list[In]) -> list[Out | EncodeError]:
    """One result a payload, or the error that it met: a batch that fails is halved until the culprit is alone."""
    try:
        return list(work(payloads)) if payloads else []
    except Exception as error:
        reason = error if isinstance(error, EncodeError) else EncodeError(f"the model failed: {_described(error)}")
        if len(payloads) == 1:
            return [reason]
        log.info("a batch of %d failed and is halved: %s", len(payloads), reason)
        half = len(payloads) // 2
        return _each(work, payloads[:half]) + _each(work, payloads[half:])


def _vectors(model_pass: Callable[[list[In]], np.ndarray], payloads: list[In]) -> list[np.ndarray]:
    """The unit vectors of a batch, one array each: or a cached row would keep its whole batch in memory."""
    vectors = model_pass(payloads)
    if not np.isfinite(vectors).all():
        raise EncodeError("the model gave a vector that is not finite")
    return [vector.copy() for vector in vectors]


def _picture_error(error: Exception) -> EncodeError:
    return EncodeError(str(error) if isinstance(error, ImageError) else _described(error))


def _described(error: Exception) -> str:
    """An exception's kind and text; a MemoryError has none."""
    return "no memory is left for it" if isinstance(error, MemoryError) else f"{type(error).__name__}: {shortened(str(error))}"


def _text_identity(text: bytes) -> Hashable:
    """What the cache knows a text by: itself, or of a long one its digest, in a tuple so that no text equals it."""
    return text if len(text) <= 256 else (_digest(text),)


def _readable(text: bytes) -> str:
    """The text as the tokeniser gets it: of one longer than MAX_TEXT letters the beginning, spaces in a row counting once."""
    decoded = text.decode("utf-8", "replace")
    if len(decoded) <= settings.MAX_TEXT:
        return decoded
    return " ".join(decoded.split(None, settings.MAX_TEXT))[: settings.MAX_TEXT]


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
