"""The two long runs: every fault of the catalogue and then random ones; and many queries at a time."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.torture.faults import CATALOGUE, Fault
from tests.torture.questions import Outcome
from tests.torture.rig import Rig, status
from vdx_udf import contract

FUNCTIONS = tuple(contract.FUNCTIONS)
RECOVERY_SECONDS = 600  # after which a function that does not work again is given up


@dataclass
class Row:
    """A line of the table."""

    fault: str
    times: int = 0
    queries: int = 0
    wrong_rows: int = 0
    lost_rows: int = 0
    failed_with_a_sentence: int = 0
    failed_otherwise: int = 0
    cut_short: int = 0
    recovered_within: float = 0.0
    sentences: Counter = field(default_factory=Counter)
    unclear: Counter = field(default_factory=Counter)

    def add(self, outcome: Outcome, may_fail: bool) -> None:
        self.queries += 1
        self.wrong_rows += outcome.wrong
        self.lost_rows += outcome.lost
        self.cut_short += outcome.cut_short
        if outcome.error:
            clear = may_fail and outcome.has_sentence
            self.failed_with_a_sentence += clear
            self.failed_otherwise += not clear
            (self.sentences if clear else self.unclear)[outcome.error[:300]] += 1

    def recovered(self, rig: Rig, clients: dict[str, Any]) -> None:
        """Asks every function until it answers; a query that fails meanwhile must do so with a sentence."""
        began = time.monotonic()
        for function in FUNCTIONS:
            while (outcome := rig.questions.ask(clients[function], function, 20)).error:
                self.add(outcome, may_fail=True)
                if time.monotonic() - began > RECOVERY_SECONDS:
                    raise AssertionError(f"{self.fault}: {function} does not work again: {outcome.error}")
            self.add(outcome, may_fail=False)
        self.recovered_within = max(self.recovered_within, time.monotonic() - began)

    def as_dict(self) -> dict:
        known = vars(self) | {"recovered_within": round(self.recovered_within, 1)}
        shown = {kind: [text for text, _ in known[kind].most_common(3)] for kind in ("sentences", "unclear")}
        return known | shown


def catalogue(rig: Rig, repeat: int, only: str = "") -> list[Row]:
    """Every fault `repeat` times, each under one query of every function at a time."""
    clients = {function: rig.connect() for function in FUNCTIONS}
    rows = []
    for fault in tqdm([fault for fault in CATALOGUE if only in fault.name], "faults", unit="", mininterval=1):
        row = Row(fault.name)
        for _ in range(repeat):
            _once(rig, fault, clients, row)
        rows.append(row)
    return rows


def _once(rig: Rig, fault: Fault, clients: dict[str, Any], row: Row) -> None:
    def ask(function: str) -> Outcome:
        return rig.questions.ask(clients[function], function, fault.rows, fault.settings)

    with ThreadPoolExecutor(len(FUNCTIONS)) as pool, ExitStack() as lasting:
        if not fault.busy:
            lasting.enter_context(fault.provoke(rig))
        asked = [pool.submit(ask, function) for function in FUNCTIONS]
        if fault.busy:
            time.sleep(random.uniform(0.01, 0.25))
            lasting.enter_context(fault.provoke(rig))
        for future in asked:
            row.add(future.result(), fault.may_fail)
    row.times += 1
    row.recovered(rig, clients)
    _meet_all_slots(rig, clients, row)


def _meet_all_slots(rig: Rig, clients: dict[str, Any], row: Row) -> None:
    """A worker that a fault left dead in its slot costs the query that meets it: one of these, none of the next fault's."""
    with ThreadPoolExecutor(2 * len(FUNCTIONS)) as pool:
        pairs = [(client, function) for function in FUNCTIONS for client in (clients[function], rig.connect())]
        for future in [pool.submit(rig.questions.ask, client, function, 20) for client, function in pairs]:
            row.add(future.result(), may_fail=True)


