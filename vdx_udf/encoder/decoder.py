"""Decoding in processes of its own, for pictures whose decoder cannot be stopped from within.

A process takes one picture at a time on its standard input and answers on its standard output; one that takes longer than
DECODE_SECONDS or breaks is ended, which costs its picture and no other.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from vdx_udf import settings

_REQUEST, _ANSWER = struct.Struct("<QQ?"), struct.Struct("<QQ")  # content's length, side, is it a thumbnail; of head and pixels
_PIPE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
# The kernel ends a process with the thread that started it, so this one stays.
_starter = ThreadPoolExecutor(1, "decoder-starter")


class ImageError(ValueError):
    """This input is no picture that can be used; the message is the reason, and never says what the file holds."""


class DecoderPool:
    """At most `most` processes, each started when first needed and kept."""

    def __init__(self, most: int):
        self._free: list[subprocess.Popen] = []
        self._room = threading.Semaphore(most)

    def close(self) -> None:
        """Ends the processes."""
        while self._free:
            self._free.pop().communicate()

    def decode(self, content: bytes, side: int, is_thumbnail: bool = False) -> Image.Image:
        """As decoding.decode_here. Raises ImageError."""
        with self._room:
            process = self._taken()
            try:
                head, pixels = _asked(process, content, _REQUEST.pack(len(content), side, is_thumbnail))
            except BaseException:
                process.kill()
                process.communicate()
                raise
            self._free.append(process)
        known = json.loads(head)
        if "error" in known:
            raise ImageError(known["error"])
        image = Image.frombytes(known["mode"], tuple(known["size"]), pixels)
        if known["palette"]:
            image.putpalette(bytes.fromhex(known["palette"]), known["palette_mode"])
        image.info["file"] = known["file"]
        return image

    def _taken(self) -> subprocess.Popen:
        while self._free:
            process = self._free.pop()
            if process.poll() is None:
                return process
            process.communicate()  # somebody ended it while it had nothing to do
        return _starter.submit(_started).result()


def _started() -> subprocess.Popen:
    command = [sys.executable, "-c", "from vdx_udf.encoder.decoder import main; main()"]
    # Address space that is set aside for threads, on many cores, would by itself fill MAX_DECODER_BYTES.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=environment)
    for pipe in (process.stdin, process.stdout):
        os.set_blocking(pipe.fileno(), False)
        _widen(pipe.fileno())
    return process


def _widen(pipe: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux from Python 3.10 on, and while the user has not too many
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _asked(process: subprocess.Popen, content: bytes, request: bytes) -> tuple[bytes, memoryview]:
    """Head and pixels of the answer."""
    deadline = time.monotonic() + settings.DECODE_SECONDS
    to_send = [memoryview(content), memoryview(request)]  # the last first
    answer, filled, lengths = bytearray(_ANSWER.size), 0, None
    poller = select.poll()
    poller.register(process.stdin, select.POLLOUT)
    poller.register(process.stdout, select.POLLIN)
    while filled < len(answer):
        ready = poller.poll(1_000 * max(0, deadline - time.monotonic()))
        if not ready:
            raise ImageError(f"decoding it takes longer than {settings.DECODE_SECONDS} s")
        try:
            for pipe, _ in ready:
                if pipe == process.stdout.fileno():
                    if not (size := os.readv(pipe, [memoryview(answer)[filled:]])):
                        raise BrokenPipeError
                    filled += size
                else:
                    rest = to_send[-1][os.write(pipe, to_send[-1]) :]
                    to_send[-1:] = [rest] if rest else []
                    if not to_send:
                        poller.unregister(pipe)
        except BrokenPipeError:
            raise ImageError(f"a damaged picture: its decoder broke ({_ending(process)})") from None
        if lengths is None and filled == len(answer):
            lengths = _ANSWER.unpack(answer)
            answer, filled = bytearray(sum(lengths)), 0
    return bytes(answer[: lengths[0]]), memoryview(answer)[lengths[0] :]


def _ending(process: subprocess.Popen) -> str:
    code = process.wait()
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main() -> None:
    """Answers until its input ends, or whoever started it."""
    from vdx_udf.encoder.decoding import decode_here

    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it; elsewhere the input's end says it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it
    with contextlib.suppress(OSError, ValueError):  # not every system has it
        resource.setrlimit(resource.RLIMIT_AS, (settings.MAX_DECODER_BYTES, settings.MAX_DECODER_BYTES))
    warnings.simplefilter("ignore")  # they would fill the log
    Image.MAX_IMAGE_PIXELS = settings.MAX_PIXELS // 2  # Pillow raises at twice that, before it decodes a picture within a file
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    while request := source.read(_REQUEST.size):
        length, side, is_thumbnail = _REQUEST.unpack(request)
        try:
            image = decode_here(source.read(length), side, is_thumbnail)
            parts = _parts(image)
            del image  # or its memory would stay until the next one
        except ImageError as error:
            parts = [json.dumps({"error": str(error)}).encode(), b""]
        except MemoryError:
            parts = [json.dumps({"error": "no memory is left for it"}).encode(), b""]
        for part in (_ANSWER.pack(*map(len, parts)), *parts):
            answers.write(part)
        answers.flush()
        del parts


def _parts(image: Image.Image) -> Sequence[bytes]:
    palette = image.palette if image.mode in ("P", "PA") else None
    known = {
        "mode": image.mode, "size": image.size, "palette": palette.palette.hex() if palette else "",
        "palette_mode": palette.mode if palette else "", "file": image.info["file"],
    }  # fmt: skip
    return [json.dumps(known).encode(), image.tobytes()]
