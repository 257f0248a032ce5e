"""Rows that count: at any moment every view answers one row per id, the newest, whatever was deleted, replaced or merged."""

import hashlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import put, vdx
from vdx_udf import engine
from vdx_udf.commands.doctor import examine
from vdx_udf.commands.reference import sql_objects
from vdx_udf.statements import statements_of
from vdx_udf.tiny.pictures import draw, sample_picture

QUERIES = ("a red circle", "two blue hearts", "a green star", "a yellow square", "a large triangle", "a small dot")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    draw(sample_picture(np.random.default_rng(seed))).save(buffer, "PNG")
    return buffer.getvalue()


def insert(client, rows: dict[str, bytes], dataset: str = "mine") -> None:
    client.insert("inbox", [(source, dataset, content) for source, content in rows.items()], ["source", "dataset", "bytes"])


@pytest.fixture(scope="module")
def contents() -> list[bytes]:
    return [picture(seed) for seed in range(400)]


def build(client) -> None:
    client.command("OPTIMIZE TABLE images FINAL")
    client.command("ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2")


def recall(client, clip, wanted: dict[str, np.ndarray], k: int = 10) -> float:
    """The share of the k nearest of `wanted` (source to vector) that search_text finds; each source once, k rows."""
    names, matrix = list(wanted), np.stack(list(wanted.values()))
    found = 0
    for query in QUERIES:
        rows = client.query(
            "SELECT source, distance FROM search_text(query = {q:String}, k = {k:UInt32})", {"q": query, "k": k}
        )
        sources = [source for source, _ in rows.result_rows]
        assert len(set(sources)) == len(sources) == min(k, len(names))
        cosines = matrix @ clip.encode_texts([query])[0]
        for source, distance in rows.result_rows:
            assert abs(1 - distance - cosines[names.index(source)]) < 2e-3  # the newest vector, not an old one
        least = np.sort(cosines)[-min(k, len(names))]
        found += sum(cosines[names.index(source)] >= least - 1e-5 for source in sources)
    return found / (len(QUERIES) * min(k, len(names)))


@pytest.fixture
def vectors(client, contents):
    """The vector of each content, by encode_image itself."""

    def of(numbered: dict[str, int]) -> dict[str, np.ndarray]:
        answer = {}
        for source, number in numbered.items():
            key = hashlib.sha256(contents[number]).digest()
            if key not in _known:
                _known[key] = np.array(
                    client.query(f"SELECT encode_image(unhex('{contents[number].hex()}'))").result_rows[0][0], np.float32
                )
            answer[source] = _known[key]
        return answer

    return of


_known: dict[bytes, np.ndarray] = {}


def test_searches_after_deletes_replacements_and_merges(fresh_tables, clip, contents, vectors):
    client, there = fresh_tables, {f"{n:03}.png": n for n in range(200)}
    insert(client, {source: contents[n] for source, n in there.items()})
    build(client)
    assert recall(client, clip, vectors(there)) > 0.95

    # Delete the nearest to the queries: an index search that does not look past them finds nothing.
    near = {
        row[0] for q in QUERIES for row in client.query(f"SELECT source FROM search_text(query = '{q}', k = 12)").result_rows
    }
    client.command("DELETE FROM images WHERE source IN {s:Array(String)}", {"s": sorted(near)})
    there = {source: n for source, n in there.items() if source not in near}
    assert recall(client, clip, vectors(there)) > 0.95
    client.command("ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2")
    assert recall(client, clip, vectors(there)) > 0.95
    checks = {check.what: check for check in examine(client)}
    assert not checks["hidden rows"].good
    assert f"{len(near)} deleted rows" in checks["hidden rows"].found
    remedy = re.search(r"(ALTER TABLE .*? = 2);", checks["hidden rows"].remedy).group(1)

    # Delete and insert again under the same names, with other content.
    for at, source in enumerate(sorted(near)):
        there[source] = 200 + at
    insert(client, {source: contents[there[source]] for source in near})
    assert recall(client, clip, vectors(there)) > 0.95

    # Replace.
    for source in sorted(there)[:40]:
        there[source] = 399 - there[source]
    insert(client, {source: contents[there[source]] for source in sorted(there)[:40]})
    assert client.query("SELECT count() FROM images").result_rows[0][0] > len(there)
    assert recall(client, clip, vectors(there)) > 0.95
    assert client.query("SELECT sum(images), sum(hidden) FROM index_status").result_rows == [(len(there), 40 + len(near))]

    client.command("OPTIMIZE TABLE images FINAL")
    assert recall(client, clip, vectors(there)) > 0.95
    for statement in (
        remedy,
        *re.findall(r"ALTER TABLE images DELETE .*? = 2|DELETE FROM superseded_images [^.]*", checks["hidden rows"].remedy),
    ):
        client.command(statement)
    assert recall(client, clip, vectors(there)) > 0.95
    assert client.query("SELECT hidden FROM hidden_rows").result_rows == [(0,)]
    assert {check.what: check.good for check in examine(client)}["hidden rows"]


