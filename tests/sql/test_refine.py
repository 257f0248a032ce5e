"""Refinement in SQL: the anchored fit, what to label next, thresholds, history and many concepts, against numpy, scipy and
scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score

from tests.benchmarks.refinement_sets import unit
from tests.conftest import put
from tests.sql.conftest import exact

CONCEPT = "wanted"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def world(fresh_tables):
    """1,200 vectors around a shared direction, 150 of them relevant, and a text vector that is only half right."""
    rng = np.random.default_rng(61)
    signal, shared = unit(rng.normal(size=512)), unit(rng.normal(size=512))
    relevant = rng.permutation(1_200) < 150
    vectors = unit(unit(rng.normal(size=(1_200, 24)) @ rng.normal(size=(24, 512))) + relevant[:, None] * signal + 0.7 * shared)
    text = unit(signal + 1.5 * unit(vectors[~relevant][0]) + 0.5 * shared)
    ids = put(fresh_tables, vectors)
    return World(fresh_tables, vectors, relevant, text, ids)


class World:
    def __init__(self, client, vectors, relevant, text, ids):
        self.client, self.vectors, self.relevant, self.text, self.ids = client, vectors, relevant, text, ids
        self.row_of = {id: row for row, id in enumerate(ids)}
        client.command(
            "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'wanted', vector = {v:Array(Float32)})",
            parameters={"v": text.tolist()},
        )

    def rows(self, statement, **parameters):
        return self.client.query(statement, parameters=parameters).result_rows

    def label(self, rows, concept=CONCEPT):
        values = ", ".join(f"('{concept}', {self.ids[row]}, {bool(self.relevant[row])})" for row in rows)
        self.client.command(f"INSERT INTO labels (concept, image_id, positive) VALUES {values}")

    def refine(self, concept=CONCEPT):
        self.client.command(f"INSERT INTO classifiers SELECT * FROM refine(concept = '{concept}')")

    def current(self, columns="weight, logit_scale, bias"):
        return self.rows(f"SELECT {columns} FROM current_classifiers WHERE concept = 'wanted'")[0]

    def average_precision(self, weight):
        return average_precision_score(self.relevant, self.vectors @ np.array(weight))

    def round(self, k=10):
        shown = [self.row_of[id] for (id,) in self.rows(f"SELECT id FROM next_to_label(concept = 'wanted', k = {k})")]
        self.label(shown)
        self.refine()
        return shown


def test_evaluation_functions_equal_scikit_learns(client):
    rng = np.random.default_rng(3)
    for count, digits in ((1, 1), (7, 0), (500, 1), (500, 9)):
        labels, scores = rng.integers(0, 2, count), np.round(rng.normal(size=count), digits)
        labels[rng.integers(count)] = 1
        ((average, precision, recall),) = client.query(
            "SELECT vdx_average_precision({y:Array(UInt8)}, {s:Array(Float64)}), vdx_precision_at({y:Array(UInt8)}, {s:Array(Float64)}, 5),"
            " vdx_recall_at({y:Array(UInt8)}, {s:Array(Float64)}, 5)",
            parameters={"y": labels.tolist(), "s": scores.tolist()},
        ).result_rows
        assert average == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
        hits = labels[np.argsort(-scores, kind="stable")[:5]].sum()
        assert precision == pytest.approx(hits / min(5, count))
        assert recall == pytest.approx(hits / labels.sum())
    assert np.isnan(client.query("SELECT vdx_average_precision([0, 0], [1, 2])").result_rows[0][0])


def test_the_fit_reaches_the_minimum_that_scipy_finds(client):
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(60, 20)), (rng.random(60) < 0.3).astype(float)
    prior, costs = rng.normal(size=60), rng.random(60) * 2
    kernel = 4 * features @ features.T + 1

    def objective(coefficients):
        logits = prior + kernel @ coefficients
        return (
            costs * np.logaddexp(0, np.where(labels > 0.5, -logits, logits))
        ).sum() + coefficients @ kernel @ coefficients / 2

    ((found,),) = client.query(
        "SELECT vdx_anchored_fit({k:Array(Array(Float64))}, {p:Array(Float64)}, {y:Array(Float64)}, {c:Array(Float64)})",
        parameters={"k": kernel.tolist(), "p": prior.tolist(), "y": labels.tolist(), "c": costs.tolist()},
    ).result_rows
    best = minimize(objective, np.zeros(60), method="BFGS", options={"gtol": 1e-9})
    assert objective(np.array(found)) <= best.fun + 1e-6
    assert np.abs(kernel @ (np.array(found) - best.x)).max() < 1e-3


def test_calibration_equals_scipys(client):
    rng = np.random.default_rng(5)
    logits = rng.normal(size=40) * 2
    labels = (rng.random(40) < sigmoid(1.7 * logits - 1)).astype(float)

    def objective(line):
        z = line[0] * logits + line[1]
        return np.logaddexp(0, np.where(labels > 0.5, -z, z)).sum() + (line[0] - 1) ** 2 / 2 + line[1] ** 2 / 8

    ((line,),) = client.query(
        "SELECT arrayFold((line, step) -> vdx_platt_step(line, {x:Array(Float64)}, {y:Array(Float64)}), range(20), (1., 0., 0., 0., 0.))",
        parameters={"x": logits.tolist(), "y": labels.tolist()},
    ).result_rows
    best = minimize(objective, [1, 0], method="BFGS", options={"gtol": 1e-10})
    assert np.allclose(line[:2], best.x, atol=1e-5)
    spread = sigmoid(best.x[0] * logits + best.x[1])
    spread *= 1 - spread
    hessian = [[(spread * logits**2).sum() + 1, (spread * logits).sum()], [(spread * logits).sum(), spread.sum() + 1 / 4]]
    assert np.allclose([[line[2], line[3]], [line[3], line[4]]], np.linalg.inv(hessian), rtol=1e-3)


def test_a_round_is_the_minimum_of_the_stated_objective(world):
    """The whole view against scipy in the weight's own space, from the definition in its comment."""
    rng = np.random.default_rng(6)
    judged = sorted({*np.argsort(-world.vectors @ world.text)[:30].tolist(), *rng.integers(0, 1_200, 20).tolist()})
    world.label(judged)
    slope_scale = world.current("logit_scale")[0]
    world.refine()
    weight, method, freedom = world.current("weight, method, freedom")
    assert method == "anchored"
    assert freedom == 16
    random = [world.row_of[id] for (id,) in world.rows("SELECT id FROM random_images(seed = 'wanted', n = 100)")]
    random = [row for row in random if row not in judged]
    backdrop = world.vectors[random].astype(float)
    centre, cosines = backdrop.mean(axis=0), backdrop @ world.text
    deviation, length = cosines.std(), np.sqrt((backdrop**2).sum(axis=1).mean() - centre @ centre)
    rows = judged + random
    z = (world.vectors[rows] @ world.text - cosines.mean()) / deviation
    centred = (world.vectors[rows] - centre) / length
    labels = np.r_[world.relevant[judged], np.zeros(len(random), bool)]
    positives, each = world.relevant[judged].sum(), len(judged) / len(random)
    negatives = len(judged) - positives + each * len(random)
    costs = np.where(labels, len(judged) / 2 / positives, len(judged) / 2 / negatives)
    costs[len(judged) :] *= each
    costs = np.minimum(costs, 5)
    slope = slope_scale * deviation / 2

    def objective(p):
        a, b, v = p[0], p[1], p[2:]
        logits = (slope + a) * z - 2 * slope + centred @ v + b
        return (costs * np.logaddexp(0, np.where(labels, -logits, logits))).sum() + a * a / 2 + b * b / 8 + v @ v / 2 / freedom

    best = minimize(objective, np.zeros(514), method="L-BFGS-B", options={"maxiter": 3_000, "maxfun": 10**7, "ftol": 1e-14}).x
    expected = unit(world.text * (slope + best[0]) / deviation + best[2:] / length)
    assert expected @ np.array(weight) > 0.9999


