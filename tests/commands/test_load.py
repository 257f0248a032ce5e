"""Loading pictures: the inbox, the SQL files of the data sets, `vdx load`, and what a stop in the middle leaves."""

import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.conftest import Terminal
from tests.conftest import Moments, vdx
from vdx_udf.commands import load
from vdx_udf.commands.load import LoadError
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import draw, sample_picture


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    """An installed prefix for `vdx` as a process of its own."""
    folder = tmp_path_factory.mktemp("load") / "prefix"
    list(install(Layout.embedded(folder), "vdx-tiny"))
    yield folder
    stop_encoder(Layout.embedded(folder))


def encoded(client) -> int:
    """How many different inputs the encoder has embedded since it started."""
    return int(client.query("SELECT encoder_info()['cached_embeddings']").result_rows[0][0])


def png(rng: np.random.Generator, path: Path) -> bytes:
    draw(sample_picture(rng)).save(path)
    return path.read_bytes()


# The inbox


def test_the_inbox_embeds_once_and_remembers_how(fresh_tables, drawn):
    client, (folder, _) = fresh_tables, drawn
    again = f"INSERT INTO inbox (source, bytes) SELECT _path, raw_blob FROM file('{folder}/000*.png', RawBLOB)"
    client.command(again)
    (info,) = client.query("SELECT encoder_info()").result_rows[0]
    served = info["image.rows"]
    assert info["preprocessing"] == (
        "64x64 shortest bicubic, mean 0.5000 0.5000 0.5000, std 0.2500 0.2500 0.2500, jpeg scale 2"
    )
    assert client.query("SELECT model, weights_hash, preprocessing, count() FROM images GROUP BY ALL").result_rows == [
        ("vdx-tiny", info["weights_hash"], info["preprocessing"], 10)
    ]
    wanted = {str(folder / f"000{n}.png"): hashlib.sha256((folder / f"000{n}.png").read_bytes()).hexdigest() for n in range(10)}
    assert dict(client.query("SELECT source, lower(hex(content_hash)) FROM images").result_rows) == wanted
    client.command(again)
    assert client.query("SELECT count() FROM images").result_rows == [(10,)]
    assert client.query("SELECT encoder_info()['image.rows']").result_rows == [(served,)]


def test_a_picture_known_under_another_name_is_not_embedded_again(fresh_tables, layout, drawn):
    client, content = fresh_tables, (drawn[0] / "0004.png").read_bytes()
    client.command("INSERT INTO inbox (source, bytes) VALUES ('first', {b:String})", {"b": content})
    stop_encoder(layout)  # and with it the encoder's own cache
    client.command(
        "INSERT INTO inbox (source, dataset, bytes) VALUES ('second', '', {b:String}), ('third', 'other', {b:String})",
        {"b": content},
    )
    assert encoded(client) == 0
    rows = dict(client.query("SELECT source, vector FROM images").result_rows)
    exact = client.query(f"SELECT encode_image('{drawn[0]}/0004.png')").result_rows[0][0]
    assert np.allclose(rows["first"], exact, atol=1e-6)
    for name in ("second", "third"):
        assert 1 - 1e-6 < np.dot(rows[name], exact) < 1
        assert np.linalg.norm(rows[name]) == pytest.approx(1, abs=1e-5)


def test_thousands_of_copies_do_not_hold_up_the_index(fresh_tables, drawn):
    """Equal vectors cost the index 17 ms each, so 3,000 of them would take a minute."""
    client, content = fresh_tables, (drawn[0] / "0005.png").read_bytes()
    before = encoded(client)
    client.command(f"INSERT INTO inbox (source, bytes) SELECT toString(number), unhex('{content.hex()}') FROM numbers(3000)")
    client.command("INSERT INTO inbox (source, bytes) SELECT 'later', unhex({h:String})", {"h": content.hex()})
    assert encoded(client) == before + 1
    assert client.query("SELECT count(), uniqExact(vector) FROM images").result_rows == [(3001, 3001)]
    exact = client.query(
        "SELECT sum(vector = encode_image({p:String})) FROM images", {"p": str(drawn[0] / "0005.png")}
    ).result_rows
    assert exact == [(1,)]
    client.command("ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 1")


