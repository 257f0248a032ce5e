"""Relays between ClickHouse and the encoder service; one process per slot of a function's pool.

ClickHouse starts `encode_text` and the other scripts beside this file, writes Native blocks to their standard input
and reads Native blocks from their standard output. This file passes the bytes on to the encoder service's unix
socket, starts the service if none answers, and turns an error into one line on standard error and exit code 1, which
ClickHouse shows in its exception 754. Standard library only, any python3 from 3.9; what it needs to know stands in
vdx_worker.json, written by `vdx install`.
"""

import json
import os
import select
import socket
import sys
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
PROTOCOL = "vdx/2"
CHUNK = 1 << 18
RETRY_MILLISECONDS = 10
LOG_BYTES = 16 << 20  # a longer log of the service is put aside when the next service starts
# What the service gets of the server's environment: where programs, libraries, caches and certificates lie, which GPUs,
# threads and instructions to use, how to reach the models' download. Whatever else is there, passwords maybe, stays with the
# server.
ENVIRONMENT = {
    "PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY",
}  # fmt: skip
ENVIRONMENT_BEGINNINGS = (
    "LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "OMP_", "MKL_", "ONEDNN_", "ATEN_", "GOMP_", "KMP_", "TORCH_", "PYTORCH_",
    "HF_", "TRANSFORMERS_", "SSL_CERT_", "VDX_",
)  # fmt: skip


def main(function):
    """Serves one function until ClickHouse closes the pipe."""
    close_inherited()
    # The real standard output is kept aside before anything could print to it: a stray byte there would shift the
    # rows of every later query.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        relay(function, answers)
    except Exception as error:
        sys.stderr.write("%s: %s\n" % (function, " ".join(str(error).split()) or type(error).__name__))
        sys.stderr.flush()
        os._exit(1)


def close_inherited():
    """Whatever else the server had open and did not close for its children."""
    try:
        opened = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return
    for descriptor in opened:
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one that listed the folder


class EncoderError(Exception):
    """The encoder service reported an error or cannot be reached."""


def relay(function, answers):
    """Moves bytes both ways without ever blocking on one of them; returns never, exits when stdin closes."""
    os.set_blocking(0, False)
    os.set_blocking(answers, False)
    to_service, to_clickhouse = bytearray(), bytearray()
    try:
        exchange(function, answers, to_service, to_clickhouse)
    except EncoderError:
        os.set_blocking(answers, True)
        while to_clickhouse:  # whole blocks, so that ClickHouse finds the error where the answer ends
            del to_clickhouse[: os.write(answers, to_clickhouse)]
        raise