def test_rounds_of_refinement_raise_average_precision(world):
    before = world.average_precision(world.text)
    for _ in range(4):
        assert len(world.round()) == 10
    weight, labels, estimated, text_alone = world.current("weight, labels, average_precision, text_average_precision")
    assert labels == 40
    assert world.average_precision(weight) > before + 0.15
    assert estimated > text_alone


def test_a_text_vector_that_is_right_stays(world):
    right = unit(world.vectors[world.relevant].mean(axis=0) - world.vectors[~world.relevant].mean(axis=0))
    world.client.command("TRUNCATE TABLE classifiers")
    perfect = World(world.client, world.vectors, world.relevant, right, world.ids)
    before = perfect.average_precision(right)
    assert before > 0.99
    for _ in range(3):
        perfect.round()
        assert perfect.average_precision(perfect.current()[0]) > before - 0.01


def test_labels_of_one_kind_keep_the_text_vector(world):
    world.label(np.flatnonzero(~world.relevant)[:8])
    world.refine()
    method, freedom, weight = world.current("method, freedom, weight")
    assert (method, freedom) == ("text kept", 0)
    assert np.array(weight) @ world.text > 0.999999


def test_refining_needs_labels(world):
    with pytest.raises(Exception, match="this concept has no labels, or none whose pictures images holds: INSERT INTO labels"):
        world.rows("SELECT * FROM refine(concept = 'wanted')")
    with pytest.raises(Exception, match="this concept has no classifier yet"):
        world.rows("SELECT * FROM refine(concept = 'nobody started this')")


