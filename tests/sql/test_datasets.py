"""The published data sets: each SQL file run as `vdx load` runs it, then the published queries."""

import functools
import http.server
import random
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import urllib3
from moto.server import ThreadedMotoServer

from tests import stand_ins
from tests.conftest import Moments, vdx, wait_for
from tests.sql.conftest import documented
from tests.stand_ins import IMAGENETTE, laion_shard, photo_id
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import draw


def plan_of(client, query: str) -> str:
    return "\n".join(row[0] for row in client.query(f"EXPLAIN indexes = 1 {query}").result_rows)


def run_examples(client, name: str, **replaced: str) -> None:
    """Every object's own example, with other names in place of the documented ones."""
    found = documented(f"datasets/{name}.sql")
    for _, made, comment in found:
        example = comment.partition("Example: ")[2]
        for documented_as, here in replaced.items():
            example = example.replace({"picture": "/pictures/query.png", "folder": "/data/laion"}[documented_as], here)
        assert client.query(example).column_names, made


def nearest(matrix: np.ndarray, query: list[float], k: int) -> list[int]:
    query = np.array(query, np.float32)
    return np.argsort(-(matrix @ query) / np.linalg.norm(matrix, axis=1), kind="stable")[:k].tolist()


# LAION


@pytest.fixture(scope="session")
def embedded_pictures(clip, drawn) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Image embeddings, text embeddings, captions of the drawn pictures."""
    captions = [picture.describe() for picture in drawn[1]]
    images = clip.encode_images([clip.pixels(draw(picture)) for picture in drawn[1]])
    return images, clip.encode_texts(captions), captions


@pytest.fixture
def laion(run_file, client):
    """Runs laion.sql for a folder or glob; the tables are its own."""
    for table in ("laion", "laion_shards", "laion_loading"):
        client.command(f"DROP TABLE IF EXISTS {table}")
    client.command("DELETE FROM rejects WHERE dataset = 'laion'")
    return lambda path, **parameters: run_file("laion", path=str(path), model="vdx-tiny", **parameters).splitlines()


def test_laion_goes_in_byte_for_byte_and_in_its_order(laion, client, embedded_pictures, tmp_path):
    images, texts, captions = embedded_pictures
    table = laion_shard(tmp_path, 0, images, texts, captions, nested=False)
    assert laion(tmp_path) == ["shards\trows\timages\trejects\tmissing", "1\t300\t300\t0\t0"]
    rows = client.query(
        "SELECT id, url, caption, NSFW, similarity, image_embedding, text_embedding FROM laion ORDER BY id"
    ).result_rows
    assert [row[0] for row in rows] == list(range(300))
    for column, name in ((1, "url"), (2, "caption"), (3, "NSFW")):
        assert [row[column] for row in rows] == [value or "" for value in table[name].to_pylist()]
    assert np.array_equal(np.array([row[5] for row in rows], np.float32), images.astype(np.float16).astype(np.float32))
    assert np.array_equal(np.array([row[6] for row in rows], np.float32), texts.astype(np.float16).astype(np.float32))
    assert "materialize_skip_indexes_on_merge" not in client.command("SHOW CREATE TABLE laion")
    assert laion(tmp_path)[1] == "1\t300\t300\t0\t0"
    assert client.query("SELECT count() FROM laion").result_rows == [(300,)]


def test_laion_is_searched_by_text_and_picture_with_and_without_its_indexes(laion, client, embedded_pictures, tmp_path, drawn):
    images, texts, captions = embedded_pictures
    laion_shard(tmp_path, 0, images, texts, captions, nested=True)
    laion(tmp_path)
    picture = drawn[0] / "0017.png"
    for search, encoding, matrix, index in (
        ("laion_search_text(query = 'a red circle', k = 10)", "encode_text('a red circle')", images, "image_index"),
        ("laion_search_captions(query = 'a red circle', k = 10)", "encode_text('a red circle')", texts, "text_index"),
        (f"laion_search_image(image = '{picture}', k = 10)", f"encode_image('{picture}')", images, "image_index"),
    ):
        wanted = nearest(matrix, client.query(f"SELECT {encoding}").result_rows[0][0], 10)
        query = f"SELECT id, distance FROM {search}"
        found = [row[0] for row in client.query(query).result_rows]
        assert len(set(found) & set(wanted)) >= 9
        assert index in plan_of(client, query)
        brute = client.query(query + " SETTINGS use_skip_indexes = 0").result_rows
        assert len({row[0] for row in brute} & set(wanted)) >= 9  # float16 against float32: the last may change places
        assert [row[1] for row in brute] == sorted(row[1] for row in brute)
    run_examples(client, "laion", picture=str(picture), folder=str(tmp_path))
    # The published forms: a parameter as target, the function inline.
    target = client.query("SELECT encode_text('a blue star')").result_rows[0][0]
    inline = "SELECT url, caption FROM laion ORDER BY cosineDistance(text_embedding, {}) LIMIT 10"
    by_function = client.query(inline.format("encode_text('a blue star')")).result_rows
    assert client.query(inline.format("{t:Array(Float32)}"), {"t": target}).result_rows == by_function
    assert "text_index" in plan_of(client, inline.format("encode_text('a blue star')"))


def test_laion_shards_are_added_one_by_one_or_as_a_glob(laion, client, embedded_pictures, tmp_path):
    images, texts, captions = embedded_pictures
    for number, size in ((0, 300), (2, 120), (10, 77)):
        laion_shard(tmp_path, number, images[:size], texts[:size], captions[:size], nested=True)
    assert laion(tmp_path / "img_emb" / "img_emb_2.npy")[1] == "1\t120\t120\t0\t0"
    assert laion(f"{tmp_path}/img_emb/img_emb_{{0,2}}.npy", index="no")[1] == "2\t420\t420\t0\t0"
    plan = plan_of(client, "SELECT id FROM laion_search_text(query = 'a', k = 1)")
    assert "image_index" in plan  # of the shard that has one; the others are searched without
    assert laion(tmp_path)[1] == "3\t497\t497\t0\t0"
    assert client.query("SELECT shard, count(), uniqExact(id) FROM laion GROUP BY shard ORDER BY shard").result_rows == [
        (0, 300, 300), (2, 120, 120), (10, 77, 77)
    ]  # fmt: skip


@pytest.mark.parametrize("short", ["img_emb", "text_emb", "metadata"])
def test_a_laion_shard_whose_files_differ_in_length_is_refused(laion, client, embedded_pictures, tmp_path, short):
    images, texts, captions = embedded_pictures
    laion_shard(tmp_path, 0, images[:50], texts[:50], captions[:50], nested=False)
    laion_shard(tmp_path, 1, images[:50], texts[:50], captions[:50], nested=False)
    laion_shard(tmp_path / "other", 1, images[:49], texts[:49], captions[:49], nested=False)
    (short_file,) = (tmp_path / "other").glob(f"{short}_1.*")
    short_file.rename(tmp_path / short_file.name)
    for left in (tmp_path / "other").iterdir():
        left.unlink()
    with pytest.raises(Exception, match=r"the files of a shard differ in length: .*nothing was loaded") as caught:
        laion(tmp_path)
    for name, length in (("img_emb_1.npy", 50), ("text_emb_1.npy", 50), ("metadata_1.parquet", 50)):
        assert f"{49 if name.startswith(short) else length} " in str(caught.value)
        assert f"{tmp_path}/{name}" in str(caught.value)
    assert client.query("SELECT (SELECT count() FROM laion), (SELECT count() FROM laion_loading)").result_rows == [(0, 0)]


def test_a_damaged_laion_file_leaves_nothing_of_its_shard(laion, client, embedded_pictures, tmp_path):
    images, texts, captions = embedded_pictures
    for number in (0, 1):
        laion_shard(tmp_path, number, images, texts, captions, nested=False)
    for name, damage in (  # their lengths are in the head and the tail, so the damage shows in the middle of the shard
        ("text_emb_1.npy", lambda content: content[:-1000]),
        ("metadata_1.parquet", lambda content: content[:4000] + bytes(3000) + content[7000:]),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(damage(whole))
        with pytest.raises(Exception, match=name):
            laion(tmp_path)
        assert client.query("SELECT count() FROM laion WHERE shard = 1").result_rows == [(0,)]
        (tmp_path / name).write_bytes(whole)
    assert laion(tmp_path)[1] == "2\t600\t600\t0\t0"


def test_a_laion_row_that_is_not_finite_is_rejected_and_costs_no_other(laion, client, embedded_pictures, tmp_path):
    images, texts, captions = embedded_pictures
    images, texts = images.copy(), texts.copy()
    images[7, 7], texts[123, 0], images[299] = np.nan, np.inf, np.nan  # row 7 has no URL
    table = laion_shard(tmp_path, 4, images, texts, captions, nested=False)
    assert laion(tmp_path)[1] == "1\t297\t297\t3\t0"
    rows = dict(client.query("SELECT id, caption FROM laion").result_rows)
    assert rows == {n: caption or "" for n, caption in enumerate(table["caption"].to_pylist()) if n not in (7, 123, 299)}
    errors = client.query("SELECT source, error FROM rejects WHERE dataset = 'laion' ORDER BY source").result_rows
    assert {error for _, error in errors} == {"an embedding is not finite"}
    assert sorted(source.rpartition(" (")[2] for source, _ in errors) == [
        "row 123 of shard 4)",
        "row 299 of shard 4)",
        "row 7 of shard 4)",
    ]
    assert len(client.query("SELECT * FROM laion_search_text(query = 'a', k = 9)").result_rows) == 9


def test_laion_of_another_model_is_not_searched(laion, run_file, client, embedded_pictures, tmp_path):
    images, texts, captions = embedded_pictures
    laion_shard(tmp_path, 0, images, texts, captions, nested=False)
    run_file("laion", path=str(tmp_path), index="no")
    with pytest.raises(Exception, match=r"the embeddings of laion are by ViT-B-32/openai, but the encoder runs vdx-tiny"):
        client.query("SELECT * FROM laion_search_text(query = 'a', k = 9)")


def test_long_laion_shards_keep_their_rows_together(laion, client, tmp_path):
    """Longer than the engine's blocks, so that a reordering of any of the three files would show."""
    rng = np.random.default_rng(5)
    count = 40_000
    images, texts = (rng.standard_normal((count, 512), dtype=np.float32) for _ in range(2))
    laion_shard(tmp_path, 0, images, texts, [f"caption {n}" for n in range(count)], nested=False)
    assert laion(tmp_path, index="no")[1] == f"1\t{count}\t{count}\t0\t0"
    assert "materialize_skip_indexes_on_merge = 0" in client.command("SHOW CREATE TABLE laion"), "merges would build them"
    rows = client.query("SELECT id, image_embedding[1], text_embedding[512], caption FROM laion ORDER BY id").result_rows
    assert [row[0] for row in rows] == list(range(count))
    assert np.array_equal([row[1] for row in rows], images[:, 0].astype(np.float16).astype(np.float32))
    assert np.array_equal([row[2] for row in rows], texts[:, 511].astype(np.float16).astype(np.float32))
    assert all(row[3] == f"caption {row[0]}" for row in rows if row[0] % 3 != 2)


