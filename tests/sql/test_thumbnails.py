"""Thumbnails in SQL: which are kept, which are missing, and what becomes of them when pictures change or go."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.conftest import put

SIDE = 64


@pytest.fixture
def folder(tmp_path):
    """Four pictures: two of one content, one whose name holds quotes, one that is no file any more once it was loaded."""
    colours = {"red.png": "red", "again.png": "red", 'it\'s "blue".png': "blue", "gone.png": "green"}
    for name, colour in colours.items():
        Image.new("RGB", (200, 100), colour).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def ids(fresh_tables, folder) -> dict[str, int]:
    """Of the pictures, by name."""
    load(fresh_tables, folder)
    (folder / "gone.png").unlink()
    return named(fresh_tables)


def load(client, folder) -> None:
    client.command(
        f"INSERT INTO inbox (source, dataset, bytes) SELECT _path, 'd', raw_blob FROM file('{folder}/*.png', RawBLOB)"
    )


def named(client) -> dict[str, int]:
    return {source.rpartition("/")[2]: id for source, id in client.query("SELECT source, id FROM current_images").result_rows}


def asked(client, view: str, ids, side: int = SIDE) -> list[tuple]:
    query = f"SELECT * FROM {view}(ids = {list(ids)}, side = {side}) ORDER BY 1"
    return client.query(query, query_formats={"String": "bytes", "FixedString": "bytes"}).result_rows


def keep(client, ids, side: int = SIDE) -> None:
    client.command(f"INSERT INTO thumbnails SELECT * FROM missing_thumbnails(ids = {list(ids)}, side = {side})")


def colour(jpeg: bytes) -> str:
    pixels = np.asarray(Image.open(io.BytesIO(jpeg))).mean(axis=(0, 1))
    return ["red", "green", "blue"][pixels.argmax()]


def made(client) -> int:
    return int(client.query("SELECT encoder_info()['try_thumbnail.rows']").result_rows[0][0])


def test_what_is_missing_is_made_and_what_is_kept_is_not_made_again(fresh_tables, ids):
    client, all_ids = fresh_tables, list(ids.values())
    assert asked(client, "kept_thumbnails", all_ids) == []
    for row in asked(client, "image_thumbnails", all_ids):  # made, and not kept by that
        assert bool(row[1]) != bool(row[2])
    assert asked(client, "kept_thumbnails", all_ids) == []
    keep(client, all_ids)
    found = dict(asked(client, "kept_thumbnails", all_ids))
    assert {name: colour(found[id]) for name, id in ids.items() if id in found} == {
        "red.png": "red", "again.png": "red", "it's \"blue\".png": "blue",
    }  # fmt: skip
    assert client.query("SELECT count() FROM thumbnails").result_rows == [(2,)]  # of one content one
    before = made(client)
    keep(client, all_ids)
    rows = {id: (jpeg, error) for id, jpeg, error in asked(client, "image_thumbnails", all_ids)}
    assert {id: jpeg for id, (jpeg, _) in rows.items() if jpeg} == found
    assert rows[ids["gone.png"]] == (b"", b"cannot be read: No such file or directory")
    assert made(client) == before + 2  # the one that cannot be read, twice


def test_sides_are_kept_beside_each_other(fresh_tables, ids):
    keep(fresh_tables, [ids["red.png"]], 64)
    keep(fresh_tables, [ids["red.png"]], 32)
    for side in (64, 32):
        ((_, jpeg),) = asked(fresh_tables, "kept_thumbnails", [ids["red.png"]], side)
        assert Image.open(io.BytesIO(jpeg)).size == (side, side // 2)


def test_no_ids_unknown_ids_and_repeated_ones(fresh_tables, ids):
    one = ids["red.png"]
    for view in ("kept_thumbnails", "missing_thumbnails", "image_thumbnails"):
        assert asked(fresh_tables, view, []) == asked(fresh_tables, view, [1, 2]) == []
    keep(fresh_tables, [one, one, 1])
    for view in ("kept_thumbnails", "image_thumbnails"):
        assert [row[0] for row in asked(fresh_tables, view, [one, one, 1])] == [one]


def test_a_thumbnail_that_two_inserts_bring_is_one_row(fresh_tables, ids):
    keep(fresh_tables, ids.values())
    fresh_tables.command("INSERT INTO thumbnails SELECT * FROM thumbnails")
    for _ in range(2):
        for view in ("kept_thumbnails", "image_thumbnails"):
            found = [row[0] for row in asked(fresh_tables, view, ids.values()) if row[1]]
            assert sorted(found) == sorted(id for name, id in ids.items() if name != "gone.png")
        fresh_tables.command("OPTIMIZE TABLE thumbnails FINAL")


def test_a_picture_that_changed_gets_a_new_one_and_the_old_one_is_unused(fresh_tables, folder, ids):
    client, blue = fresh_tables, ids['it\'s "blue".png']
    keep(client, ids.values())
    assert client.query("SELECT count() FROM unused_thumbnails").result_rows == [(0,)]
    Image.new("RGB", (200, 100), "lime").save(folder / 'it\'s "blue".png')
    load(client, folder)
    assert asked(client, "kept_thumbnails", [blue]) == []
    keep(client, [blue])
    assert [colour(jpeg) for _, jpeg in asked(client, "kept_thumbnails", [blue])] == ["green"]
    assert client.query("SELECT count(), sum(size) > 0 FROM unused_thumbnails").result_rows == [(1, 1)]
    client.command(f"DELETE FROM images WHERE id = {ids['red.png']}")  # its content has another image still
    assert client.query("SELECT count() FROM unused_thumbnails").result_rows == [(1,)]
    client.command("DELETE FROM thumbnails WHERE content_hash IN (SELECT content_hash FROM unused_thumbnails)")
    assert client.query("SELECT count() FROM thumbnails").result_rows == [(2,)]
    assert [row[0] for row in asked(client, "kept_thumbnails", [ids["again.png"], blue])] == sorted([ids["again.png"], blue])


def test_images_without_a_content_hash_do_not_share_one(fresh_tables, folder):
    """As published vectors come, and rows of INSERT INTO images."""
    client = fresh_tables
    put(client, np.eye(2, 512, dtype=np.float32), "bare")
    client.command(
        f"INSERT INTO images (source, dataset, vector) SELECT _path, 'p', vector FROM file('{folder}/*.png', One) AS files CROSS JOIN (SELECT vector FROM images LIMIT 1) AS v"
    )
    ids = {name: id for name, id in named(client).items() if name.endswith("png")}
    keep(client, ids.values())
    found = dict(asked(client, "kept_thumbnails", ids.values()))
    assert {name: colour(found[id]) for name, id in ids.items()} == {
        "red.png": "red", "again.png": "red", "it's \"blue\".png": "blue", "gone.png": "green",
    }  # fmt: skip


def test_a_data_set_or_all_of_them(fresh_tables, ids):
    client = fresh_tables
    insert = "INSERT INTO thumbnails SELECT * FROM missing_thumbnails_of(dataset = '{}', side = 64)"
    client.command(insert.format("it's another".replace("'", "\\'")))
    assert client.query("SELECT count() FROM thumbnails").result_rows == [(0,)]
    before = made(client)
    for dataset in ("d", "d", ""):
        client.command(insert.format(dataset))
        assert client.query("SELECT count() FROM thumbnails").result_rows == [(2,)]
    assert made(client) == before + 3 + 1 + 1


def test_text_that_tables_show_as_a_picture(client):
    assert client.query("SELECT vdx_data_url('abc'), vdx_data_url('')").result_rows == [("data:image/jpeg;base64,YWJj", "")]