def test_what_to_label_comes_in_the_wanted_proportions(world):
    world.label(np.argsort(-world.vectors @ world.text)[:5])
    rows = world.rows("SELECT id, distance, probability, reason FROM next_to_label(concept = 'wanted', k = 20)")
    reasons = [row[3] for row in rows]
    assert {reason: reasons.count(reason) for reason in reasons} == {"top": 8, "uncertain": 6, "diverse": 2, "random": 4}
    weight, scale, bias = world.current()
    for id, distance, probability, _ in rows:
        cosine = float(world.vectors[world.row_of[id]] @ unit(np.array(weight)))
        assert distance == pytest.approx(1 - cosine, abs=1e-3)
        assert probability == pytest.approx(sigmoid(scale * cosine + bias), abs=1e-2)
    top = [row[0] for row in rows if row[3] == "top"]
    assert (
        len(
            set(top)
            & set(
                exact(
                    world.client,
                    f"{weight}::Array(Float32)",
                    tuple(world.ids[i] for i in np.argsort(-world.vectors @ world.text)[:5]),
                )
            )
        )
        >= 7
    )
    uncertain = [abs(row[2] - 0.5) for row in rows if row[3] == "uncertain"]
    assert max(uncertain) < min(abs(p - 0.5) for p in [max(r[2] for r in rows if r[3] == "random"), 1.0])
    again = world.rows("SELECT id FROM next_to_label(concept = 'wanted', k = 20)")
    assert [row[0] for row in again] == [row[0] for row in rows]


def test_a_mix_of_one_kind_is_all_of_that_kind(world):
    for name in ("top", "uncertain", "random"):
        shares = ", ".join(f"{n} = {int(n == name)}" for n in ("top", "uncertain", "diverse", "random"))
        rows = world.rows(f"SELECT reason FROM next_to_label_mix(concept = 'wanted', k = 7, {shares})")
        assert [row[0] for row in rows] == [name] * 7


@pytest.mark.parametrize("shares", [(0, 0, 0, 0), (-1, 0, 0, 2), (1, 1, 1, -1)])
def test_a_mix_that_is_none_is_refused(world, shares):
    given = ", ".join(f"{name} = {n}" for name, n in zip(("top", "uncertain", "diverse", "random"), shares, strict=True))
    with pytest.raises(Exception, match="shares: none below 0, and one at least above"):
        world.rows(f"SELECT reason FROM next_to_label_mix(concept = 'wanted', k = 7, {given})")


def test_the_diverse_share_is_farthest_from_the_judged(world):
    judged = np.argsort(-world.vectors @ world.text)[:3]
    world.label(judged)
    ((found, reason),) = world.rows(
        "SELECT id, reason FROM next_to_label_mix(concept = 'wanted', k = 1, top = 0, uncertain = 0, diverse = 1, random = 0)"
    )
    nearest = [row for row in np.argsort(-world.vectors @ world.text) if row not in judged][:5]
    farthest = min(nearest, key=lambda row: (world.vectors[row] @ world.vectors[judged].T).max())
    assert (world.row_of[found], reason) == (farthest, "diverse")


