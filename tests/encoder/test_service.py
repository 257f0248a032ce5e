"""The encoder service: one per socket, batches across connections, and nothing of one request reaches another."""

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import wait_for
from tests.encoder.conftest import VERSION, asked, connected, frame, ready, serving, threads
from vdx_udf import settings
from vdx_udf.encoder import native, ways
from vdx_udf.encoder import threads as begun
from vdx_udf.encoder.encoder import Encoder
from vdx_udf.encoder.fair_pool import FairPool
from vdx_udf.encoder.fair_queue import IMAGE
from vdx_udf.encoder.image import ImageSource
from vdx_udf.encoder.regions import pyramid
from vdx_udf.encoder.tickets import EncodeError
from vdx_udf.encoder.urls import UrlRules
from vdx_udf.settings import LABEL_SETS
from vdx_udf.tiny.pictures import draw, sample_picture

VECTOR = native.parse_type("Array(Float32)")
INFORMATION = native.parse_type("Map(String, String)")


@pytest.fixture
def encoder(clip):
    return Encoder(clip, ImageSource()).start()


class Counting:
    """The real model, counting what it is asked; `broken` inputs make a whole batch fail, as a tower would."""

    def __init__(self, clip, broken: str | None = None, hold: threading.Event | None = None):
        self._clip, self.broken, self.hold = clip, broken, hold
        self.batches: list[int] = []
        self.pictures = 0
        self.called = threading.Event()

    def __getattr__(self, name):
        return getattr(self._clip, name)

    def encode_tokens(self, texts):
        self.called.set()
        if self.hold:
            self.hold.wait()
        self.batches.append(len(texts))
        if self.broken and any(torch.equal(tokens, self._clip.tokens([self.broken])[0]) for tokens in texts):
            raise RuntimeError("no memory for this batch")
        return self._clip.encode_tokens(texts)

    def encode_images(self, pixels):
        if self.hold:
            self.hold.wait()
        self.pictures += len(pixels)
        return self._clip.encode_images(pixels)


def test_texts_of_all_connections_share_batches(clip):
    hold = threading.Event()
    model = Counting(clip, hold=hold)
    encoder = Encoder(model, ImageSource()).start()
    tickets = [encoder.submit_texts(client, [f"client {client} text {n}".encode() for n in range(8)]) for client in range(9)]
    hold.set()
    for client, ticket in enumerate(tickets):
        expected = clip.encode_texts([f"client {client} text {n}" for n in range(8)])
        assert np.allclose(ticket.vectors(), expected, atol=1e-5)
    assert sum(model.batches) == 72
    assert len(model.batches) <= 4  # the first may start before the others are in


def test_a_small_request_is_not_stuck_behind_a_large_one(clip):
    hold = threading.Event()
    model = Counting(clip, hold=hold)
    encoder = Encoder(model, ImageSource()).start()
    large = encoder.submit_texts("large", [b"large %d" % n for n in range(1000)])
    small = encoder.submit_texts("small", [b"small"])
    hold.set()
    small.vectors()
    assert large.pending > 500
    assert len(large.vectors()) == 1000


def test_an_input_that_fails_costs_its_own_row_only(clip):
    model = Counting(clip, broken="bad")
    encoder = Encoder(model, ImageSource()).start()
    good, bad = encoder.submit_texts(1, [b"one", b"two", b"three"]), encoder.submit_texts(2, [b"four", b"bad"])
    assert good.vectors().shape == (3, 512)
    with pytest.raises(EncodeError, match="'bad': the model failed: RuntimeError: 'no memory for this batch'"):
        bad.vectors()
    outcomes = encoder.submit_texts(3, [b"four", b"bad", b"five"]).outcomes()
    assert [isinstance(outcome, str) for outcome in outcomes] == [False, True, False]


def test_repeated_inputs_are_encoded_once(clip):
    model = Counting(clip)
    encoder = Encoder(model, ImageSource()).start()
    first = encoder.submit_texts(1, [b"a", b"b", b"a", b"a"]).vectors()
    again = encoder.submit_texts(2, [b"b", b"a"]).vectors()
    assert np.array_equal(first[[1, 0]], again)
    assert sum(model.batches) == 2
    info = encoder.info()
    assert (info["text.rows"], info["text.cache_hits"], info["cached_embeddings"]) == ("6", "4", "2")


