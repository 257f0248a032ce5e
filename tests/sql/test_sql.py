"""The SQL files: tables, searches, zero-shot labels and refinement, against numpy and torch on the same vectors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import PICTURES
from tests.sql.conftest import documented, exact, states_its_purpose
from vdx_udf import engine, settings

SEARCHES = {
    "search_text(query = 'a red circle', k = 9)": "encode_text('a red circle')",
    "search_image(image = '{picture}', k = 9)": "encode_image('{picture}')",
    "search_vector(vector = {vector}, k = 9)": "{vector}::Array(Float32)",
    "search_id(image_id = {id}, k = 9)": "(SELECT vector FROM images WHERE id = {id})",
    "search_text_excluding(query = 'a red circle', exclude = [{id}, {next}], k = 9)": "encode_text('a red circle')",
    "search_text_where(query = 'a red circle', dataset = '', attribute = '', value = '', k = 9)": "encode_text('a red circle')",
    "search_concept(concept = 'red circles', k = 9)": "encode_text('a red circle')",
}


@pytest.fixture
def places(loaded, drawn) -> dict:
    """What the searches' placeholders stand for; a concept with two judged rows."""
    nearest = loaded.query("SELECT id FROM search_text(query = 'a red circle', k = 2)").result_rows
    loaded.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'red circles', prompt = 'a red circle')")
    loaded.command(
        f"INSERT INTO labels (concept, image_id, positive) VALUES ('red circles', {nearest[0][0]}, true), ('red circles', {nearest[1][0]}, false)"
    )
    vector = loaded.query("SELECT encode_text('a green star')").result_rows[0][0]
    return {"picture": drawn[0] / "0007.png", "vector": vector, "id": nearest[0][0], "next": nearest[1][0]}


def index_searches(client) -> int:
    """How often this engine has searched a part's vector index."""
    return client.query("SELECT sum(value) FROM system.events WHERE event = 'USearchSearchCount'").result_rows[0][0]


@pytest.mark.parametrize("search", SEARCHES)
def test_each_search_equals_brute_force_through_the_index(loaded, places, search):
    query, target = search.format(**places), SEARCHES[search].format(**places)
    leave_out = {"search_id": (places["id"],), "search_text_excluding": (places["id"], places["next"]),
                 "search_concept": (places["id"], places["next"])}.get(search.partition("(")[0], ())  # fmt: skip
    rows = loaded.query(f"SELECT id, distance FROM {query}").result_rows
    assert len(rows) == 9
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    # The index holds bfloat16 vectors, so rows whose distances are equal to three digits may change places.
    assert len({row[0] for row in rows} & set(exact(loaded, target, leave_out))) >= 8
    before = index_searches(loaded)
    loaded.query(f"SELECT * FROM {query}")
    assert index_searches(loaded) > before


@pytest.mark.parametrize(("dataset", "attribute", "value", "where"), [
    ("rare", "", "", "dataset = 'rare'"),
    ("", "parity", "1", "attributes['parity'] = '1'"),
    ("rare", "parity", "0", "dataset = 'rare' AND attributes['parity'] = '0'"),
    ("no such", "", "", "0"),
])  # fmt: skip
def test_a_filter_never_loses_a_match(loaded, dataset, attribute, value, where):
    rows = loaded.query(
        f"SELECT id FROM search_text_where(query = 'a blue heart', dataset = '{dataset}', attribute = '{attribute}', value = '{value}', k = 9)"
    ).result_rows
    wanted = exact(loaded, "encode_text('a blue heart')", where=where)
    assert len(rows) == len(wanted)
    assert len({row[0] for row in rows} & set(wanted)) >= len(wanted) - 1


def test_a_filter_that_the_thousand_nearest_miss_is_searched_exactly(fresh_tables):
    """More than the index's 1000 candidates lie nearer than any row that passes."""
    fresh_tables.command(
        "INSERT INTO images (source, dataset, model, vector)"
        " SELECT toString(number), if(number < 1500, 'near', 'far'), 'vdx-tiny', vdx_normalize(arrayMap(i -> if(number < 1500, 1., -1.) * v[i]"
        " + 0.001 * (sipHash64(number, i) % 100) / 100, range(1, 513)))::Array(Float32)"
        " FROM numbers(1520) AS n CROSS JOIN (SELECT encode_text('a red circle') AS v) AS target"
    )
    query = "search_text_where(query = 'a red circle', dataset = 'far', attribute = '', value = '', k = 10)"
    rows = fresh_tables.query(f"SELECT id, distance FROM {query}").result_rows
    assert len(rows) == 10
    found = fresh_tables.query(
        "SELECT cosineDistance(vector, encode_text('a red circle')) + 0 AS d FROM images WHERE dataset = 'far' ORDER BY d LIMIT 10"
    )
    # Distances rather than ids: the rows lie opposite to the query, where float32 cannot tell some of them apart.
    assert np.allclose([distance for _, distance in rows], [row[0] for row in found.result_rows], atol=1e-6)