def test_what_looks_like_a_path_or_a_url_is_only_read_as_a_source(fresh_tables, drawn):
    """A short text file must not make the encoder open another file."""
    client, picture = fresh_tables, str(drawn[0] / "0001.png")
    client.command(
        "INSERT INTO inbox (source, bytes) VALUES ('a', {p:String}), ('b', 'http://127.0.0.1:1/x.png')", {"p": picture}
    )
    assert client.query("SELECT count() FROM images").result_rows == [(0,)]
    errors = dict(client.query("SELECT source, error FROM rejects").result_rows)
    assert errors.keys() == {"a", "b"}
    assert all(error.startswith("not a picture; formats") for error in errors.values())
    client.command(
        "INSERT INTO inbox (source) VALUES ({p:String}), ('/no/such.png'), ('http://127.0.0.1:1/x.png')", {"p": picture}
    )
    assert client.query("SELECT source FROM images").result_rows == [(picture,)]
    errors = dict(client.query("SELECT source, error FROM rejects WHERE source LIKE '%/%'").result_rows)
    assert errors["/no/such.png"] == "cannot be read: No such file or directory"
    assert "URLs are switched off" in errors["http://127.0.0.1:1/x.png"]


def test_vectors_of_another_model_are_not_compared(loaded):
    loaded.command(
        "INSERT INTO images (source, dataset, model, weights_hash, vector)"
        " SELECT 'x', 'old', 'ViT-B-32/openai', 'abc', encode_text('a')"
    )
    wanted = (
        r"images holds {}, but the encoder runs vdx-tiny \(weights \w+\), and vectors of"
        r" different models do not compare: install the other model with vdx install, or load the pictures again and DELETE FROM"
        r" images WHERE weights_hash != '(\w+)'"
    )
    a_hit, all_of_them = (
        r"vectors of ViT-B-32/openai \(weights abc\)",
        r"1 vectors of ViT-B-32/openai \(weights abc\)",
    )
    ((one,),) = loaded.query("SELECT id FROM images WHERE dataset = 'rare' LIMIT 1").result_rows
    for search, held in (
        ("search_text(query = 'a', k = 3)", a_hit), ("search_vector(vector = encode_text('a'), k = 3)", a_hit),
        ("search_image(image = (SELECT bytes FROM picture(source = (SELECT any(source) FROM images WHERE dataset = 'rare'))), k = 301)", a_hit),
        (f"search_id(image_id = {one}, k = 301)", a_hit), ("search_text_excluding(query = 'a', exclude = [], k = 3)", a_hit),
        ("search_text_where(query = 'a', dataset = '', attribute = '', value = '', k = 3)", a_hit),
        ("search_text_where(query = 'a', dataset = '', attribute = '', value = '', k = 1001)", a_hit),
        ("search_mix(texts = ['a'], weights = [1], k = 3)", a_hit), ("search_hybrid(query = 'a', dataset = '', k = 3)", a_hit),
        ("search_page(vector = encode_text('a'), dataset = '', k = 3, start = 0)", a_hit),
        ("search_filtered(vector = encode_text('a'), datasets = ['old'], any_of = map(), none_of = map(), at_least = map(), at_most = map(),"
         " caption = '', exclude = [], k = 3)", a_hit),
        ("zero_shot(labels = ['a', 'b'], template_set = 'default')", all_of_them),
    ):  # fmt: skip
        with pytest.raises(Exception, match=wanted.format(held)) as caught:
            loaded.query(f"SELECT * FROM {search}")
    # A search whose hits all compare goes on, and so do all where newer rows replaced those of the other model.
    assert len(loaded.query(f"SELECT * FROM search_id(image_id = {one}, k = 3)").result_rows) == 3
    from vdx_udf.errors import readable

    assert readable(caught.value).startswith("images holds 1 vectors of ViT-B-32/openai")
    assert readable(caught.value).endswith("'")
    loaded.command(
        "INSERT INTO inbox (dataset, source, bytes) SELECT 'old', 'x', bytes FROM picture(source = (SELECT any(source) FROM images WHERE dataset = 'rare'))"
    )
    assert loaded.query(
        "SELECT model, count() FROM images WHERE dataset = 'old' GROUP BY model ORDER BY model"
    ).result_rows == [("ViT-B-32/openai", 1), ("vdx-tiny", 1)]
    assert len(loaded.query("SELECT * FROM search_text(query = 'a', k = 301)").result_rows) == 301
    assert loaded.query("SELECT count() FROM zero_shot(labels = ['a', 'b'], template_set = 'default')").result_rows == [(301,)]
    loaded.command("DELETE FROM images WHERE weights_hash = 'abc'")
    assert len(loaded.query("SELECT * FROM search_text(query = 'a', k = 3)").result_rows) == 3


