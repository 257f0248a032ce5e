"""Real worker processes against a real encoder service, driven as ClickHouse drives them."""

import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_for
from tests.encoder.conftest import Worker, encoder_pid
from vdx_udf.encoder import native
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout


@pytest.fixture
def own_layout(tmp_path):
    """An installed prefix of this test's own, whose service the test may kill."""
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    yield layout
    stop_encoder(layout)


def test_a_worker_starts_the_service_and_answers(own_layout):
    with Worker(own_layout.user_scripts) as worker:
        first, again = worker.ask([b"a red circle", b"a red circle"])
        assert first.shape == (512,)
        assert np.array_equal(first, again)
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)
        socket = own_layout.run / "encoder.sock"
        assert socket.stat().st_mode & 0o777 == 0o600
        assert own_layout.run.stat().st_mode & 0o777 == 0o700
        pid = encoder_pid(own_layout)
        # Its own session, so that a signal to ClickHouse's process group does not reach it.
        assert os.getsid(pid) == pid != os.getsid(worker.process.pid)
    os.kill(pid, 0)  # outlives the worker


def test_workers_of_one_moment_start_one_service(own_layout):
    workers = [Worker(own_layout.user_scripts) for _ in range(6)]
    try:
        for worker in workers:
            worker.send([b"a blue star"])
        answers = [worker.receive(1)[0] for worker in workers]
        assert all(np.array_equal(answer, answers[0]) for answer in answers)
        log = (own_layout.run / "encoder.log").read_text()
        assert log.count("ready: model vdx-tiny") == 1, log
    finally:
        for worker in workers:
            worker.__exit__()


def test_a_prefix_deeper_than_a_socket_path_can_be(tmp_path):
    layout = Layout.embedded(tmp_path / ("deep" * 20) / ("deeper" * 10) / "engine")
    assert len(str(layout.run / "encoder.sock")) > 107
    list(install(layout, "vdx-tiny"))
    with Worker(layout.user_scripts) as worker:
        assert worker.ask([b"a star"])[0].shape == (512,)
    stop_encoder(layout)


def test_a_worker_exits_at_once_when_its_input_closes(layout, client):
    for function in ("encode_text", "encode_image"):
        with Worker(layout.user_scripts, function) as worker:
            worker.process.stdin.close()
            assert worker.ends() == 0


def test_a_worker_exits_at_once_in_the_middle_of_a_block(layout, client):
    with Worker(layout.user_scripts) as worker:
        worker.ask([b"warm"])
        block = b"".join(native.write_block([("text", native.String(), [b"%d" % n for n in range(50_000)])], 50_000))
        worker.process.stdin.write(block[:200_000])
        worker.process.stdin.close()
        assert worker.ends() == 0  # while nobody takes its answers: with all of them it could not
        assert worker.last_words() == ""


def test_a_worker_exits_when_nobody_reads_its_answer(layout, client):
    with Worker(layout.user_scripts) as worker:
        worker.ask([b"warm"])
        worker.process.stdout.close()
        assert worker.ends() == 0


def test_a_stray_print_cannot_reach_the_answer(layout, client, tmp_path):
    # The worker's own file, with a library that prints on import and between blocks.
    shutil.copytree(layout.user_scripts, tmp_path, dirs_exist_ok=True)
    worker_file = tmp_path / "vdx_worker.py"
    noisy = "            if received:\n                print('noise on stdout', flush=True)\n                os.system('echo more noise')\n"
    text = worker_file.read_text()
    changed = text.replace(
        "            if received:\n                if service is None:", noisy + "                if service is None:"
    )
    assert changed != text
    worker_file.write_text(changed)
    with Worker(layout.user_scripts) as quiet, Worker(tmp_path) as loud:
        for text in (b"one", b"two"):
            assert np.array_equal(loud.ask([text])[0], quiet.ask([text])[0])
        loud.process.kill()
        assert "noise on stdout" in loud.last_words()


def test_killing_the_service_in_mid_block_is_one_sentence(own_layout):
    with Worker(own_layout.user_scripts) as worker:
        worker.ask([b"warm"])
        worker.send([b"text %d" % n for n in range(20_000)])
        os.kill(encoder_pid(own_layout), signal.SIGKILL)
        worker.process.stdout.read()  # as ClickHouse does: what was answered may be more than a pipe holds, and waits to be read
        assert worker.ends() == 1
        words = worker.last_words()
        assert words.startswith("encode_text: the encoder service stopped while it answered; run the query again (log: ")
        assert words.count("\n") == 1
    with Worker(own_layout.user_scripts) as worker:  # the next one finds a stale socket and starts a new service
        assert worker.ask([b"again"])[0].shape == (512,)


def test_a_service_that_stopped_between_blocks_is_started_again(own_layout):
    with Worker(own_layout.user_scripts) as worker:
        before = worker.ask([b"a red circle"])[0]
        stop_encoder(own_layout)
        after = worker.ask([b"a red circle"])[0]
        assert np.array_equal(before, after)


