"""What is odd about a data set, counted and listed, with photographs made odd on purpose."""

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

from tests.benchmarks.refinement_sets import unit
from tests.conftest import put
from vdx_udf import engine

DATASET = "it's a \\set"
PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]
RULES = ("tiny", "odd shape", "odd size", "dark", "bright", "blurred", "low information", "grey")


def planted() -> dict[str, tuple[Image.Image, str]]:
    """Ten crops of photographs with nothing odd about them and, of each issue, what has it; by file name."""
    crops = [photo.crop((60 * n, 0, 60 * n + 340, 260 + n)) for photo in PHOTOGRAPHS for n in range(5)]
    plain = crops[1]
    flat = Image.new("RGB", plain.size, (200, 120, 40))
    ImageDraw.Draw(flat).ellipse((60, 40, 260, 220), fill=(20, 90, 160))
    return {f"plain {n}.jpg": (crop, "") for n, crop in enumerate(crops)} | {
        "tiny.png": (plain.resize((40, 30)), "odd size tiny"),
        "panorama.jpg": (PHOTOGRAPHS[0].crop((0, 100, 510, 273)), "odd shape"),
        "large.jpg": (plain.resize((1360, 1044)), "odd size"),
        "dark.jpg": (plain.point(lambda v: v * 0.2), "dark"),
        "bright.jpg": (plain.point(lambda v: 250 + v * 0.02), "bright blurred low information grey"),
        "blurred.jpg": (plain.filter(ImageFilter.GaussianBlur(4)), "blurred"),
        'it\'s "grey".jpg': (plain.convert("L").convert("RGB"), "grey"),
        "flat.png": (flat, "low information"),
    }


@pytest.fixture
def folder(tmp_path):
    for name, (image, _) in planted().items():
        image.save(tmp_path / name, **({"quality": 90} if name.endswith("jpg") else {}))
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "dark.jpg").read_bytes()[:2000])
    (tmp_path / "none.png").write_bytes(b"no picture\0")
    return tmp_path


@pytest.fixture
def loaded(fresh_tables, folder):
    load(fresh_tables, folder)
    return fresh_tables


def load(client, folder) -> None:
    client.command(
        f"INSERT INTO inbox (dataset, source, bytes) SELECT {{d:String}}, _path, raw_blob FROM file('{folder}/*.{{jpg,png}}', RawBLOB)",
        parameters={"d": DATASET},
    )
    client.command(
        "INSERT INTO picture_facts SELECT * FROM missing_picture_facts(dataset = {d:String})", parameters={"d": DATASET}
    )


def health(client, dataset: str = DATASET) -> dict[str, dict]:
    rows = client.query("SELECT * FROM health(dataset = {d:String})", parameters={"d": dataset}).named_results()
    found = {row["issue"]: row for row in rows}
    for row in found.values():
        assert row["share"] is None or math.isfinite(row["share"])
    return found


def listed(client, issue: str, k: int = 100, dataset: str = DATASET) -> list[dict]:
    query = "SELECT * FROM health_images(dataset = {d:String}, issue = {i:String}, k = {k:UInt32})"
    rows = client.query(query, parameters={"d": dataset, "i": issue, "k": k})
    return list(rows.named_results())


def names(rows: list[dict]) -> list[str]:
    return sorted(row["source"].rpartition("/")[2] for row in rows)


def test_planted_issues_are_found_and_nothing_else(loaded):
    known, found = planted(), health(loaded)
    for issue in RULES:
        expected = sorted(name for name, (_, issues) in known.items() if issue in issues)
        rows = listed(loaded, issue)
        assert names(rows) == expected, issue
        assert found[issue]["images"] == len(expected)
        assert found[issue]["looked_at"] == len(known)
        assert found[issue]["share"] == pytest.approx(len(expected) / len(known))
        assert all(float(row["why"].rpartition(": ")[2]) == pytest.approx(row["number"], abs=6e-4) for row in rows)
    assert "not measured" not in found


def test_the_worst_come_first_and_k_holds(loaded):
    numbers = [row["number"] for row in listed(loaded, "blurred")]
    assert len(numbers) == 2
    assert numbers == sorted(numbers)
    assert [row["number"] for row in listed(loaded, "blurred", k=1)] == numbers[:1]
    assert listed(loaded, "no such issue") == listed(loaded, "blurred", k=0) == listed(loaded, "blurred", dataset="none") == []