def test_every_view_answers_one_row_an_id(fresh_tables, contents):
    client = fresh_tables
    client.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a circle')")
    client.command("SYSTEM STOP MERGES images")
    try:
        insert(client, {"a": contents[0], "b": contents[1], "c": contents[2], "d": contents[3]})
        insert(client, {"a": contents[4], "b": b"broken now"})
        insert(client, {"a": contents[5]})
        wanted = {"a", "c", "d"}
        for view in (
            "scores(concept = 'c')", "zero_shot(labels = ['red', 'blue'], template_set = 'default')", "concept_scores",
            "best_concepts(k = 1)", "search_text(query = 'a circle', k = 9)", "search_vector(vector = encode_text('a circle'), k = 9)",
            "search_vector_in(vector = encode_text('a circle'), dataset = 'mine', k = 9)",
            "search_text_where(query = 'a circle', dataset = 'mine', attribute = '', value = '', k = 9)", "search_concept(concept = 'c', k = 9)",
            "best_scores(concept = 'c', dataset = '', attribute = '', value = '', k = 9)", "scores_at(concept = 'c', round = 0)",
            "newest_images(dataset = '', attribute = '', value = '', k = 9)",
            "next_to_label(concept = 'c', k = 9)", "diverse_subset(dataset = '', n = 9)", "portable", "current_images",
            "search_text_excluding(query = 'a circle', exclude = [1], k = 9)",
        ):  # fmt: skip
            sources = [row[0] for row in client.query(f"SELECT source FROM {view}").result_rows]
            assert sorted(sources) == sorted(wanted), view
        assert client.query("SELECT source FROM current_rejects").result_rows == [("b",)]
        assert client.query("SELECT * FROM load_report(dataset = 'mine')").result_rows[:3] == [
            ("inputs", 4), ("images", 3), ("rejects", 1)
        ]  # fmt: skip
        assert (
            sum(
                len(row[0])
                for row in client.query("SELECT ids FROM vector_blocks(dataset = '', attribute = '', value = '')").result_rows
            )
            == 3
        )
        assert client.query("SELECT count(), uniqExact(id) FROM random_images(seed = 's', n = 9)").result_rows == [(3, 3)]
        # Back to a content that was there before: it counts again, and the reject does not.
        insert(client, {"b": contents[1], "a": contents[0]})
        assert client.query("SELECT source, hex(content_hash) FROM current_images ORDER BY source LIMIT 2").result_rows == [
            (source, hashlib.sha256(contents[n]).hexdigest().upper()) for n, source in enumerate("ab")
        ]
        assert client.query("SELECT count() FROM current_rejects").result_rows == [(0,)]
        insert(client, {"b": b"broken now"})  # as once before
        assert client.query("SELECT source FROM current_rejects").result_rows == [("b",)]
        assert client.query("SELECT source FROM current_images ORDER BY source").result_rows == [("a",), ("c",), ("d",)]
    finally:
        client.command("SYSTEM START MERGES images")


