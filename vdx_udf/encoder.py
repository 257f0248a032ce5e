"""Batches what all connections ask of the one model, and remembers recent answers.

A chunk of inputs becomes a Ticket. Inputs seen before are answered from the cache, inputs that another ticket
already waits for are shared with it, and the rest queue for the model thread, which takes its batches from all
clients in turn. Pictures are decoded on threads of their own on the way.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import numpy as np

from vdx_udf import __version__, settings
from vdx_udf.image import ImageError, ImageSource, decode, shortened

TEXT, IMAGE = "text", "image"
log = logging.getLogger("vdx")
_BATCH = {TEXT: settings.TEXT_BATCH, IMAGE: settings.IMAGE_BATCH}


class EncodeError(ValueError):
    """This input cannot be encoded; the message says which, why and what to do."""


class Entry:
    """One distinct input: `value` becomes its unit vector, float32 (dimension,), or the exception that it met."""

    __slots__ = ("key", "payload", "tickets", "value")

    def __init__(self, key: tuple[str, bytes], payload: Any):
        self.key, self.payload = key, payload
        self.value: np.ndarray | Exception | None = None
        self.tickets: list[Ticket] = []


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
            if isinstance(entry.value, Exception):
                raise entry.value
        return np.stack([entry.value for entry in self.entries])[self.row_of]

    def outcomes(self) -> list[np.ndarray | Exception]:
        """The rows' unit vectors or errors, once all are there."""
        self._wait()
        return [self.entries[i].value for i in self.row_of]


