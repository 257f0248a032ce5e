"""The encoder service: one process that owns the model and answers the workers over a unix socket.

Protocol. A worker sends one line, `vdx/1 FUNCTION\\n`, then Native blocks as ClickHouse wrote them. The service answers
in frames of one kind byte, a length (UInt32, little-endian) and that many bytes:
  D  a part of the answer, one or more whole Native blocks      B  the block is answered (length 0)
  X  an error sentence, UTF-8; the connection is closed after it
"""

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import struct
import threading
import time
from pathlib import Path

from vdx_udf import contract, functions, native, settings
from vdx_udf.encoder import Encoder
from vdx_udf.errors import ServiceError

PROTOCOL = b"vdx/1"
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
        self._busy = 0
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
        listener.settimeout(min(1.0, (self.idle_seconds or 1.0) / 4))
        while not self.is_idle():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.setblocking(True)
            threading.Thread(target=self._connected, args=(connection, encoder), daemon=True).start()
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

    def is_idle(self) -> bool:
        with self._guard:
            quiet = time.monotonic() - self._last_request
            return self.idle_seconds is not None and not self._busy and quiet > self.idle_seconds

    def stop(self, why: str) -> int:
        """What is left to do at the end; the exit status."""
        log.info("%s", why)
        self.path.unlink(missing_ok=True)
        return 0

    def working(self, change: int) -> None:
        """Counts blocks in work, so that the service does not stop within one."""
        with self._guard:
            self._busy += change
            self._last_request = time.monotonic()

    def _connected(self, connection: socket.socket, encoder: Encoder) -> None:
        try:
            Conversation(self, connection, encoder).run()
        except OSError:
            pass  # the worker went away, which is how ClickHouse cancels a query
        except Exception:
            log.exception("a connection failed")
        finally:
            connection.close()


class Conversation:
    """One worker's connection: this thread reads blocks, a second one sends the answers in order."""

    def __init__(self, service: Service, connection: socket.socket, encoder: Encoder):
        self._service, self._connection = service, connection
        self._context = functions.Context(encoder)
        self._answers: queue.Queue = queue.Queue(maxsize=settings.CHUNKS_AHEAD)
        self._broken = threading.Event()
        self._blocks_read = self._blocks_answered = 0

    def run(self) -> None:
        stream = native.Stream(self._connection.recv)
        protocol, _, name = _line(stream).partition(b" ")
        function = name.decode("ascii", "replace")
        if protocol != PROTOCOL or function not in functions.HANDLERS:
            self._send(b"X", [f"this service speaks {PROTOCOL.decode()} and has no function {function[:40]!r}".encode()])
            return
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

    def _drop(self) -> None:
        """What this worker still waited for need not be computed."""
        self._context.encoder.drop(list(self._context.tickets))

    def _read_blocks(self, stream: native.Stream, function: str) -> None:
        """Reads and queues block after block until the worker goes away or sends something that cannot be answered."""
        handler, declared = functions.HANDLERS[function], contract.FUNCTIONS[function]
        try:
            while (header := native.read_header(stream)) is not None:
                columns, rows = header
                if columns != len(declared.arguments):
                    raise native.NativeError(f"a block of {columns} columns for {declared.signature}")
                self._blocks_read += 1
                self._service.working(+1)
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
        except OSError:
            pass  # the worker went away
        except Exception as error:
            if not isinstance(error, ValueError):
                log.exception("a request failed")
            self._fail(error)
        finally:
            self._broken.set()

    def _fail(self, error: Exception) -> None:
        sentence = " ".join(str(error).split()) or type(error).__name__
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


def _line(stream: native.Stream) -> bytes:
    """The bytes up to a newline, at most 100."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 100:
        if stream.at_end():
            break
        line += stream.take(1)
    return line.rstrip(b"\n")
