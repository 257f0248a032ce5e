"""Positions on a map, beside scikit-learn's measures and umap-learn's figures, and where there is next to nothing to lay out."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from tests.benchmarks import refinement_sets
from tests.benchmarks.refinement_sets import unit
from tests.conftest import put

UMAP_LEARN = 0.986  # umap-learn 0.5.12 with metric cosine, on the digits


def points(client, statement: str) -> dict[int, tuple[float, float]]:
    rows = client.query(f"SELECT id, x, y FROM {statement}").result_rows
    found = {id: (x, y) for id, x, y in rows}
    assert len(found) == len(rows)
    assert np.isfinite(list(found.values())).all()
    return found


def keep(client, dataset: str = "put", view: str = "map_positions") -> None:
    client.command(f"INSERT INTO map_points SELECT * FROM {view}(dataset = '{dataset}')")


def kept(client, dataset: str = "put") -> dict[int, tuple[float, float]]:
    return points(client, f"current_map_points(dataset = '{dataset}')")


def trust(vectors: np.ndarray, positions: np.ndarray) -> float:
    return trustworthiness(vectors, positions, n_neighbors=15, metric="cosine")


def test_positions_keep_neighbours_and_new_pictures_come_beside_them(fresh_tables):
    vectors = unit(refinement_sets.digits().vectors)
    ids = put(fresh_tables, vectors[:1_500], "it''s")
    keep(fresh_tables, "it''s")
    before = kept(fresh_tables, "it''s")
    laid = np.array([before[id] for id in ids])
    plain = points(fresh_tables, "pca_positions(dataset = 'it''s')")
    by_components = trust(vectors[:1_500], np.array([plain[id] for id in ids]))
    assert trust(vectors[:1_500], laid) > max(UMAP_LEARN - 0.01, by_components + 0.1)
    assert by_components == pytest.approx(trust(vectors[:1_500], PCA(2).fit_transform(vectors[:1_500])), abs=0.02)

    put_new = unit(vectors[1_500:])
    fresh_tables.command(
        "INSERT INTO images (source, dataset, vector) SELECT 'new/' || toString(rowNumberInAllBlocks()), 'it''s', v"
        " FROM (SELECT arrayJoin({v:Array(Array(Float32))}) AS v)",
        {"v": put_new.tolist()},
    )
    assert kept(fresh_tables, "it''s") == before
    keep(fresh_tables, "it''s", "place_new")
    after = kept(fresh_tables, "it''s")
    assert {id: after[id] for id in ids} == before
    rows = fresh_tables.query("SELECT id, vector FROM images WHERE startsWith(source, 'new/')").result_rows
    assert len(rows) == len(put_new) == len(after) - len(before)
    for id, vector in rows[:40]:
        cosines = vectors[:1_500] @ np.array(vector, np.float32)
        nearest = np.argsort(-cosines)[:5]
        assert np.average(laid[nearest], axis=0, weights=cosines[nearest]) == pytest.approx(np.array(after[id]), abs=1e-3)
    both = np.array([*before.values(), *(after[id] for id, _ in rows)])
    assert trust(np.concatenate([[vectors[ids.index(id)] for id in before], [v for _, v in rows]]), both) > 0.96


def test_the_same_rows_lie_the_same_and_a_second_map_takes_the_first_ones_place(fresh_tables):
    vectors = unit(np.random.default_rng(3).standard_normal((60, 512)))
    ids = put(fresh_tables, vectors)
    keep(fresh_tables)
    first = kept(fresh_tables)
    keep(fresh_tables)
    assert kept(fresh_tables) == first
    keep(fresh_tables, "")
    assert kept(fresh_tables, "").keys() == set(ids)
    fresh_tables.command(f"DELETE FROM images WHERE id = {ids[0]}")
    assert kept(fresh_tables).keys() == set(ids[1:])
    keep(fresh_tables, view="pca_positions")
    second = kept(fresh_tables)
    assert second.keys() == set(ids[1:])
    assert second != {id: first[id] for id in ids[1:]}
    fresh_tables.command(
        f"INSERT INTO images (source, dataset, vector) SELECT source, dataset, arrayMap(x -> -x, vector) FROM images WHERE id = {ids[1]}"
    )
    assert kept(fresh_tables).keys() == set(ids[2:])
    keep(fresh_tables, view="place_new")
    assert kept(fresh_tables).keys() == set(ids[1:])


@pytest.mark.parametrize(("rows", "different"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (2, 1), (40, 1), (40, 2)])
def test_next_to_nothing(fresh_tables, rows, different):
    put(fresh_tables, unit(np.random.default_rng(2).standard_normal((9, 512))), "another data set")
    if rows:
        put(fresh_tables, unit(np.random.default_rng(1).standard_normal((different, 512)))[np.arange(rows) % different])
    for view in ("map_positions", "pca_positions"):
        found = points(fresh_tables, f"{view}(dataset = 'put')")
        assert len(found) == rows
        if different == 1:
            assert np.abs(list(found.values())).max() < 1e-3
        if 1 < rows == different:
            assert len(set(found.values())) == rows
    assert points(fresh_tables, "place_new(dataset = 'put')") == {}
