"""One installation for the whole run, of the engine that --engine names: what is tested is what `vdx install` deploys."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from tests import browser as browsers
from vdx_udf import engine, settings
from vdx_udf.commands import load, target
from vdx_udf.commands.shell import Session
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import draw, sample_picture

ENGINES = ("embedded", "server", "docker")
os.environ.setdefault("GOMP_SPINCOUNT", settings.SPIN_COUNT)  # as the service does: tests compute with torch side by side
# A shell that starts the tests in the background has them ignore Ctrl-C, and with them what they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--engine", choices=ENGINES, default="embedded",
        help="what the SQL suite runs on: chDB in this process, a ClickHouse server process, or one in a container",
    )  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first, so that none of two workers is left with one of them at the end."""
    longest = ("test_torture", "test_package", "test_load", "test_datasets", "test_rows", "test_explorer")
    items.sort(key=lambda item: longest.index(item.path.stem) if item.path.stem in longest else len(longest))


@pytest.fixture(scope="session")
def engine_of(request, tmp_path_factory):
    """What is tested: (its folders, a function that gives a new client, the options that `vdx` reaches it by)."""
    kind, folder = request.config.getoption("--engine"), tmp_path_factory.mktemp("engine")
    options = ("--precision", "float32")  # so that it can be compared with open_clip closely
    if kind == "embedded":
        layout = Layout.embedded(folder)
        list(install(layout, "vdx-tiny", options=options))
        yield layout, lambda: target.connect_embedded(layout.state), ("--prefix", layout.state)
        stop_encoder(layout)
    else:
        from tests.server import suite

        with suite.serving(kind, folder, tmp_path_factory.getbasetemp(), options) as (layout, url):
            yield layout, lambda: engine.connect_server(url), ("--url", url)


@pytest.fixture(scope="session")
def layout(engine_of) -> Layout:
    """The folders of an installation with the bundled model; paths under any folder are open."""
    return engine_of[0]


@pytest.fixture(scope="session")
def connect(engine_of):
    """Gives a new client of the engine whenever it is called."""
    return engine_of[1]


@pytest.fixture(scope="session")
def client(connect, layout):
    """A clickhouse-connect client of the engine, with the schema in place."""
    client = connect()
    while True:
        try:
            client.command("SELECT encode_text('')")
            break
        except ClickHouseError as error:  # the worker says so of a service that loads its model: ask again
            if "the encoder service is not ready after" not in str(error):
                raise
    engine.apply_schema(client, layout.sql)
    yield client
    client.close()


@pytest.fixture(scope="session")
def clip():
    """The bundled model as this package loads it, in this process."""
    from vdx_udf.encoder.model import Clip

    return Clip("vdx-tiny", "float32")


@pytest.fixture(scope="module")
def browser():
    with browsers.or_skipped() as browser:
        yield browser


@pytest.fixture
def fresh_tables(client):
    """Empties the tables, so that a test sees only its own rows."""
    empty_tables(client)
    return client


def empty_tables(client) -> None:
    for table in (
        "images", "superseded_images", "superseded_rejects", "arrivals", "rejects", "inputs", "labels", "classifiers", "kept_concepts", "kept_scores", "near_pairs", "neighbours", "search_trials", "vocabulary", "thumbnails", "picture_facts", "regions", "kept_mistakes", "map_points",
    ):  # fmt: skip
        client.command(f"TRUNCATE TABLE {table}")


@pytest.fixture
def run_file(fresh_tables, layout, connect, capfd):
    """Runs a data set's file in this process; returns what it printed."""

    def run(name: str, **parameters: str) -> str:
        path = load.dataset_files(layout.sql)[name]
        session = Session(connect, load.complete(path, parameters), "TabSeparatedWithNames")
        capfd.readouterr()
        load.run(session, path)
        return capfd.readouterr().out

    return run


