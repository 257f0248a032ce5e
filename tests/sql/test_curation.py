"""Curation views and search quality against brute force in numpy, with planted copies, leaks and wrong labels."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from tests.benchmarks.refinement_sets import unit
from tests.conftest import put
from vdx_udf.encoder.near import near


def clustered(rng: np.random.Generator, rows: int) -> np.ndarray:
    return unit(rng.normal(size=(rows, 16)) @ rng.normal(size=(16, 512)) + 0.3 * rng.normal(size=(rows, 512)))


def copies(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    """Near duplicates: a cosine of about 0.97 to the originals."""
    return unit(vectors + 0.25 * unit(rng.normal(size=vectors.shape)))


@pytest.mark.parametrize(("k", "least"), [(0, 0.2), (5, -1.0), (5, 0.3), (10_000, 0.25)])
def test_near_equals_brute_force(k, least):
    rng = np.random.default_rng(1)
    left, right = clustered(rng, 2_500), clustered(rng, 300)
    rows, columns, products = near(left, right, k, least)
    exact = left.astype(np.float64) @ right.T.astype(np.float64)
    allowed = exact >= least
    if 0 < k < len(right):
        allowed &= exact >= np.sort(exact, axis=1)[:, -k][:, None]
    assert np.array_equal(
        np.unique(rows.astype(int) * 1000 + columns), np.sort([(r + 1) * 1000 + c + 1 for r, c in np.argwhere(allowed)])
    )
    assert np.allclose(products, exact[rows - 1, columns - 1], atol=1e-6)
    assert all(np.all(np.diff(products[rows == row]) <= 0) for row in (1, 7, 2_500))


def test_near_takes_no_more_memory_for_more_vectors(monkeypatch):
    rng = np.random.default_rng(2)
    left, right = clustered(rng, 40), clustered(rng, 300)
    whole = near(left, right, 5, -1)
    monkeypatch.setattr("vdx_udf.encoder.near.PRODUCTS", 900)  # three left vectors at a time
    assert all(np.array_equal(a, b) for a, b in zip(whole, near(left, right, 5, -1), strict=True))
    monkeypatch.setattr("vdx_udf.encoder.near.MOST_PAIRS", 1_000)
    with pytest.raises(ValueError, match="more than 1,000 pairs; ask for a larger `least`"):
        near(left, right, 0, -2)


def test_near_of_nothing_is_nothing():
    empty = np.empty((0, 0), np.float32)
    for left, right in ((empty, np.eye(2, dtype=np.float32)), (np.eye(2, dtype=np.float32), empty), (empty, empty)):
        assert [len(part) for part in near(left, right, 0, -1)] == [0, 0, 0]


def test_vdx_near_answers_rows_of_different_sizes_and_refuses_what_does_not_compare(client):
    statement = "SELECT vdx_near(l, r, 1, -1) FROM (SELECT arrayJoin([({a}, {b}), ({b}, {a}), ([], {a})]) AS p, p.1::Array(Array(Float32)) AS l, p.2::Array(Array(Float32)) AS r)"
    rows = client.query(
        statement.format(a="[[1., 0.], [0., 1.], [0.6, 0.8]]", b="[[0., 1.]]").replace("1, -1)", "1::UInt32, -1::Float32)")
    )
    assert [[tuple(pair.values()) for pair in row[0]] for row in rows.result_rows] == [
        [(1, 1, 0.0), (2, 1, 1.0), (3, 1, pytest.approx(0.8))],
        [(1, 2, 1.0)],
        [],
    ]
    for left, right in (("[[1, 0]]", "[[1, 0, 0]]"), ("[[1, 0], [1]]", "[[1, 0]]")):
        with pytest.raises(Exception, match=r"vdx_near: vectors of \d and of \d numbers"):
            client.query(
                f"SELECT vdx_near({left}::Array(Array(Float32)), {right}::Array(Array(Float32)), 0::UInt32, 0::Float32)"
            )


def test_all_planted_duplicates_are_found_and_nothing_else(fresh_tables):
    """9,000 rows are two blocks, so pairs within blocks and across them are there."""
    rng = np.random.default_rng(2)
    vectors = clustered(rng, 9_000)
    vectors = np.concatenate([vectors, copies(rng, vectors[:200])])
    ids = put(fresh_tables, vectors)
    blocks = fresh_tables.query("SELECT block FROM vector_blocks(dataset = 'put', attribute = '', value = '')").result_rows
    assert sorted(blocks) == [(0,), (1,)]
    fresh_tables.command("INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = 'put', least = 0.95)")
    found = {
        (a, b): cosine for a, b, cosine in fresh_tables.query("SELECT first_id, second_id, cosine FROM near_pairs").result_rows
    }
    exact = vectors @ vectors.T
    wanted = {tuple(sorted((ids[a], ids[b]))): exact[a, b] for a, b in np.argwhere(np.triu(exact >= 0.95, 1))}
    assert found == pytest.approx(wanted, abs=1e-5)
    assert all(tuple(sorted((ids[n], ids[9_000 + n]))) in found for n in range(200))


def test_groups_are_connected_components_and_keep_the_largest_file(fresh_tables):
    rng = np.random.default_rng(3)
    ids = put(fresh_tables, clustered(rng, 60))
    order = rng.permutation(60)
    chain, star, pair = order[:30], order[30:38], order[38:40]  # a chain needs many turns
    edges = [*pairwise(chain), *((star[0], other) for other in star[1:]), tuple(pair)]
    for a, b in edges:
        first, second = sorted((ids[a], ids[b]))
        fresh_tables.command(f"INSERT INTO near_pairs VALUES ('put', {first}, {second}, 0.97)")
    fresh_tables.command(
        f"INSERT INTO near_pairs VALUES ('put', {min(ids[chain[0]], ids[pair[0]])}, {max(ids[chain[0]], ids[pair[0]])}, 0.9)"
    )
    fresh_tables.command(f"ALTER TABLE images UPDATE size = 1000 WHERE id = {ids[star[3]]} SETTINGS mutations_sync = 2")
    rows = fresh_tables.query("SELECT group_id, id, keep FROM near_duplicate_groups(dataset = 'put', least = 0.95)").result_rows
    groups: dict[int, set[int]] = {}
    for group, id, _ in rows:
        groups.setdefault(group, set()).add(id)
    assert sorted(groups.values(), key=len) == [{ids[n] for n in part} for part in (pair, star, chain)]
    kept = {id for _, id, keep in rows if keep}
    assert kept == {ids[star[3]], min(ids[n] for n in chain), min(ids[n] for n in pair)}


@pytest.mark.parametrize("attribute", ["", "label"])
def test_all_leaked_test_images_are_found(fresh_tables, attribute):
    rng = np.random.default_rng(4)
    trained, tested = clustered(rng, 1_500), clustered(rng, 400)
    leaked, origins = rng.permutation(400)[:50], rng.permutation(1_500)[:50]
    tested[leaked] = copies(rng, trained[origins])
    train_ids = put(fresh_tables, trained, "train", [{"label": "train"}] * 1_500)
    test_ids = put(fresh_tables, tested, "test", [{"label": "test"}] * 400)
    statement = f"SELECT test_id, train_id, test_source FROM leaks(attribute = '{attribute}', train = 'train', test = 'test', least = 0.95)"
    found = fresh_tables.query(statement).result_rows
    exact = tested @ trained.T
    assert {(a, b) for a, b, _ in found} == {(test_ids[a], train_ids[b]) for a, b in np.argwhere(exact >= 0.95)}
    assert {test_ids[n] for n in leaked} <= {a for a, _, _ in found}
    assert all(source.startswith("test/") for _, _, source in found)


@pytest.mark.parametrize("which", ["digits", "drawn"])
def test_flipped_labels_come_first(fresh_tables, which, drawn, clip):
    """5 % wrong labels on real digits and on drawn pictures under the bundled model."""
    from tests.benchmarks.refinement_sets import digits
    from vdx_udf.tiny.pictures import draw, sample_picture

    rng = np.random.default_rng(5)
    if which == "digits":
        held = digits()
        clear = [concept for concept in held.concepts if "clear" in concept.name]
        vectors, truth = held.vectors, np.argmax([concept.relevant for concept in clear], axis=0)
    else:
        pictures = [sample_picture(rng, 1) for _ in range(1_000)]
        vectors = np.asarray(clip.encode_images([clip.pixels(draw(picture)) for picture in pictures]))
        names = sorted({picture.things[0].shape for picture in pictures})
        truth = np.array([names.index(picture.things[0].shape) for picture in pictures])
    given, wrong = flipped(rng, truth)
    ids = put(fresh_tables, vectors, attributes=[{"label": f"class {label}"} for label in given])
    fresh_tables.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'put', k = 10)")
    rows = fresh_tables.query(
        "SELECT id, given, suggested, suspicion FROM likely_mistakes(dataset = 'put', attribute = 'label')"
    ).result_rows
    row_of = {id: row for row, id in enumerate(ids)}
    assert len(rows) == len(vectors)
    hits = np.cumsum([wrong[row_of[row[0]]] for row in rows])
    at = np.searchsorted(hits, np.ceil(0.8 * wrong.sum()))
    assert hits[at] / (at + 1) >= 0.9
    suggested = [suggestion == f"class {truth[row_of[id]]}" for id, _, suggestion, _ in rows if wrong[row_of[id]]]
    assert np.mean(suggested) > 0.9


def flipped(rng: np.random.Generator, truth: np.ndarray, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, and which those are."""
    wrong = rng.permutation(len(truth)) < share * len(truth)
    return np.where(wrong, (truth + rng.integers(1, truth.max() + 1, len(truth))) % (truth.max() + 1), truth), wrong