def at_random(rig: Rig, queries: int, threads: int = 8) -> Row:
    """So many queries of random functions and sizes under random quick faults, a new one every second or so."""
    row, lock, left = Row("random ones, one a second"), threading.Lock(), iter(range(queries))
    progress = tqdm(total=queries, desc="queries under random faults", unit="", mininterval=1)
    over = threading.Event()

    def ask(client: Any) -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            function, rows = random.choice(FUNCTIONS), random.choice((1, 5, 20, 100, 400))
            outcome = rig.questions.ask(client, function, rows)
            with lock:
                row.add(outcome, may_fail=True)
                progress.update()

    def torture() -> None:
        while not over.wait(random.uniform(0.3, 2)):
            with random.choice([fault for fault in CATALOGUE if fault.quick]).provoke(rig):
                row.times += 1

    tortured = threading.Thread(target=torture)
    tortured.start()
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(ask, rig.connect()) for _ in range(threads)]:
            future.result()
    over.set()
    tortured.join()
    progress.close()
    row.recovered(rig, {function: rig.connect() for function in FUNCTIONS})
    return row


def load(rig: Rig, minutes: float, threads: int = 64) -> dict:
    """So many queries at a time for so long: four small ones to a large one, of all functions."""
    row, lock = Row("none"), threading.Lock()
    seconds: dict[str, list[float]] = {"1 row": [], "500 rows": []}
    end = time.monotonic() + minutes * 60

    def ask(client: Any) -> None:
        while time.monotonic() < end:
            size = "500 rows" if random.random() < 0.2 else "1 row"
            began = time.monotonic()
            outcome = rig.questions.ask(client, random.choice(FUNCTIONS), int(size.split()[0]))
            with lock:
                row.add(outcome, may_fail="Could not get process from pool" in outcome.error)
                seconds[size].append(time.monotonic() - began)

    memory = _every(5, end, lambda: [status(rig.service(), "VmRSS") / 1024, len(rig.workers())])
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(ask, rig.connect()) for _ in range(threads)]:
            future.result()
    samples = np.array(memory())
    third = max(1, len(samples) // 3)
    return row.as_dict() | {
        "minutes": minutes,
        "threads": threads,
        "queries_per_second": round(row.queries / minutes / 60, 1),
        "milliseconds": {
            size: {f"p{q}": round(1000 * float(np.quantile(found, q / 100))) for q in (50, 95, 99)} | {"queries": len(found)}
            for size, found in seconds.items()
        },
        "service_megabytes": {
            "first third": round(float(np.median(samples[:third, 0]))),
            "last third": round(float(np.median(samples[-third:, 0]))),
            "most": round(float(samples[:, 0].max())),
        },
        "most_workers": int(samples[:, 1].max()),
    }


def interactive(rig: Rig, rows: int) -> dict:
    """Single texts, one after the other, alone and beside a block of so many rows; milliseconds."""
    found = {"alone": _singles(rig, lambda: len(times) >= 200, times := [])}
    large = rig.connect()
    block = threading.Thread(
        target=large.query,
        args=(
            f"SELECT count() FROM (SELECT encode_text(concat('row ', toString(number % 50000), repeat(' ', intDiv(number, 50000)))) AS v"
            f" FROM numbers({rows}) WHERE length(v) = 512) SETTINGS max_block_size = {rows}, max_threads = 1",
        ),
    )
    began = time.monotonic()
    block.start()
    found["beside"] = _singles(rig, lambda: not block.is_alive(), [])
    return found | {"rows": rows, "block_seconds": round(time.monotonic() - began, 1)}


def _singles(rig: Rig, done: Callable[[], bool], times: list[float]) -> dict:
    while not done():
        began = time.monotonic()
        outcome = rig.questions.ask(rig.client, "encode_text", 1)
        assert outcome == Outcome(), outcome
        times.append(1000 * (time.monotonic() - began))
    return {f"p{q}": round(float(np.quantile(times, q / 100)), 1) for q in (50, 95)} | {"queries": len(times)}


def _every(pause: float, end: float, measure: Callable[[], Any]) -> Callable[[], list]:
    """Measures until `end` on a thread of its own; the function that is returned waits and gives what was found."""
    found: list = []

    def watch() -> None:
        with tqdm(total=round(end - time.monotonic()), desc="load", unit="s", mininterval=5) as progress:
            while time.monotonic() < end:
                found.append(measure())
                time.sleep(pause)
                progress.update(pause)

    thread = threading.Thread(target=watch)
    thread.start()
    return lambda: (thread.join(), found)[1]