def test_a_table_that_runs_out_gives_what_it_has(fresh_tables):
    vectors = unit(np.random.default_rng(11).normal(size=(8, 512)))
    few = World(fresh_tables, vectors, np.arange(8) < 4, vectors[0], put(fresh_tables, vectors))
    few.label([1, 2])
    for shares in ("top = 4, uncertain = 3, diverse = 1, random = 2", "top = 0, uncertain = 0, diverse = 1, random = 0"):
        rows = few.rows(f"SELECT id FROM next_to_label_mix(concept = 'wanted', k = 20, {shares})")
        assert sorted(id for (id,) in rows) == sorted(few.ids[row] for row in (0, 3, 4, 5, 6, 7))
    few.label([0, 3, 4, 5, 6, 7])
    assert few.rows("SELECT id FROM next_to_label(concept = 'wanted', k = 20)") == []
    few.refine()


def test_near_duplicates_of_judged_and_listed_images_are_left_out(world):
    best = np.argsort(-world.vectors @ world.text)[:3]
    copies = put(world.client, unit(world.vectors[best] + 0.001), dataset="copies")
    world.label(best[:1])
    found = {
        id
        for (id,) in world.rows(
            "SELECT id FROM next_to_label_mix(concept = 'wanted', k = 9, top = 1, uncertain = 0, diverse = 0, random = 0)"
        )
    }
    assert len(found) == 9
    assert copies[0] not in found
    for copy, original in zip(copies[1:], best[1:], strict=True):
        assert len({copy, world.ids[original]} & found) == 1


def test_undoing_a_label_makes_the_image_unjudged_and_keeps_the_history(world):
    world.label([3, 4])
    world.client.command(f"INSERT INTO labels SELECT * FROM undo_label(concept = 'wanted', image_id = {world.ids[3]})")
    assert world.rows("SELECT image_id FROM current_labels") == [(world.ids[4],)]
    assert world.rows("SELECT count() FROM labels") == [(3,)]
    with pytest.raises(Exception, match="undo_label: this image has no judgement for this concept"):
        world.rows(f"SELECT * FROM undo_label(concept = 'wanted', image_id = {world.ids[3]})")
    world.label([3])
    assert len(world.rows("SELECT image_id FROM current_labels")) == 2


def test_any_round_can_be_replayed_compared_and_restored(world):
    first, second = world.round(), world.round()
    weights = dict(world.rows("SELECT round, weight FROM classifiers WHERE concept = 'wanted'"))
    assert weights.keys() == {0, 1, 2}
    judged = {id for (id,) in world.rows("SELECT image_id FROM labels_at(concept = 'wanted', round = 1)")}
    assert judged == {world.ids[row] for row in first}
    assert not judged & {world.ids[row] for row in second}
    then = dict(world.rows("SELECT id, probability FROM scores_at(concept = 'wanted', round = 0)"))
    order = sorted(then, key=then.get)[::-1][:20]
    assert order == [world.ids[row] for row in np.argsort(-world.vectors @ np.array(weights[0]))[:20]]
    moved = world.rows("SELECT id, moved FROM compare_rounds(concept = 'wanted', before = 0, after = 2, k = 50)")
    tops = [set(np.argsort(-world.vectors @ np.array(weights[n]))[:50].tolist()) for n in (0, 2)]
    wrong = (
        {(world.row_of[id], way) for id, way in moved}
        ^ {(r, "in") for r in tops[1] - tops[0]}
        ^ {(r, "out") for r in tops[0] - tops[1]}
    )
    assert len(wrong) <= 4  # the index holds bfloat16 vectors
    world.client.command("INSERT INTO classifiers SELECT * FROM revert(concept = 'wanted', to_round = 1)")
    assert world.current("round, method, weight") == (3, "revert", weights[1])
    with pytest.raises(Exception, match="this concept has no such round"):
        world.rows("SELECT * FROM scores_at(concept = 'wanted', round = 9)")