def test_rows_inserted_straight_into_images_replace_each_other_too(fresh_tables):
    client = fresh_tables
    for text in ("one", "two", "three"):
        client.command(
            f"INSERT INTO images (source, dataset, model, vector) SELECT 'x', 'd', 'vdx-tiny', encode_text('{text}')"
        )
    rows = client.query("SELECT vector = encode_text('three') FROM current_images").result_rows
    assert rows == [(1,)]
    assert client.query("SELECT count() FROM superseded WHERE (id, loaded_at) NOT IN superseded_images").result_rows == [(0,)]
    # An old copy that is put back beside the newer row does not count.
    client.command(
        "INSERT INTO images SELECT * REPLACE(loaded_at - 1 AS loaded_at, encode_text('old')::Array(Float32) AS vector) FROM current_images"
    )
    assert client.query("SELECT vector = encode_text('three') FROM current_images").result_rows == [(1,)]


@pytest.mark.parametrize("factor", ["0", "1.02", "10", "1e38"])
def test_vectors_that_would_be_scored_wrong_are_refused(fresh_tables, layout, factor):
    """Zeros have no distance, and longer ones than 1 come first among inner products; tables of before learn it by the upgrade."""
    client = fresh_tables
    client.command("ALTER TABLE images DROP CONSTRAINT vector_norm")
    for statement in statements_of(layout.sql / "02_upgrade.sql"):
        client.command(engine.placed(client, statement))
    insert = (
        "INSERT INTO images (source, dataset, model, vector)"
        f" SELECT 'x', 'd', 'vdx-tiny', arrayMap(x -> toFloat32(x * {factor}), encode_text('a circle'))"
    )
    with pytest.raises(Exception, match="vector_norm"):
        client.command(insert)
    assert client.query("SELECT count() FROM images").result_rows == [(0,)]
    client.command(insert.replace(f"* {factor}", "* 1.005"))
    assert client.query("SELECT count() FROM images").result_rows == [(1,)]


def test_nothing_is_near_to_a_vector_without_a_direction(loaded, layout):
    takes_one = [
        (each.name, made.group(1))
        for file in sorted(layout.sql.glob("*.sql"))
        for each in sql_objects(file)
        if (made := re.search(rf"VIEW {each.name} AS\n(.*?);$", file.read_text(), re.M | re.S)) and "{vector:" in made.group(1)
    ]
    assert len(takes_one) > 8
    for name, text in takes_one:
        if name in ("search_vector", "search_vector_in", "search_vector_where"):
            continue  # asking costs them 2 ms of 14: docs/limits.md
        for number in ("0", "nan", "1e38"):
            given = PARAMETERS | {"vector": f"arrayWithConstant(512, toFloat32({number}))", "image_id": "0", "k": "2000"}
            call = ", ".join(f"{x} = {given[x]}" for x in dict.fromkeys(re.findall(r"\{(\w+):", text)))
            with pytest.raises(Exception, match="a vector that is zero or not finite has no direction"):
                loaded.query(f"SELECT * FROM {name}({call})")
    # A subquery's vector is empty while the INSERT is analysed.
    loaded.command(
        "INSERT INTO classifiers SELECT * FROM start_concept_like(concept = 'c', image_id = (SELECT min(id) FROM images))"
    )
    loaded.command(
        "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'd', vector = (SELECT vector FROM images ORDER BY id LIMIT 1))"
    )
    assert loaded.query("SELECT count(), uniqExact(weight) FROM classifiers").result_rows == [(2, 1)]


