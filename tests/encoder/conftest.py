"""What the tests of the service and of its workers share."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vdx_udf import __version__, contract
from vdx_udf.encoder import native
from vdx_udf.installer.layout import Layout

VERSION = __version__.encode()


def ready(process: subprocess.Popen) -> str:
    """The service's line that says it accepts connections."""
    line = process.stderr.readline()
    assert "ready: model vdx-tiny" in line, line + process.stderr.read()
    return line


@contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen]:
    """A service with the bundled model on a socket in this folder; its log is read no further than that it is ready."""
    command = [sys.executable, "-m", "vdx_udf", "serve", "--socket", str(folder / "e.sock"), "--model", "vdx-tiny"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready(process)
            yield process
        finally:
            process.kill()


def connected(tmp_path, hello: bytes = b"vdx/2 encode_text %s vdx-tiny\n" % VERSION) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(tmp_path / "e.sock"))
    connection.sendall(hello)
    return connection


def asked(connection: socket.socket) -> socket.socket:
    connection.sendall(b"".join(native.write_block([("text", native.String(), [b"a star"])], 1)))
    return connection


def received(connection: socket.socket, size: int) -> bytes:
    """Some bytes, at most so many."""
    piece = connection.recv(size)
    assert piece, "the service closed the connection"
    return piece


def frame(connection: socket.socket) -> tuple[bytes, bytes]:
    head = b""
    while len(head) < 5:
        head += received(connection, 5 - len(head))
    body, size = b"", int.from_bytes(head[1:], "little")
    while len(body) < size:
        body += received(connection, size - len(body))
    return head[:1], body


def threads(folder) -> int:
    pid = int((folder / "e.lock").read_text())
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


class Worker:
    """A worker process with its pipes; `ask` sends a block and returns the answer's rows."""

    def __init__(self, scripts: Path, function: str = "encode_text", python: str | None = None, close_fds: bool = True):
        script = str(scripts / function)
        command = [python, "-I", "-S", script] if python else [script]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, close_fds=close_fds)
        self.stream = native.Stream(self.process.stdout.read)
        self.returns = native.parse_type(contract.FUNCTIONS[function].returns)

    def send(self, values: list[bytes]) -> None:
        block = b"".join(native.write_block([("text", native.String(), values)], len(values)))
        sent = memoryview(block)
        while sent:
            sent = sent[self.process.stdin.write(sent) :]

    def receive(self, rows: int) -> list[np.ndarray]:
        answer: list[np.ndarray] = []
        while len(answer) < rows:
            (column,) = native.read_block(self.stream, [self.returns])
            answer += list(column.rows())
        assert len(answer) == rows
        return answer

    def receive_some(self) -> int:
        """The number of rows of the next block of the answer."""
        return len(native.read_block(self.stream, [self.returns])[0])

    def ask(self, values: list[bytes]) -> list[np.ndarray]:
        """Sends and receives at the same time, as ClickHouse does: no buffer on the way holds a large block."""
        sender = threading.Thread(target=self.send, args=(values,))
        sender.start()
        answer = self.receive(len(values))
        sender.join()
        return answer

    def ends(self) -> int:
        return self.process.wait()

    def last_words(self) -> str:
        return self.process.stderr.read().decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


def encoder_pid(layout: Layout) -> int:
    return int((layout.run / "encoder.lock").read_text())