PICTURES = 300


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> tuple[Path, list]:
    """A folder of drawn pictures, as PNG, and what each shows."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(99)
    pictures = [sample_picture(rng) for _ in range(PICTURES)]
    for number, picture in enumerate(pictures):
        draw(picture).save(folder / f"{number:04}.png")
    return folder, pictures


@pytest.fixture
def loaded(fresh_tables, drawn):
    """The client, with the drawn pictures loaded through SQL."""
    folder, _ = drawn
    fresh_tables.command(
        "INSERT INTO inbox (source, dataset, attributes, bytes)"
        " SELECT _path, if(cityHash64(_file) % 10 = 0, 'rare', 'common'), map('parity', toString(toUInt32(substring(_file, 1, 4)) % 2)),"
        f" raw_blob FROM file('{folder}/*.png', RawBLOB)"
    )
    return fresh_tables


def put(
    client, vectors: np.ndarray, dataset: str = "put", attributes: list[dict[str, str]] | None = None, model: str = "put"
) -> list[int]:
    """Adds rows with these vectors to images; returns their ids in order."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors.astype(np.float32))
        rows = [json.dumps({"attributes": each}) for each in attributes or [{}] * len(vectors)]
        Path(folder, "attributes.json").write_text("\n".join(rows))
        client.command(
            "INSERT INTO images (source, dataset, model, vector, attributes)"
            f" SELECT '{dataset}/' || toString(rowNumberInAllBlocks()), '{dataset}', '{model}', array, attributes"
            f" FROM file('{folder}/vectors.npy', Npy, 'array Array(Float32)')"
            f" PASTE JOIN file('{folder}/attributes.json', JSONEachRow, 'attributes Map(String, String)') SETTINGS max_threads = 1"
        )
    found = client.query(f"SELECT source, id FROM images WHERE dataset = '{dataset}'").result_rows
    ids = {int(source.rpartition("/")[2]): id for source, id in found}
    return [ids[number] for number in range(len(vectors))]


def vdx(*arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Runs the `vdx` command as a process of its own."""
    command = [sys.executable, "-m", "vdx_udf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for(condition: Callable[[], Any], process: subprocess.Popen | None = None) -> Any:
    """What the condition gives once it holds, however long that takes. Fails if the process that is to bring it about ends."""
    while not (found := condition()):
        if process and process.poll() is not None:
            said = process.stderr or process.stdout
            raise AssertionError(
                f"{process.args} ended with {process.returncode}: {said.read() if said else 'it said nothing'}"
            )
        time.sleep(0.05)
    return found


class Moments:
    """Random moments within the time that a process takes on this machine: `seconds` at first, then what it is seen to take."""

    def __init__(self, random: Random, seconds: float):
        self._random, self._seconds = random, seconds
        self.interrupted = 0

    def wait(self, process: subprocess.Popen) -> None:
        """Until the next such moment, or the process's end."""
        began = time.monotonic()
        try:
            process.wait(self._random.uniform(0.1, 1) * self._seconds)
            self._seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            self.interrupted += 1
            self._seconds *= 1.2  # so that it gets further on a slow machine


def answers(url: str) -> bool:
    """Whether a server that may still be starting answers there."""
    try:
        urlopen(url).close()
    except OSError:
        return False
    return True


def needs(precision: str) -> None:
    """Skips the test on a CPU that does not compute in this precision, and says why."""
    from vdx_udf.encoder import processor

    if fault := processor.fault(precision):
        pytest.skip(f"this CPU does not compute in {precision}: {fault}")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def started(prefix: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, int]]:
    """A `vdx up` over an installed prefix, its address and its native port. Fails where it wrote a traceback."""
    port, native_port = free_ports(2)
    command = [sys.executable, "-m", "vdx_udf", "up", "--data", prefix, "--port", port, "--native-port", native_port, *options]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        try:
            assert process.stdout.readline().startswith("explorer: "), process.communicate()
            yield process, f"http://127.0.0.1:{port}", native_port
            process.terminate()
            _, said = process.communicate()
            assert "Traceback" not in said, said
        finally:
            process.kill()
            stop_encoder(Layout.embedded(prefix))


@contextmanager
def served(prefix: Path) -> Iterator[str]:
    """The address of a `vdx up` over an installed prefix."""
    with started(prefix) as (_, address, _):
        yield address


def ask(server: str, statement: str, **parameters: str | int) -> list[list]:
    """The rows that a `vdx up` answers, and an empty list where there are none."""
    given = urlencode({"default_format": "JSONCompact"} | {f"param_{name}": value for name, value in parameters.items()})
    with urlopen(Request(f"{server}/?{given}", statement.encode())) as answer:
        body = answer.read()
    return json.loads(body)["data"] if body else []