def test_kept_pairs_and_neighbours_do_not_outlive_their_vectors(fresh_tables):
    client, rng = fresh_tables, np.random.default_rng(0)
    base = rng.normal(size=(6, 512)).astype(np.float32)
    pairs = np.concatenate([base, base + 0.001 * rng.normal(size=base.shape).astype(np.float32)])
    unit = pairs / np.linalg.norm(pairs, axis=1, keepdims=True)
    ids = put(client, unit, "p", model="vdx-tiny")

    def found() -> tuple[list, dict]:
        groups = client.query(
            "SELECT groupArray(id) FROM near_duplicate_groups(dataset = 'p', least = 0.9) GROUP BY group_id"
        ).result_rows
        near = client.query(
            "SELECT id, groupArray(neighbour_id) FROM current_neighbours(dataset = 'p') GROUP BY id"
        ).result_rows
        return sorted(sorted(row[0]) for row in groups), {id: set(others) for id, others in near}

    def look(k: int = 3) -> None:
        client.command("INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = 'p', least = 0.9)")
        client.command(f"INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'p', k = {k})")

    look()
    groups, near = found()
    assert groups == sorted(sorted([ids[n], ids[n + 6]]) for n in range(6))
    assert all(len(others) == 3 for others in near.values())
    # One changes, one goes, one comes.
    unit[0] = unit[5]
    client.command(
        "INSERT INTO images (source, dataset, model, vector) VALUES ('p/0', 'p', 'vdx-tiny', {v:Array(Float32)})",
        {"v": unit[0].tolist()},
    )
    client.command(f"DELETE FROM images WHERE id = {ids[1]}")
    groups, near = found()
    assert groups == sorted(sorted([ids[n], ids[n + 6]]) for n in range(2, 6))
    assert not {ids[0], ids[1]} & set(near).union(*near.values())
    look(2)
    groups, near = found()
    assert groups == sorted([*(sorted([ids[n], ids[n + 6]]) for n in range(2, 5)), sorted([ids[0], ids[5], ids[11]])])
    alive = [n for n in range(12) if n != 1]
    cosines = unit[alive] @ unit[alive].T - 9 * np.eye(11)
    # Of pictures that are equal, 0 and 5, either may be the second of another's two.
    assert near.keys() == {ids[n] for n in alive}
    for row, n in enumerate(alive):
        seen = sorted(cosines[row, alive.index(ids.index(other))] for other in near[ids[n]])
        assert np.allclose(seen, np.sort(cosines[row])[-2:], atol=1e-6)


PARAMETERS = {
    "dataset": "''", "attribute": "'label'", "value": "'a'", "concept": "'c'", "prompt": "'a circle'", "query": "'a circle'", "k": "3", "n": "3",
    "vector": "encode_text('a circle')", "labels": "['red', 'blue', 'never seen']", "template_set": "'default'", "least": "0.5", "seed": "'s'",
    "share": "1", "recall": "0.9", "precision": "0.9", "round": "0", "before": "0", "after": "0", "to_round": "0", "steps": "5",
    "learning_rate": "0.1", "exclude": "[1]", "method": "'text'", "logit_scale": "100", "train": "'a'", "test": "'b'", "top": "1",
    "uncertain": "1", "diverse": "1", "random": "1", "start": "1", "datasets": "['a', 'b']", "any_of": "map('label', ['a', 'b'])", "none_of": "map('label', ['c'])",
    "at_least": "map()", "at_most": "map()", "caption": "''", "texts": "['a circle', 'red']", "weights": "[1, -0.5]", "ids": "[1]", "side": "64", "issue": "'dark'", "levels": "1",
}  # fmt: skip
SETS = {
    "none": [], "one": [("a", 1)], "two, one class": [("a", 1), ("a", 2)], "two classes of one": [("a", 1), ("b", 2)],
    "equal vectors": [("a", 1)] * 4, "equal vectors, other labels": [("a", 1), ("a", 1), ("b", 1), ("c", 1)],
    "a class of one": [("a", 1), ("a", 2), ("a", 3), ("b", 4)], "opposite vectors": [("a", 1), ("a", -1), ("b", 2)],
}  # fmt: skip


def numbers_in(value) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers_in(part)]
    return [number for part in value for number in numbers_in(part)] if isinstance(value, (list, tuple)) else []


FIRST = ("none", "a class of one")