def test_vectors_whose_weights_nobody_noted_compare_by_their_models_name(loaded):
    loaded.command("INSERT INTO images (source, dataset, model, vector) SELECT 'x', 'imported', 'vdx-tiny', encode_text('a')")
    assert len(loaded.query("SELECT * FROM search_text(query = 'a', k = 3)").result_rows) == 3
    loaded.command("INSERT INTO images (source, dataset, vector) SELECT 'y', 'imported', encode_text('a')")
    with pytest.raises(Exception, match=r"images holds vectors of a model that is not named \(weights unknown\)"):
        loaded.query("SELECT * FROM search_text(query = 'a', k = 3)")
    with pytest.raises(Exception, match=r"images holds 1 vectors of a model that is not named \(weights unknown\)"):
        loaded.query("SELECT * FROM comparable")


# A folder


def test_a_folder_is_loaded_again_for_what_is_new_or_changed(run_file, fresh_tables, tmp_path):
    client, rng = fresh_tables, np.random.default_rng(11)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for n in range(30):
        png(rng, tmp_path / ("deep/er" if n % 3 == 0 else "") / f"{n}.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "copy.PNG")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("not asked for")
    first = run_file("folder", path=str(tmp_path), dataset="mine").splitlines()
    assert first[:4] == ["what\tpictures", "inputs\t33", "images\t31", "rejects\t2"]
    assert first[4] == "rejected: a damaged picture, or a kind of JPEG that is not read\t1"
    assert first[5:] == ["rejected: the picture is empty (0 bytes)\t1", "passed over: 1 files of other kinds: .txt 1\t1"]
    assert client.query("SELECT images, images_without_index FROM index_status").result_rows == [(31, 0)]
    before = encoded(client)
    again = run_file("folder", path=str(tmp_path), dataset="mine").splitlines()
    assert again == first
    assert encoded(client) == before
    # One new, one changed, one mended, one broken.
    png(rng, tmp_path / "new.png")
    for name in ("1.png", "broken.jpg"):
        draw(sample_picture(rng)).save(tmp_path / name, "PNG")
    (tmp_path / "2.png").write_bytes(b"no more")
    third = run_file("folder", path=str(tmp_path), dataset="mine").splitlines()
    assert third[1:4] == ["inputs\t34", "images\t32", "rejects\t2"]
    assert encoded(client) == before + 3
    assert client.query("SELECT count(), uniqExact(source), uniqExact(id) FROM current_images").result_rows == [(32, 32, 32)]
    rows = dict(client.query("SELECT source, vector FROM current_images").result_rows)
    for name in ("1.png", "broken.jpg"):
        direct = client.query(f"SELECT encode_image('{tmp_path / name}')").result_rows[0][0]
        assert np.allclose(rows[str(tmp_path / name)], direct, atol=1e-6)
    assert {Path(row[0]).name for row in client.query("SELECT source FROM current_rejects").result_rows} == {
        "2.png",
        "empty.jpg",
    }
    assert client.query("SELECT count() FROM superseded WHERE (id, loaded_at) NOT IN superseded_images").result_rows == [(0,)]


def test_a_glob_and_a_second_folder_join_the_data_set(run_file, fresh_tables, tmp_path):
    rng = np.random.default_rng(12)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            png(rng, tmp_path / folder / f"{n}.png")
    assert run_file("folder", path=f"{tmp_path}/a/{{0,2}}.png").splitlines()[1:] == ["inputs\t2", "images\t2", "rejects\t0"]
    assert run_file("folder", path=f"{tmp_path}/b").splitlines()[1:] == ["inputs\t5", "images\t5", "rejects\t0"]
    assert fresh_tables.query("SELECT dataset, count() FROM images GROUP BY dataset").result_rows == [("folder", 5)]


def test_nothing_to_load_is_an_error(run_file, tmp_path):
    with pytest.raises(Exception, match=f"no pictures: there are none in {tmp_path}"):
        run_file("folder", path=str(tmp_path))


def test_parameters_are_checked_before_anything_runs(layout):
    path = load.dataset_files(layout.sql)["folder"]
    assert load.complete(path, {"path": "/x"}) == {"path": "/x", "dataset": "folder"}
    with pytest.raises(LoadError, match=r"folder.sql needs --param path; it takes path: a folder, or a glob"):
        load.complete(path, {})
    with pytest.raises(LoadError, match=r"folder.sql has no parameter dateset; it takes path: .*default folder"):
        load.complete(path, {"path": "/x", "dateset": "y"})


@pytest.mark.long
def test_the_command_shows_how_far_it_is_and_errors_in_one_line(prefix, tmp_path):
    rng, folder = np.random.default_rng(15), tmp_path / "many"
    folder.mkdir()
    contents = [png(rng, folder / "0.png") for _ in range(300)]
    for n in range(1_000):  # a byte of its own behind the picture makes it another file to every hash
        (folder / f"{n}.png").write_bytes(contents[n % 300] + n.to_bytes(2, "big"))
    terminal = Terminal("load", "folder", folder, "--prefix", prefix, "--param", "dataset=bar")
    terminal.wait_for("/1.00k [")
    terminal.wait_for(" rows/s]")
    terminal.wait_for("images")
    terminal.ends()
    for arguments, error in (
        (("folder", "/no/such"), "Error: no pictures: there are none in /no/such"),
        (("folder",), "Error: folder.sql needs --param path; it takes path: a folder"),
        (("laion", tmp_path), f"Error: no shards: nothing matches {tmp_path}/**/img_emb_*.npy\n"),
        (("nothing", "/x"), "Usage: "),
    ):
        done = vdx("load", *arguments, "--prefix", prefix, check=False)
        assert (done.returncode != 0, done.stderr.startswith(error)) == (True, True), done.stderr


def test_the_steps_that_pictures_share_are_the_same_in_every_file(layout):
    """Each file stands alone for any client, so they are written out in each."""
    texts = [load.dataset_files(layout.sql)[name].read_text() for name in ("folder", "imagenette", "unsplash")]
    for first, last in (("-- Until all is in", "INSERT INTO inbox"), ("-- Rows of one picture", "\n\nSELECT")):
        parts = [text[text.index(first) :] for text in texts]
        assert len({part[: part.index(last)] for part in parts}) == 1


# Ten thousand pictures, three hundred of them broken


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims this size; its one data chunk is empty."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    draw(sample_picture(np.random.default_rng(1))).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def broken_in_ten_ways(good: bytes) -> dict[str, bytes]:
    """What is wrong: a file of that kind. `good` is a PNG."""
    tiff = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(tiff, "TIFF", compression="tiff_lzw")
    return {
        "empty": b"",
        "text": b"<html><body>404 Not Found</body></html>",
        "another format": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "random bytes": random.Random(3).randbytes(3000),
        "cut off": good[: len(good) // 2],
        "a JPEG's head alone": _jpeg()[:300],
        "a bit flipped": good[:60] + bytes([good[60] ^ 0xFF]) + good[61:],
        "a bomb": _png_of(60_000, 60_000),
        "a line": _png_of(8_000, 1),
        "a damaged TIFF": tiff.getvalue()[:-40],
    }


@pytest.mark.long
def test_ten_thousand_pictures_of_which_three_percent_are_broken(run_file, fresh_tables, tmp_path):
    rng = np.random.default_rng(13)
    contents = [png(rng, tmp_path / f"{n:05}.png") for n in range(0, 9_700, 10)]
    for n in range(9_700):  # ten to one with a byte of their own behind the picture: other files to every hash, quick to write
        (tmp_path / f"{n:05}.png").write_bytes(contents[n // 10] + n.to_bytes(2, "big"))
    for kind, content in broken_in_ten_ways(contents[0]).items():
        for n in range(30):
            (tmp_path / f"{kind.replace(' ', '-')}-{n}.png").write_bytes(content + (bytes([n]) if content else b""))
    assert run_file("folder", path=str(tmp_path)).splitlines()[1:4] == ["inputs\t10000", "images\t9700", "rejects\t300"]
    assert fresh_tables.query("SELECT count(), uniqExact(source) FROM images").result_rows == [(9700, 9700)]
    reasons: dict[str, set[str]] = {}
    for source, error in fresh_tables.query("SELECT source, error FROM rejects").result_rows:
        reasons.setdefault(Path(source).stem.rpartition("-")[0].replace("-", " "), set()).add(error)
    assert reasons.keys() == broken_in_ten_ways(contents[0]).keys()
    begins = {
        "empty": "the picture is empty", "text": "not a picture", "another format": "not a picture", "random bytes": "not a picture", "a damaged TIFF": "a damaged picture, or a kind of TIFF that is not read",
        "a bomb": "a picture of more than", "a line": "a picture of 8000 x 1 pixels: its sides",
    }  # fmt: skip
    for kind, found in reasons.items():
        assert all(reason.startswith(begins.get(kind, "a damaged picture: ")) for reason in found), (kind, found)


# A stop in the middle


@pytest.mark.long
def test_kill_in_the_middle_twenty_times(prefix, tmp_path):
    """SIGKILL at a random moment of a load, of the whole process group, every third time of the encoder too."""
    rng = np.random.default_rng(14)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(1_500):
        png(rng, pictures / f"{n:04}.png")
    for n in range(15):
        (pictures / f"bad-{n}.png").write_bytes(b"bad" + bytes([n]))
    command = [sys.executable, "-m", "vdx_udf", "load", "folder", pictures, "--prefix", prefix, "--param", "dataset=killed"]
    moment = Moments(random.Random(5), 6)
    for attempt in range(20):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment.wait(process)
        with contextlib.suppress(ProcessLookupError):  # it was done
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lock = prefix / "run" / "encoder.lock"
        if attempt % 3 == 2 and lock.exists():
            with contextlib.suppress(ValueError, ProcessLookupError):  # not started, or gone
                os.kill(int(lock.read_text()), signal.SIGKILL)
        if attempt == 9:  # so that all of it happens again
            vdx("sql", "--prefix", prefix, "-q", "TRUNCATE TABLE images; TRUNCATE TABLE rejects")
    done = vdx(*command[3:])
    assert done.stdout.splitlines()[1:4] == ["inputs\t1515", "images\t1500", "rejects\t15"]
    assert moment.interrupted >= 5
    everything = "SELECT count(), uniqExact(source), uniqExact(id), countIf(length(vector) = 512) FROM images"
    assert vdx("sql", "--prefix", prefix, "-q", everything).stdout.split() == ["1500"] * 4
    assert vdx("sql", "--prefix", prefix, "-q", "SELECT count(), uniqExact(source) FROM rejects").stdout.split() == ["15"] * 2
    status = vdx("sql", "--prefix", prefix, "-q", "SELECT images_without_index FROM index_status").stdout.split()
    assert status == ["0"]


def test_thumbnails_are_kept_where_a_load_is_asked_to(prefix, tmp_path):
    rng = np.random.default_rng(12)
    for name in ("a", "b", "c"):
        png(rng, tmp_path / f"{name}.png")
    arguments = ("load", "folder", tmp_path, "--prefix", prefix, "--param", "dataset=small")
    assert "thumbnails" not in vdx(*arguments).stdout
    assert vdx(*arguments, "--thumbnails").stdout.splitlines()[-2:] == ["images\tthumbnails\treason", "3\t3\t"]
    png(rng, tmp_path / "d.png")
    (tmp_path / "b.png").unlink()
    again = vdx(*arguments, "--thumbnails", "32").stdout.splitlines()
    assert again[-1] == "4\t3\tcannot be read: No such file or directory"
    held = "SELECT side, count() FROM thumbnails GROUP BY side ORDER BY side"
    assert vdx("sql", "--prefix", prefix, "-q", held).stdout.split() == ["32", "3", "256", "3"]
    refused = vdx(*arguments, "--thumbnails", "8", check=False)
    assert "8 is not in the range 16<=x<=1024" in refused.stderr


def test_pictures_are_measured_where_a_load_is_asked_to(prefix, tmp_path):
    rng = np.random.default_rng(13)
    for name in ("a", "b"):
        png(rng, tmp_path / f"{name}.png")
    arguments = ("load", "folder", tmp_path, "--prefix", prefix, "--param", "dataset=measured")
    assert "measured\treason" not in vdx(*arguments).stdout
    assert vdx(*arguments, "--facts").stdout.splitlines()[-2:] == ["images\tmeasured\treason", "2\t2\t"]
    png(rng, tmp_path / "c.png")
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").rename(tmp_path / "b.png")  # other content under a known name
    assert vdx(*arguments, "--facts").stdout.splitlines()[-1] == "2\t2\t"
    found = "SELECT count(), min(width) > 0 FROM image_facts(dataset = 'measured')"
    assert vdx("sql", "--prefix", prefix, "-q", found).stdout.split() == ["2", "1"]
