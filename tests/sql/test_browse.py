"""What the start page shows: data sets, the newest images, the values of attributes."""

from collections import Counter

import numpy as np
import pytest

from tests.benchmarks.refinement_sets import unit
from tests.conftest import put

CARDS = "SELECT dataset, images, rejects, examples FROM dataset_cards(n = 3)"
NEWEST = "SELECT id FROM newest_images(dataset = {d:String}, attribute = {a:String}, value = {v:String}, k = {k:UInt32})"
COUNTS = "SELECT attribute, value, images FROM attribute_counts(dataset = {d:String})"


@pytest.fixture
def sets(fresh_tables) -> dict[str, list[int]]:
    """Three data sets, one after the other; the ids of each."""
    vectors = unit(np.random.default_rng(21).normal(size=(60, 512)))
    found = {}
    for name, count in (("first", 30), ("two", 20), ("third", 2)):
        attributes = [{"parity": str(n % 2), "rest of 7": str(n % 7), "empty": ""} for n in range(count)]
        found[name] = put(fresh_tables, vectors[:count], name, attributes)
    return found


def test_cards_count_what_is_there_and_show_some_of_it(fresh_tables, sets):
    fresh_tables.command(
        "INSERT INTO rejects (source, dataset, error) VALUES ('a', 'third', 'broken'), ('b', 'third', 'broken'), ('c', 'only rejects', 'broken')"
    )
    rows = fresh_tables.query(CARDS).result_rows
    counts = {name: (images, rejects) for name, images, rejects, _ in rows}
    assert counts == {"first": (30, 0), "two": (20, 0), "third": (2, 2), "only rejects": (0, 1)}
    assert [row[0] for row in rows][2:] == ["two", "first"]  # the last loaded first
    for name, _, _, examples in rows:
        assert [one["id"] for one in examples] == sorted(sets.get(name, []))[:3]
    gone = sorted(sets["first"])[0]
    fresh_tables.command(f"DELETE FROM images WHERE id = {gone}")
    (first,) = (row for row in fresh_tables.query(CARDS).result_rows if row[0] == "first")
    assert first[1] == 29
    assert [one["id"] for one in first[3]] == sorted(sets["first"])[1:4]
    assert {len(row[0]) for row in fresh_tables.query("SELECT examples FROM dataset_cards(n = 0)").result_rows} == {0}


def test_the_newest_come_first_and_filters_hold(fresh_tables, sets):
    def newest(dataset="", attribute="", value="", k=100):
        given = {"d": dataset, "a": attribute, "v": value, "k": k}
        return [id for (id,) in fresh_tables.query(NEWEST, parameters=given).result_rows]

    assert newest() == sorted(sets["third"]) + sorted(sets["two"]) + sorted(sets["first"])
    assert newest(k=3) == newest()[:3]
    assert newest("first") == sorted(sets["first"])
    odd = sorted(id for n, id in enumerate(sets["first"]) if n % 2)
    assert newest("first", "parity", "1") == odd
    assert newest("first", "parity", "it's none") == newest("no such") == []


def test_values_are_counted_within_the_data_set(fresh_tables, sets):
    for dataset, names in (("first", ("first",)), ("third", ("third",)), ("", tuple(sets))):
        rows = fresh_tables.query(COUNTS, parameters={"d": dataset}).result_rows
        expected = Counter()
        for name in names:
            for attributes, images in fresh_tables.query(
                "SELECT attributes, count() FROM images WHERE dataset = {d:String} GROUP BY attributes", parameters={"d": name}
            ).result_rows:
                expected.update({(key, value): images for key, value in attributes.items() if value})
        assert {row[:2]: row[2] for row in rows} == expected
        assert rows == sorted(rows, key=lambda row: (row[0], -row[2], row[1]))
    assert fresh_tables.query(COUNTS, parameters={"d": "no such"}).result_rows == []


def test_an_attribute_of_many_values_gives_the_most_frequent(fresh_tables):
    vectors = unit(np.random.default_rng(22).normal(size=(450, 512)))
    put(fresh_tables, vectors, attributes=[{"one of its own": str(n), "few": str(n // 300)} for n in range(450)])
    rows = fresh_tables.query(COUNTS, parameters={"d": ""}).result_rows
    assert [row for row in rows if row[0] == "few"] == [("few", "0", 300), ("few", "1", 150)]
    assert len(rows) == 202


def test_names_are_data(fresh_tables):
    name = 'it\'s \\ "{x}" ü'
    put(fresh_tables, np.eye(3, 512), attributes=[{name: name}] * 3)
    fresh_tables.command(
        "INSERT INTO images (source, dataset, vector, attributes) SELECT source, {n:String}, vector, attributes FROM images",
        parameters={"n": name},
    )
    assert fresh_tables.query(COUNTS, parameters={"d": name}).result_rows == [(name, name, 3)]
    assert len(fresh_tables.query(NEWEST, parameters={"d": name, "a": name, "v": name, "k": 9}).result_rows) == 3
    assert {row[0]: row[1] for row in fresh_tables.query(CARDS).result_rows} == {"put": 3, name: 3}


def test_a_database_without_images_has_none(fresh_tables):
    assert fresh_tables.query(CARDS).result_rows == []
    assert fresh_tables.query(NEWEST, parameters={"d": "", "a": "", "v": "", "k": 9}).result_rows == []
    assert fresh_tables.query(COUNTS, parameters={"d": ""}).result_rows == []
