"""The encoder service: one process that owns the model and answers the workers over a unix socket.

Protocol. A worker sends one line, `vdx/2 FUNCTION VERSION MODEL\\n`, with the version and the model of its installation,
which must be the service's own, then Native blocks as ClickHouse wrote them. The service answers in frames of one kind
byte, a length (UInt32, little-endian) and that many bytes:
  D  a part of the answer, one or more whole Native blocks      B  the block is answered (length 0)
  X  an error sentence, UTF-8; the connection is closed after it
"""

import contextlib
import fcntl
import logging
import os
import queue
import select
import signal
import socket
import struct
import threading
import time
from pathlib import Path

from vdx_udf import __version__, contract, settings
from vdx_udf.encoder import functions, native
from vdx_udf.encoder.encoder import Encoder
from vdx_udf.errors import ServiceError

PROTOCOL = "vdx/2"
MAX_HELLO = 5_000  # bytes of a worker's first line: the path of a model fits
RETRY_SECONDS = 0.2  # until connections are accepted again where no file descriptor or thread was left
_END = object()  # the last of a conversation's answers
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
                threading.Thread(target=self._connected, args=(connection, encoder), daemon=True).start()
            except RuntimeError as error:
                log.info("a connection was closed: %s", error)
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
            Conversation(self, connection, encoder).run()
        except OSError:
            pass  # the worker went away, which is how ClickHouse cancels a query
        except Exception:
            log.exception("a connection failed")
        finally:
            connection.close()
            with self._guard:
                self._connections -= 1


class Conversation:
    """One worker's connection: this thread reads blocks, a second one sends the answers in order."""

    def __init__(self, service: Service, connection: socket.socket, encoder: Encoder):
        self._service, self._connection, self._encoder = service, connection, encoder
        self._answers: queue.Queue = queue.Queue(maxsize=settings.CHUNKS_AHEAD)
        self._broken = threading.Event()
        self._blocks_read = self._blocks_answered = 0

    def run(self) -> None:
        stream = native.Stream(self._connection.recv, self._bytes_within)
        hello = [*_line(stream).decode("utf-8", "replace").split(" ", 3), "", "", ""]
        protocol, function, version, model = hello[:4]
        if misfit := self._misfit(protocol, function, version, model):
            log.info("a worker was refused: %s", misfit)
            self._send(b"X", [misfit.encode()])
            return
        self._context = functions.Context(self._encoder, function)
        self._returns = native.parse_type(contract.FUNCTIONS[function].returns)
        sender = threading.Thread(target=self._send_answers, daemon=True)
        sender.start()
        try:
            self._read_blocks(stream, function)
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._put(_END)
            sender.join()
            self._drop()
            self._service.working(self._blocks_answered - self._blocks_read)

    def _misfit(self, protocol: str, function: str, version: str, model: str) -> str:
        """Why this worker cannot be served: its installation is not this service's. Another model's vectors would be wrong."""
        here = self._encoder.model.name
        if protocol != PROTOCOL or version != __version__:
            return (
                f"this encoder service (process {os.getpid()}) is of vdx-udf {__version__} and speaks {PROTOCOL}, the worker"
                f" is of {version[:40]!r} and speaks {protocol[:40]!r}: stop the service, the next query starts its own"
            )
        if function not in functions.HANDLERS:
            return f"this encoder service has no function {function[:40]!r}"
        if model != here:
            return (
                f"the encoder service (process {os.getpid()}) runs model {here}, this function was installed for {model[:200]}:"
                " stop the service, the next query starts the right one"
            )
        return ""

    def _bytes_within(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        return bool(poller.poll(1000 * seconds))

    def _drop(self) -> None:
        """What this worker still waited for need not be computed."""
        self._encoder.drop(list(self._context.tickets))

    def _read_blocks(self, stream: native.Stream, function: str) -> None:
        """Reads and queues block after block until the worker goes away or sends something that cannot be answered."""
        handler, declared = functions.HANDLERS[function], contract.FUNCTIONS[function]
        try:
            while (header := native.read_header(stream, declared.arguments)) is not None:
                columns, rows = header
                if columns != len(declared.arguments):
                    raise native.NativeError(f"a block of {columns} columns for {declared.signature}")
                self._blocks_read += 1
                self._service.working(+1)
                self._encoder.counters.add(function, blocks=1)
                for count, answer in handler(self._context, stream, rows):
                    self._put((count, answer))
                self._put(None)
            self._drop()
        except OSError:
            self._drop()
            raise
        except Exception as error:  # mostly not Native format, or not what the function takes
            if isinstance(error, native.StreamEnded):
                self._drop()
            self._put(error)

    def _put(self, item: object) -> None:
        """Hands over to the sender; blocks while it is behind. Raises BrokenPipeError once it has failed."""
        while not self._broken.is_set():
            try:
                return self._answers.put(item, timeout=0.5)
            except queue.Full:
                continue
        raise BrokenPipeError

    def _send_answers(self) -> None:
        try:
            while (item := self._answers.get()) is not _END:
                if item is None:
                    self._send(b"B", [])
                    self._blocks_answered += 1
                    self._service.working(-1)
                elif isinstance(item, Exception):
                    raise item
                else:
                    rows, answer = item
                    result = (contract.RESULT, self._returns, answer())
                    self._send(b"D", native.write_block([result], rows))
                    self._encoder.counters.add(self._context.function, rows=rows)
        except OSError:
            pass  # the worker went away
        except Exception as error:
            if not isinstance(error, ValueError):
                log.exception("a request failed")
            sentence = "no memory is left for these rows" if isinstance(error, MemoryError) else " ".join(str(error).split())
            sentence = sentence or type(error).__name__
            self._context.failed(sentence)
            self._fail(sentence)
        finally:
            self._broken.set()

    def _fail(self, sentence: str) -> None:
        try:
            self._send(b"X", [sentence.encode("utf-8", "replace")])
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the reading thread
        except OSError:
            pass

    def _send(self, kind: bytes, parts: list) -> None:
        length = sum(memoryview(part).nbytes for part in parts)
        self._connection.sendall(kind + struct.pack("<I", length))
        for part in parts:
            self._connection.sendall(part)


def _user_of(connection: socket.socket) -> int:
    """The user of the process at the other end, as the kernel knows it."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the socket's folder and mode alone keep others out
        return os.geteuid()
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]


def _line(stream: native.Stream) -> bytes:
    """The bytes up to a newline, at most MAX_HELLO."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_HELLO:
        if stream.at_end():
            break
        line += stream.take(1)
    return line.rstrip(b"\n")