def test_the_least_recently_used_leaves_the_cache(clip):
    model = Counting(clip)
    encoder = Encoder(model, ImageSource(), cache_entries=2).start()
    for text in (b"a", b"b", b"a", b"c", b"a", b"b"):  # b is the oldest when c comes
        encoder.submit_texts(1, [text]).vectors()
    assert sum(model.batches) == 4
    assert encoder.info()["cached_embeddings"] == "2"


def test_work_that_nobody_waits_for_is_not_done(clip):
    hold = threading.Event()
    model = Counting(clip, hold=hold)
    encoder = Encoder(model, ImageSource()).start()
    first = encoder.submit_texts(1, [b"first"])
    model.called.wait()
    gone = encoder.submit_texts(2, [b"gone", b"shared"])
    kept = encoder.submit_texts(3, [b"shared", b"kept"])
    encoder.drop([gone])
    with pytest.raises(ConnectionAbortedError):
        gone.vectors()
    hold.set()
    first.vectors()
    assert kept.vectors().shape == (2, 512)
    assert sum(model.batches) == 3


def test_pictures_are_decoded_and_encoded_like_one_by_one(clip, encoder):
    rng = np.random.default_rng(5)
    contents = []
    for _ in range(70):
        buffer = io.BytesIO()
        draw(sample_picture(rng)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    from vdx_udf.encoder.decoding import decode

    vectors = encoder.submit_images("client", contents).vectors()
    alone = np.concatenate([clip.encode_images([clip.pixels(decode(c))]) for c in contents])
    assert np.allclose(vectors, alone, atol=1e-5)
    assert not encoder.ledger.is_known((IMAGE, "x"))


def png(picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_slow_picture_holds_up_no_other(clip, monkeypatch):
    """One URL does not answer; the pictures asked for after it do, from the same client and from another."""
    monkeypatch.setattr("vdx_udf.settings.URL_SECONDS", 3600)
    rng, released = np.random.default_rng(6), threading.Event()
    contents = [png(draw(sample_picture(rng))) for _ in range(12)]

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            released.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(contents[0])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        encoder = Encoder(clip, ImageSource(urls=UrlRules(["127.0.0.1"]))).start()
        slow = encoder.submit_images(1, [f"http://127.0.0.1:{server.server_port}/x.png".encode(), contents[1]])
        others = [encoder.submit_images(client, contents[2:]).vectors() for client in (1, 2)]
        wait_for(lambda: slow.pending == 1)
        released.set()
        first, second = slow.vectors()
        server.shutdown()
    assert np.array_equal(*others)
    assert np.array_equal(first, encoder.submit_images(3, [contents[0]]).vectors()[0])
    assert not np.array_equal(first, second)


def test_a_small_request_does_not_wait_behind_the_pictures_of_a_large_one(clip):
    """Decoding, too, takes from all clients in turn."""
    rng = np.random.default_rng(8)
    contents = [png(draw(sample_picture(rng))) for _ in range(600)]
    hold, left = threading.Event(), []

    class Watched(Counting):
        def encode_images(self, pixels):
            self.hold.wait()
            if small.pending == 0:
                left.append(large.pending)
            return super().encode_images(pixels)

    encoder = Encoder(Watched(clip, hold=hold), ImageSource()).start()
    large = encoder.submit_images("large", contents[1:])
    small = encoder.submit_images("small", contents[:1])
    hold.set()
    assert len(large.vectors()) == 599
    assert left[0] > 100  # in the batch after the small one's


def test_thumbnails_and_embeddings_take_turns(encoder):
    """A screen's few thumbnails wait for no load's pictures, nor the other way round."""
    rng = np.random.default_rng(8)
    contents = [png(draw(sample_picture(rng))) for _ in range(300)]
    hold = threading.Event()
    for work in (
        lambda client, values: encoder.submit_images(client, values),
        lambda client, values: encoder.submit_thumbnails(client, values, [48] * len(values)),
    ):
        hold.clear()
        for _ in range(os.cpu_count() or 1):  # until all have been submitted
            encoder.pools.decoders.submit("before", hold.wait)
        large = work("large", contents)
        small, left = encoder.submit_thumbnails("small", contents[:3], [32, 48, 64]), []
        encoder.pools.decoders.submit("small", partial(lambda large, left: left.append(large.pending), large, left))
        hold.set()
        assert [max(Image.open(io.BytesIO(found)).size) for found in small.values()] == [32, 48, 64]
        assert len(large.outcomes()) == 300
        assert left[0] > 200


def test_thumbnails_that_nobody_waits_for_are_not_made(encoder):
    hold = threading.Event()
    for _ in range(os.cpu_count() or 1):
        encoder.pools.decoders.submit("before", hold.wait)
    ticket = encoder.submit_thumbnails(1, [png(draw(sample_picture(np.random.default_rng(8))))], [48])
    encoder.drop([ticket])
    hold.set()
    encoder.submit_thumbnails(1, [b"\xff none"], [48]).outcomes()  # the same client's next, so that its turn has come
    assert ticket.entries[0].value is None


def test_a_picture_of_many_parts_lets_others_in_and_is_cut_once(clip):
    rng = np.random.default_rng(10)
    large, small = (png(draw(sample_picture(rng)).resize((1200, 128))), png(draw(sample_picture(rng))))
    hold, model = threading.Event(), Counting(clip)
    model.hold = hold
    encoder = Encoder(model, ImageSource()).start()
    cut = encoder.submit_regions("cut", [large], [2])
    (regions,) = cut.values()  # cut, and its parts wait for the model
    other = encoder.submit_images("other", [small])
    hold.set()
    assert other.vectors().shape == (1, 512)
    assert regions.ticket.pending > 150
    assert regions.ticket.vectors().shape == (len(regions.boxes), 512) == (241, 512)
    before = model.pictures
    (again,) = encoder.submit_regions("cut", [large], [2]).values()
    assert np.array_equal(again.ticket.vectors(), regions.ticket.vectors())
    assert model.pictures == before


def test_parts_that_nobody_waits_for_are_not_encoded(clip):
    rng = np.random.default_rng(11)
    hold, model = threading.Event(), Counting(clip)
    model.hold = hold
    encoder = Encoder(model, ImageSource()).start()
    ticket = encoder.submit_regions("gone", [png(draw(sample_picture(rng)).resize((1200, 128)))], [2])
    ticket.values()
    encoder.drop([ticket])
    hold.set()
    encoder.submit_images("next", [png(draw(sample_picture(rng)))]).vectors()
    assert model.pictures <= 2 * settings.BATCH["cpu"]["image"]


def test_a_part_that_the_model_fails_on_costs_its_picture(clip):
    rng = np.random.default_rng(12)
    good, bad = (png(draw(sample_picture(rng)).resize((256, 256))) for _ in range(2))

    class Failing(Counting):
        def encode_images(self, pixels):
            if any(torch.equal(part, broken) for part in pixels):
                raise RuntimeError("no memory for this batch")
            return super().encode_images(pixels)

    broken = list(clip.regions(Image.open(io.BytesIO(bad)), pyramid(256, 256, 1, clip.preprocess.side)))[3]
    encoder = Encoder(Failing(clip), ImageSource()).start()
    fine, failed = encoder.submit_regions(1, [good, bad], [1, 1]).values()
    assert fine.ticket.vectors().shape == (5, 512)
    with pytest.raises(EncodeError, match="the model failed: RuntimeError"):
        failed.ticket.vectors()


def test_large_pictures_are_decoded_one_at_a_time_and_like_others(clip, monkeypatch):
    rng = np.random.default_rng(9)
    contents = [png(draw(sample_picture(rng))) for _ in range(20)]
    expected = Encoder(clip, ImageSource()).start().submit_images(1, contents).vectors()
    monkeypatch.setattr("vdx_udf.settings.LARGE_PIXELS", 1)
    encoder = Encoder(clip, ImageSource()).start()
    assert np.allclose(encoder.submit_images(1, [*contents, b"\xff none"]).outcomes()[0], expected[0], atol=1e-5)
    assert np.allclose(encoder.submit_images(2, contents).vectors(), expected, atol=1e-5)
    assert not encoder.pools._large.locked()


class Stillborn(threading.Thread):
    """One that finds no memory before it has begun, which Thread.start waits for in vain."""

    def _bootstrap(self):
        pass


def test_a_thread_that_never_begins_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(begun, "BEGIN_SECONDS", 0.2)
    with pytest.raises(MemoryError):
        begun.start(Stillborn(daemon=True))
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    begun.start(thread)
    thread.join()
    assert done.is_set()


def test_work_that_raises_costs_its_pool_no_thread():
    pool, done = FairPool(1, "test"), threading.Event()
    pool.submit(1, lambda: 1 / 0)
    pool.submit(2, done.set)
    done.wait()


@pytest.mark.parametrize("step", ["digest", "decoders", "readers"])
def test_memory_that_ends_between_two_steps_costs_its_row_and_hangs_none(clip, tmp_path, monkeypatch, step):
    """Each step of a picture's way raises once; the same picture is then asked for again."""
    path = tmp_path / "a.png"
    draw(sample_picture(np.random.default_rng(8))).save(path)
    encoder = Encoder(clip, ImageSource((tmp_path,))).start()
    owner, name = (ways, "digest") if step == "digest" else (getattr(encoder.pools, step), "submit")
    plain, failures = getattr(owner, name), iter([MemoryError()])

    def failing(*arguments):
        if error := next(failures, None):
            raise error
        return plain(*arguments)

    monkeypatch.setattr(owner, name, failing)
    if step == "readers":  # the connection's own thread: the connection ends, others go on
        with pytest.raises(MemoryError):
            encoder.submit_images("a", [str(path).encode()])
    else:
        assert encoder.submit_images("a", [str(path).encode()]).outcomes() == ["no memory is left for it"]
    (vector,) = encoder.submit_images("b", [str(path).encode()]).outcomes()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    for _ in range(settings.READ_AHEAD + 1):  # none of the places to read ahead was lost
        assert isinstance(encoder.submit_images("c", [str(path).encode()]).outcomes()[0], np.ndarray)


def test_the_same_content_under_other_names_is_encoded_once(clip, tmp_path):
    content = png(draw(sample_picture(np.random.default_rng(7))))
    names = [tmp_path / f"{n}.png" for n in range(40)]
    for name in names:
        name.write_bytes(content)
    hold = threading.Event()
    model = Counting(clip, hold=hold)
    encoder = Encoder(model, ImageSource((tmp_path,))).start()
    ticket = encoder.submit_images(1, [str(name).encode() for name in names] + [content, b"/no/such/file"])
    hold.set()
    outcomes = ticket.outcomes()
    assert all(np.array_equal(vector, outcomes[0]) for vector in outcomes[:41])
    assert "cannot be read" in str(outcomes[41]) or "outside" in str(outcomes[41])
    assert model.pictures == 1
    names[0].write_bytes(png(draw(sample_picture(np.random.default_rng(8)))))
    assert not np.array_equal(encoder.submit_images(1, [str(names[0]).encode()]).vectors()[0], outcomes[0])


def test_label_embeddings_are_kept(clip):
    model = Counting(clip)
    encoder = Encoder(model, ImageSource(), cache_entries=1).start()
    first = encoder.embed_labels(1, (b"red", b"blue"))
    passes = len(model.batches)
    assert encoder.embed_labels(2, (b"red", b"blue")) is first
    assert len(model.batches) == passes
    assert np.allclose(encoder.embed_labels(1, (b"blue", b"red")), first[::-1], atol=1e-6)
    for n in range(LABEL_SETS):
        encoder.embed_labels(1, (b"%d" % n,))
    assert encoder.embed_labels(2, (b"red", b"blue")) is not first


@pytest.fixture
def served(tmp_path):
    """A function that starts `vdx serve` on a socket of this test's own."""
    started = []

    def start(*options: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "vdx_udf",
            "serve",
            "--socket",
            str(tmp_path / "e.sock"),
            "--model",
            "vdx-tiny",
            *options,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_second_instance_refuses_to_start_and_the_socket_is_private(served, tmp_path):
    first = served()
    ready(first)
    assert (tmp_path / "e.sock").stat().st_mode & 0o777 == 0o600
    second = served()
    assert second.wait() == 1
    assert f"an encoder service already runs on {tmp_path}/e.sock (process {first.pid})" in second.stderr.read()
    with connected(tmp_path) as connection:
        assert frame(asked(connection))[0] == b"D"


def ask_now_and_then(folder: Path, idle: float, started: float) -> tuple[socket.socket, float] | None:
    """Asks for longer than the service may be idle; gives the connection and the moment of the last question.

    None if the machine held this test up for so long that the service ended in between, as it should: try a longer idle time.
    """
    connection, before = None, started
    try:
        connection = connected(folder)
        begun = last = time.monotonic()
        while last - begun <= idle:
            time.sleep(idle / 4)
            last = time.monotonic()
            asked(connection)
            assert [frame(connection)[0], frame(connection)[0]] == [b"D", b"B"]
            before = last
    except (OSError, AssertionError):
        if connection:
            connection.close()
        if time.monotonic() - before < idle:
            raise
        return None
    return connection, last


@pytest.mark.long
def test_it_stops_when_idle_and_not_before(served, tmp_path):
    for idle in (3, 30, 300):
        started, process = time.monotonic(), served("--idle-seconds", str(idle))
        ready(process)
        if kept := ask_now_and_then(tmp_path, idle, started):
            break
    connection, last = kept
    assert process.wait() == 0  # though a worker stays connected
    assert time.monotonic() - last > idle
    assert connection.recv(1) == b""
    connection.close()
    assert not (tmp_path / "e.sock").exists()


def test_sigterm_ends_it_and_removes_the_socket(served, tmp_path):
    process = served()
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not (tmp_path / "e.sock").exists()


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        (b"vdx/1 encode_text\n", "the worker is of '' and speaks 'vdx/1': stop the service"),
        (b"vdx/2 encode_text 0.0.1 vdx-tiny\n", "the worker is of '0.0.1' and speaks 'vdx/2': stop the service"),
        (
            b"vdx/2 encode_text %s ViT-B-32/openai\n" % VERSION,
            "runs model vdx-tiny, this function was installed for ViT-B-32/openai",
        ),
        (b"vdx/2 rm %s vdx-tiny\n" % VERSION, "this encoder service has no function 'rm'"),
        (b"GET / HTTP/1.1\r\n", "speaks 'GET': stop the service"),
        (b"x" * 6000, "speaks 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx': stop the service"),
    ],
)
def test_a_stranger_is_told_what_is_spoken_here(served_once, hello, sentence):
    with connected(served_once, hello) as connection:
        kind, body = frame(connection)
    assert kind == b"X"
    assert sentence in body.decode()


@pytest.fixture(scope="module")
def served_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with serving(folder):
        yield folder


def test_garbage_on_one_connection_leaves_the_others_alone(served_once):
    def garbage(n: int) -> bytes:
        with connected(served_once) as connection:
            connection.sendall(
                np.random.default_rng(n).bytes(5000) if n % 2 else b"\x01\x01\x04text\x06String\xff\xff\xff\xff\xff\x7f"
            )
            connection.shutdown(socket.SHUT_WR)
            return frame(connection)[0]

    def honest(n: int) -> np.ndarray:
        with connected(served_once) as connection:
            kind, body = frame(asked(connection))
            assert kind == b"D"
            pieces = [body]
            return native.read_block(native.Stream(lambda size: pieces.pop() if pieces else b""), [VECTOR])[0].values

    with ThreadPoolExecutor(8) as pool:
        broken = list(pool.map(garbage, range(20)))
        vectors = list(pool.map(honest, range(20)))
    assert set(broken) == {b"X"}
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


def test_connections_that_are_reset_leave_no_thread_behind(served_once):
    with connected(served_once) as connection:  # the decoders and the model's own threads exist from here on
        frame(asked(connection))
    before = threads(served_once)
    for n in range(20):
        with connected(served_once) as connection:
            connection.sendall(b"".join(native.write_block([("text", native.String(), [b"reset %d" % n] * 3000)], 3000)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: threads(served_once) <= before)


def information(folder) -> dict[bytes, bytes]:
    """What encoder_info() answers."""
    with connected(folder, b"vdx/2 vdx_encoder_info %s vdx-tiny\n" % VERSION) as connection:
        connection.sendall(b"".join(native.write_block([("unused", native.String(), [b""])], 1)))
        pieces = [frame(connection)[1]]
    (answer,) = native.read_block(native.Stream(lambda _: pieces.pop() if pieces else b""), [INFORMATION])
    return dict(zip(*answer.values, strict=True))


def test_a_client_that_leaves_in_mid_block_leaves_nothing_behind(served_once):
    before = int(information(served_once)[b"text.encoded"])
    block = b"".join(native.write_block([("text", native.String(), [b"leaving %d" % n for n in range(5000)])], 5000))
    for _ in range(10):
        with connected(served_once) as connection:
            connection.sendall(block)
            frame(connection)
    with connected(served_once) as connection:
        assert frame(asked(connection))[0] == b"D"
    assert int(information(served_once)[b"text.encoded"]) - before < 25_000  # of 50,000 that nobody waits for


def members(folder) -> list[int]:
    group = int((folder / "e.lock").read_text())
    return [int(pid) for pid in Path(f"/proc/{group}/task/{group}/children").read_text().split()]


@pytest.fixture
def group(served, tmp_path):
    """Two encoder processes behind one socket, as two GPUs would have; both on the CPU here."""
    process = served("--device", "cpu", "--device", "cpu")
    wait_for((tmp_path / "e.sock").exists, process)
    return process


@pytest.mark.long
def test_several_devices_answer_behind_one_socket(group, clip, tmp_path):
    expected = clip.encode_texts(["a star"])[0]
    processes = set()
    while len(processes) < 2:  # the second one may still load its model
        assert group.poll() is None, group.stderr.read()
        processes.add(information(tmp_path)[b"pid"])
        with connected(tmp_path) as connection:
            pieces = [frame(asked(connection))[1]]
            (vector,) = native.read_block(native.Stream(lambda _, p=pieces: p.pop() if p else b""), [VECTOR])
            assert (vector.values @ expected) > 0.999
    assert processes == {b"%d" % pid for pid in members(tmp_path)}


@pytest.mark.long
def test_a_group_stops_when_all_its_members_are_idle(served, tmp_path):
    for idle in (4, 40, 400):
        started, process = time.monotonic(), served("--device", "cpu", "--device", "cpu", "--idle-seconds", str(idle))
        left = wait_for(lambda: (tmp_path / "e.sock").exists() and members(tmp_path), process)
        if kept := ask_now_and_then(tmp_path, idle, started):
            break
    connection, last = kept
    assert process.wait() == 0
    assert time.monotonic() - last > idle
    connection.close()
    assert not (tmp_path / "e.sock").exists()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))


@pytest.mark.long
@pytest.mark.parametrize("victim", ["member", "group"])
def test_a_group_ends_as_a_whole(group, tmp_path, victim):
    wait_for(lambda: len(members(tmp_path)) == 2)
    all_of_it = members(tmp_path)
    if victim == "member":
        os.kill(all_of_it[0], signal.SIGKILL)
        assert group.wait() == 1
    else:
        group.send_signal(signal.SIGSTOP)
        with connected(tmp_path) as connection:  # what members report of it stays unread
            assert frame(asked(connection))[0] == b"D"
        group.kill()
        group.wait()
    wait_for(
        lambda: (
            not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in all_of_it)
        )
    )