def suspicions(client, ids: list[int]) -> dict[str, np.ndarray]:
    """What likely_mistakes says of each image, in the order of ids."""
    columns = ("suspicion", "classifier_probability", "neighbour_share", "given", "suggested")
    statement = f"SELECT id, {', '.join(columns)} FROM likely_mistakes(dataset = 'put', attribute = 'label')"
    by_id = {id: row for id, *row in client.query(statement).result_rows}
    return dict(zip(columns, map(np.array, zip(*(by_id[id] for id in ids), strict=True)), strict=True))


@pytest.mark.parametrize(("classes", "rows"), [(2, 300), (40, 3), (3, 1_300)])
def test_each_image_is_judged_by_a_discriminant_analysis_without_it(fresh_tables, classes, rows):
    """Against one that is fitted again for every image; beyond 1,024 images the mean leverage keeps it close."""
    rng = np.random.default_rng(10)
    labels = np.arange(rows if rows > classes else classes * rows) % classes
    vectors = unit(rng.normal(size=(classes, 512))[labels] * 0.12 + clustered(rng, len(labels)) * 3)
    ids = put(fresh_tables, vectors, attributes=[{"label": f"it's {label}"} for label in labels])
    found = suspicions(fresh_tables, ids)["classifier_probability"]
    exact = vectors.astype(np.float64)
    degrees = len(labels) - classes
    means = np.stack([exact[labels == n].mean(axis=0) for n in range(classes)])
    scatter = (exact - means[labels]).T @ (exact - means[labels])
    judged = rng.permutation(len(labels))[:60]
    logits = []
    for row in judged:
        others = np.arange(len(labels)) != row
        own = np.stack([exact[others & (labels == n)].mean(axis=0) for n in range(classes)])
        rest = exact[others] - own[labels[others]]
        matrix = rest.T @ rest + np.eye(512) * np.trace(scatter) / degrees
        away = exact[row] - own
        logits.append(-degrees / 2 * np.einsum("kd,dk->k", away, np.linalg.solve(matrix, away.T)))
    logits = np.array(logits) - np.max(logits, axis=1, keepdims=True)
    errors = []
    for slope in (1, 0.5, 0.25, 0.12, 0.06):
        odds = np.exp(slope * logits)
        errors.append(np.abs(odds[np.arange(len(judged)), labels[judged]] / odds.sum(axis=1) - found[judged]).max())
    assert min(errors) < (1e-3 if len(labels) <= 1_024 else 0.1)


