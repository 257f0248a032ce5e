"""Decoding in processes of its own, for pictures whose decoder cannot be stopped from within: `python -m vdx_udf.decoder`.

A process takes one picture at a time on its standard input and answers on its standard output; one that takes longer than
DECODE_SECONDS or breaks is ended, which costs its picture and no other.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time

from PIL import Image

from vdx_udf import settings
from vdx_udf.image import ImageError

_LENGTH = struct.Struct("<QQ")
_PR_SET_PDEATHSIG = 1


class DecoderPool:
    """At most `most` processes, each started when first needed and kept."""

    def __init__(self, most: int):
        self._free: list[subprocess.Popen] = []
        self._room = threading.Semaphore(most)

    def close(self) -> None:
        """Ends the processes."""
        while self._free:
            self._free.pop().communicate()

    def decode(self, content: bytes, side: int) -> Image.Image:
        """As decoding.decode. Raises ImageError."""
        with self._room:
            process = self._free.pop() if self._free else _started()
            try:
                answer = _asked(process, content, side)
            except ImageError:
                process.kill()
                process.communicate()
                raise
            self._free.append(process)
        head, _, pixels = answer.partition(b"\n")
        known = json.loads(head)
        if "error" in known:
            raise ImageError(known["error"])
        image = Image.frombytes(known["mode"], tuple(known["size"]), pixels)
        if known["palette"]:
            image.putpalette(bytes.fromhex(known["palette"]), known["palette_mode"])
        return image


def _started() -> subprocess.Popen:
    command = [sys.executable, "-m", "vdx_udf.decoder"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    for pipe in (process.stdin, process.stdout):
        os.set_blocking(pipe.fileno(), False)
    return process


def _asked(process: subprocess.Popen, content: bytes, side: int) -> bytes:
    deadline = time.monotonic() + settings.DECODE_SECONDS
    to_send, answer, length = memoryview(_LENGTH.pack(len(content), side) + content), bytearray(), None
    while length is None or len(answer) < length:
        pipes = [process.stdout], [process.stdin] if to_send else []
        readable, writable, _ = select.select(*pipes, [], max(0, deadline - time.monotonic()))
        if not readable and not writable:
            raise ImageError(f"decoding it takes longer than {settings.DECODE_SECONDS} s")
        try:
            if writable:
                to_send = to_send[os.write(process.stdin.fileno(), to_send[: 1 << 16]) :]
            if readable:
                piece = os.read(process.stdout.fileno(), 1 << 20)
                answer += piece
                if not piece:
                    raise BrokenPipeError
        except BrokenPipeError:
            raise ImageError(f"a damaged picture: its decoder broke ({_ending(process)})") from None
        if length is None and len(answer) >= 8:
            (length,) = struct.unpack_from("<Q", answer)
            del answer[:8]
    return bytes(answer)


def _ending(process: subprocess.Popen) -> str:
    code = process.wait()
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main() -> None:
    """Answers until its input ends, or whoever started it."""
    from vdx_udf.decoding import decode_here

    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it; elsewhere the input's end says it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    while head := source.read(_LENGTH.size):
        length, side = _LENGTH.unpack(head)
        try:
            image = decode_here(source.read(length), side)
            palette = image.palette if image.mode in ("P", "PA") else None
            known = {
                "mode": image.mode, "size": image.size, "palette": palette.palette.hex() if palette else "",
                "palette_mode": palette.mode if palette else "",
            }  # fmt: skip
            answer = json.dumps(known).encode() + b"\n" + image.tobytes()
        except ImageError as error:
            answer = json.dumps({"error": str(error)}).encode() + b"\n"
        except MemoryError:
            answer = json.dumps({"error": "no memory is left for it"}).encode() + b"\n"
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    main()