def test_loading_splits_good_and_bad_and_loses_none(fresh_tables, drawn, tmp_path):
    folder, _ = drawn
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes((folder / f"{n:04}.png").read_bytes()[: 100 if n == 3 else None])
    fresh_tables.command(
        f"INSERT INTO inbox (source, dataset, bytes) SELECT _path, 'five', raw_blob FROM file('{tmp_path}/*.png', RawBLOB)"
    )
    assert fresh_tables.query("SELECT count(), uniqExact(id), any(model), min(size) > 0 FROM images").result_rows == [
        (4, 4, "vdx-tiny", 1)
    ]
    ((source, error),) = fresh_tables.query("SELECT source, error FROM rejects").result_rows
    assert source.endswith("3.png")
    assert error == "a damaged picture: it ends early"


def test_a_vector_of_the_wrong_length_is_refused(fresh_tables):
    with pytest.raises(Exception, match=r"vector_length|dimension"):
        fresh_tables.command("INSERT INTO images (source, vector) VALUES ('x', [1, 2, 3])")


def test_running_the_files_again_changes_nothing(loaded, layout):
    before = (
        loaded.query("SELECT count() FROM images").result_rows,
        loaded.query("SELECT count() FROM prompt_templates").result_rows,
    )
    engine.apply_schema(loaded, layout.sql)
    after = (
        loaded.query("SELECT count() FROM images").result_rows,
        loaded.query("SELECT count() FROM prompt_templates").result_rows,
    )
    assert before == after == ([(PICTURES,)], [(len(settings.PROMPT_TEMPLATES),)])


def test_the_default_prompt_templates_are_those_of_classify(client):
    rows = client.query("SELECT template FROM prompt_templates WHERE template_set = 'default'").result_rows
    assert sorted(row[0] for row in rows) == sorted(settings.PROMPT_TEMPLATES)


def test_zero_shot_in_sql_equals_classify(loaded):
    labels = ["circle", "star", "red heart"]
    rows = loaded.query(
        "SELECT zero.label, zero.probability, zero.probabilities, classify(images.vector, {l:Array(String)})"
        " FROM zero_shot(labels = {l:Array(String)}, template_set = 'default') AS zero INNER JOIN images USING (id)",
        parameters={"l": labels},
    ).result_rows
    assert len(rows) == PICTURES
    for label, probability, probabilities, expected in rows:
        assert np.allclose([probabilities[name] for name in labels], expected, atol=1e-4)
        assert probability == max(probabilities.values())
        assert probabilities[label] == probability