@pytest.mark.parametrize(
    ("labels", "kind", "neighbours"),
    [
        ([], "random", False),
        ([""] * 20, "random", False),
        (["a"], "random", False),
        (["a"] * 20, "random", True),
        (["a", "b"], "random", True),
        ([f"only {n}" for n in range(20)], "random", True),
        (["a"] * 19 + ["only"], "random", False),
        (["a", "b", "", "it's"] * 5, "random", True),
        (["a", "b", "", "it's"] * 5, "equal", True),
        (["a"] * 19 + ["only"], "equal", False),
    ],
)
def test_few_or_equal_images_give_numbers(fresh_tables, labels, kind, neighbours):
    rng = np.random.default_rng(11)
    vectors = unit(rng.normal(size=(len(labels), 512)) if kind == "random" else np.ones((len(labels), 512)))
    ids = put(fresh_tables, vectors, attributes=[{"label": label} for label in labels]) if labels else []
    if neighbours:
        fresh_tables.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'put', k = 4)")
    statement = "SELECT id, suspicion, classifier_probability, given, suggested, neighbour_share FROM likely_mistakes(dataset = 'put', attribute = 'label')"
    rows = fresh_tables.query(statement).result_rows
    assert sorted(row[0] for row in rows) == sorted(id for id, label in zip(ids, labels, strict=True) if label)
    for _, suspicion, probability, given, suggested, share in rows:
        assert 0 <= suspicion <= 1
        assert 0 <= probability <= 1
        assert share is None or 0 <= share <= 1
        assert {given, suggested} <= set(labels)
    if len(set(labels) - {""}) == 1:
        assert all(row[1] == pytest.approx(0) for row in rows)


