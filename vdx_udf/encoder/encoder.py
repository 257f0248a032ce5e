"""The model and all that asks it: what connections call, and the thread that encodes.

A chunk of inputs becomes a ticket. Inputs seen before are answered from the ledger's cache, inputs that another ticket
already waits for are shared with it, and the rest go the way of a text or of a picture into the fair queue, from which the
model thread takes its batches.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from vdx_udf import __version__, settings
from vdx_udf.encoder import batch
from vdx_udf.encoder.counters import Counters
from vdx_udf.encoder.fair_queue import IMAGE, TEXT, FairQueue
from vdx_udf.encoder.image import ImageSource
from vdx_udf.encoder.ledger import Cache, Ledger
from vdx_udf.encoder.regions import Box
from vdx_udf.encoder.tickets import Entry, Ticket
from vdx_udf.encoder.ways import PicturePools, PictureWay, RegionWay, SmallWay, TextWay, answered

log = logging.getLogger("vdx")


class Encoder:
    """One per process. `model` is a loaded vdx_udf.encoder.model.Clip."""

    def __init__(
        self,
        model: Any,
        source: ImageSource,
        cache_entries: int = settings.CACHE_ENTRIES,
        jpeg_scale: int = settings.JPEG_SCALE,
    ):
        self.model, self.source, self._jpeg_scale = model, source, jpeg_scale
        self.counters = Counters()
        self.ledger = Ledger(cache_entries)
        budget = settings.BATCH["cuda" if model.device.type == "cuda" else "cpu"]
        self._queue = FairQueue(budget, self.ledger.forget_unwanted)
        self.pools = PicturePools(source, self.ledger)
        jpeg_side = jpeg_scale * model.preprocess.side
        pictures = PictureWay(model, self.pools, jpeg_side, self.ledger, self._queue, self.counters.add)
        self._ways = {TEXT: TextWay(model, self.ledger, self._queue), IMAGE: pictures}
        self._regions = RegionWay(model, self.pools, jpeg_scale, self.ledger, self._queue, self.counters.add)
        self._small = SmallWay(self.pools, self.ledger)
        self._label_sets = Cache(settings.LABEL_SETS)
        self._label_lock = threading.Lock()
        self._started = time.monotonic()
        # Once: the look-up reads files, and every insert into `ingest` asks for the info.
        self._versions = {"open_clip_version": version("open_clip_torch"), "torch_version": version("torch")}

    def is_known(self, kind: str, value: bytes) -> bool:
        """Whether a text needs no model pass; a hint, taken without a lock."""
        return self.ledger.is_known((kind, self._ways[kind].identity(value)))

    def submit_texts(self, client: Hashable, texts: list[bytes]) -> Ticket:
        """A ticket for UTF-8 texts; bytes that are not UTF-8 are read as U+FFFD."""
        return self._submit(client, TEXT, texts)

    def submit_images(self, client: Hashable, values: list[bytes]) -> Ticket:
        """A ticket for pictures given as bytes, path or URL. What cannot be read becomes that row's error."""
        return self._submit(client, IMAGE, values)

    def submit_regions(self, client: Hashable, values: list[bytes], levels: list[int]) -> Ticket:
        """A ticket for the regions of pictures given as bytes, path or URL, and for what went wrong with each."""
        return self._submit_small(client, list(zip(values, levels, strict=True)), self._regions.send)

    def submit_parts(self, client: Hashable, values: list[bytes], boxes: list[Box]) -> Ticket:
        """A ticket for parts of pictures given as bytes, path or URL, as PNG, and for what went wrong with each."""
        return self._submit_small(client, list(zip(values, boxes, strict=True)), self._small.part)

    def submit_thumbnails(self, client: Hashable, values: list[bytes], sides: list[int]) -> Ticket:
        """A ticket for thumbnails of pictures given as bytes, path or URL, and for what went wrong with each."""
        return self._submit_small(client, list(zip(values, sides, strict=True)), self._small.thumbnail)

    def submit_facts(self, client: Hashable, values: list[bytes]) -> Ticket:
        """A ticket for facts of pictures given as bytes, path or URL, and for what went wrong with each."""
        return self._submit_small(client, [(value,) for value in values], self._small.facts)

    def _submit_small(self, client: Hashable, inputs: list[tuple], send: Callable[..., None]) -> Ticket:
        """`send(client, entry, *rest)` for each different input, a picture and what else is asked of it."""
        place: dict[tuple, int] = {}
        row_of = [place.setdefault(each, len(place)) for each in inputs]
        ticket, entries = self.ledger.enter("", [picture for picture, *_ in place], [None] * len(place), row_of)
        with answered(self.ledger, entries):
            for entry, (_, *rest) in zip(entries, place, strict=True):
                send(client, entry, *rest)
        return ticket

    def _submit(self, client: Hashable, kind: str, values: list[bytes]) -> Ticket:
        way, place = self._ways[kind], {}
        row_of = [place.setdefault(value, len(place)) for value in values]
        ticket, fresh = self.ledger.enter(kind, list(place), [way.identity(value) for value in place], row_of)
        with answered(self.ledger, fresh):
            self.counters.add(kind, rows=len(values), cache_hits=len(values) - len(fresh))
            way.send(client, fresh)
        return ticket

    def embed_labels(self, client: Hashable, labels: tuple[bytes, ...]) -> np.ndarray:
        """One unit vector per label, float32 (labels, dimension): its prompts' mean, normalised, as open_clip does."""
        with self._label_lock:
            if (known := self._label_sets.recall(labels)) is not None:
                return known
        prompts = [t.replace("{}", label.decode("utf-8", "replace")) for label in labels for t in settings.PROMPT_TEMPLATES]
        vectors = self.submit_texts(client, [p.encode() for p in prompts]).vectors()
        means = vectors.reshape(len(labels), len(settings.PROMPT_TEMPLATES), -1).mean(axis=1)
        embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
        with self._label_lock:
            self._label_sets.remember(labels, embeddings)
            while sum(map(len, self._label_sets)) > settings.CACHE_ENTRIES:  # a set can be of any size
                self._label_sets.forget_oldest()
        return embeddings

    def drop(self, tickets: list[Ticket]) -> None:
        """Work that nobody waits for any more is not done, unless another ticket wants it too."""
        self.ledger.drop(tickets)

    def info(self) -> dict[str, str]:
        """What encoder_info() answers; the keys are the contract's ENCODER_INFO_KEYS."""
        known = {
            "model": self.model.name,
            "dimension": self.model.dimension,
            "device": self.model.device,
            "precision": self.model.precision,
            "precision_reason": self.model.precision_reason,
            "parity": f"{self.model.parity:.6f}",
            "jpeg_scale": self._jpeg_scale,
            "preprocessing": f"{self.model.preprocess.description}, jpeg scale {self._jpeg_scale}",
            "logit_scale": f"{self.model.logit_scale:.6f}",
            "weights_hash": self.model.weights_hash,
            "vdx_udf_version": __version__,
            **self._versions,
            "uptime_seconds": int(time.monotonic() - self._started),
            "cached_embeddings": self.ledger.known(),
            "pid": os.getpid(),
            **self.counters.all(),
        }
        return {key: str(value) for key, value in known.items()}

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
        passes = {TEXT: self.model.encode_tokens, IMAGE: self.model.encode_images}
        try:
            with self.model.stream():
                while True:
                    kind, entries = self._queue.take()
                    began = time.monotonic()
                    vectors = batch.each(partial(batch.vectors, passes[kind]), [entry.payload for entry in entries])
                    self._count(kind, began, entries)
                    self.ledger.deliver(list(zip(entries, vectors, strict=True)))
        except BaseException:
            # Without this thread every query would hang; workers start a new service when this one is gone.
            log.exception("the model thread failed; the service stops")
            os._exit(1)

    def _count(self, kind: str, began: float, entries: list[Entry]) -> None:
        queued, computed = sum(began - entry.queued for entry in entries), time.monotonic() - began
        self.counters.add(kind, batches=1, encoded=len(entries), queue_seconds=queued, compute_seconds=computed)
        log.debug(
            "batch: %d of %s, computed in %.4f s, queued %.4f s on average", len(entries), kind, computed, queued / len(entries)
        )