@pytest.mark.long
def test_a_laion_load_can_be_killed_at_any_moment(tmp_path):
    layout = Layout.embedded(tmp_path / "prefix")
    list(install(layout, "vdx-tiny"))
    rng = np.random.default_rng(6)
    for number in range(6):
        vectors = rng.standard_normal((10_000, 512), dtype=np.float32)
        laion_shard(tmp_path / "laion", number, vectors, -vectors, [f"{number} {n}" for n in range(10_000)], nested=False)
    command = [
        "load",
        "laion",
        tmp_path / "laion",
        "--prefix",
        layout.state,
        "--param",
        "model=vdx-tiny",
        "--param",
        "index=no",
    ]
    moment = Moments(random.Random(6), 3)
    try:
        for _ in range(10):
            process = subprocess.Popen(
                [sys.executable, "-m", "vdx_udf", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            moment.wait(process)
            process.kill()
            process.wait()
        assert vdx(*command).stdout.splitlines()[1] == "6\t60000\t60000\t0\t0"
        query = (
            "SELECT count(), uniqExact(shard, id), uniqExact(image_embedding), (SELECT count() FROM laion_loading) FROM laion"
        )
        assert vdx("sql", "--prefix", layout.state, "-q", query).stdout.split() == ["60000", "60000", "60000", "0"]
    finally:
        stop_encoder(layout)
    assert moment.interrupted >= 3


# Unsplash


@pytest.fixture
def web(tmp_path):
    """A web server over the stand-in's pictures that notes what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *arguments):
            asked.append(self.path)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "unsplash" / "pictures"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_unsplash_from_files_and_every_published_query(run_file, fresh_tables, tmp_path):
    client, folder = fresh_tables, tmp_path / "unsplash"
    shown = stand_ins.unsplash(folder, 60, "https://images.example.com")
    report = run_file("unsplash", path=str(folder), pictures=str(folder / "pictures")).splitlines()
    assert report[:4] == ["what\tpictures", "inputs\t60", "images\t58", "rejects\t2"]
    reasons = "\n".join(report[4:])
    assert "cannot be read: No such file or directory\t1" in reasons
    assert "not a picture; formats read" in reasons
    assert run_file("unsplash", path=str(folder), pictures=str(folder / "pictures")).splitlines() == report
    # Text with tabs, quotes and line breaks, missing numbers and a photo listed twice.
    photos = {row[0]: row for row in client.query(
        "SELECT photo_id, photo_description, stats_views, stats_downloads FROM unsplash_photos FINAL").result_rows}  # fmt: skip
    assert len(photos) == 60
    for number, name in enumerate(shown):
        text = stand_ins.UGLY[number % 7] or ""
        assert photos[name] == (name, text, 0 if number % 5 else 12, number), number
    assert client.query("SELECT count(), min(length(vector)), max(length(vector)) FROM unsplash").result_rows == [
        (58, 512, 512)
    ]
    with pytest.raises(Exception, match="vector_length"):
        client.command("INSERT INTO images (source, dataset, vector) VALUES ('short', 'unsplash', [1, 2])")
    # By text, top 9, then without those already seen.
    first = client.query("SELECT id FROM search_text(query = 'a red circle', k = 9)").result_rows
    seen = [row[0] for row in first]
    second = client.query(
        "SELECT id FROM search_text_excluding(query = 'a red circle', exclude = {s:Array(UInt64)}, k = 9)", {"s": seen}
    )
    assert len(second.result_rows) == 9
    assert not {row[0] for row in second.result_rows} & set(seen)
    assert next(iter(second.named_results())).keys() == {"id"}
    # A random photo, the ten like it, downloads of each, the keywords of the most popular.
    names = {client.query("SELECT photo_id FROM unsplash_random").result_rows[0][0] for _ in range(12)}
    assert 3 < len(names) <= 12
    chosen = photo_id(8)
    rows = client.query("SELECT photo_id, vector FROM unsplash").result_rows
    matrix = np.array([row[1] for row in rows], np.float32)
    order = [rows[i][0] for i in nearest(matrix, matrix[[row[0] for row in rows].index(chosen)], 11)]
    assert order[0] == chosen
    similar = [
        row[0] for row in client.query(f"SELECT candidate FROM unsplash_similar(photo_id = '{chosen}', k = 10)").result_rows
    ]
    assert len(similar) == 10
    assert chosen not in similar
    assert len(set(similar) & set(order)) >= 9
    assert "vector_similarity" in plan_of(client, f"SELECT * FROM unsplash_similar(photo_id = '{chosen}', k = 10)")
    downloads = client.query(f"SELECT candidate, downloads FROM unsplash_downloads(photo_id = '{chosen}', k = 10)").result_rows
    assert dict(downloads) == {name: int(name[5:]) % 7 for name in similar}
    assert [n for _, n in downloads] == sorted((n for _, n in downloads), reverse=True)
    best, times = downloads[0]
    wanted = [(best, shown[best].things[0].colour, times - 1), (best, 'a "quoted"\tword', 1)]
    keywords = client.query(f"SELECT * FROM unsplash_keywords(photo_id = '{chosen}', k = 10)").result_rows
    assert keywords == sorted(wanted, key=lambda row: (-row[2], row[1]))
    assert client.query("SELECT dataset, images, images_without_index FROM index_status").result_rows == [("unsplash", 58, 0)]
    run_examples(client, "unsplash")
    with pytest.raises(Exception, match="unsplash_similar: no photo has this photo_id"):
        client.query("SELECT * FROM unsplash_similar(photo_id = 'nobody', k = 3)")


@pytest.mark.long
def test_unsplash_from_urls_that_ask_for_a_small_size(web, tmp_path):
    base, asked = web
    folder = tmp_path / "unsplash"
    stand_ins.unsplash(folder, 12, base)
    layout = Layout.embedded(tmp_path / "prefix")
    list(install(layout, "vdx-tiny"))
    load = ("load", "unsplash", folder, "--prefix", layout.state)
    try:
        assert vdx(*load).stdout.splitlines()[1:4] == ["inputs\t12", "images\t0", "rejects\t12"]
        assert not asked
        stop_encoder(layout)
        serve = subprocess.Popen([sys.executable, "-m", "vdx_udf", "serve", "--socket", layout.run / "encoder.sock", "--model", "vdx-tiny", "--urls", "127.0.0.1"])  # fmt: skip
        try:
            wait_for((layout.run / "encoder.sock").exists, serve)
            vdx("sql", "--prefix", layout.state, "-q", "DELETE FROM rejects WHERE error LIKE '%URLs are switched off%'")
            report = vdx(*load).stdout.splitlines()
            assert report[1:4] == ["inputs\t12", "images\t10", "rejects\t2"]
            assert any("rejected: answered with status 404" in line for line in report)
        finally:
            serve.terminate()
            serve.wait()
    finally:
        stop_encoder(layout)
    assert len(asked) == 12
    assert all(path.endswith("?q=75&fm=jpg&w=200&fit=max") for path in asked)


# Imagenette


def test_imagenette_by_picture_by_text_and_its_accuracies(run_file, fresh_tables, tmp_path, clip):
    client, folder = fresh_tables, tmp_path / "imagenette2-160"
    stand_ins.imagenette(folder, train=12, val=5)
    report = run_file("imagenette", path=str(folder)).splitlines()
    assert report[1:4] == ["inputs\t170", "images\t169", "rejects\t1"]
    assert client.query("SELECT wnid, class FROM imagenette_classes ORDER BY wnid").result_rows == [
        (wnid, name) for wnid, (name, _) in IMAGENETTE.items()
    ]
    counts = {
        (split, name): n
        for split, name, n in client.query("SELECT split, class, count() FROM imagenette GROUP BY ALL").result_rows
    }
    assert counts == {(split, name): n - (split == "train" and name == "tench")
                      for split, n in (("train", 12), ("val", 5)) for name, _ in IMAGENETTE.values()}  # fmt: skip
    run_examples(client, "imagenette")
    # By picture and by text: the published top-k of a class's own.
    query = next((folder / "val" / "n02979186").iterdir())
    classes = client.query(
        f"SELECT class FROM search_image(image = '{query}', k = 5) INNER JOIN imagenette USING (id)").result_rows  # fmt: skip
    assert [row[0] for row in classes].count("cassette player") >= 4
    by_text = "search_text_where(query = 'a green star', dataset = 'imagenette', attribute = 'split', value = 'train', k = 5)"
    found = client.query(f"SELECT split, class FROM {by_text} INNER JOIN imagenette USING (id)").result_rows
    assert found == [("train", "cassette player")] * 5
    # Both accuracies against numpy.
    rows = client.query("SELECT split, class, vector FROM imagenette ORDER BY id").result_rows
    vectors, names = np.array([row[2] for row in rows], np.float32), np.array([row[1] for row in rows])
    train = np.array([row[0] == "train" for row in rows])
    accuracy = {}
    for name, vector in zip(names[~train], vectors[~train], strict=True):
        best = names[train][np.argsort(-(vectors[train] @ vector), kind="stable")[:5]]
        votes = best.tolist()
        accuracy.setdefault(name, []).append(max(votes, key=lambda v: (votes.count(v), -votes.index(v))) == name)
    found = client.query("SELECT class, images, accuracy FROM imagenette_neighbours(k = 5)").result_rows
    assert [(name, images) for name, images, _ in found] == [(name, 5) for name in sorted(accuracy)]
    expected = np.mean([np.mean(hits) for hits in accuracy.values()])
    assert np.mean([value for _, _, value in found]) == pytest.approx(expected, abs=0.03)
    assert np.mean([value for _, _, value in found]) > 0.9
    labels = sorted(accuracy)
    from vdx_udf.settings import PROMPT_TEMPLATES

    known = np.stack([clip.encode_texts([t.format(label) for t in PROMPT_TEMPLATES]).mean(axis=0) for label in labels])
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    products = vectors @ known.T
    for name, images, value in client.query("SELECT * FROM imagenette_zero_shot(template_set = 'default')").result_rows:
        assert images == (names == name).sum()
        # The small model knows few of the words, so some labels tie: between those surely and those possibly right.
        own, best = (
            products[names == name, labels.index(name)],
            np.delete(products[names == name], labels.index(name), 1).max(axis=1),
        )
        assert (own > best + 1e-5).mean() - 1e-9 <= value <= (own > best - 1e-5).mean() + 1e-9


# Parquet


def test_embeddings_travel_as_parquet(loaded, run_file, tmp_path):
    path = tmp_path / "pictures.parquet"
    before = loaded.query("SELECT * EXCEPT loaded_at FROM images ORDER BY id").result_rows
    search = "SELECT source FROM search_text(query = 'a red circle', k = 9) SETTINGS use_skip_indexes = 0"
    found = loaded.query(search).result_rows
    loaded.command(f"INSERT INTO FUNCTION file('{path}', Parquet) SELECT * FROM portable")
    columns = pq.read_table(path)
    assert {"id", "source", "vector", "model", "weights_hash", "content_hash"} <= set(columns.column_names)
    assert columns.num_rows == len(before)
    loaded.command("TRUNCATE TABLE images")
    assert run_file("parquet", path=str(path)).splitlines()[1] == f"{len(before)}\t{len(before)}\t0\t0"
    assert loaded.query("SELECT * EXCEPT loaded_at FROM images ORDER BY id").result_rows == before
    assert loaded.query(search).result_rows == found
    assert run_file("parquet", path=str(path)).splitlines()[1] == f"{len(before)}\t{len(before)}\t0\t0"
    assert loaded.query("SELECT count() FROM images").result_rows == [(len(before),)]
    assert loaded.query("SELECT sum(images_without_index) FROM index_status").result_rows == [(0,)]


def test_parquet_of_others_needs_little_and_bad_rows_cost_themselves(fresh_tables, run_file, tmp_path):
    import pyarrow as pa

    rng = np.random.default_rng(8)
    vectors = [rng.standard_normal(512).astype(np.float32) * 3 for _ in range(6)]
    vectors[1], vectors[2], vectors[3] = vectors[1][:300], np.zeros(512, np.float32), np.full(512, np.nan, np.float32)
    models = ["vdx-tiny"] * 4 + ["", "vdx-tiny"]
    pq.write_table(
        pa.table({"source": [f"s{n}" for n in range(6)], "vector": vectors, "model": models}), tmp_path / "a.parquet"
    )
    assert run_file("parquet", path=str(tmp_path / "a.parquet"), dataset="theirs").splitlines()[1] == "6\t2\t4\t0"
    assert dict(fresh_tables.query("SELECT source, error FROM rejects").result_rows) == {
        "s1": "a vector of 300 numbers where images takes 512", "s2": "a vector that is zero or not finite",
        "s3": "a vector that is zero or not finite", "s4": "the row names no model",
    }  # fmt: skip
    rows = dict(fresh_tables.query("SELECT source, vector FROM images WHERE dataset = 'theirs'").result_rows)
    assert np.allclose(rows["s0"], vectors[0] / np.linalg.norm(vectors[0]), atol=1e-6)
    assert len(fresh_tables.query("SELECT * FROM search_text(query = 'a', k = 2)").result_rows) == 2


# Other places


def test_pictures_from_the_web_and_from_tables(fresh_tables, web, tmp_path):
    client, (base, _) = fresh_tables, web
    stand_ins.unsplash(tmp_path / "unsplash", 8, base)
    client.command(
        f"INSERT INTO inbox (dataset, source, bytes) SELECT 'web', _path, raw_blob FROM url('{base}/photo00000{{0..5}}.jpg', RawBLOB)"
    )
    assert client.query("SELECT count(), uniqExact(source), uniqExact(content_hash) FROM images").result_rows == [(6, 6, 6)]
    client.command("CREATE OR REPLACE TABLE kept (key String, content String) ENGINE = MergeTree ORDER BY key")
    client.command(f"INSERT INTO kept SELECT _file, raw_blob FROM file('{tmp_path}/unsplash/pictures/*.jpg', RawBLOB)")
    embeddings = "SELECT encoder_info()['cached_embeddings']"
    before = client.query(embeddings).result_rows
    client.command("INSERT INTO inbox (dataset, source, bytes) SELECT 'table', key, content FROM kept")
    assert client.query("SELECT dataset, count() FROM images GROUP BY dataset ORDER BY dataset").result_rows == [
        ("table", 6),
        ("web", 6),
    ]
    assert client.query("SELECT count() FROM rejects").result_rows == [(1,)]
    # The six of the web were not embedded again.
    assert client.query(embeddings).result_rows == before
    client.command("DROP TABLE kept")


def test_pictures_from_a_bucket(fresh_tables, drawn):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        place = f"http://127.0.0.1:{server.get_host_and_port()[1]}/pictures"
        urllib3.request("PUT", place)
        for number in range(5):
            content = (drawn[0] / f"{number:04}.png").read_bytes()
            urllib3.request("PUT", f"{place}/{number}.png", body=content, headers={"Content-Type": "image/png"})
        fresh_tables.command(
            "INSERT INTO inbox (dataset, source, bytes)"
            f" SELECT 'bucket', _path, raw_blob FROM s3('{place}/*.png', 'key', 'secret', RawBLOB)"
        )
    finally:
        server.stop()
    assert fresh_tables.query("SELECT source FROM images ORDER BY source").result_rows == [
        (f"pictures/{n}.png",) for n in range(5)
    ]
    stored, fresh = fresh_tables.query(
        f"SELECT vector, encode_image('{drawn[0]}/0003.png') FROM images WHERE source = 'pictures/3.png'"
    ).result_rows[0]
    assert np.allclose(stored, fresh, atol=1e-6)


def test_a_vocabulary_is_filled_once_and_takes_words_of_your_own(run_file, fresh_tables, clip):
    fresh_tables.command("INSERT INTO vocabulary (word) VALUES ('zebra'), ('a word of mine')")
    for _ in range(2):
        run_file("vocabulary")
        rows = fresh_tables.query(
            "SELECT word, vector FROM vocabulary WHERE weights_hash = encoder_info()['weights_hash']"
        ).result_rows
        words = dict(rows)
        assert len(words) == len(rows) == 2_336 + 1  # zebra is one of those that come with it
    assert all(word == word.strip() and word for word in words)
    assert {"yellow lady's slipper", "abacus", "zucchini", "a word of mine"} < words.keys()
    assert np.allclose(words["zebra"], clip.encode_texts(["a photo of a zebra"])[0], atol=1e-5)