@pytest.mark.parametrize(
    "rows", [pytest.param(rows, id=name, marks=() if name in FIRST else pytest.mark.long) for name, rows in SETS.items()]
)
def test_no_view_answers_a_number_that_is_none(fresh_tables, layout, rows):
    client, rng = fresh_tables, np.random.default_rng(1)
    unit = rng.normal(size=(9, 512)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ids = []
    if rows:
        matrix = np.stack([math.copysign(1, number) * unit[abs(number)] for _, number in rows])
        ids = put(client, matrix, "d", [{"label": label} for label, _ in rows], model="vdx-tiny")
    client.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = '', k = 3)")
    client.command("INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = '', least = 0.5)")
    client.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a circle')")
    if ids:
        client.command(
            f"INSERT INTO labels (concept, image_id, positive) VALUES ('c', {ids[0]}, {'true' if len(ids) % 2 else 'false'})"
        )
        client.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'c')")
        client.command("INSERT INTO search_trials SELECT * FROM search_trial(seed = 's', share = 1, k = 3)")
    looked_at = 0
    for file in sorted(layout.sql.glob("*.sql")):
        for each in sql_objects(file):
            if not (
                made := re.search(
                    rf"^CREATE (?:OR REPLACE )?VIEW (?:IF NOT EXISTS )?{each.name} AS\n(.*?);$", file.read_text(), re.M | re.S
                )
            ):
                continue
            names = dict.fromkeys(re.findall(r"\{(\w+):", re.sub(r"\$\$.*?\$\$", "", made.group(1), flags=re.S)))
            given = dict(PARAMETERS, image_id=str(ids[0] if ids else 1))
            if each.name in ("picture", "search_image", "search_image_regions", "folder_files", "passed_over", "undo_label"):
                continue  # of files; and what needs a judgement
            call = each.name + (f"({', '.join(f'{name} = {given[name]}' for name in names)})" if names else "")
            answer, refusal = [], ""
            try:
                answer = client.query(f"SELECT * FROM {call}").result_rows
            except Exception as error:
                refusal = str(error)
            assert not refusal or "FUNCTION_THROW_IF" in refusal, (call, refusal)  # a sentence of our own,
            assert not refusal or not ids or "no " in refusal, (call, refusal)  # such as: no image has this image_id
            looked_at += not refusal
            assert all(math.isfinite(number) for row in answer for number in numbers_in(row)), (call, answer[:2])
    assert looked_at > 30


def test_a_label_that_one_picture_has_is_judged_like_others(fresh_tables):
    client, rng = fresh_tables, np.random.default_rng(2)
    centres = rng.normal(size=(3, 512))
    labels = ["a"] * 6 + ["b"] * 6 + ["only"]
    vectors = np.stack([centres["ab".index(label) if label in "ab" else 2] + 0.3 * rng.normal(size=512) for label in labels])
    vectors[5] = centres[1] + 0.3 * rng.normal(size=512)  # labelled a, looks like b
    put(
        client,
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        "m",
        [{"label": x} for x in labels],
        model="vdx-tiny",
    )
    client.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'm', k = 4)")
    rows = client.query(
        "SELECT source, given, suggested, suspicion FROM likely_mistakes(dataset = 'm', attribute = 'label')"
    ).result_rows
    assert len(rows) == 13
    by_source = {source: (suggested, suspicion) for source, _, suggested, suspicion in rows}
    assert by_source["m/5"][0] == "b"
    assert by_source["m/5"][1] > 0.5
    assert all(by_source[f"m/{n}"][1] < 0.5 for n in range(12) if n != 5)
    assert 0 < by_source["m/12"][1] <= 1


@pytest.mark.parametrize("n", [0, 1, 3, 9, 100])
def test_a_diverse_subset_has_each_picture_once(fresh_tables, n):
    rng = np.random.default_rng(3)
    unit = rng.normal(size=(4, 512))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ids = put(fresh_tables, unit[[0, 0, 0, 1, 1, 2, 2, 2, 3]].astype(np.float32), "s", model="vdx-tiny")
    rows = fresh_tables.query(f"SELECT id, distance FROM diverse_subset(dataset = 's', n = {n})").result_rows
    assert len({id for id, _ in rows}) == len(rows) == min(n, 9)
    assert {id for id, _ in rows} <= set(ids)
    if n >= 9:
        assert [distance > 0.01 for _, distance in rows] == [True] * 4 + [False] * 5  # the four that differ come first