@pytest.mark.parametrize("kind", ["Parquet", "JSONEachRow"])
def test_a_concept_travels_as_one_row(world, tmp_path, kind):
    world.round()
    world.client.command(
        f"INSERT INTO labels SELECT * FROM undo_label(concept = 'wanted', image_id = {world.rows('SELECT image_id FROM labels LIMIT 1')[0][0]})"
    )
    tables = (
        "SELECT * FROM classifiers ORDER BY ALL",
        "SELECT * FROM labels ORDER BY ALL",
        "SELECT * FROM current_labels ORDER BY ALL",
    )
    before = [str(world.rows(statement)) for statement in tables]
    path = tmp_path / f"concept.{kind}"
    world.client.command(
        f"INSERT INTO FUNCTION file('{path}', {kind}) SELECT * FROM portable_concepts WHERE concept = 'wanted'"
    )
    assert world.rows(f"SELECT count() FROM file('{path}', {kind})") == [(1,)]
    for table in ("classifiers", "labels"):
        world.client.command(f"TRUNCATE TABLE {table}")
    for _ in range(2):  # a second time changes nothing
        world.client.command(f"INSERT INTO concept_inbox SELECT * FROM file('{path}', {kind})")
        assert [str(world.rows(statement)) for statement in tables] == before


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_the_threshold_holds_what_it_promises(fresh_tables, seed):
    """Relevance drawn from known probabilities: the interval at the threshold holds the true precision."""
    rng = np.random.default_rng(seed)
    text = unit(np.ones(512))
    cosines = rng.normal(0.2, 0.08, 6_000)
    sideways = unit(rng.normal(size=(6_000, 512)))
    sideways = unit(sideways - (sideways @ text)[:, None] * text)
    vectors = unit(cosines[:, None] * text + np.sqrt(1 - cosines**2)[:, None] * sideways)
    truth = sigmoid(35 * (cosines - 0.34))
    world = World(fresh_tables, vectors, rng.random(6_000) < truth, text, put(fresh_tables, vectors))
    world.label({*np.argsort(-cosines)[:400:4].tolist(), *rng.integers(0, 6_000, 60).tolist()})
    world.refine()
    ((threshold, reached, images, right, low, high, precision, precision_low, precision_high),) = world.rows(
        "SELECT * FROM threshold(concept = 'wanted', precision = 0.7)"
    )
    weight, scale, bias = world.current()
    above = sigmoid(scale * (vectors @ np.array(weight)) + bias) >= threshold
    assert above.sum() == pytest.approx(images, abs=0.03 * images + 3)
    assert reached
    assert 0.7 <= precision < 0.85
    assert low < right < high
    assert precision_low - 0.05 < truth[above].mean() < precision_high + 0.05
    assert low * 0.9 < world.relevant[above].sum() < high * 1.1


def test_what_was_not_calibrated_has_no_interval(world):
    ((reached, images, low, high, precision_low),) = world.rows(
        "SELECT reached, images, right_low, right_high, precision_low FROM threshold(concept = 'wanted', precision = 0.5)"
    )
    assert reached
    assert images > 0
    assert (low, high, precision_low) == (None, None, None)
    for precision in ("0", "-1", "1.5", "nan"):
        with pytest.raises(Exception, match="a precision is more than 0 and at most 1"):
            world.rows(f"SELECT * FROM threshold(concept = 'wanted', precision = {precision})")


def test_where_nothing_reaches_a_precision_the_best_cut_comes_and_says_so(world):
    world.label(np.flatnonzero(~world.relevant)[:30])
    world.refine()
    ((threshold, reached, images, precision, low, high),) = world.rows(
        "SELECT threshold, reached, images, expected_precision, precision_low, precision_high"
        " FROM threshold(concept = 'wanted', precision = 0.99)"
    )
    assert not reached
    assert low <= precision <= high < 0.99
    weight, scale, bias = world.current()
    probabilities = sigmoid(scale * (world.vectors @ np.array(weight)) + bias)
    assert (probabilities >= threshold).sum() == pytest.approx(images, abs=2)
    assert precision == pytest.approx(probabilities[probabilities >= threshold].mean(), abs=0.01)
    world.client.command("TRUNCATE TABLE images")
    assert world.rows("SELECT threshold, reached, images FROM threshold(concept = 'wanted', precision = 0.5)") == [(None, 0, 0)]