def test_rejects_come_by_reason(loaded):
    found = health(loaded)
    reasons = {issue: row["images"] for issue, row in found.items() if issue.startswith("rejected")}
    assert reasons.pop("rejected") == 2
    assert list(reasons.values()) == [1, 1]
    assert "rejected: a damaged picture: it ends early" in reasons
    assert names(listed(loaded, "rejected")) == ["broken.jpg", "none.png"]
    (row,) = listed(loaded, "rejected: a damaged picture: it ends early")
    assert (row["source"].endswith("/broken.jpg"), row["why"]) == (True, "a damaged picture: it ends early")


def test_every_statement_runs_and_lists_as_many(loaded):
    """Quotes and backslashes in the data set's name and in reasons included."""
    for _ in range(2):  # what looks, then what lists
        for issue, row in health(loaded).items():
            if row["statement"].startswith("SELECT"):
                assert len(loaded.query(row["statement"]).result_rows) == row["images"], issue
            elif row["statement"]:
                assert row["images"] is None, issue
                loaded.command(row["statement"])
            else:
                assert row["images"] == 0, issue
    assert all(row["images"] is not None for issue, row in health(loaded).items() if issue != "near duplicate")


def test_what_nobody_looked_for_is_not_zero(fresh_tables):
    rng = np.random.default_rng(17)
    centre, other = unit(rng.normal(size=(2, 512)))
    vectors = unit(centre + 0.03 * rng.normal(size=(60, 512)))
    vectors[58] = vectors[57] + 1e-4
    vectors[59] = unit(other + 0.001 * rng.normal(size=512))
    labels = [{"label": "a" if n % 2 else "b"} for n in range(60)]
    ids = put(fresh_tables, unit(vectors), "v", labels)
    found = health(fresh_tables, "v")
    assert {issue for issue, row in found.items() if row["images"] is None} == {
        "near duplicate",
        "likely mistake: label",
        "outlier",
        *RULES,
    }
    assert found["not measured"]["images"] == 60  # they have no pictures
    for issue in ("near duplicate", "outlier", "likely mistake: label"):
        fresh_tables.command(found[issue]["statement"])
    found = health(fresh_tables, "v")
    assert (found["near duplicate"]["images"], found["outlier"]["images"]) == (1, 1)
    assert [row["id"] for row in listed(fresh_tables, "outlier", dataset="v")] == [ids[59]]
    (copy,) = listed(fresh_tables, "near duplicate", dataset="v")
    assert {copy["id"], *(id for id in ids if f"v/{ids.index(id)}" == copy["why"].removeprefix("near "))} == {ids[57], ids[58]}
    expected = fresh_tables.query(
        "SELECT id FROM likely_mistakes(dataset = 'v', attribute = 'label') WHERE suspicion > 0.5 ORDER BY suspicion DESC, id"
    ).result_rows
    assert found["likely mistake: label"]["images"] == len(expected)
    assert [(row["id"],) for row in listed(fresh_tables, "likely mistake: label", dataset="v")] == expected
    # Another label, another picture: what was found of the old one does not hold.
    fresh_tables.command(
        f"INSERT INTO images SELECT * REPLACE (map('label', 'c') AS attributes, now64(3) AS loaded_at) FROM images WHERE id = {ids[0]}"
    )
    assert health(fresh_tables, "v")["likely mistake: label"]["looked_at"] == 59


def test_a_data_set_of_one_of_none_and_of_equals(fresh_tables, tmp_path):
    assert {row["images"] for row in health(fresh_tables, "none").values()} == {0}
    PHOTOGRAPHS[0].save(tmp_path / "one.png")
    load(fresh_tables, tmp_path)
    found = health(fresh_tables)
    assert {found[issue]["images"] for issue in RULES} == {0}
    for row in list(found.values()):
        if row["statement"]:
            fresh_tables.command(row["statement"])
    assert {row["images"] for issue, row in health(fresh_tables).items() if issue in RULES} == {0}
    for n in range(5):
        (tmp_path / f"copy {n}.png").write_bytes((tmp_path / "one.png").read_bytes())
    load(fresh_tables, tmp_path)
    assert fresh_tables.query("SELECT count() FROM picture_facts").result_rows == [(1,)]  # of one content one
    found = health(fresh_tables)
    assert {found[issue]["looked_at"] for issue in RULES} == {6}
    fresh_tables.command(found["near duplicate"]["statement"])
    fresh_tables.command(
        "INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = {d:String}, k = 10)", parameters={"d": DATASET}
    )
    found = health(fresh_tables)
    assert (found["near duplicate"]["images"], found["outlier"]["images"]) == (5, 0)