@pytest.mark.parametrize("which", ["digits", "segments", "fine"])
def test_mistakes_are_ranked_as_well_as_by_out_of_fold_logistic_regression(fresh_tables, which):
    """cleanlab's self-confidence: one less scikit-learn's cross-validated probability of the given label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import cross_val_predict

    from tests.benchmarks.mistakes_sets import SETS

    vectors, truth = SETS[which]()
    given, wrong = flipped(np.random.default_rng(12), truth)
    ids = put(fresh_tables, vectors, attributes=[{"label": f"{label:03d}"} for label in given])
    theirs = 1 - cross_val_predict(LogisticRegression(), vectors, given, method="predict_proba")[np.arange(len(given)), given]
    alone = suspicions(fresh_tables, ids)["suspicion"]
    fresh_tables.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'put', k = 10)")
    ours = suspicions(fresh_tables, ids)["suspicion"]
    reference = average_precision_score(wrong, theirs)
    assert average_precision_score(wrong, ours) > reference - 0.02
    assert average_precision_score(wrong, alone) > reference - 0.05


def test_neighbours_uniqueness_and_representativeness(fresh_tables):
    rng = np.random.default_rng(6)
    vectors = clustered(rng, 700)
    vectors[13] = unit(rng.normal(size=512))
    ids = put(fresh_tables, vectors)
    fresh_tables.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'put', k = 5)")
    exact = vectors @ vectors.T
    np.fill_diagonal(exact, -2)
    best = np.argsort(-exact, axis=1)[:, :5]
    found: dict[int, set[int]] = {}
    for id, neighbour in fresh_tables.query("SELECT id, neighbour_id FROM neighbours").result_rows:
        found.setdefault(id, set()).add(neighbour)
    assert found == {ids[row]: {ids[n] for n in best[row]} for row in range(700)}
    rows = fresh_tables.query(
        "SELECT id, distance, uniqueness, cosine, representativeness FROM uniqueness(dataset = 'put')"
    ).result_rows
    by_id = {row[0]: row[1:] for row in rows}
    distances = 1 - np.take_along_axis(exact, best, axis=1).mean(axis=1)
    means = vectors @ unit(vectors.mean(axis=0))
    for row in range(700):
        assert by_id[ids[row]][0] == pytest.approx(distances[row], abs=1e-5)
        assert by_id[ids[row]][2] == pytest.approx(means[row], abs=1e-5)
    assert by_id[ids[13]][1] == 1
    assert by_id[ids[int(means.argmax())]][3] == 1


def test_a_diverse_subset_is_greedy_k_centre(fresh_tables):
    vectors = clustered(np.random.default_rng(7), 500)
    ids = put(fresh_tables, vectors)
    rows = fresh_tables.query("SELECT place, id, distance FROM diverse_subset(dataset = 'put', n = 12)").result_rows
    chosen = [int((vectors @ vectors.mean(axis=0)).argmax())]
    radii = []
    while len(chosen) < 12:
        gaps = (1 - vectors @ vectors[chosen].T).min(axis=1)
        chosen.append(int(gaps.argmax()))
        radii.append(gaps.max())
    assert [row[:2] for row in rows] == [(place + 1, ids[row]) for place, row in enumerate(chosen)]
    assert [row[2] for row in rows[1:]] == pytest.approx(radii, abs=1e-5)
    assert len(fresh_tables.query("SELECT * FROM diverse_subset(dataset = 'put', n = 900)").result_rows) == 500


def test_label_coverage_counts_every_image_once_and_names_labels_without_any(loaded):
    labels = ["circle", "square", "star"]
    rows = loaded.query(
        "SELECT label, images, share FROM label_coverage(labels = {l:Array(String)}, template_set = 'default')",
        parameters={"l": labels},
    ).result_rows
    counted = dict(
        loaded.query(
            "SELECT label, count() FROM zero_shot(labels = {l:Array(String)}, template_set = 'default') GROUP BY label",
            parameters={"l": labels},
        ).result_rows
    )
    assert {label: images for label, images, _ in rows} == {label: counted.get(label, 0) for label in labels}
    assert sum(share for _, _, share in rows) == pytest.approx(1)
    nothing = loaded.query(
        "SELECT label, images FROM label_coverage(labels = ['a red circle', 'zzzz qqqq'], template_set = 'default')"
    ).result_rows
    assert {label for label, _ in nothing} == {"a red circle", "zzzz qqqq"}


def test_search_quality_is_recall_against_brute_force(fresh_tables):
    put(fresh_tables, clustered(np.random.default_rng(8), 3_000))
    for seed in range(3):
        for share in (1, 0.1):
            fresh_tables.command(
                f"INSERT INTO search_trials SELECT * FROM search_trial(seed = '{seed}', share = {share}, k = 10)"
            )
    rows = fresh_tables.query(
        "SELECT share, ef_search, trials, recall, worst_recall, milliseconds, exact_milliseconds FROM search_quality"
    ).result_rows
    assert [row[:3] for row in rows] == [(share, ef, 3) for share in (1.0, 0.1) for ef in (16, 64, 256, 1024)]
    for _, ef, _, recall, worst, milliseconds, exact_milliseconds in rows:
        assert 0 <= worst <= recall <= 1
        assert ef < 1024 or recall > 0.95
        assert 0 < milliseconds < 5_000
        assert 0 < exact_milliseconds < 5_000
    ((least, _),) = fresh_tables.query("SELECT * FROM ef_search_for(recall = 0.95, share = 1)").result_rows
    assert least == min(row[1] for row in rows if row[0] == 1 and row[3] >= 0.95)
    assert fresh_tables.query("SELECT ef_search FROM ef_search_for(recall = 1.01, share = 1)").result_rows == [(None,)]


@pytest.mark.long
@pytest.mark.parametrize("column", ["label", "labels"])
def test_the_refinement_benchmark_runs_on_a_set_from_outside(tmp_path, column):
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(9)
    centres = unit(rng.normal(size=(3, 48)))
    labels = rng.integers(0, 3, 400)
    vectors = unit(centres[labels] + 0.8 * unit(rng.normal(size=(400, 48))))
    named = [f"class {label}" for label in labels]
    rows = {
        "id": np.arange(400),
        "vector": list(vectors),
        column: named if column == "label" else [[each, "any"] for each in named],
    }
    parquet.write_table(pa.table(rows), tmp_path / "rows.parquet")
    texts = {
        "label": ["class 0", "class 2", "none"],
        "vector": list(unit(centres[[0, 2, 1]] + 0.6 * unit(rng.normal(size=(3, 48))))),
    }
    parquet.write_table(pa.table(texts), tmp_path / "texts.parquet")
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.refinement",
        "--data",
        tmp_path / "rows.parquet",
        "--texts",
        tmp_path / "texts.parquet",
        "--output",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "refinement.json").read_text())
    assert "left out, since no row of one half has them: none\n" in done.stdout
    assert len(found) == 2 * 5 * 7
    assert found[0].keys() == {"set", "concept", "hard", "method", "round", "average_precision"}
    assert {row["set"] for row in found} == {"rows"}
    last = {row["method"]: row["average_precision"] for row in found if row["round"] == 6 and row["concept"] == "class 2"}
    assert last["refine"] >= last["text only"] - 0.01
    assert (tmp_path / "refinement.png").stat().st_size > 10_000
    assert "| all (2) | refine |" in done.stdout
    assert all("positives" in row for row in found if row["round"] and row["method"] != "text only")
    stated = json.loads((tmp_path / "calibration.json").read_text())
    assert len(stated) == 2 * 6
    assert all(sum(row["bins"][0]) == 200 and sum(row["bins"][2]) == row["cuts"][0]["relevant"] for row in stated)
    assert all(0 <= cut["right"] <= cut["held_out"] for row in stated for cut in row["cuts"])
    assert all(cut["low"] >= cut["precision"] for row in stated for cut in row["cuts"] if cut["reached"])
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    assert "| 0.8 | met |" in done.stdout
