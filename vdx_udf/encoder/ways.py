"""The way of a text and the ways of a picture, from what a connection sent to what the model takes or to a thumbnail."""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from PIL.Image import Image

from vdx_udf import settings
from vdx_udf.encoder.batch import described, each
from vdx_udf.encoder.decoding import Opened, decoded, opened
from vdx_udf.encoder.facts import measured
from vdx_udf.encoder.fair_pool import FairPool
from vdx_udf.encoder.fair_queue import IMAGE, TEXT, FairQueue
from vdx_udf.encoder.image import ImageError, ImageSource, is_content
from vdx_udf.encoder.ledger import Ledger, digest
from vdx_udf.encoder.regions import WHOLE, Box, cut_out, pyramid, shorter_side
from vdx_udf.encoder.thumbnails import jpeg
from vdx_udf.encoder.tickets import EncodeError, Entry, Regions


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


class PicturePools:
    """Files and URLs are read and pictures decoded on threads of their own, for all clients in turn, whatever they want."""

    def __init__(self, source: ImageSource, ledger: Ledger):
        self._source, self._ledger = source, ledger
        self.readers = FairPool(settings.READERS, "read")
        self.decoders = FairPool(os.cpu_count() or 1, "decode")
        self._read_ahead = threading.Semaphore(settings.READ_AHEAD)
        self._large = threading.Lock()

    def send(self, client: Hashable, entry: Entry, take: Callable[[Entry, bytes], bool], work: Callable[[Entry], None]) -> None:
        """Has `work(entry)` called on a thread that decodes, with the picture's bytes as payload.

        What a path or URL names is read before; `take(entry, content)` makes it the payload and says whether there is work.
        """
        if is_content(entry.payload):
            self.decoders.submit(client, partial(self._attempt, work, entry))
        else:
            self.readers.submit(client, partial(self._attempt, partial(self._read, client, take, work), entry))

    def decoding(self, picture: Opened) -> AbstractContextManager:
        """To be held while a picture is decoded: of the large ones one at a time is."""
        return self._large if picture.pixels > settings.LARGE_PIXELS else nullcontext()

    def _attempt(self, work: Callable[[Entry], None], entry: Entry) -> None:
        """Does a thread's work for an entry; whatever goes wrong becomes its outcome, or its query would wait for ever."""
        try:
            work(entry)
        except Exception as error:
            self._ledger.deliver([(entry, picture_error(error))])

    def _read(self, client: Hashable, take: Callable, work: Callable[[Entry], None], entry: Entry) -> None:
        if not entry.is_wanted():
            return
        self._read_ahead.acquire()  # until it is decoded: a bound on the files in memory, however many are asked for
        is_handed_on = False
        try:
            if take(entry, self._source.read(entry.payload)):
                self.decoders.submit(client, partial(self._attempt, partial(self._work_on_read, work), entry))
                is_handed_on = True
        finally:
            if not is_handed_on:
                self._read_ahead.release()

    def _work_on_read(self, work: Callable[[Entry], None], entry: Entry) -> None:
        try:
            work(entry)
        finally:
            self._read_ahead.release()


class PictureWay:
    """Pictures become pixels for the model: a batch is made of what is ready and never waits for a slow one.

    `jpeg_side`: JPEGs are decoded at no less than this many pixels of the shorter side; 0: always whole.
    """

    def __init__(self, model: Any, pools: PicturePools, jpeg_side: int, ledger: Ledger, queue: FairQueue, note_known: Callable):
        self._model, self._pools, self._jpeg_side = model, pools, jpeg_side
        self._ledger, self._queue, self._note_known = ledger, queue, note_known

    @staticmethod
    def identity(value: bytes) -> Hashable:
        """What the cache knows a picture by; None for one that must be read first."""
        return digest(value) if is_content(value) else None

    def send(self, client: Hashable, entries: list[Entry]) -> None:
        for entry in entries:
            self._pools.send(client, entry, self._take, partial(self._decode, client))

    def _take(self, entry: Entry, content: bytes) -> bool:
        """The content says whether this picture is known."""
        is_new = self._ledger.join(entry, (IMAGE, digest(content)), content)
        if not is_new:
            self._note_known(IMAGE, cache_hits=1)
        return is_new

    def _decode(self, client: Hashable, entry: Entry) -> None:
        if self._ledger.forget_unwanted(entry):
            return
        picture = opened(entry.payload, self._jpeg_side)  # a picture can break its decoder in any way: see _attempt
        with self._pools.decoding(picture):
            entry.payload = self._model.pixels(decoded(picture))
        self._queue.put(client, IMAGE, [entry])


