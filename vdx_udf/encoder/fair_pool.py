"""Threads that take work from all clients in turn, so that a small query does not wait behind a large one's pictures."""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

log = logging.getLogger("vdx")


class FairPool:
    """`count` threads, all started at once: later, when memory is short, a thread may not start."""

    def __init__(self, count: int, name: str):
        self._waiting: OrderedDict[Hashable, deque[Callable[[], None]]] = OrderedDict()
        self._wake = threading.Condition()
        for _ in range(count):
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, client: Hashable, work: Callable[[], None]) -> None:
        """Has `work` called on one of the threads, after the client's earlier work has begun."""
        with self._wake:
            self._waiting.setdefault(client, deque()).append(work)
            self._wake.notify()

    def _next(self) -> Callable[[], None]:
        with self._wake:
            while not self._waiting:
                self._wake.wait()
            client, queue = self._waiting.popitem(last=False)
            work = queue.popleft()
            if queue:
                self._waiting[client] = queue  # at the back
            return work

    def _run(self) -> None:
        while True:
            try:
                self._next()()
            except Exception:
                log.exception("work of a thread failed")