def test_pictures_without_a_source_or_with_the_same_one_are_not_lost(fresh_tables, contents):
    client = fresh_tables
    client.insert("inbox", [("", "n", contents[n]) for n in range(10)], ["source", "dataset", "bytes"])
    rows = client.query("SELECT source, lower(hex(content_hash)) FROM current_images").result_rows
    assert len(rows) == 10
    assert all(source == f"sha256:{content_hash}" for source, content_hash in rows)
    report = "SELECT * FROM load_report(dataset = {d:String})"
    assert client.query(report, {"d": "n"}).result_rows == [("inputs", 10), ("images", 10), ("rejects", 0)]
    for _ in range(2):  # again: nothing changes
        client.insert("inbox", [("same", "s", contents[n]) for n in range(3)], ["source", "dataset", "bytes"])
        report_rows = client.query(report, {"d": "s"}).result_rows
        assert report_rows[:3] == [("inputs", 3), ("images", 1), ("rejects", 2)]
        assert report_rows[3][0].startswith("rejected: another picture of the same INSERT has this source")
    # In blocks of their own within one INSERT.
    client.command("DROP TABLE IF EXISTS many_blocks")
    client.command("CREATE TABLE many_blocks (n UInt8, content String) ENGINE = Memory")
    client.insert("many_blocks", [(n, contents[n]) for n in range(4)], ["n", "content"])
    client.command(
        "INSERT INTO inbox (dataset, source, bytes) SELECT 'b', 'same', content FROM (SELECT * FROM many_blocks ORDER BY n)"
        " SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1, max_threads = 1"
    )
    client.command("DROP TABLE many_blocks")
    assert client.query(report, {"d": "b"}).result_rows[:3] == [("inputs", 4), ("images", 1), ("rejects", 3)]
    client.insert("inbox", [("", "e", b""), ("", "e", b"")], ["source", "dataset", "bytes"])
    assert client.query("SELECT error FROM current_rejects WHERE dataset = 'e'").result_rows == [
        ("neither bytes nor a source were given",)
    ]
    # Another INSERT under a known name is a new version, as ever.
    client.insert("inbox", [("same", "s", contents[9])], ["source", "dataset", "bytes"])
    assert (
        client.query(
            "SELECT count(), any(content_hash = SHA256({c:String})) FROM current_images WHERE dataset = 's'", {"c": ""}
        ).result_rows[0][0]
        == 1
    )


@pytest.mark.parametrize("view", ["zero_shot", "label_embeddings", "label_coverage"])
def test_unknown_templates_and_empty_labels_are_errors(loaded, view):
    with pytest.raises(Exception, match=r"there is no template_set 'nothing'; there are: .*default"):
        loaded.query(f"SELECT * FROM {view}(labels = ['a'], template_set = 'nothing')")
    with pytest.raises(Exception, match="labels is empty: name at least one label"):
        loaded.query(f"SELECT * FROM {view}(labels = [], template_set = 'default')")


def test_every_example_runs_from_another_database(fresh_tables, layout, drawn):
    """And in mutations, where nothing is the current one."""
    client, before = fresh_tables, fresh_tables.database or "default"
    for name in ("other db", "nowhere"):
        client.command(f"CREATE DATABASE IF NOT EXISTS `{name}`")
    try:
        client.database = "other db"
        engine.apply_schema(client, layout.sql)
        for table in ("images", "superseded_images", "rejects", "superseded_rejects", "labels", "classifiers", "near_pairs"):
            client.command(f"TRUNCATE TABLE {table}")
        client.command(
            f"INSERT INTO inbox (source, dataset, bytes) SELECT _path, 'holiday', raw_blob FROM file('{drawn[0]}/000*.png', RawBLOB)"
        )
        ((image_id, source),) = client.query("SELECT id, source FROM current_images ORDER BY id LIMIT 1").result_rows
        client.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')")
        client.command(f"INSERT INTO labels (concept, image_id, positive) VALUES ('circles', {image_id}, true)")
        client.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'circles')")
        client.database = "nowhere"
        ran = 0
        for file in sorted(layout.sql.glob("*.sql")):
            for each in sql_objects(file):
                statement = re.sub(
                    r"\b(FROM|JOIN|INTO)\s+(?!FUNCTION\b|file\b|values\b)(\w+)", r"\1 `other db`.\2", each.example or ""
                )
                statement = re.sub(r"'/pictures[^']*'", f"'{source}'", statement)
                statement = re.sub(
                    r"image_id = 42|\b42\b(?=, true)", lambda m: m.group().replace("42", str(image_id)), statement
                )
                if statement:
                    (client.command if statement.startswith("INSERT") else client.query)(statement)
                    ran += 1
        assert ran > 100
        client.command(
            "INSERT INTO `other db`.near_pairs SELECT * FROM `other db`.near_duplicates(dataset = 'holiday', least = 0.5)"
        )
        count = "SELECT count() FROM `other db`.near_duplicate_groups(dataset = 'holiday', least = 0.5) WHERE NOT keep"
        assert client.query(count).result_rows[0][0] > 0
        client.command(
            "DELETE FROM `other db`.images WHERE id IN"
            " (SELECT id FROM `other db`.near_duplicate_groups(dataset = 'holiday', least = 0.5) WHERE NOT keep)"
        )
        assert client.query(count).result_rows == [(0,)]
        client.database = "other db"
        assert {check.what: check.good for check in examine(client)}["mutations"]
        with pytest.raises(Exception, match="Unknown"):  # as somebody would write it: a mutation that never ends
            client.command(
                "DELETE FROM images WHERE id IN (SELECT id FROM near_duplicate_groups(dataset = 'holiday', least = 0.5))"
            )
        (stuck,) = (check for check in examine(client) if check.what == "mutations")
        assert not stuck.good
        for statement in re.findall(r"KILL MUTATION WHERE [^;]+", stuck.remedy):
            client.command(statement)
        assert {check.what: check.good for check in examine(client)}["mutations"]
    finally:
        client.database = before
        for name in ("other db", "nowhere"):
            client.command(f"DROP DATABASE IF EXISTS `{name}`")