class RegionWay:
    """Pictures are cut into regions, each of which goes to the model as a picture of its own.

    `jpeg_scale`: JPEGs are decoded at no less than this many times the pixels that the finest squares need; 0: always whole.
    """

    def __init__(self, model: Any, pools: PicturePools, jpeg_scale: int, ledger: Ledger, queue: FairQueue, note: Callable):
        self._model, self._pools, self._jpeg_scale = model, pools, jpeg_scale
        self._ledger, self._queue, self._note = ledger, queue, note

    def send(self, client: Hashable, entry: Entry, levels: int) -> None:
        if levels <= settings.REGION_LEVELS:
            self._pools.send(client, entry, take, partial(self._cut, client, levels))
        else:
            reason = f"regions of {levels} levels: at most {settings.REGION_LEVELS} finer ones than the whole are made"
            self._ledger.deliver([(entry, EncodeError(reason))])

    def _cut(self, client: Hashable, levels: int, entry: Entry) -> None:
        if not entry.is_wanted():
            return
        side = self._model.preprocess.side
        picture = opened(entry.payload, self._jpeg_scale * shorter_side(levels, side))
        known_by = digest(entry.payload)
        with self._pools.decoding(picture):
            image = decoded(picture)
            finer = pyramid(image.height, image.width, levels, side)
            boxes = [WHOLE, *(box for level in finer for box in level.boxes(side))]
            rows = list(range(len(boxes)))
            keys = [(known_by, levels, row) for row in rows]
            ticket, fresh = self._ledger.enter(IMAGE, [entry.payload] * len(boxes), keys, rows)
            self._note(IMAGE, rows=len(boxes), cache_hits=len(boxes) - len(fresh))
            if fresh:
                mine = set(fresh)
                with answered(self._ledger, fresh):
                    for part, pixels in zip(ticket.entries, self._model.regions(image, finer), strict=True):
                        if part in mine:
                            part.payload = pixels
        self._queue.put(client, IMAGE, fresh)
        self._ledger.deliver([(entry, Regions(boxes, ticket))])
        if not entry.is_wanted():  # by now
            self._ledger.drop([ticket])


class SmallWay:
    """Pictures become what `finish` makes of them, without the model; nothing is kept: that is a table's work."""

    def __init__(self, pools: PicturePools, ledger: Ledger):
        self._pools, self._ledger = pools, ledger

    def thumbnail(self, client: Hashable, entry: Entry, side: int) -> None:
        least, most = settings.THUMBNAIL_SIDES
        if least <= side <= most:
            self._send(client, entry, side, jpeg)
        else:
            reason = f"a thumbnail of {side} pixels: its longer side may have {least} to {most}"
            self._ledger.deliver([(entry, EncodeError(reason))])

    def facts(self, client: Hashable, entry: Entry) -> None:
        self._send(client, entry, settings.FACTS_SIDE, measured)

    def part(self, client: Hashable, entry: Entry, box: Box) -> None:
        if box.lies_within():
            self._pools.send(client, entry, take, partial(self._make, 0, False, partial(cut_out, box)))
        else:
            reason = f"a box of {box.described()}: shares of width and height, all within 0 to 1 and the size above 0"
            self._ledger.deliver([(entry, EncodeError(reason))])

    def _send(self, client: Hashable, entry: Entry, side: int, finish: Callable[[Image], Any]) -> None:
        self._pools.send(client, entry, take, partial(self._make, side, True, finish))

    def _make(self, side: int, is_small: bool, finish: Callable[[Image], Any], entry: Entry) -> None:
        if not entry.is_wanted():
            return
        picture = opened(entry.payload, side, is_thumbnail=is_small)
        with self._pools.decoding(picture):
            image = decoded(picture)
        self._ledger.deliver([(entry, finish(image))])


@contextmanager
def answered(ledger: Ledger, entries: list[Entry]) -> Iterator[None]:
    """Memory may end anywhere; others may already wait for these entries."""
    try:
        yield
    except Exception as error:
        ledger.deliver([(entry, picture_error(error)) for entry in entries])
        raise


def take(entry: Entry, content: bytes) -> bool:
    """Of a path or URL: there always is work, whatever else it was read as."""
    entry.payload = content
    return True


def readable(text: bytes) -> str:
    """The text as the tokeniser gets it: of one longer than MAX_TEXT letters the beginning, spaces in a row counting once."""
    whole = text.decode("utf-8", "replace")
    if len(whole) <= settings.MAX_TEXT:
        return whole
    return " ".join(whole.split(None, settings.MAX_TEXT))[: settings.MAX_TEXT]


def picture_error(error: Exception) -> EncodeError:
    return EncodeError(str(error) if isinstance(error, ImageError) else described(error))