class Encoder:
    """The model, its queue and its cache; one per process. `model` is a loaded vdx_udf.model.Clip."""

    def __init__(self, model: Any, source: ImageSource, cache_entries: int = settings.CACHE_ENTRIES):
        self.model, self.source = model, source
        self._cache_entries = cache_entries
        self._cache: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()
        self._in_flight: dict[tuple[str, bytes], Entry] = {}
        self._ready: dict[str, OrderedDict[Hashable, deque[Entry]]] = {TEXT: OrderedDict(), IMAGE: OrderedDict()}
        self._wake = threading.Condition()
        self._decoders = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._started = time.monotonic()
        # Once: the look-up reads files, and every insert into `ingest` asks for the info.
        self._versions = {"open_clip_version": version("open_clip_torch"), "torch_version": version("torch")}
        self._rows = self._hits = 0
        self.last_error = ""
        self._last_kind = IMAGE
        threading.Thread(target=self._run, name="model", daemon=True).start()

    # What connections call

    def is_known(self, kind: str, value: bytes) -> bool:
        """Whether a text needs no model pass; a hint, taken without the lock."""
        return (kind, value) in self._cache

    def submit_texts(self, client: Hashable, texts: list[bytes]) -> Ticket:
        """A ticket for UTF-8 texts; bytes that are not UTF-8 are read as U+FFFD."""
        return self._submit(client, TEXT, texts, texts)

    def submit_images(self, client: Hashable, values: list[bytes]) -> Ticket:
        """A ticket for pictures given as bytes, path or URL. What cannot be read becomes that row's error."""
        payloads: list[bytes | Exception] = []
        for value in values:
            try:
                payloads.append(self.source.read(value))
            except ImageError as error:
                payloads.append(EncodeError(str(error)))
        digests = [blake2b(p if isinstance(p, bytes) else str(p).encode(), digest_size=16).digest() for p in payloads]
        return self._submit(client, IMAGE, digests, payloads)

    def embed_labels(self, client: Hashable, labels: list[bytes]) -> np.ndarray:
        """One unit vector per label, float32 (labels, dimension): its prompts' mean, normalised, as open_clip does."""
        prompts = [t.replace("{}", label.decode("utf-8", "replace")) for label in labels for t in settings.PROMPT_TEMPLATES]
        vectors = self.submit_texts(client, [p.encode() for p in prompts]).vectors()
        means = vectors.reshape(len(labels), len(settings.PROMPT_TEMPLATES), -1).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

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
                "logit_scale": f"{self.model.logit_scale:.6f}",
                "weights_hash": self.model.weights_hash,
                "vdx_udf_version": __version__,
                **self._versions,
                "uptime_seconds": int(time.monotonic() - self._started),
                "rows_served": self._rows,
                "cache_hits": self._hits,
                "cached_embeddings": len(self._cache),
                "last_error": self.last_error,
                "pid": os.getpid(),
            }
        return {key: str(value) for key, value in known.items()}

    # The queue

    def _submit(self, client: Hashable, kind: str, values: list[bytes], payloads: list) -> Ticket:
        place: dict[bytes, int] = {}
        row_of = [place.setdefault(value, len(place)) for value in values]
        payload_of = dict(zip(values, payloads, strict=True)) if payloads is not values else {}
        ticket = Ticket([], row_of)
        to_decode = []
        with self._wake:
            self._rows += len(values)
            misses = 0
            for value in place:
                key = (kind, value)
                if (vector := self._cache.get(key)) is not None:
                    self._cache.move_to_end(key)
                    entry = Entry(key, None)
                    entry.value = vector
                elif (entry := self._in_flight.get(key)) is None:
                    misses += 1
                    entry = Entry(key, payload_of.get(value, value))
                    if isinstance(entry.payload, Exception):
                        entry.value = entry.payload
                        self.last_error = str(entry.value)
                    else:
                        self._in_flight[key] = entry
                        if kind == IMAGE:
                            to_decode.append(entry)
                        else:
                            self._enqueue(client, kind, entry)
                ticket.entries.append(entry)
                if entry.value is None:
                    entry.tickets.append(ticket)
                    ticket.pending += 1
            self._hits += len(values) - misses
            if ticket.pending == 0:
                ticket.finish()
            self._wake.notify()
        for entry in to_decode:
            self._decoders.submit(self._decode, client, entry)
        return ticket

    def _enqueue(self, client: Hashable, kind: str, entry: Entry) -> None:
        self._ready[kind].setdefault(client, deque()).append(entry)

    def _decode(self, client: Hashable, entry: Entry) -> None:
        with self._wake:
            if all(ticket.dropped for ticket in entry.tickets):
                self._in_flight.pop(entry.key, None)
                return
        try:
            entry.payload = self.model.pixels(decode(entry.payload))
        except Exception as error:  # a picture can break its decoder in any way; it costs its own row only
            reason = str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {shortened(str(error))}"
            self._deliver([(entry, EncodeError(reason))])
            return
        with self._wake:
            self._enqueue(client, IMAGE, entry)
            self._wake.notify()

    def _take(self) -> tuple[str, list[Entry]]:
        """The next batch, texts and pictures in turn where both wait; blocks until there is one."""
        with self._wake:
            while True:
                for kind in sorted(_BATCH, key=lambda k: k == self._last_kind):
                    if batch := self._next_batch(kind):
                        self._last_kind = kind
                        return kind, batch
                self._wake.wait()

    def _next_batch(self, kind: str) -> list[Entry]:
        """An equal share from every client that waits; a client goes to the back after its turn."""
        queues, size = self._ready[kind], _BATCH[kind]
        batch: list[Entry] = []
        while queues and len(batch) < size:
            client, queue = queues.popitem(last=False)
            share = max(1, (size - len(batch)) // (len(queues) + 1))
            while queue and share:
                entry = queue.popleft()
                if all(ticket.dropped for ticket in entry.tickets):
                    self._in_flight.pop(entry.key, None)
                    continue
                batch.append(entry)
                share -= 1
            if queue:
                queues[client] = queue
        return batch

    def _run(self) -> None:
        try:
            while True:
                kind, batch = self._take()
                self._deliver(list(zip(batch, self._encode(kind, [e.payload for e in batch]), strict=True)))
        except BaseException:
            # Without this thread every query would hang; workers start a new service when this one is gone.
            log.exception("the model thread failed; the service stops")
            os._exit(1)

    def _encode(self, kind: str, payloads: list) -> list[np.ndarray | Exception]:
        """Vectors, or the error of each input that has one: a batch that fails is halved until the culprit is alone."""
        try:
            if kind == TEXT:
                vectors = self.model.encode_texts([payload.decode("utf-8", "replace") for payload in payloads])
            else:
                vectors = self.model.encode_images(payloads)
        except Exception as error:
            if len(payloads) == 1:
                return [EncodeError(f"the model failed on {kind} input: {type(error).__name__}: {shortened(str(error))}")]
            half = len(payloads) // 2
            return self._encode(kind, payloads[:half]) + self._encode(kind, payloads[half:])
        finite = np.isfinite(vectors).all(axis=1)
        return [
            # a copy, or each cached row would keep its whole batch in memory
            vector.copy() if good else EncodeError(f"the model gave a vector that is not finite for this {kind}")
            for vector, good in zip(vectors, finite, strict=True)
        ]

    def _deliver(self, outcomes: list[tuple[Entry, np.ndarray | Exception]]) -> None:
        with self._wake:
            for entry, value in outcomes:
                entry.value, entry.payload = value, None
                self._in_flight.pop(entry.key, None)
                if isinstance(value, Exception):
                    self.last_error = str(value)
                else:
                    self._cache[entry.key] = value
                    if len(self._cache) > self._cache_entries:
                        self._cache.popitem(last=False)
                for ticket in entry.tickets:
                    ticket.pending -= 1
                    if ticket.pending == 0:
                        ticket.finish()
