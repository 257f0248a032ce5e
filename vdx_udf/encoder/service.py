"""The encoder service: one process that owns the model and listens for workers on a unix socket."""

import fcntl
import logging
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

from vdx_udf.encoder.batch import described
from vdx_udf.encoder.conversation import Conversation
from vdx_udf.encoder.encoder import Encoder
from vdx_udf.encoder.threads import start
from vdx_udf.errors import ServiceError

RETRY_SECONDS = 0.2  # until connections are accepted again where no file descriptor or thread was left
log = logging.getLogger("vdx")


class Service:
    """Listens on `path`; `idle_seconds` without a request end it (None: never)."""

    def __init__(self, path: Path, idle_seconds: float | None = None):
        self.path, self.idle_seconds = path.absolute(), idle_seconds
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Held for life, and taken before the model is loaded, so that a second instance ends at once.
        self._lock = open(path.with_suffix(".lock"), "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            raise ServiceError(f"an encoder service already runs on {path} (process {owner})") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._busy = self._connections = 0
        self._draining = False
        self._last_request = time.monotonic()
        self._guard = threading.Lock()

    def serve(self, encoder: Encoder) -> None:
        """Encodes for whoever connects until it is idle for too long or receives SIGTERM or SIGINT."""
        listener = self.listener()
        self.obey_signals()
        log.info("ready: model %s, socket %s", encoder.model.name, self.path)
        self._last_request = time.monotonic()  # loading the model was no idle time
        threading.Thread(target=self._accept, args=(listener, encoder), daemon=True).start()
        encoder.run()

    def _accept(self, listener: socket.socket, encoder: Encoder) -> None:
        while not self._draining and not self.is_idle():
            try:
                listener.settimeout(min(1.0, (self.idle_seconds or 1.0) / 4))
                connection, _ = listener.accept()
            except TimeoutError:
                if not self._draining and self.is_lost():
                    if not self._holds_lock():  # the folder is gone, and in a new one another service may be at work
                        log.info("the folder of the socket was removed")
                        os._exit(1)
                    log.info("the socket was removed: another one takes its place")
                    listener.close()
                    listener = self.listener()
                continue
            except OSError as error:  # no file descriptor left, mostly: those who wait are let in when one is
                log.info("a connection has to wait: %s", error)
                time.sleep(RETRY_SECONDS)
                continue
            try:
                connection.setblocking(True)
                start(threading.Thread(target=self._connected, args=(connection, encoder), daemon=True))
            except (RuntimeError, MemoryError) as error:
                log.info("a connection was closed: %s", described(error))
                connection.close()
        if self._draining:
            listener.close()
            while self._connections and not self.is_idle():
                time.sleep(RETRY_SECONDS)
            log.info("the last worker of an earlier installation went away")
            os._exit(0)
        os._exit(self.stop(f"idle for {self.idle_seconds} s"))

    def listener(self) -> socket.socket:
        """The socket to accept on."""
        os.chdir(self.path.parent)  # a socket's path holds 107 bytes at most; its name alone always fits
        self.path.unlink(missing_ok=True)  # left over from a crash: the lock is ours
        listener = socket.socket(socket.AF_UNIX)
        os.umask(0o177)
        listener.bind(self.path.name)
        os.umask(0o077)
        listener.listen(128)
        return listener

    def obey_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(self.stop("stopped by a signal")))
        signal.signal(signal.SIGUSR1, lambda *_: self.drain())

    def drain(self) -> None:
        """Leaves socket and lock to a successor, answers the workers that are connected, and ends with the last of them."""
        log.info("another installation takes over: no new worker is let in")
        self._draining = True
        self.path.unlink(missing_ok=True)
        self._lock.close()

    def is_lost(self) -> bool:
        """Whether somebody removed the socket, so that nobody finds this service while its lock keeps others from starting."""
        return not self.path.exists()

    def _holds_lock(self) -> bool:
        try:
            return os.path.samestat(self.path.with_suffix(".lock").stat(), os.fstat(self._lock.fileno()))
        except FileNotFoundError:
            return False

    def is_idle(self) -> bool:
        with self._guard:
            quiet = time.monotonic() - self._last_request
            return self.idle_seconds is not None and not self._busy and quiet > self.idle_seconds

    def stop(self, why: str) -> int:
        """What is left to do at the end; the exit status."""
        log.info("%s", why)
        if not self._draining:  # the socket is the successor's
            self.path.unlink(missing_ok=True)
        return 0

    def working(self, change: int) -> None:
        """Counts blocks in work, so that the service does not stop within one."""
        with self._guard:
            self._busy += change
            self._last_request = time.monotonic()

    def _connected(self, connection: socket.socket, encoder: Encoder) -> None:
        with self._guard:
            self._connections += 1
        try:
            if (peer := _user_of(connection)) not in (os.geteuid(), 0):
                log.info("a connection of user %d was refused", peer)
                return
            Conversation(self.working, connection, encoder).run()
        except OSError:
            pass  # the worker went away, which is how ClickHouse cancels a query
        except Exception:
            log.exception("a connection failed")
        finally:
            connection.close()
            with self._guard:
                self._connections -= 1


def _user_of(connection: socket.socket) -> int:
    """The user of the process at the other end, as the kernel knows it."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the socket's folder and mode alone keep others out
        return os.geteuid()
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