def test_a_new_pool_follows_a_new_installation_and_the_old_one_is_served_beside_it(own_layout):
    def answered_by(worker: Worker) -> int:
        worker.send([b""])
        (information,) = native.read_block(worker.stream, [worker.returns])
        return int(dict(zip(*information.values, strict=True))[b"pid"])

    with Worker(own_layout.user_scripts, "vdx_encoder_info") as old:
        first = answered_by(old)
        list(install(own_layout, "vdx-tiny", options=("--jpeg-scale", "1")))
        with Worker(own_layout.user_scripts, "vdx_encoder_info") as new:
            second = answered_by(new)
            assert second == encoder_pid(own_layout) != first
            assert answered_by(old) == first
            successor = (own_layout.run / "encoder.sock").stat()
            os.kill(first, signal.SIGTERM)
            # Down to the entry that is left because the worker that started it does not ask after it: its connections are closed.
            wait_for(
                lambda: (
                    len(os.listdir(f"/proc/{first}/task")) == 1 and Path(f"/proc/{first}/stat").read_text().split()[2] == "Z"
                )
            )
            assert (own_layout.run / "encoder.sock").stat() == successor
            assert answered_by(old) == second


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    config = layout.user_scripts / "vdx_worker.json"
    config.write_text(config.read_text().replace('"vdx-tiny"', '"ViT-B-32/no-such-tag"'))
    with Worker(layout.user_scripts) as worker:
        worker.send([b"x"])
        assert worker.ends() == 1
        words = worker.last_words()
        assert words.startswith("encode_text: the encoder service stopped while starting: ")
        assert "open_clip knows no weights 'no-such-tag' for 'ViT-B-32'" in words


def test_a_service_that_takes_too_long_is_said_so_and_a_worker_stops_waiting_when_its_input_closes(own_layout, tmp_path):
    config = own_layout.user_scripts / "vdx_worker.json"
    loading = tmp_path / "loading"
    loading.touch()
    forever = ["sh", "-c", f"while [ -e '{loading}' ]; do sleep 0.1; done"]
    slow = json.loads(config.read_text()) | {"serve": forever, "start_seconds": 1}
    config.write_text(json.dumps(slow))
    with Worker(own_layout.user_scripts) as worker:
        worker.send([b"x"])
        assert worker.ends() == 1
        words = worker.last_words()
        assert words.startswith("encode_text: the encoder service is not ready after 1 s; it may still be loading")
        assert words.endswith(f"so try again later (log: {own_layout.run}/encoder.log)\n")
    config.write_text(json.dumps(slow | {"start_seconds": 86_400}))
    with Worker(own_layout.user_scripts) as worker:
        worker.send([b"x"])
        time.sleep(0.5)
        worker.process.stdin.close()
        assert worker.ends() == 0
    loading.unlink()


def test_bytes_that_are_not_native_end_the_worker_with_a_sentence(layout, client):
    with Worker(layout.user_scripts) as worker:
        worker.process.stdin.write(b"\x01\x01\x04text\x07Float32" + b"\0" * 4)
        assert worker.ends() == 1
        assert worker.last_words() == "encode_text: column 'text' is Float32, not String: convert it with CAST\n"


def pythons() -> list[str]:
    """The python3 interpreters of this machine from 3.9 on, one of each version."""
    found = {}
    for minor in range(9, 15):
        candidates = [
            Path(shutil.which(f"python3.{minor}") or ""),
            *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"),
        ]
        for path in candidates:
            if path.is_file() and "shims" not in path.parts:  # a shim is a shell script that may refuse to run
                found[minor] = str(path)
    return list(found.values())


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).resolve().name)
def test_any_python3_runs_the_worker(layout, client, python):
    with Worker(layout.user_scripts, python=python) as worker:
        assert worker.ask([b"a red circle"])[0].shape == (512,)


def test_the_worker_uses_nothing_newer_than_python_3_9():
    import ast

    for path in (Path(__file__).parents[2] / "user_scripts").iterdir():
        if path.is_file():
            tree = ast.parse(path.read_text(), feature_version=(3, 9))
            imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
            assert imported - {"vdx_worker"} <= set(sys.stdlib_module_names)


def test_memory_and_start_are_small(layout, client):
    """The figures that docs/how-it-works.md states; the bounds are the contract's, memory only (no time is asserted)."""
    with Worker(layout.user_scripts) as worker:
        worker.ask([b"a cached text"])
        worker.ask([b"row %d" % (n % 50) for n in range(100_000)])
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        assert peak < 20_000, f"{peak} kB"


def test_a_large_answer_streams_while_the_block_still_arrives(layout, client):
    """Rows come back before the last input is sent: nothing waits for a whole block."""
    with Worker(layout.user_scripts) as worker:
        values = [b"distinct text %d" % n for n in range(3_000)]
        block = io.BytesIO(b"".join(native.write_block([("text", native.String(), values)], len(values))))
        worker.process.stdin.write(block.read(len(block.getvalue()) // 2))
        first = worker.receive_some()
        assert 0 < first < len(values)
        worker.process.stdin.write(block.read())
        assert first + len(worker.receive(len(values) - first)) == len(values)
