"""Several encoder processes behind one socket, one per device: how several GPUs of a machine are used.

The group holds the lock and the socket; its members inherit the socket, and whichever is free first accepts the next
worker. Each has a socket pair to the group: a member says there that it is ready, and what it works on, so that the
group knows when all are idle; its end tells either side that the other is gone.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from vdx_udf.encoder.service import Service

_READY, _BEGAN, _ENDED = b"r", b"+", b"-"
log = logging.getLogger("vdx")


class Member(Service):
    """An encoder process of a group: accepts on `listener`, reports to `group`, both inherited file descriptors."""

    def __init__(self, path: Path, listener: int, group: int):
        self.path, self.idle_seconds = path.absolute(), None
        self._connections, self._draining, self._guard = 0, False, threading.Lock()
        self._inherited, self._group = socket.socket(fileno=listener), socket.socket(fileno=group)
        threading.Thread(target=self._end_with_group, daemon=True).start()

    def listener(self) -> socket.socket:
        self._group.sendall(_READY)
        return self._inherited

    def is_idle(self) -> bool:
        return False  # the group decides

    def is_lost(self) -> bool:
        return False

    def stop(self, why: str) -> int:
        return 0

    def working(self, change: int) -> None:
        with contextlib.suppress(OSError):  # the group is gone, and so is this process in a moment
            self._group.sendall((_BEGAN if change > 0 else _ENDED) * abs(change))

    def _end_with_group(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # it was killed before it read all that was reported to it
            self._group.recv(1)
        os._exit(0)


class Group(Service):
    """The members' parent. A member that ends takes the group with it; the next query starts a new one."""

    def run(self, serve: list[str], devices: list[str]) -> None:
        """Starts a member for each device with `serve`, the arguments of `vdx serve`, and stays until all are idle."""
        self._members: list[subprocess.Popen] = []
        self._ended = threading.Event()
        with self.listener() as listener:
            # Not to be found before a member is ready: a worker that connects waits for its answer only.
            os.rename(self.path.name, hidden := f"{self.path.name}.starting")
            self._hidden = self.path.with_name(hidden)
            self.obey_signals()
            for device in devices:
                ours, theirs = socket.socketpair()
                inherited = (listener.fileno(), theirs.fileno())
                command = [sys.executable, "-m", "vdx_udf", "serve", *serve, "--device", device]
                command += ["--member", *map(str, inherited)]
                self._members.append(subprocess.Popen(command, pass_fds=inherited))
                theirs.close()
                self.working(+1)  # until it is ready: loading a model is no idle time
                threading.Thread(target=self._follow, args=(ours, device), daemon=True).start()
        while not self._ended.wait(min(1.0, (self.idle_seconds or 1.0) / 4)):
            if self.is_lost() and not self._hidden.exists():
                os._exit(self.stop("the socket was removed; the next query starts another group"))
            if self.is_idle():
                os._exit(self.stop(f"idle for {self.idle_seconds} s"))
        self.stop("a member ended")
        os._exit(1)

    def _follow(self, member: socket.socket, device: str) -> None:
        """Counts what a member reports."""
        while reports := member.recv(4096):
            if _READY in reports:
                log.info("ready: device %s, socket %s", device, self.path)
                with contextlib.suppress(FileNotFoundError):  # another member was first
                    self._hidden.rename(self.path)
                self.working(-1)
            self.working(reports.count(_BEGAN) - reports.count(_ENDED))
        self._ended.set()

    def drain(self) -> None:
        os._exit(self.stop("another installation takes over"))

    def stop(self, why: str) -> int:
        for member in self._members:
            member.terminate()
        self._hidden.unlink(missing_ok=True)
        return super().stop(why)
