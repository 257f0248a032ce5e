"""What the service counts and logs, as SQL and its log show it."""

import json
import os
import signal
import time

from tests.conftest import vdx
from tests.encoder.conftest import Worker, encoder_pid
from vdx_udf import contract
from vdx_udf.errors import readable
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout


def counters(client) -> tuple[dict, dict]:
    functions = client.query("SELECT function, blocks, rows, errors, last_error FROM function_counters").result_rows
    kinds = client.query("SELECT kind, rows, cache_hits, batches, encoded, queue_seconds, compute_seconds FROM batch_counters")
    return {row[0]: row[1:] for row in functions}, {row[0]: row[1:] for row in kinds.result_rows}


def test_rows_batches_hits_and_errors_are_counted(client, drawn):
    picture = str(drawn[0] / "0007.png")
    before, kinds_before = counters(client)
    salt = time.monotonic_ns()
    client.query(f"SELECT encode_text(concat('counted {salt} ', toString(number % 10))) FROM numbers(100)")
    tries = f"['{picture}', '/none/{salt}.png', '{picture}', '/none.png']"
    client.query(f"SELECT try_encode_image(arrayJoin({tries}))")
    for broken in ("SELECT encode_image('/none.png')", "SELECT classify([1., 2.]::Array(Float32), ['a'])"):
        try:
            client.query(broken)
        except Exception as error:
            sentence = readable(error)
    after, kinds = counters(client)
    assert after.keys() == contract.FUNCTIONS.keys()

    def grown(function: str) -> tuple:
        return tuple(new - old for new, old in zip(after[function][:3], before[function][:3], strict=True))

    assert grown("encode_text") == (1, 100, 0)
    assert grown("try_encode_image") == (1, 4, 2)
    assert after["try_encode_image"][3] == "cannot be read: No such file or directory"
    assert grown("encode_image")[1:] == (0, 1)
    assert after["encode_image"][3] == "'/none.png': cannot be read: No such file or directory"
    assert grown("classify")[1:] == (0, 1)
    assert f"classify: {after['classify'][3]}" == sentence
    texts = [new - old for new, old in zip(kinds["text"], kinds_before["text"], strict=True)]
    assert texts[:2] == [100, 90]
    assert texts[3] == 10
    assert 1 <= texts[2] <= 10
    assert texts[5] > 0
    assert client.query("SELECT encoder_info()['last_error']").result_rows == [(after["classify"][3],)]


def test_the_log_has_a_line_for_every_batch_at_debug_and_for_every_problem_at_info(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    vdx("install", "--prefix", layout.state, "--model", "vdx-tiny", "--log-level", "debug")
    with Worker(layout.user_scripts) as worker, Worker(layout.user_scripts, "encode_image") as images:
        worker.ask([b"a star", b"a heart"])
        images.send([b"/no/such/file.png"])
        assert images.ends() == 1
    log = (layout.run / "encoder.log").read_text()
    assert log.count("DEBUG batch: ") >= 1
    assert log.count("INFO encode_image: 1 failed: '/no/such/file.png': cannot be read: No such file or directory") == 1
    assert all(line[:4].isdigit() for line in log.splitlines()), log
    stop_encoder(layout)


def test_a_long_log_is_put_aside_when_the_service_starts(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    log = layout.run / "encoder.log"
    log.write_bytes(b"x" * (17 << 20))
    with Worker(layout.user_scripts) as worker:
        worker.ask([b"a star"])
    assert log.stat().st_size < 10_000
    assert log.with_name("encoder.log.1").stat().st_size == 17 << 20
    stop_encoder(layout)


def test_a_service_of_another_model_is_refused_instead_of_answering_with_its_vectors(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    config = layout.user_scripts / "vdx_worker.json"
    with Worker(layout.user_scripts) as worker:
        worker.ask([b"a star"])
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model": "ViT-B-32/openai"}))
    with Worker(layout.user_scripts) as worker:
        worker.send([b"a star"])
        assert worker.ends() == 1
        assert "runs model vdx-tiny, this function was installed for ViT-B-32/openai: stop the service" in worker.last_words()
    os.kill(encoder_pid(layout), signal.SIGTERM)
    stop_encoder(layout)


def test_what_clickhouse_says_of_a_worker_that_is_gone_becomes_a_sentence():
    """As ClickHouse 26.9 words it."""
    gone = "Code: 754. DB::Exception: User defined function 'classify' failed. Command: 'classify', Arguments: []. Original error: Code: "
    killed = f"{gone}302. DB::Exception: Child process was terminated by signal 9. (CHILD_WAS_NOT_EXITED_NORMALLY)"
    assert readable(Exception(killed)).startswith(
        "classify: its worker process was ended by signal 9, by hand or by the system"
    )
    broken = f"{gone}75. DB::Exception: Cannot write into pipe: , errno: 32, strerror: Broken pipe. (CANNOT_WRITE_TO_FILE_DESCRIPTOR)"
    assert readable(Exception(broken)).startswith("classify: its worker process ended before it took the query in")
