"""What the tests of commands share."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, *arguments, **environment):
        self.main, child = pty.openpty()
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 1280, 800))
        env = os.environ | {"TERM": "dumb"} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vdx_udf", *map(str, arguments)], stdin=child, stdout=child, stderr=child, env=env
        )
        os.close(child)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Until the process has written this. Fails if it ends before."""
        while text not in self.seen:
            if select.select([self.main], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.main, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"ended before {text!r}: {self.seen}") from None
        self.seen = self.seen.partition(text)[2]

    def ends(self, key: str = "") -> None:
        """Waits until the process has ended well, reading on, since a full terminal would stop it.

        A key is typed again and again: one that arrives while the prompt is being set up is thrown away.
        """
        while self.process.poll() is None:
            self.type(key)
            if select.select([self.main], [], [], 0.5)[0]:
                try:
                    os.read(self.main, 65536)
                except OSError:
                    break
        assert self.process.wait() == 0
        os.close(self.main)

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def answers_that_it_knows_sixel(self) -> None:
        """As a terminal answers the question what it is: level 2, with attribute 4, sixel graphics."""
        self.wait_for("\x1b[c")
        self.type("\x1b[?62;4c")