def test_all_concepts_are_scored_in_one_pass(world):
    world.client.command(
        "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'other', vector = {v:Array(Float32)})",
        parameters={"v": world.vectors[5].tolist()},
    )
    both = {name: dict(world.rows(f"SELECT id, probability FROM scores(concept = '{name}')")) for name in ("wanted", "other")}
    for id, probabilities in world.rows("SELECT id, probabilities FROM concept_scores"):
        assert probabilities == pytest.approx({name: both[name][id] for name in both}, rel=1e-4, abs=1e-9)
    for id, best in world.rows("SELECT id, best FROM best_concepts(k = 1)"):
        assert [one["concept"] for one in best] == [max(both, key=lambda name, id=id: both[name][id])]


def test_kept_scores_follow_new_images_and_new_rounds(world):
    world.client.command("INSERT INTO kept_concepts VALUES ('wanted')")
    world.client.command("INSERT INTO kept_scores SELECT * FROM stale_scores")
    late = put(world.client, unit(np.random.default_rng(8).normal(size=(5, 512))), dataset="late")
    kept = "SELECT image_id, probability FROM kept_scores FINAL WHERE concept = 'wanted'"

    def same() -> bool:
        now = dict(world.rows("SELECT id, probability FROM scores(concept = 'wanted')"))
        return dict(world.rows(kept)) == pytest.approx(now, rel=1e-3, abs=1e-6)

    assert same()
    assert {*late} <= dict(world.rows(kept)).keys()
    assert world.rows("SELECT count() FROM stale_scores") == [(0,)]
    world.round()
    assert world.rows("SELECT count() FROM stale_scores") == [(1_205,)]
    world.client.command("INSERT INTO kept_scores SELECT * FROM stale_scores")
    assert same()


def test_a_concept_of_another_model_is_refused(loaded):
    loaded.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'stars', prompt = 'a star')")
    assert loaded.query("SELECT model, weights_hash != '' FROM classifiers").result_rows == [("vdx-tiny", 1)]
    put(loaded, np.eye(3, 512))
    with pytest.raises(Exception, match="images holds vectors of another model than this concept was trained on"):
        loaded.query("SELECT * FROM scores(concept = 'stars')")


def changes(client, concept=CONCEPT, k=100):
    """The row of round_changes, by column; none of its values is NaN."""
    found = client.query("SELECT * FROM round_changes(concept = {c:String}, k = {k:UInt32})", parameters={"c": concept, "k": k})
    (row,) = found.result_rows
    assert all(value == value for value in row)
    return dict(zip(found.column_names, row, strict=True))


def test_a_round_says_what_it_did_and_what_to_do_next(world):
    said = changes(world.client)
    assert (said["round"], said["before"], said["moved_in"], said["moved_out"]) == (0, None, 0, 0)
    assert "no round yet" in said["why"]
    assert "mark an image yes" in said["next_step"]
    world.label(np.flatnonzero(~world.relevant)[:8])
    world.refine()
    said = changes(world.client)
    assert (said["round"], said["before"], said["moved_in"], said["average_precision"]) == (1, 0, 0, None)
    assert (said["average_precision_low"], said["average_precision_high"]) == (None, None)
    assert "no image is marked yes" in said["why"]
    world.round()
    said = changes(world.client, k=50)
    weights = dict(world.rows("SELECT round, weight FROM classifiers WHERE concept = 'wanted'"))
    before, after = (set(np.argsort(-world.vectors @ np.array(weights[n]))[:50].tolist()) for n in (1, 2))
    assert said["moved_in"] == pytest.approx(len(after - before), abs=2)  # the index holds bfloat16 vectors
    assert said["moved_in"] > 5
    assert said["why"] == ""
    assert 0 < said["average_precision_low"] < said["average_precision"] < said["average_precision_high"] < 1
    moved = world.rows(
        "SELECT moved, count() FROM compare_rounds(concept = 'wanted', before = -2, after = -1, k = 50) GROUP BY moved"
    )
    assert dict(moved) == {"in": said["moved_in"], "out": said["moved_out"]}
    world.refine()
    said = changes(world.client)
    assert (said["moved_in"], said["why"]) == (0, "no label came since the round before")
    assert "uncertain" in said["next_step"]
    world.client.command("INSERT INTO classifiers SELECT * FROM revert(concept = 'wanted', to_round = 1)")
    said = changes(world.client)
    assert (said["round"], said["before"], said["method"], said["average_precision"]) == (4, 3, "revert", None)
    assert said["moved_in"] > 0
    assert "repeats an earlier one" in said["why"]


