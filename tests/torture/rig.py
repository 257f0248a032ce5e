"""An installed prefix with its engine, workers and encoder service, which may be killed, stopped and starved."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.torture.questions import Questions
from vdx_udf import contract, engine
from vdx_udf.commands import target
from vdx_udf.installer.install import WORKER_CONFIG, install, stop_encoder
from vdx_udf.installer.layout import Layout

# Smaller pools and a shorter wait for a slot than installed, so that exhaustion shows soon.
POOL = {"pool_size": 6, "max_command_execution_time": 2}


class Rig:
    """One engine per process: a rig lives as long as its process."""

    def __init__(self, folder: Path, pool: dict[str, int] | None = None):
        self.layout = Layout.embedded(folder / "engine")
        list(install(self.layout, "vdx-tiny", options=("--precision", "float32")))
        for function in contract.FUNCTIONS:
            path = self.layout.functions / f"{function}_function.xml"
            text = path.read_text()
            for key, value in (POOL if pool is None else pool).items():
                text, count = re.subn(f"<{key}>\\d+<", f"<{key}>{value}<", text)
                assert count == 1, (path, key)
            path.write_text(text)
        self.client = self.connect()
        engine.apply_schema(self.client, self.layout.sql)
        self.questions = Questions(self.client, folder)

    def connect(self) -> Any:
        return target.connect_embedded(self.layout.state)

    # Processes

    def workers(self) -> list[int]:
        """The workers of this rig, all functions."""
        return [pid for pid, line in processes() if any(part.startswith(f"{self.layout.user_scripts}/") for part in line)]

    def service(self) -> int | None:
        """The encoder service, if one runs."""
        running = dict(processes())
        try:
            pid = int((self.layout.run / "encoder.lock").read_text())
        except (OSError, ValueError):
            return None
        return pid if "serve" in running.get(pid, ()) else None

    def services(self) -> list[int]:
        """All processes of encoder services of this rig."""
        return [pid for pid, line in processes() if "serve" in line and str(self.layout.run / "encoder.sock") in line]

    def signal(self, pids: list[int], number: int) -> None:
        """Sends the signal to those that are still there."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_service(self) -> None:
        """Kills it and waits until it has let go of its lock, which it does when its connections are closed."""
        self.signal(self.services(), signal.SIGKILL)
        stop_encoder(self.layout)

    def serve(self, *options: str, code: str = "", **environment: str) -> subprocess.Popen:
        """A service started by hand on this rig's socket; `code` runs in it first."""
        run = "import runpy, sys; sys.argv[0] = 'vdx'; runpy.run_module('vdx_udf', run_name='__main__')"
        arguments = ["serve", "--socket", str(self.layout.run / "encoder.sock"), "--precision", "float32", "--allow", "/"]
        with open(self.layout.run / "encoder.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", f"{code}\n{run}", *arguments, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=os.environ | environment,
            )  # fmt: skip

    def is_ready(self) -> bool:
        return (self.layout.run / "encoder.sock").exists()

    # Faults that last

    @contextmanager
    def changed(self, **worker_config: Any) -> Iterator[None]:
        """Another vdx_worker.json for a while; the service is started anew before and after."""
        path = self.layout.user_scripts / WORKER_CONFIG
        before = path.read_text()
        stop_encoder(self.layout)
        path.write_text(json.dumps(json.loads(before) | worker_config))
        try:
            yield
        finally:
            path.write_text(before)
            self.kill_service()

    @contextmanager
    def limited(self, kind: int, margin: int, used: int) -> Iterator[None]:
        """The service may have `margin` more of a resource than the `used`, for a while."""
        pid = self.service()
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (used + margin, before[1]))
        try:
            yield
        finally:
            if self.service() == pid:
                resource.prlimit(pid, kind, before)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Every process of this machine with its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            yield int(folder.name), line


def status(pid: int, key: str) -> int:
    """A figure in kB of /proc/PID/status, such as VmRSS."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE).group(1))


def comes_true(condition: Any, seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(found)