def test_a_second_load_measures_nothing_again_and_new_content_anew(loaded, folder):
    def measured() -> int:
        return int(loaded.query("SELECT encoder_info()['vdx_picture_facts.rows']").result_rows[0][0])

    before = measured()
    load(loaded, folder)
    assert measured() == before
    planted()["dark.jpg"][0].save(folder / "plain 0.jpg")
    load(loaded, folder)
    assert names(listed(loaded, "dark")) == ["dark.jpg", "plain 0.jpg"]
    assert health(loaded)["dark"]["looked_at"] == len(planted())


def test_images_from_before_are_measured_by_the_statement(loaded, folder):
    expected = {issue: row["images"] for issue, row in health(loaded).items()}
    loaded.command("TRUNCATE TABLE picture_facts")
    found = health(loaded)
    assert {found[issue]["images"] for issue in RULES} == {None}
    assert len({found[issue]["statement"] for issue in (*RULES, "not measured")}) == 1
    (folder / "tiny.png").unlink()
    for _ in range(2):
        loaded.command(found["not measured"]["statement"])
        again = health(loaded)
        assert again["not measured"]["images"] == 1
        assert names(listed(loaded, "not measured")) == ["tiny.png"]
        assert {issue: again[issue]["images"] for issue in RULES} == {
            issue: expected[issue] - (issue in ("tiny", "odd size")) for issue in RULES
        }
        assert again["dark"]["looked_at"] == len(planted()) - 1


def test_all_data_sets_together(loaded, folder):
    loaded.command(
        f"INSERT INTO inbox (dataset, source, bytes) SELECT 'other', _path, raw_blob FROM file('{folder}/dark.jpg', RawBLOB)"
    )  # the same content: measured already
    assert [health(loaded, dataset)["dark"]["images"] for dataset in (DATASET, "other", "")] == [1, 1, 2]
    assert names(listed(loaded, "dark", dataset="")) == ["dark.jpg", "dark.jpg"]


def test_a_picture_that_cannot_be_read_again_is_named(fresh_tables, folder):
    client = fresh_tables
    content = (folder / "dark.jpg").read_bytes().hex()
    client.command(f"INSERT INTO inbox (dataset, source) SELECT 'p', _path FROM file('{folder}/dark.jpg', One)")
    client.command(f"INSERT INTO inbox (dataset, source, bytes) VALUES ('p', 'a name', unhex('{content}'))")
    client.command("INSERT INTO picture_facts SELECT * FROM missing_picture_facts(dataset = 'p')")
    found = health(client, "p")
    assert (found["dark"]["images"], found["dark"]["looked_at"], found["not measured"]["images"]) == (1, 1, 1)
    assert names(listed(client, "not measured", dataset="p")) == ["a name"]


def test_from_another_database_and_after_another_run(loaded, layout):
    before = health(loaded)
    engine.apply_schema(loaded, layout.sql)
    assert health(loaded) == before
    loaded.command("CREATE DATABASE IF NOT EXISTS elsewhere")
    ours = loaded.query("SELECT currentDatabase()").result_rows[0][0]
    rows = loaded.query(
        f"SELECT issue, images FROM {ours}.health(dataset = {{d:String}})", parameters={"d": DATASET}
    ).result_rows
    assert dict(rows) == {issue: row["images"] for issue, row in before.items()}


def test_numbers_far_from_the_others_are_those_beyond_tukeys_fences(client):
    rng = np.random.default_rng(5)
    for values in ([], [3.0], [2.0] * 9, list(rng.normal(size=101)), list(rng.exponential(size=64))):
        (found,) = client.query("SELECT vdx_far({v:Array(Float64)})", parameters={"v": values}).result_rows[0]
        low, high = np.percentile(values, [25, 75]) if values else (0, 0)
        assert tuple(found) == pytest.approx((low - 3 * (high - low), high + 3 * (high - low)))


def test_rules_and_what_is_counted_are_the_same(client):
    rules = client.query("SELECT issue, least, most FROM health_rules").result_rows
    assert {issue for issue, _, _ in rules} | {"odd size"} == set(RULES)
    assert all((least is None) != (most is None) for _, least, most in rules)
