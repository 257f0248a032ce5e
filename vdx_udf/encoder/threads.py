"""Threads that start, or say that they cannot, where memory is short."""

import threading

BEGIN_SECONDS = 10  # a thread that has not begun by then never will


class _Begun(threading.Event):
    """What Thread.start waits for, for ever by itself: a thread that finds no memory to begin with never sets it."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(BEGIN_SECONDS if timeout is None else timeout)


def start(thread: threading.Thread) -> None:
    """Starts it. Raises MemoryError where it did not begin."""
    thread._started = _Begun()
    thread.start()
    if not thread._started.is_set():
        raise MemoryError
