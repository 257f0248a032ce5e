"""What is ready for the model: batches of an equal share from every client that waits, texts and pictures in turn."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping

from vdx_udf.contract import KINDS
from vdx_udf.encoder.tickets import Entry

TEXT, IMAGE = KINDS


class FairQueue:
    """`budget`: the most of each kind in a batch, tokens for texts, pictures for images.

    `is_unwanted` says of an entry, once its turn comes, whether nobody waits for it any more.
    """

    def __init__(self, budget: Mapping[str, int], is_unwanted: Callable[[Entry], bool]):
        self._budget, self._is_unwanted = budget, is_unwanted
        self._ready: dict[str, OrderedDict[Hashable, deque[Entry]]] = {TEXT: OrderedDict(), IMAGE: OrderedDict()}
        self._wake = threading.Condition()
        self._last_kind = IMAGE

    def put(self, client: Hashable, kind: str, entries: list[Entry]) -> None:
        now = time.monotonic()
        for entry in entries:
            entry.queued = now
        with self._wake:
            self._ready[kind].setdefault(client, deque()).extend(entries)
            self._wake.notify()

    def take(self) -> tuple[str, list[Entry]]:
        """The next batch; blocks until there is one."""
        with self._wake:
            while True:
                for kind in sorted(self._budget, key=lambda k: k == self._last_kind):
                    if batch := self._next_batch(kind):
                        self._last_kind = kind
                        return kind, batch
                self._wake.wait()

    def _next_batch(self, kind: str) -> list[Entry]:
        """A client goes to the back after its turn."""
        queues, room = self._ready[kind], self._budget[kind]
        batch: list[Entry] = []
        while queues and room > 0:
            client, queue = queues.popitem(last=False)
            share = max(1, room // (len(queues) + 1))
            while queue and share > 0:
                entry = queue.popleft()
                if entry.value is not None or self._is_unwanted(entry):
                    continue
                batch.append(entry)
                cost = len(entry.payload) if kind == TEXT else 1
                share, room = share - cost, room - cost
            if queue:
                queues[client] = queue
        return batch