def test_vdx_sql_puts_the_database_into_a_mutation(layout, tmp_path, engine_of):
    """What fails by a plain client works by `vdx sql`, which knows the database."""
    from vdx_udf.statements import qualified

    statement = (
        "DELETE FROM images WHERE id IN (SELECT id FROM near_duplicate_groups(dataset = 'FROM x(', least = 1)) -- FROM y("
    )
    assert qualified(statement, "a`b", ["file"]) == (
        r"DELETE FROM images WHERE id IN (SELECT id FROM `a\`b`.near_duplicate_groups(dataset = 'FROM x(', least = 1)) -- FROM y("
    )
    assert (
        qualified("CREATE VIEW v AS SELECT currentDatabase() FROM file('x')", "a'b", ["file"])
        == "CREATE VIEW v AS SELECT 'a\\'b' FROM file('x')"
    )
    assert qualified("SELECT 1 ARRAY JOIN range(3) AS n", "d", []) == "SELECT 1 ARRAY JOIN range(3) AS n"


def names_of(folder: Path) -> dict[bytes, int]:
    """Files whose names are data: endings in any case, signs of globs, quotes, line breaks, bytes that are no UTF-8."""
    return {
        name: number
        for number, name in enumerate(
            (
                b"plain.png", b"trip.2024/a.jfif", b"trip.2024/b.PNG", b"x.Jpg", b"who?.png", b"whoX.png", b"a{b,c}.png", b"ab.png",
                b"[1].png", b"star*.png", b"new\nline.png", b"tab\t.png", b"quo'te\".png", b"back\\slash.png", b"n\xff\xfe.png",
                "käse ☃.png".encode(), b"{1..3}/in braces.png", b"-- comment.png", b"{path:String}.png", b"%s %d.png", b" .png",
            )
        )
    }  # fmt: skip


