"""One worker's connection to the encoder service.

Protocol. A worker sends one line, `vdx/2 FUNCTION VERSION MODEL\\n`, with the version and the model of its installation,
which must be the service's own, then Native blocks as ClickHouse wrote them. The service answers in frames of one kind
byte, a length (UInt32, little-endian) and that many bytes:
  D  a part of the answer, one or more whole Native blocks      B  the block is answered (length 0)
  X  an error sentence, UTF-8; the connection is closed after it
"""

import contextlib
import logging
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable

from vdx_udf import __version__, contract, settings
from vdx_udf.encoder import functions, native
from vdx_udf.encoder.encoder import Encoder
from vdx_udf.encoder.threads import start

PROTOCOL = "vdx/2"
MAX_HELLO = 5_000  # bytes of a worker's first line: the path of a model fits
_END = object()  # the last of a conversation's answers
log = logging.getLogger("vdx")


class Conversation:
    """This thread reads blocks, a second one sends the answers in order. `working` hears of each block, +1 and -1."""

    def __init__(self, working: Callable[[int], None], connection: socket.socket, encoder: Encoder):
        self._working, self._connection, self._encoder = working, connection, encoder
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
        start(sender)
        try:
            self._read_blocks(stream, function)
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._put(_END)
            sender.join()
            self._drop()
            self._working(self._blocks_answered - self._blocks_read)

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
                self._working(+1)
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
                    self._working(-1)
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


def _line(stream: native.Stream) -> bytes:
    """The bytes up to a newline, at most MAX_HELLO."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_HELLO:
        if stream.at_end():
            break
        line += stream.take(1)
    return line.rstrip(b"\n")