def test_the_images_that_moved_come_with_the_one_farthest_up_first(world):
    for _ in range(2):
        world.round()
    rows = world.rows(
        "SELECT moved, probability_before, probability_after FROM compare_rounds(concept = 'wanted', before = 0, after = -1, k = 40)"
    )
    for way, column in (("in", 2), ("out", 1)):
        places = [row[column] for row in rows if row[0] == way]
        assert len(places) > 3
        assert places == sorted(places, reverse=True)


def test_round_changes_of_few_of_equal_and_of_no_images(fresh_tables):
    vectors = unit(np.random.default_rng(12).normal(size=(8, 512)))
    few = World(fresh_tables, vectors, np.arange(8) < 4, vectors[0], put(fresh_tables, vectors))
    few.label([1, 2, 5])
    few.refine()
    said = changes(few.client)
    assert (said["top"], said["moved_in"], said["why"]) == (8, 0, "all 8 images are among the 100 nearest, so none can move")
    assert changes(few.client, k=3)["top"] == 3
    few.client.command("TRUNCATE TABLE images")
    said = changes(few.client)
    assert (said["top"], said["moved_in"], said["moved_out"]) == (0, 0, 0)
    put(few.client, np.repeat(vectors[:1], 300, axis=0), dataset="same")
    few.client.command("TRUNCATE TABLE labels")
    few.client.command("INSERT INTO labels (concept, image_id, positive) SELECT 'wanted', id, id % 2 FROM images LIMIT 20")
    few.refine()
    said = changes(few.client)
    assert (said["moved_in"], said["moved_out"]) == (0, 0)
    assert said["why"]


def test_round_changes_of_a_concept_begun_again_and_of_none(world):
    world.round()
    name = 'it\'s \\ "again"'
    start = "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = {c:String}, vector = {v:Array(Float32)})"
    for _ in range(2):
        world.client.command(start, parameters={"c": name, "v": world.text.tolist()})
        said = changes(world.client, name)
        assert (said["round"], said["before"]) == (0, None)
    world.client.command(start, parameters={"c": CONCEPT, "v": world.vectors[0].tolist()})
    said = changes(world.client)
    assert (said["round"], said["before"]) == (1, 0)
    assert said["moved_in"] > 0
    with pytest.raises(Exception, match="this concept has no such round"):
        changes(world.client, "nobody started this")


def test_a_round_below_0_counts_from_the_latest(world):
    for _ in range(2):
        world.round()
    for given, meant in ((-1, 2), (-2, 1), (-3, 0), (-9, 0)):
        assert world.rows(f"SELECT round FROM classifier_at(concept = 'wanted', round = {given})") == [(meant,)]


def test_the_interval_of_average_precision_holds_the_truth_as_often_as_it_says(client):
    rng = np.random.default_rng(13)
    for positives, negatives, distance in ((8, 10, 1), (8, 100, 2), (30, 100, 1), (80, 100, 0.3)):
        many = np.arange(100_000) % (positives + negatives) < positives
        truth = average_precision_score(many, rng.normal(size=many.size) + distance * many)
        labels = np.arange(positives + negatives) < positives
        measured = [average_precision_score(labels, rng.normal(size=labels.size) + distance * labels) for _ in range(400)]
        rows = client.query(
            f"SELECT vdx_average_precision_interval(arrayJoin({{m:Array(Float64)}}), {positives})", parameters={"m": measured}
        ).result_rows
        held = np.mean([low <= truth <= high for ((low, high),) in rows])
        assert held > 0.92, (positives, negatives, distance, held)
        assert all(0 <= low <= high <= 1 for ((low, high),) in rows)
    ((certain, never, unknown),) = client.query(
        "SELECT vdx_average_precision_interval(1, 5), vdx_average_precision_interval(0, 5), vdx_average_precision_interval(NULL, 0)"
    ).result_rows
    assert certain == pytest.approx((5 / 8.8416, 1))
    assert never == pytest.approx((0, 3.8416 / 8.8416))
    assert unknown == (None, None)
