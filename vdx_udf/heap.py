"""Keeps a long-running process at the memory that it uses: glibc alone keeps what is free between other things."""

import contextlib
import ctypes
import threading
import time

TRIM_SECONDS = 20


def trim() -> None:
    """Gives free memory back to the system; nothing where the C library is not glibc."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_small() -> None:
    """Has all threads share two heaps, instead of up to eight a core, and trims them from time to time."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX
    threading.Thread(target=_trim_for_ever, name="trim", daemon=True).start()


def _trim_for_ever() -> None:
    while True:
        time.sleep(TRIM_SECONDS)
        trim()
