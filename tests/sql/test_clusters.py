"""Clusters of pictures and their names, beside scikit-learn and where there is next to nothing to cluster."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from tests.benchmarks import refinement_sets
from tests.conftest import put


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def members(client, dataset: str, n: int) -> dict[int, int]:
    rows = client.query(f"SELECT id, cluster FROM cluster_members(dataset = '{dataset}', n = {n})").result_rows
    assert len(rows) == len(dict(rows))
    return dict(rows)


def mixture(seed: int, groups: int = 10, rows: int = 1_200) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around so many centres, of uneven size, and which."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((groups, 512)) + rng.standard_normal(512))
    own = rng.choice(groups, rows, p=(shares := rng.uniform(0.3, 1, groups)) / shares.sum())
    return unit(centres[own] + 0.03 * rng.standard_normal((rows, 512))), own


@pytest.mark.parametrize("n", [3, 10])
def test_clusters_are_as_good_as_those_of_scikit_learn(fresh_tables, n):
    digits = refinement_sets.digits()
    vectors = unit(digits.vectors)
    shown = np.argmax([concept.relevant for concept in digits.concepts], axis=0)
    ids = put(fresh_tables, vectors, "digits")
    found = members(fresh_tables, "digits", n)
    own = np.array([found[id] for id in ids])
    peer = KMeans(n, n_init=3, random_state=0).fit(vectors).labels_

    def fit(labels: np.ndarray) -> float:
        return sum(np.linalg.norm(vectors[labels == each].sum(0)) for each in set(labels)) / len(vectors)

    assert set(own) == set(range(1, n + 1))
    assert (np.diff(np.bincount(own)[1:]) <= 0).all()
    assert fit(own) > fit(peer) - 0.003
    assert normalized_mutual_info_score(shown, own) > normalized_mutual_info_score(shown, peer) - 0.07


def test_the_number_is_found_and_other_orders_of_rows_change_nothing(fresh_tables):
    vectors, own = mixture(71)
    ids = put(fresh_tables, vectors)
    found = members(fresh_tables, "put", 0)
    assert normalized_mutual_info_score(own, [found[id] for id in ids]) == pytest.approx(1)
    assert members(fresh_tables, "", 0) == found
    fresh_tables.command("CREATE OR REPLACE TABLE kept ENGINE = Memory AS SELECT * FROM images")
    fresh_tables.command("TRUNCATE TABLE images")
    for half in (1, 0):
        fresh_tables.command(f"INSERT INTO images SELECT * FROM kept WHERE id % 2 = {half} ORDER BY id DESC")
    fresh_tables.command("DROP TABLE kept")
    assert members(fresh_tables, "put", 0) == found


def test_clusters_are_named_by_the_words_that_stand_out(fresh_tables):
    words = ["red circle", "blue star", "it's green"]
    fresh_tables.command(
        "INSERT INTO vocabulary (word) VALUES ('purple heart'), " + ", ".join(f"('{w}')" for w in words).replace("'s", "\\'s")
    )
    rng = np.random.default_rng(5)
    for place, word in enumerate(words):
        noise = (0.01 * rng.standard_normal((20 + 5 * place, 512))).tolist()
        fresh_tables.command(
            "INSERT INTO images (source, dataset, model, weights_hash, vector)"
            " SELECT {w:String} || toString(rowNumberInAllBlocks()), 'named', encoder_info()['model'], encoder_info()['weights_hash'],"
            " vdx_normalize(arrayMap((x, y) -> x + y, encode_text('a photo of a ' || {w:String}), noise))"
            " FROM (SELECT arrayJoin({n:Array(Array(Float32))}) AS noise)",
            {"w": word, "n": noise},
        )
    rows = fresh_tables.query(
        "SELECT cluster, name, size, spread, typical, nearest_words FROM clusters(dataset = 'named', n = 3)"
    ).result_rows
    assert [(cluster, name, size) for cluster, name, size, *_ in rows] == [
        (1, words[2], 30),
        (2, words[1], 25),
        (3, words[0], 20),
    ]
    for _, name, _, spread, typical, nearest in rows:
        assert 0 < spread < 0.1
        assert nearest[0] == name
        assert len(set(nearest)) == len(nearest) == 4
        sources = fresh_tables.query("SELECT source FROM images WHERE id IN {t:Array(UInt64)}", {"t": typical}).result_rows
        assert len(sources) == 9
        assert all(source.startswith(name) for (source,) in sources)
    fresh_tables.command("TRUNCATE TABLE vocabulary")
    fresh_tables.command("INSERT INTO vocabulary (word, weights_hash) VALUES ('of another model', 'other')")
    rows = fresh_tables.query("SELECT name, nearest_words FROM clusters(dataset = 'named', n = 3)").result_rows
    assert rows == [("", [])] * 3


@pytest.mark.parametrize(
    ("rows", "different", "n", "clusters"),
    [(0, 0, 0, 0), (0, 0, 5, 0), (1, 1, 0, 1), (1, 1, 5, 1), (30, 1, 0, 1), (30, 1, 7, 1), (30, 2, 7, 2), (4, 4, 9, 4), (50, 50, 1, 1)],
)  # fmt: skip
def test_next_to_nothing(fresh_tables, rows, different, n, clusters):
    vectors = unit(np.random.default_rng(1).standard_normal((max(1, different), 512)))
    if rows:
        put(fresh_tables, vectors[np.arange(rows) % different])
    found = fresh_tables.query(f"SELECT cluster, size, spread, name FROM clusters(dataset = 'put', n = {n})").result_rows
    assert [row[0] for row in found] == list(range(1, clusters + 1))
    assert sum(row[1] for row in found) == rows
    assert all(0 <= round(row[2], 5) <= 1 for row in found)


def test_vectors_of_several_lengths_are_an_error_that_says_so(client):
    with pytest.raises(Exception, match="vectors of 2 and of 3 numbers in one array do not compare"):
        client.query("SELECT vdx_kmeans([[1, 0], [1, 0, 0]]::Array(Array(Float32)), 1)")
