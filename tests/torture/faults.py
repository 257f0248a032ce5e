"""The catalogue of faults: what each does to a rig, and what queries may do meanwhile.

A fault is a context manager over a rig. `idle` ones are provoked before the queries are sent, `busy` ones when they are on
their way. While it lasts a query either answers rightly or, where `may_fail`, fails with a sentence; after it, all must work.
"""

import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import wait_for
from tests.torture.rig import Rig, comes_true, status
from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.installer.install import stop_encoder


@dataclass(frozen=True)
class Fault:
    """A line of the table; `settings` and `rows` are those of the queries that meet it."""

    name: str
    provoke: Callable[[Rig], AbstractContextManager]
    busy: bool
    may_fail: bool
    quick: bool  # one of those that the random run picks from
    settings: str
    rows: int


CATALOGUE: list[Fault] = []


def fault(name: str, busy: bool = False, may_fail: bool = True, quick: bool = False, settings: str = "", rows: int = 2_000):
    """Enters a function into the catalogue; one that returns no context manager is over when it returns."""

    def enter(function: Callable) -> Callable:
        CATALOGUE.append(Fault(name, lambda rig: function(rig) or nullcontext(), busy, may_fail, quick, settings, rows))
        return function

    return enter


# Workers


@fault("worker killed while idle, before and after blocks", quick=True, rows=50)
def worker_killed_idle(rig: Rig) -> None:
    rig.signal(rig.workers(), signal.SIGKILL)


@fault("worker killed in a block", busy=True, quick=True)
def worker_killed(rig: Rig) -> None:
    rig.signal(rig.workers(), signal.SIGKILL)


@fault("worker stopped (SIGSTOP) and resumed", busy=True, may_fail=False, quick=True)
def worker_stopped(rig: Rig) -> None:
    _pause(rig, rig.workers())


def _pause(rig: Rig, pids: list[int]) -> None:
    rig.signal(pids, signal.SIGSTOP)
    time.sleep(1)
    rig.signal(pids, signal.SIGCONT)


@fault("a library prints to stdout and stderr in the worker", may_fail=False)
@contextmanager
def noisy_worker(rig: Rig) -> Iterator[None]:
    path = rig.layout.user_scripts / "vdx_worker.py"
    quiet = path.read_text()
    place = "            if received:\n                if service is None:"
    assert place in quiet
    noise = "            os.system('echo noise')\n            print('noise', flush=True)\n            sys.stderr.write('noise\\n')\n"
    path.write_text(quiet.replace(place, noise + place))
    rig.client.command("SYSTEM RELOAD FUNCTIONS")
    try:
        yield
    finally:
        path.write_text(quiet)
        rig.client.command("SYSTEM RELOAD FUNCTIONS")


# The service


@fault("service killed while it loads")
@contextmanager
def service_killed_loading(rig: Rig) -> Iterator[None]:
    stop_encoder(rig.layout)

    def kill() -> None:
        wait_for(rig.services)
        time.sleep(random.uniform(0.1, 2))
        rig.kill_service()

    with _beside(kill):
        yield


@fault("service killed while it computes", busy=True, quick=True)
def service_killed_computing(rig: Rig) -> None:
    rig.kill_service()


@fault("service killed while it answers", busy=True, rows=100)
def service_killed_answering(rig: Rig) -> None:
    rig.kill_service()


@fault("service stopped (SIGSTOP) and resumed", busy=True, may_fail=False, quick=True)
def service_stopped(rig: Rig) -> None:
    _pause(rig, rig.services())


@fault("socket removed", may_fail=False, quick=True)
def socket_removed(rig: Rig) -> None:
    (rig.layout.run / "encoder.sock").unlink(missing_ok=True)
    rig.client.command("SYSTEM RELOAD FUNCTIONS")  # new workers, which have to find it


@fault("folder of socket, lock and log removed")
def folder_removed(rig: Rig) -> None:
    shutil.rmtree(rig.layout.run)
    rig.client.command("SYSTEM RELOAD FUNCTIONS")


@fault("stale lock and stale socket", may_fail=False)
def stale_files(rig: Rig) -> None:
    """What a service that was killed leaves, and a lock that names a process which is none of ours."""
    rig.kill_service()
    (rig.layout.run / "encoder.lock").write_text("1")
    assert rig.is_ready()


@fault("two services race to start", may_fail=False)
@contextmanager
def race(rig: Rig) -> Iterator[None]:
    stop_encoder(rig.layout)
    processes = [rig.serve("--model", "vdx-tiny") for _ in range(2)]
    yield
    wait_for(lambda: any(process.poll() is not None for process in processes))
    assert sum(process.poll() is None for process in processes) <= 1, "two services run"
    rig.kill_service()
    for process in processes:
        process.wait()


@contextmanager
def _by_hand(rig: Rig, *options: str, code: str = "", **environment: str) -> Iterator[None]:
    stop_encoder(rig.layout)
    process = rig.serve(*options, code=code, **environment)
    wait_for(rig.is_ready, process)
    yield
    process.kill()
    process.wait()


@fault("service of another model on the socket", rows=50)
def other_model(rig: Rig) -> AbstractContextManager:
    return _by_hand(rig, "--model", f"local-dir:{TINY_FOLDER}")


@fault("service of another version on the socket", rows=50)
def other_version(rig: Rig) -> AbstractContextManager:
    return _by_hand(rig, "--model", "vdx-tiny", code="import vdx_udf; vdx_udf.__version__ = '9.9.9'")