class Published(torch.nn.Module):
    """The published few-shot classifier: one linear layer without bias, its weight normalised before each forward pass."""

    def __init__(self, weight):
        super().__init__()
        self.layer = torch.nn.Linear(len(weight), 1, bias=False)
        self.layer.weight.data = torch.tensor(weight, dtype=torch.float32)[None]

    def forward(self, x):
        self.layer.weight.data = F.normalize(self.layer.weight.data, dim=-1)
        return self.layer(x).squeeze(-1)

    def fit(self, x, y, iters=5):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        for _ in range(iters):
            loss = F.binary_cross_entropy_with_logits(self(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self.layer.weight.detach()[0].numpy()


def test_fit_equals_the_published_torch_code_over_rounds(loaded):
    prompt = "a house by the lake"
    loaded.command(f"INSERT INTO classifiers SELECT * FROM start_concept(concept = 'house', prompt = '{prompt}')")
    weight = loaded.query(f"SELECT encode_text('{prompt}')").result_rows[0][0]
    judged: dict[int, bool] = {}
    torch_model = Published(weight)
    for number in (1, 2, 3):
        shown = loaded.query("SELECT id FROM next_to_label(concept = 'house', k = 12)").result_rows
        assert len(shown) == 12
        assert not {row[0] for row in shown} & set(judged)
        new = {row[0]: row[0] % 3 == 0 for row in shown}
        judged |= new
        loaded.command(
            "INSERT INTO labels (concept, image_id, positive) VALUES "
            + ", ".join(f"('house', {i}, {p})" for i, p in new.items())
        )
        loaded.command("INSERT INTO classifiers SELECT * FROM fit(concept = 'house', steps = 5, learning_rate = 0.1)")
        rows = dict(loaded.query("SELECT id, vector FROM images").result_rows)
        x = torch.tensor(np.array([rows[i] for i in judged], np.float32))
        y = torch.tensor([float(p) for p in judged.values()])
        expected = torch_model.fit(x, y)
        ((ours, method, labels),) = loaded.query(
            f"SELECT weight, method, labels FROM classifiers WHERE concept = 'house' AND round = {number}"
        ).result_rows
        assert (method, labels) == ("sgd", 12 * number)
        assert np.abs(np.array(ours) - expected).max() < 1e-5
    assert loaded.query(
        "SELECT groupArray(round) FROM (SELECT round FROM classifiers WHERE concept = 'house' ORDER BY round)"
    ).result_rows == [([0, 1, 2, 3],)]
    with torch.no_grad():
        everything = torch.tensor(np.array(list(rows.values()), np.float32))
        expected = torch.sigmoid(torch_model(everything)).numpy()
    scores = dict(loaded.query("SELECT id, probability FROM scores(concept = 'house')").result_rows)
    assert np.abs(np.array([scores[i] for i in rows]) - expected).max() < 1e-5


def test_the_last_label_counts(loaded):
    loaded.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a star')")
    ((one,),) = loaded.query("SELECT id FROM next_to_label(concept = 'c', k = 1)").result_rows
    for positive in ("true", "false"):
        loaded.command(f"INSERT INTO labels (concept, image_id, positive) VALUES ('c', {one}, {positive})")
    assert loaded.query("SELECT image_id, positive FROM current_labels WHERE concept = 'c'").result_rows == [(one, False)]
    assert loaded.query("SELECT count() FROM labels WHERE concept = 'c'").result_rows == [(2,)]


def test_refining_without_a_start_or_labels_says_what_to_do(loaded):
    with pytest.raises(Exception, match="this concept has no classifier yet: INSERT INTO classifiers SELECT"):
        loaded.query("SELECT * FROM fit(concept = 'nothing', steps = 5, learning_rate = 0.1)")
    with pytest.raises(Exception, match="this concept has no classifier yet"):
        loaded.query("SELECT * FROM scores(concept = 'nothing')")
    with pytest.raises(Exception, match="this concept has no classifier yet"):
        loaded.query("SELECT * FROM next_to_label(concept = 'nothing', k = 3)")
    with pytest.raises(Exception, match="search_id: no image has this image_id"):
        loaded.query("SELECT * FROM search_id(image_id = 42, k = 3)")
    loaded.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'bare', prompt = 'a star')")
    with pytest.raises(Exception, match="this concept has no labels, or none whose pictures images holds: INSERT INTO labels"):
        loaded.query("SELECT * FROM fit(concept = 'bare', steps = 5, learning_rate = 0.1)")


@pytest.mark.parametrize(("kind", "name", "comment"), documented(), ids=lambda value: value if value.isidentifier() else "")
def test_every_object_states_its_purpose_and_its_example_runs(loaded, places, kind, name, comment, layout, tmp_path):
    assert states_its_purpose(name, comment), comment
    _, _, example = comment.partition("Example: ")
    if name == "embedded" or name.startswith(
        ("inbox_", "embedded_", "concept_inbox_", "kept_scores_of", "images_supersede", "rejects_supersede", "arrivals_clash")
    ):
        # fed by inserts into other tables, never called by name
        return
    assert example, f"{name} has no example"
    example = example.replace("/pictures/query.png", str(places["picture"])).replace(
        "'holiday/", f"'{places['picture'].parent}/"
    )
    example = (
        example.replace("image_id = 42", f"image_id = {places['id']}")
        .replace("holiday/*.jpg", "*.png")
        .replace("*.jpg", "*.png")
    )
    loaded.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')")
    loaded.command(f"INSERT INTO labels (concept, image_id, positive) VALUES ('circles', {places['id']}, true)")
    loaded.command("INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)")
    if example.startswith("INSERT"):
        loaded.command(example)
    else:
        loaded.query(example)


def test_all_but_the_contracts_names_carry_the_prefix():
    for kind, name, _ in documented():
        if kind == "FUNCTION" and name != "encoder_info":
            assert name.startswith("vdx_")


def test_the_small_functions_compute_what_they_say(client):
    row = client.query(
        "SELECT vdx_normalize([3, 4]), vdx_sigmoid(0), vdx_softmax([1, 1, 1 + log(2)]), vdx_softmax([1000., 0.]), vdx_prompt('a {} in {}', 'x')"
    ).result_rows[0]
    assert np.allclose(row[0], [0.6, 0.8])
    assert row[1] == 0.5
    assert np.allclose(row[2], [0.25, 0.25, 0.5])
    assert np.allclose(row[3], [1, 0])
    assert row[4] == "a x in x"
