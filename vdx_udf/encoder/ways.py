"""The way of a text and the way of a picture, from what a connection sent to what the model takes."""

import os
import threading
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import partial
from typing import Any

from vdx_udf import settings
from vdx_udf.encoder.batch import described, each
from vdx_udf.encoder.decoding import decoded, opened
from vdx_udf.encoder.fair_pool import FairPool
from vdx_udf.encoder.fair_queue import IMAGE, TEXT, FairQueue
from vdx_udf.encoder.image import ImageError, ImageSource, is_content
from vdx_udf.encoder.ledger import Ledger, digest
from vdx_udf.encoder.tickets import EncodeError, Entry


class TextWay:
    """Texts become token numbers on their connection's own thread, which is faster than to hand them over."""

    def __init__(self, model: Any, ledger: Ledger, queue: FairQueue):
        self._model, self._ledger, self._queue = model, ledger, queue

    @staticmethod
    def identity(text: bytes) -> Hashable:
        """What the cache knows a text by: itself, or of a long one its digest, in a tuple so that no text equals it."""
        return text if len(text) <= 256 else (digest(text),)

    def send(self, client: Hashable, entries: list[Entry]) -> None:
        tokenized = each(self._tokens, [entry.payload for entry in entries])
        for entry, tokens in zip(entries, tokenized, strict=True):
            if isinstance(tokens, EncodeError):
                self._ledger.deliver([(entry, tokens)])
            else:
                entry.payload = tokens
        if ready := [entry for entry in entries if entry.value is None]:
            self._queue.put(client, TEXT, ready)

    def _tokens(self, texts: list[bytes]) -> list[Any]:
        return self._model.tokens([readable(text) for text in texts])


class PictureWay:
    """Files and URLs are read and pictures decoded on threads of their own: a batch is made of what is ready and never waits
    for a slow one.

    `jpeg_side`: JPEGs are decoded at no less than this many pixels of the shorter side; 0: always whole.
    """

    def __init__(self, model: Any, source: ImageSource, jpeg_side: int, ledger: Ledger, queue: FairQueue, note_known: Callable):
        self._model, self._source, self._jpeg_side = model, source, jpeg_side
        self._ledger, self._queue, self._note_known = ledger, queue, note_known
        self.readers = FairPool(settings.READERS, "read")
        self.decoders = FairPool(os.cpu_count() or 1, "decode")
        self._read_ahead = threading.Semaphore(settings.READ_AHEAD)
        self._large = threading.Lock()

    @staticmethod
    def identity(value: bytes) -> Hashable:
        """What the cache knows a picture by; None for one that must be read first."""
        return digest(value) if is_content(value) else None

    def send(self, client: Hashable, entries: list[Entry]) -> None:
        for entry in entries:
            pool, work = (self.decoders, self._decode) if entry.key else (self.readers, self._read)
            pool.submit(client, partial(self._attempt, work, client, entry))

    def _attempt(self, work: Callable[[Hashable, Entry], None], client: Hashable, entry: Entry) -> None:
        """Does a thread's work for an entry; whatever goes wrong becomes its outcome, or its query would wait for ever."""
        try:
            work(client, entry)
        except Exception as error:
            self._ledger.deliver([(entry, picture_error(error))])

    def _read(self, client: Hashable, entry: Entry) -> None:
        """What a path or URL names; the content says whether this picture is known."""
        if not entry.is_wanted():
            return
        self._read_ahead.acquire()  # until it is decoded: a bound on the files in memory, however many are asked for
        is_handed_on = False
        try:
            content = self._source.read(entry.payload)
            if self._ledger.join(entry, (IMAGE, digest(content)), content):
                self.decoders.submit(client, partial(self._attempt, self._decode_read, client, entry))
                is_handed_on = True
            else:
                self._note_known(IMAGE, cache_hits=1)
        finally:
            if not is_handed_on:
                self._read_ahead.release()

    def _decode_read(self, client: Hashable, entry: Entry) -> None:
        try:
            self._decode(client, entry)
        finally:
            self._read_ahead.release()

    def _decode(self, client: Hashable, entry: Entry) -> None:
        if self._ledger.forget_unwanted(entry):
            return
        picture = opened(entry.payload, self._jpeg_side)  # a picture can break its decoder in any way: see _attempt
        with self._large if picture.pixels > settings.LARGE_PIXELS else nullcontext():
            entry.payload = self._model.pixels(decoded(picture))
        self._queue.put(client, IMAGE, [entry])


def readable(text: bytes) -> str:
    """The text as the tokeniser gets it: of one longer than MAX_TEXT letters the beginning, spaces in a row counting once."""
    whole = text.decode("utf-8", "replace")
    if len(whole) <= settings.MAX_TEXT:
        return whole
    return " ".join(whole.split(None, settings.MAX_TEXT))[: settings.MAX_TEXT]


def picture_error(error: Exception) -> EncodeError:
    return EncodeError(str(error) if isinstance(error, ImageError) else described(error))