def exchange(function, answers, to_service, to_clickhouse):
    """The loop of `relay`; the two buffers hold what could not be written yet."""
    service = config = None
    frames = Frames()
    in_block = False  # bytes of a block were sent and its answer is not complete
    while True:
        poller = select.poll()
        poller.register(0, select.POLLIN if len(to_service) < CHUNK else 0)
        poller.register(answers, select.POLLOUT if to_clickhouse else 0)
        if service:
            wanted = select.POLLIN if len(to_clickhouse) < CHUNK else 0
            poller.register(service, wanted | (select.POLLOUT if to_service else 0))
        ready = dict(poller.poll())

        if ready.get(answers, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            os._exit(0)  # nobody reads the answers any more
        if ready.get(answers, 0) & select.POLLOUT:
            try:
                del to_clickhouse[: os.write(answers, to_clickhouse)]
            except BrokenPipeError:
                os._exit(0)
        # The service before ClickHouse: an end between two queries must be seen before the next one is taken in.
        events = ready.get(service.fileno(), 0) if service else 0
        if events & select.POLLOUT and to_service:
            try:
                del to_service[: service.send(to_service)]
            except (BrokenPipeError, ConnectionResetError):
                to_service.clear()  # its last words, or its end, are read below
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            received = receive(service.recv)
            if received:
                if frames.feed(received, to_clickhouse):
                    in_block = False
            elif received == b"":
                if in_block:
                    raise EncoderError(
                        "the encoder service stopped while it answered; run the query again (log: %s)" % config["log"]
                    )
                service.close()  # it stopped between two queries; the next one starts it again
                service = None
        if ready.get(0, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
            received = receive(read_input)
            if received == b"" or (received is None and ready[0] & select.POLLHUP):
                os._exit(0)
            if received:
                if service is None:
                    config = read_config()  # anew: the bundle may have been installed again, with another model
                    service = connect(function, config)
                    frames = Frames()
                to_service += received
                in_block = True


def read_config():
    with open(os.path.join(FOLDER, "vdx_worker.json")) as file:
        return json.load(file)


def read_input(size):
    return os.read(0, size)


def receive(read):
    """What there is to read: b"" at the end, None when nothing has arrived."""
    try:
        return read(CHUNK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


class Frames:
    """Takes the service's answer apart: see the protocol in vdx_udf/encoder/conversation.py."""

    def __init__(self):
        self._frame = bytearray()

    def feed(self, received, out):
        """Appends the answer's bytes to `out`; true when a block is complete. Raises EncoderError for an error frame.

        Frames are passed on whole: half a Native block would make ClickHouse complain of that instead of the cause.
        """
        self._frame += received
        complete = False
        while len(self._frame) >= 5:
            end = 5 + int.from_bytes(self._frame[1:5], "little")
            if len(self._frame) < end:
                break
            kind = self._frame[:1]
            if kind == b"X":
                raise EncoderError(self._frame[5:end].decode("utf-8", "replace"))
            out += memoryview(self._frame)[5:end]
            complete = kind == b"B"
            del self._frame[:end]
        return complete


def connect(function, config):
    """A connection to the encoder service, which is started if none answers."""
    # A socket's path holds 107 bytes at most, so it is reached by its name from its own folder.
    os.makedirs(config["run"], mode=0o700, exist_ok=True)
    os.chdir(config["run"])
    service = try_connect(config["socket"]) or start(config)
    service.sendall(("%s %s %s %s\n" % (PROTOCOL, function, config["version"], config["model"])).encode())
    service.setblocking(False)
    return service


def try_connect(name):
    service = socket.socket(socket.AF_UNIX)
    try:
        service.connect(name)
    except (FileNotFoundError, ConnectionRefusedError):
        service.close()
        return None
    return service


def start(config):
    """Starts the service, or waits for the worker that does: one at a time holds the lock.

    Whoever waited while another one failed fails with it, instead of trying the same once more.
    """
    import fcntl

    began = time.monotonic()
    deadline = began + config["start_seconds"]
    child = None
    hangup = select.poll()
    hangup.register(0, 0)
    with open("start.lock", "a+") as lock:
        while time.monotonic() < deadline:
            service = try_connect(config["socket"])
            if service:
                return service
            if child is None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    lock.seek(0)
                    failed, _, sentence = lock.read().partition(" ")
                    if failed and float(failed) > began:
                        raise EncoderError(sentence)
                    child = spawn(config)
                except BlockingIOError:
                    pass  # another worker is starting it
            elif child.poll() is not None and not service_runs():
                killed = "it was ended by signal %d" % -child.returncode
                reason = killed if child.returncode < 0 else last_line(config["log"])
                sentence = "the encoder service stopped while starting: %s (log: %s)" % (reason, config["log"])
                lock.truncate(0)
                lock.write("%f %s" % (time.monotonic(), sentence))
                raise EncoderError(sentence)
            if hangup.poll(RETRY_MILLISECONDS):
                os._exit(0)  # ClickHouse gave up waiting
    raise EncoderError(
        "the encoder service is not ready after %d s; it may still be loading or downloading its model, so try again"
        " later (log: %s)" % (config["start_seconds"], config["log"])
    )


def service_runs():
    """Whether a service holds its lock, which it does from before it loads its model."""
    import fcntl

    try:
        with open("encoder.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def spawn(config):
    """The service as a process of its own session, so that nothing that ends ClickHouse's processes ends it too."""
    import subprocess

    if os.path.isfile(config["log"]) and os.path.getsize(config["log"]) > LOG_BYTES:
        os.replace(config["log"], config["log"] + ".1")
    kept = dict(config.get("environment", {}))
    kept.update((n, v) for n, v in os.environ.items() if n in ENVIRONMENT or n.startswith(ENVIRONMENT_BEGINNINGS))
    with open(config["log"], "ab") as log:
        return subprocess.Popen(
            config["serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", env=kept
        )


def last_line(path):
    try:
        with open(path, "rb") as file:
            lines = file.read()[-4096:].split(b"\n")
    except OSError as error:
        return str(error)
    return next((line.decode("utf-8", "replace").strip() for line in reversed(lines) if line.strip()), "it said nothing")