def test_every_file_below_a_folder_is_an_input_or_is_counted(fresh_tables, run_file, contents, tmp_path):
    folder = tmp_path / "pictures {of} 2024?"
    names = names_of(folder)
    for name, number in names.items():
        path = bytes(folder) + b"/" + name
        Path(path.decode(errors="surrogateescape")).parent.mkdir(parents=True, exist_ok=True)
        Path(path.decode(errors="surrogateescape")).write_bytes(contents[number])
    for other in ("a.txt", "b.txt", "c.mov", "no ending"):
        (folder / other).write_text("x")
    (folder / "trip.2024" / "loop").symlink_to(folder)
    (folder / "round").symlink_to("round")
    (folder / "a link, before what it leads to").symlink_to(folder / "trip.2024")
    (folder / "linked.png").symlink_to(folder / "plain.png")
    (folder / "gone.png").symlink_to(folder / "nothing")
    (folder / "empty.png").touch()
    out = run_file("folder", path=str(folder), dataset="names")
    assert f"inputs\t{len(names) + 3}\nimages\t{len(names) + 1}\nrejects\t2\n" in out
    assert "passed over: 5 files of other kinds: .txt 2, no ending 1, Too many levels of symbolic links 1, .mov 1\t5\n" in out
    client = fresh_tables
    for name, number in names.items():
        source = (bytes(folder) + b"/" + name).hex()
        rows = client.query(f"SELECT hex(content_hash), id FROM current_images WHERE source = unhex('{source}')").result_rows
        assert [row[0].lower() for row in rows] == [hashlib.sha256(contents[number]).hexdigest()], name
        thumbnail = client.query(
            f"SELECT bytes FROM picture(source = unhex('{source}'))", query_formats={"String": "bytes"}
        ).result_rows
        assert thumbnail == [(contents[number],)], name
        nearest = client.query(f"SELECT id FROM search_image(image = unhex('{source}'), k = 1)").result_rows
        assert nearest in (
            [(rows[0][1],)],
            client.query("SELECT id FROM current_images WHERE source LIKE '%linked.png'").result_rows,
        ), name
    assert run_file("folder", path=str(folder), dataset="names") == out  # again: nothing is new
    assert "inputs\t1\n" in run_file("folder", path=str(folder / "who?.png"), dataset="one")
    assert "inputs\t2\n" in run_file("folder", path=f"{tmp_path}/pictures*/who?.png".replace("who?", "[w]ho?"), dataset="glob")
    assert "inputs\t3\n" in run_file("folder", path=f"{tmp_path}/*/{{plain,ab,x}}.[pJ]*", dataset="braces")


def test_what_a_file_holds_that_is_no_picture_stays_hidden(fresh_tables, layout, tmp_path):
    (tmp_path / "secret.png").write_text("very secret")
    for path in (tmp_path / "secret.png", "/etc/passwd"):
        ((content, reason),) = fresh_tables.query(
            "SELECT found.1, found.2 FROM (SELECT vdx_read({p:String}) AS found)", {"p": str(path)}
        ).result_rows
        assert not content
        assert reason.startswith("not a picture")


def test_an_edited_folder_leaves_no_masked_row(fresh_tables, run_file, clip, contents, vectors, tmp_path):
    """As people reload: 50 of 400 pictures edited, some deleted by hand."""
    there = {f"{tmp_path}/{n:03}.png": n for n in range(200)}
    for path, n in there.items():
        Path(path).write_bytes(contents[n])
    run_file("folder", path=str(tmp_path))
    for path in sorted(there)[:50]:
        there[path] += 200
        Path(path).write_bytes(contents[there[path]])
    run_file("folder", path=str(tmp_path))
    assert recall(fresh_tables, clip, vectors(there)) > 0.95
    ((stored, masked, superseded),) = fresh_tables.query(
        "SELECT count(), countIf(NOT _row_exists), (SELECT count() FROM superseded_images SETTINGS apply_deleted_mask = 1) FROM images SETTINGS apply_deleted_mask = 0"
    ).result_rows
    assert (stored, masked, superseded) == (200, 0, 0)
    assert fresh_tables.query("SELECT images, images_without_index, hidden FROM index_status").result_rows == [(200, 0, 0)]
    # Few: they stay, and stay hidden.
    path = min(there)
    there[path] = 399
    Path(path).write_bytes(contents[399])
    run_file("folder", path=str(tmp_path))
    assert fresh_tables.query("SELECT sum(images), sum(hidden) FROM index_status").result_rows in ([(200, 1)], [(200, 0)])
    assert recall(fresh_tables, clip, vectors(there)) > 0.95


def test_the_command_line_loads_a_folder_whose_name_is_no_pattern(tmp_path, contents):
    folder = tmp_path / "a{b}?"
    folder.mkdir()
    (folder / "x.png").write_bytes(contents[0])
    vdx("install", "--prefix", tmp_path / "prefix", "--model", "vdx-tiny")
    try:
        done = vdx("load", "folder", folder, "--prefix", tmp_path / "prefix")
        assert "images\t1" in done.stdout
    finally:
        from vdx_udf.installer.install import stop_encoder
        from vdx_udf.installer.layout import Layout

        stop_encoder(Layout.embedded(tmp_path / "prefix"))
