"""What connections wait for: a ticket for the rows of a chunk, an entry for each distinct input of any."""

import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from vdx_udf.encoder.facts import Facts
from vdx_udf.encoder.image import shortened
from vdx_udf.encoder.regions import Box


class EncodeError(ValueError):
    """This input cannot be encoded; the message says which, why and what to do."""


class Entry:
    """One distinct input: `value` becomes its unit vector, float32 (dimension,), a file, facts, regions, or why it has none.

    `key` is None until a file or URL was read: then it may turn out to follow another entry with the same content.
    """

    __slots__ = ("followers", "key", "name", "payload", "queued", "tickets", "value")

    def __init__(self, key: tuple[str, Hashable] | None, payload: Any, value: np.ndarray | None = None):
        self.key, self.payload = key, payload
        self.name = "" if payload is None else shortened(payload)
        self.queued = 0.0  # when it was ready for the model
        self.value: Value | EncodeError | None = value
        self.tickets: list[Ticket] = []
        self.followers: list[Entry] = []

    def is_wanted(self) -> bool:
        return not all(ticket.dropped for entry in (self, *self.followers) for ticket in entry.tickets)


class Regions(NamedTuple):
    """A picture that was cut: the vectors of its boxes are a ticket's rows."""

    boxes: list[Box]
    ticket: "Ticket"


Value = np.ndarray | bytes | Facts | Regions


class Ticket:
    """The rows of one chunk: row i is `entries[row_of[i]]`."""

    def __init__(self, entries: list[Entry], row_of: list[int]):
        self.entries, self.row_of = entries, row_of
        self.pending = 0  # entries without a value; guarded by the ledger's lock
        self.dropped = False
        self._done = threading.Event()

    def parts(self) -> list["Ticket"]:
        """The tickets of pictures that were cut."""
        return [entry.value.ticket for entry in self.entries if isinstance(entry.value, Regions)]

    def finish(self) -> None:
        self._done.set()

    def _wait(self) -> None:
        self._done.wait()
        if self.dropped:
            raise ConnectionAbortedError

    def _values(self) -> list[Value]:
        self._wait()
        for entry in self.entries:
            if isinstance(entry.value, EncodeError):
                raise EncodeError(f"{entry.name}: {entry.value}")
        return [entry.value for entry in self.entries]

    def vectors(self) -> np.ndarray:
        """The rows' unit vectors, float32 (rows, dimension), once all are there. Raises the first error among them."""
        return np.stack(self._values())[self.row_of]

    def values(self) -> list[Value]:
        """The rows' values, once all are there. Raises the first error among them."""
        values = self._values()
        return [values[i] for i in self.row_of]

    def outcomes(self) -> list[Value | str]:
        """The rows' values or the reasons why there is none, once all are there; each row knows its own input."""
        self._wait()
        found = [str(e.value) if isinstance(e.value, EncodeError) else e.value for e in self.entries]
        return [found[i] for i in self.row_of]