@fault("the clock jumps", may_fail=False)
def clock_jumps(rig: Rig) -> AbstractContextManager:
    jumping = "import random, time; now = time.time; time.time = lambda: now() + random.choice((-1e8, 0, 1e8))"
    return _by_hand(rig, "--model", "vdx-tiny", code=jumping)


@fault("a library prints to stdout and stderr in the service", may_fail=False)
def noisy_service(rig: Rig) -> AbstractContextManager:
    noise = (
        "import os, threading, time\ndef noise():\n  while True: os.write(1, b'noise'); os.write(2, b'noise'); time.sleep(.005)\n"
        "threading.Thread(target=noise, daemon=True).start()"
    )
    return _by_hand(rig, "--model", "vdx-tiny", code=noise)


# Resources


@fault("full disk for the log", may_fail=False)
@contextmanager
def full_disk(rig: Rig) -> Iterator[None]:
    log = rig.layout.run / "encoder.log"
    stop_encoder(rig.layout)
    log.rename(log.with_suffix(".kept"))
    log.symlink_to("/dev/full")
    try:
        yield
    finally:
        log.unlink()
        log.with_suffix(".kept").rename(log)
        rig.kill_service()


@fault("no room and no right for the cache of model files", rows=1)
@contextmanager
def no_cache(rig: Rig) -> Iterator[None]:
    """A model that has to be downloaded, into a cache folder that cannot be."""
    name = "ViT-B-32/openai"
    with rig.changed(model=name, serve=["env", "HF_HOME=/dev/full/cache", *_served(rig, name)]):
        yield


@fault("no memory for a batch", busy=True, quick=True)
@contextmanager
def no_memory(rig: Rig) -> Iterator[None]:
    with _limit(rig, resource.RLIMIT_AS, 16 << 20):
        time.sleep(1)
        yield


@fault("file descriptors of the service exhausted", quick=True)
@contextmanager
def no_descriptors(rig: Rig) -> Iterator[None]:
    """For a second; new workers have to wait until it is over."""
    rig.client.command("SYSTEM RELOAD FUNCTIONS")

    def exhaust() -> None:
        with _limit(rig, resource.RLIMIT_NOFILE, 0):
            time.sleep(1)

    with _beside(exhaust):
        yield


@contextmanager
def _limit(rig: Rig, kind: int, margin: int) -> Iterator[None]:
    pid = rig.service()
    if pid is None or not comes_true(rig.is_ready, 10):
        yield
        return
    used = len(list(Path(f"/proc/{pid}/fd").iterdir())) if kind == resource.RLIMIT_NOFILE else status(pid, "VmSize") << 10
    with rig.limited(kind, margin, used):
        yield


@fault("model files damaged", rows=1)
def damaged_model(rig: Rig) -> AbstractContextManager:
    return _model_in(rig, lambda file: os.truncate(file, file.stat().st_size // 2))


@fault("model files missing", rows=1)
def missing_model(rig: Rig) -> AbstractContextManager:
    return _model_in(rig, Path.unlink)


@contextmanager
def _model_in(rig: Rig, damage: Callable[[Path], None]) -> Iterator[None]:
    folder = rig.layout.state / "model"
    shutil.copytree(TINY_FOLDER, folder, dirs_exist_ok=True)
    damage(next(file for file in folder.iterdir() if file.suffix == ".safetensors"))
    name = f"local-dir:{folder}"
    with rig.changed(model=name, serve=_served(rig, name)):
        yield
    shutil.rmtree(folder)


def _served(rig: Rig, model: str) -> list[str]:
    serve = json.loads((rig.layout.user_scripts / "vdx_worker.json").read_text())["serve"]
    return [*serve[: serve.index("--model") + 1], model, *serve[serve.index("--model") + 2 :]]


# Queries


@fault("query timed out in a block", settings="SETTINGS max_execution_time = 0.05", quick=True)
def timed_out(rig: Rig) -> None:
    """The setting does it."""


@fault("query cancelled in a block", busy=True, quick=True)
def cancelled(rig: Rig) -> None:
    kill = "KILL QUERY WHERE query LIKE '%torture%' AND query NOT LIKE '%KILL%' ASYNC"
    client = rig.connect()
    rig.questions.is_killing = True
    try:
        ended = client.raw_query(kill, fmt="JSONEachRow").decode()
        rig.questions.killed.update(json.loads(line)["query"] for line in ended.splitlines())
    finally:
        rig.questions.is_killing = False


@fault("LIMIT that stops early", may_fail=False, quick=True, rows=50)
def limited(rig: Rig) -> None:
    for _ in range(3):
        salt = random.randrange(1, 10**6)
        rows = rig.client.query(
            f"SELECT k FROM torture_texts WHERE NOT ignore(encode_text(concat(text, ' {salt}'))) LIMIT 3 SETTINGS max_block_size = 500"
        ).result_rows
        assert len(rows) == 3


@fault("pool exhausted", quick=True)
@contextmanager
def exhausted(rig: Rig) -> Iterator[None]:
    """More queries than slots; those beyond wait and, where that takes too long, are told so."""
    clients = [rig.connect() for _ in range(16)]
    threads = [threading.Thread(target=rig.questions.ask, args=(client, "encode_text", 2_000)) for client in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


@fault("functions reloaded while busy", busy=True, quick=True)
def reloaded(rig: Rig) -> None:
    for _ in range(3):
        rig.connect().command("SYSTEM RELOAD FUNCTIONS")
        time.sleep(0.05)


@contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
