"""Which inputs have a vector and which are on their way to one: no input is computed twice while it is either."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from hashlib import blake2b

import numpy as np

from vdx_udf.encoder.tickets import EncodeError, Entry, Ticket


class Cache:
    """The answers of the last `most` keys that were asked for. Callers see to it that one thread at a time is in it."""

    def __init__(self, most: int):
        self._most = most
        self._values: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def recall(self, key: Hashable) -> np.ndarray | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def remember(self, key: Hashable, value: np.ndarray) -> None:
        """Keeps the value; where that is one too many, the one that was not asked for the longest goes."""
        self._values[key] = value
        if len(self._values) > self._most:
            self.forget_oldest()

    def forget_oldest(self) -> None:
        self._values.popitem(last=False)


class Ledger:
    """The cache of vectors, the entries in flight, and the tickets that wait for these; all under one lock."""

    def __init__(self, cache_entries: int):
        self._lock = threading.Lock()
        self._cache = Cache(cache_entries)
        self._in_flight: dict[tuple[str, Hashable], Entry] = {}

    def is_known(self, key: tuple[str, Hashable]) -> bool:
        """Whether there is a vector; a hint, taken without the lock."""
        return key in self._cache

    def known(self) -> int:
        """How many vectors the cache holds."""
        return len(self._cache)

    def enter(
        self, kind: str, values: Sequence[bytes], identities: Sequence[Hashable], row_of: list[int]
    ) -> tuple[Ticket, list[Entry]]:
        """A ticket for distinct values, and those of its entries that somebody has to compute: nobody did or does.

        `identities`: what two equal inputs share, None where they must be read first.
        """
        ticket, fresh = Ticket([], row_of), []
        try:
            with self._lock:
                for value, known_by in zip(values, identities, strict=True):
                    self._enter(ticket, None if known_by is None else (kind, known_by), value, fresh)
                if ticket.pending == 0:
                    ticket.finish()
        except MemoryError:  # others may already wait for these entries
            self.deliver([(entry, EncodeError("no memory is left for it")) for entry in fresh])
            raise
        return ticket, fresh

    def _enter(self, ticket: Ticket, key: tuple[str, Hashable] | None, value: bytes, fresh: list[Entry]) -> None:
        if (vector := self._cache.recall(key)) is not None:
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

    def join(self, entry: Entry, key: tuple[str, Hashable], content: bytes) -> bool:
        """What an entry was read to be: whether it has to be computed. If not, its vector is known, or it follows another."""
        with self._lock:
            vector, other = self._cache.recall(key), self._in_flight.get(key)
            if vector is None and other is None:
                entry.key, entry.payload = key, content
                self._in_flight[key] = entry
                return True
            if vector is None:
                other.followers.append(entry)
                return False
        self.deliver([(entry, vector)])
        return False

    def forget_unwanted(self, entry: Entry) -> bool:
        """Whether nobody waits for this entry any more; then nobody can join it either."""
        with self._lock:
            if unwanted := not entry.is_wanted():
                self._in_flight.pop(entry.key, None)
            return unwanted

    def deliver(self, outcomes: Sequence[tuple[Entry, np.ndarray | bytes | EncodeError]]) -> None:
        """Gives entries and their followers their values, and finishes the tickets that waited for nothing else."""
        with self._lock:
            for entry, value in outcomes:
                if entry.key is not None:
                    self._in_flight.pop(entry.key, None)
                if entry.key is not None and not isinstance(value, EncodeError):
                    self._cache.remember(entry.key, value)
                for each in (entry, *entry.followers):
                    if each.value is not None:  # an error came first
                        continue
                    each.value, each.payload = value, None
                    for ticket in each.tickets:
                        ticket.pending -= 1
                        if ticket.pending == 0:
                            ticket.finish()

    def drop(self, tickets: Sequence[Ticket]) -> None:
        """Work that nobody waits for any more is not done, unless another ticket wants it too."""
        with self._lock:
            for ticket in tickets:
                for each in (ticket, *ticket.parts()):
                    each.dropped = True
                    each.finish()


def digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
