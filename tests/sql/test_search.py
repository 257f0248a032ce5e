"""Filters, pages, words beside vectors and weighted texts, against numpy on the same rows."""

import math
import re

import numpy as np
import pytest

from tests.conftest import empty_tables, put

ROWS, DIMENSION = 3_000, 512
WORDS = ("beach", "dog", "snow", "boat", "sunset")
NO_CONDITION = {
    "datasets": [], "any_of": {}, "none_of": {}, "at_least": {}, "at_most": {}, "caption": "", "exclude": [],
}  # fmt: skip


def literal(value: str | list | dict) -> str:
    """As a person writes it in a statement."""
    if isinstance(value, dict):
        return f"map({', '.join(f'{key!r}, {literal(each)}' for key, each in value.items())})"
    return repr(value)


class Rows:
    """What is in the table, as numpy knows it."""

    def __init__(self, client):
        rng = np.random.default_rng(19)
        self.client = client
        centres = rng.normal(size=(20, DIMENSION))
        found = centres[rng.integers(0, 20, ROWS)] + 0.7 * rng.normal(size=(ROWS, DIMENSION))
        self.vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        self.dataset = np.array(["small" if n < 40 else "middle" if n < 400 else "large" for n in range(ROWS)])
        self.attributes = [
            {"iso": str(rng.choice([50, 100, 400, 3200])), "taken": f"20{rng.integers(10, 25)}-0{rng.integers(1, 10)}-15"}
            | ({"colour": str(rng.choice(["red", "blue", "green"]))} if n % 3 else {})
            for n in range(ROWS)
        ]
        self.captions = [" and a ".join(rng.choice(WORDS, size=rng.integers(0, 3), replace=False)) for _ in range(ROWS)]
        rows = [
            (f"{n}", self.dataset[n], "vdx-tiny", self.vectors[n].tolist(), self.captions[n], self.attributes[n])
            for n in range(ROWS)
        ]
        client.insert("images", rows, ["source", "dataset", "model", "vector", "caption", "attributes"])
        ids = dict(client.query("SELECT source, id FROM images").result_rows)
        self.ids = np.array([ids[str(n)] for n in range(ROWS)], dtype=np.uint64)
        self.row = {int(id): n for n, id in enumerate(self.ids)}
        self.query = (centres[3] / np.linalg.norm(centres[3])).astype(np.float32)
        self.distances = 1 - self.vectors @ self.query

    def nearest(self, passes: np.ndarray, k: int) -> list[float]:
        return np.sort(self.distances[passes])[:k].tolist()

    def filtered(self, k: int = 10, **conditions) -> list[tuple[int, float]]:
        given = ", ".join(f"{name} = {literal(value)}" for name, value in (NO_CONDITION | conditions).items())
        statement = f"SELECT id, distance FROM search_filtered(vector = {{vector:Array(Float32)}}, {given}, k = {k})"
        return self.client.query(statement, {"vector": self.query.tolist()}).result_rows

    def same(self, found: list[tuple[int, float]], passes: np.ndarray, k: int) -> None:
        """All pass, none is there twice, and the distances are those of the nearest k that do."""
        ids = [id for id, _ in found]
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(self.ids[passes].tolist())
        off = np.array([distance for _, distance in found]) - self.distances[[self.row[id] for id in ids]]
        assert np.abs(off).max(initial=0) < 2e-3
        wanted = self.nearest(passes, k)
        assert len(found) == len(wanted)
        # The index holds bfloat16 vectors and looks at a part of them: a place in thirty may go to the next row.
        assert sum(distance <= wanted[-1] + 1e-3 for _, distance in found) >= 0.97 * len(wanted) - 0.5


@pytest.fixture(scope="module")
def rows(client) -> Rows:
    """Of the tests that only read; those that change rows come after them."""
    empty_tables(client)
    return Rows(client)


@pytest.mark.parametrize("k", [1, 10, 500])
def test_a_data_set_alone(rows, k):
    for dataset in ("small", "middle", "large", "none of the name"):
        found = rows.client.query(
            "SELECT id, distance FROM search_vector_in(vector = {v:Array(Float32)}, dataset = {d:String}, k = {k:UInt32})",
            {"v": rows.query.tolist(), "d": dataset, "k": k},
        ).result_rows
        rows.same(found, rows.dataset == dataset, k)


def number(text: str) -> float:
    return float(text) if text else math.nan


CONDITIONS = {
    "none": ({}, lambda r, n: True),
    "two data sets": ({"datasets": ["small", "middle"]}, lambda r, n: r.dataset[n] != "large"),
    "no such data set": ({"datasets": ["no such"]}, lambda r, n: False),
    "one of two values": ({"any_of": {"colour": ["red", "blue"]}}, lambda r, n: r.attributes[n].get("colour") in ("red", "blue")),
    "not there": ({"any_of": {"colour": [""]}}, lambda r, n: "colour" not in r.attributes[n]),
    "two attributes": (
        {"any_of": {"colour": ["red"], "iso": ["3200"]}},
        lambda r, n: r.attributes[n].get("colour") == "red" and r.attributes[n]["iso"] == "3200",
    ),
    "none of": ({"none_of": {"colour": ["red", "green"], "iso": ["50"]}},
                lambda r, n: r.attributes[n].get("colour") not in ("red", "green") and r.attributes[n]["iso"] != "50"),
    "numbers": ({"at_least": {"iso": "100"}, "at_most": {"iso": "400.5"}}, lambda r, n: 100 <= number(r.attributes[n]["iso"]) <= 400.5),
    "dates": ({"at_least": {"taken": "2012-05"}, "at_most": {"taken": "2012-12-31"}},
              lambda r, n: "2012-05" <= r.attributes[n]["taken"] <= "2012-12-31"),
    "a month and all of its days": ({"at_least": {"taken": "2012-05"}, "at_most": {"taken": "2012-05"}},
                                    lambda r, n: r.attributes[n]["taken"].startswith("2012-05")),
    "years": ({"at_least": {"taken": "2012"}, "at_most": {"taken": "2013"}}, lambda r, n: r.attributes[n]["taken"][:4] in ("2012", "2013")),
    "a bound of what is not there": ({"at_least": {"colour": "a"}}, lambda r, n: "colour" in r.attributes[n]),
    "a number beside texts": ({"at_most": {"colour": "7"}}, lambda r, n: False),
    "caption": ({"caption": "Snow and"}, lambda r, n: "snow and" in r.captions[n]),
    "all at once": (
        {"datasets": ["large"], "any_of": {"colour": ["red", "blue"]}, "none_of": {"iso": ["50"]}, "at_least": {"taken": "2015"}, "caption": "dog"},
        lambda r, n: r.dataset[n] == "large" and r.attributes[n].get("colour") in ("red", "blue") and r.attributes[n]["iso"] != "50"
        and r.attributes[n]["taken"] >= "2015" and "dog" in r.captions[n],
    ),
}  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_filters_are_exact_about_what_passes(rows, condition):
    given, passes = CONDITIONS[condition]
    passing = np.array([bool(passes(rows, n)) for n in range(ROWS)])
    for k in (10, 500):
        rows.same(rows.filtered(k, **given), passing, k)


def test_excluded_ids_give_their_places_to_the_next(rows):
    first = [id for id, _ in rows.filtered(600)]
    found = rows.filtered(10, exclude=first)
    rows.same(found, ~np.isin(rows.ids, first), 10)


def test_any_condition_of_sql_is_searched_exactly_by_the_documented_setting(rows):
    passes = np.array(
        [
            len(caption) % 7 == 3 and int(attributes["iso"]) > 50
            for caption, attributes in zip(rows.captions, rows.attributes, strict=True)
        ]
    )
    found = rows.client.query(
        "SELECT id, cosineDistance(vector, {v:Array(Float32)}) AS distance FROM current_images"
        " WHERE length(caption) % 7 = 3 AND toUInt32OrZero(attributes['iso']) > 50"
        " ORDER BY distance LIMIT 10 SETTINGS vector_search_filter_strategy = 'prefilter'",
        {"v": rows.query.tolist()},
    ).result_rows  # fmt: skip
    assert [id for id, _ in found] == rows.ids[passes][np.argsort(rows.distances[passes])[:10]].tolist()


@pytest.mark.parametrize("dataset", ["", "middle", "no such"])
def test_pages_have_no_gaps_and_repeat_nothing(rows, dataset):
    there = rows.ids[(rows.dataset == dataset) | (dataset == "")]
    seen = []
    for start in (*range(0, 900, 300), 900, 1_100, 1_101, *range(1_301, 3_400, 700)):
        k = {900: 200, 1_100: 1, 1_101: 200}.get(start, 300 if start < 900 else 700)
        page = rows.client.query(
            f"SELECT id, distance FROM search_page(vector = {{v:Array(Float32)}}, dataset = '{dataset}', k = {k}, start = {start})",
            {"v": rows.query.tolist()},
        ).result_rows
        assert len(page) == max(0, min(k, len(there) - start))
        seen += page
    assert len(seen) == len({id for id, _ in seen}) == len(there)
    assert {id for id, _ in seen} == set(there.tolist())
    distances = np.array([distance for _, distance in seen])
    assert np.allclose(distances[:50], np.sort(rows.distances[np.isin(rows.ids, there)])[:50], atol=5e-3)
    assert (np.diff(distances[1_000:]) >= 0).all()


def ranks(rows: Rows, clip, query: str, dataset: str) -> tuple[dict[int, int], dict[int, int]]:
    """Of each id its rank by words, ties alike, and by vector."""
    there = [n for n in range(ROWS) if dataset in ("", rows.dataset[n])]
    words = dict.fromkeys(word for word in re.split(r"[^0-9a-z]+", query.lower()) if word)
    texts = {n: re.split(r"[^0-9a-z]+", " ".join([rows.captions[n], *rows.attributes[n].values()]).lower()) for n in there}
    holders = {word: sum(word in text for text in texts.values()) for word in words}
    weights = {n: sum(math.log(1 + ROWS / holders[word]) for word in words if word in text) for n, text in texts.items()}
    weights = {n: round(weight, 9) for n, weight in weights.items() if weight}
    distances = 1 - rows.vectors @ clip.encode_texts([query])[0]
    near = sorted(there, key=lambda n: distances[n])[:1000]
    return (
        {int(rows.ids[n]): 1 + sum(other > weight for other in weights.values()) for n, weight in weights.items()},
        {int(rows.ids[n]): rank for rank, n in enumerate(near, 1)},
    )


@pytest.mark.parametrize(
    ("query", "dataset"),
    [("Snow, boat!", ""), ("a dog", "middle"), ("beach 3200", "large"), ("nothing of it", ""), ("", "")],
)
def test_words_and_vectors_are_fused_by_reciprocal_rank(rows, clip, query, dataset):
    found = rows.client.query(
        "SELECT id, score, words_rank, vector_rank FROM search_hybrid(query = {q:String}, dataset = {d:String}, k = 50)",
        {"q": query, "d": dataset},
    ).result_rows
    by_words, by_vector = ranks(rows, clip, query, dataset)
    assert len({id for id, *_ in found}) == 50
    for id, score, words_rank, vector_rank in found:
        assert words_rank == by_words.get(id, 0)
        # The index holds bfloat16 vectors and looks at a part of them, so neighbours by vector may change places.
        assert abs(vector_rank - by_vector.get(id, 0)) <= 5 + 0.1 * vector_rank or by_vector.get(id, 1000) > 850
        assert math.isclose(score, sum(1 / (60 + rank) for rank in (words_rank, vector_rank) if rank))
    assert [score for _, score, *_ in found] == sorted((score for _, score, *_ in found), reverse=True)
    scores = {
        id: sum(1 / (60 + each[id]) for each in (by_words, by_vector) if id in each)
        for id in by_words.keys() | by_vector.keys()
    }
    assert min(scores[id] for id, *_ in found) > 0.97 * sorted(scores.values())[-50]


def test_a_text_index_changes_no_answer(rows):
    """As documented; a caption of no words, and words that no picture has, among the queries."""
    asked = [
        (query, dataset) for query in ("Snow, boat!", "beach 3200", "nothing of it", "", "!") for dataset in ("", "middle")
    ]

    def answers() -> list:
        # All that words find: a merge meanwhile builds the vector index anew, so ranks by it may change places.
        statement = """SELECT id, words_rank FROM search_hybrid(query = {q:String}, dataset = {d:String}, k = 100000)
                       WHERE words_rank > 0 ORDER BY id"""
        return [rows.client.query(statement, {"q": query, "d": dataset}).result_rows for query, dataset in asked]

    without = answers()
    assert [bool(found) for found in without] == [True] * 4 + [False] * 6
    rows.client.command("ALTER TABLE images ADD INDEX words vdx_words(caption, attributes) TYPE text(tokenizer = 'array')")
    try:
        rows.client.command("ALTER TABLE images MATERIALIZE INDEX words SETTINGS mutations_sync = 2")
        explained = rows.client.query("EXPLAIN indexes = 1 SELECT * FROM search_hybrid(query = 'snow', dataset = '', k = 5)")
        assert any("Name: words" in row[0] for row in explained.result_rows)
        assert answers() == without
    finally:
        rows.client.command("ALTER TABLE images DROP INDEX words SETTINGS mutations_sync = 2")


@pytest.mark.parametrize("hide", ["DELETE FROM images WHERE id IN {ids:Array(UInt64)}",
                                  "INSERT INTO rejects (source, dataset, error) SELECT source, dataset, 'broken since' FROM images WHERE id IN {ids:Array(UInt64)}"])  # fmt: skip
def test_what_is_hidden_near_the_query_takes_no_places(fresh_tables, hide):
    """More rows than a filtered search asks the index for beyond k."""
    rows = Rows(fresh_tables)
    gone = rows.ids[np.argsort(rows.distances)[:400]]
    rows.client.command(hide, {"ids": gone.tolist()})
    left = ~np.isin(rows.ids, gone)
    for view in ("search_vector_where(vector = {v:Array(Float32)}, dataset = '', attribute = '', value = '', k = 10)",
                 "search_page(vector = {v:Array(Float32)}, dataset = '', k = 10, start = 0)", "search_vector(vector = {v:Array(Float32)}, k = 10)"):  # fmt: skip
        rows.same(rows.client.query(f"SELECT id, distance FROM {view}", {"v": rows.query.tolist()}).result_rows, left, 10)
    rows.same(rows.filtered(10), left, 10)
    in_one = rows.client.query("SELECT id, distance FROM search_vector_in(vector = {v:Array(Float32)}, dataset = 'large', k = 10)", {"v": rows.query.tolist()})  # fmt: skip
    rows.same(in_one.result_rows, left & (rows.dataset == "large"), 10)


def test_a_mix_is_the_weighted_sum_of_its_texts(loaded, clip):
    texts, weights = ["a red circle", "a blue heart", "a black background"], [1.0, 0.5, -0.7]
    target = np.array(weights) @ clip.encode_texts(texts)
    vectors = np.array([row[0] for row in loaded.query("SELECT vector FROM images").result_rows])
    wanted = np.sort(1 - vectors @ (target / np.linalg.norm(target)))[:9]
    found = loaded.query(
        "SELECT distance FROM search_mix(texts = {t:Array(String)}, weights = {w:Array(Float32)}, k = 9)",
        {"t": texts, "w": weights},
    )
    assert np.allclose([row[0] for row in found.result_rows], wanted, atol=5e-3)
    for statement, said in (
        ("search_mix(texts = ['a', 'b'], weights = [1], k = 9)", "as many weights as texts"),
        ("search_mix(texts = ['a', 'a'], weights = [1, -1], k = 9)", "add up to no direction"),
    ):
        with pytest.raises(Exception, match=said):
            loaded.query(f"SELECT * FROM {statement}")


def test_vectors_may_be_stored_in_half_the_disk(fresh_tables, clip, tmp_path):
    """As documented; everything that reads them goes on, with cosines up to 0.8 % smaller."""
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal((400, 512)) + 2 * rng.standard_normal((1, 512))
    vectors[399] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = put(fresh_tables, vectors, model="vdx-tiny")
    fresh_tables.command("ALTER TABLE images MODIFY COLUMN vector Array(BFloat16) SETTINGS mutations_sync = 2")
    try:
        query = vectors[:5].mean(0)
        query /= np.linalg.norm(query)
        found = fresh_tables.query(
            "SELECT id, distance FROM search_vector(vector = {v:Array(Float32)}, k = 10)", {"v": query.tolist()}
        )
        best = np.argsort(-(vectors @ query))[:10]
        assert len({row[0] for row in found.result_rows} & {ids[n] for n in best}) >= 9
        assert np.allclose([row[1] for row in found.result_rows], 1 - (vectors @ query)[best], atol=0.008)
        fresh_tables.command("INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = 'put', least = 0.98)")
        ((first, second, cosine),) = fresh_tables.query("SELECT first_id, second_id, cosine FROM near_pairs").result_rows
        assert {first, second} == {ids[0], ids[399]}
        assert 0.99 < cosine < 1
        fresh_tables.command(
            "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'half', vector = {v:Array(Float32)})",
            {"v": query.tolist()},
        )
        for n in (*best[:3], 200, 300):
            fresh_tables.command(f"INSERT INTO labels (concept, image_id, positive) VALUES ('half', {ids[n]}, {n in best})")
        fresh_tables.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'half')")
        fresh_tables.command(f"INSERT INTO FUNCTION file('{tmp_path}/half.parquet', Parquet) SELECT * FROM portable")
        ((rows, size),) = fresh_tables.query(
            f"SELECT count(), any(length(vector)) FROM file('{tmp_path}/half.parquet')"
        ).result_rows
        assert (rows, size) == (400, 512)
    finally:
        fresh_tables.command("TRUNCATE TABLE images")
        fresh_tables.command("ALTER TABLE images MODIFY COLUMN vector Array(Float32) SETTINGS mutations_sync = 2")


@pytest.mark.parametrize("k", [1, 3, 10])
def test_what_few_rows_pass_is_found_exactly(fresh_tables, k):
    """The plan is chosen by the rows of the least ids: here, where ids are small numbers, by all of them."""
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((3_000, 512))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    put(
        fresh_tables,
        vectors,
        attributes=[{"kind": "rare" if n % 600 == 7 else "common"} for n in range(3_000)],
        model="vdx-tiny",
    )
    numbered = "toUInt64(extract(source, '[0-9]+'))"
    fresh_tables.command(f"INSERT INTO images SELECT * REPLACE ({numbered} AS id, 'numbered' AS dataset) FROM images")
    fresh_tables.command("DELETE FROM images WHERE dataset = 'put'")
    query = vectors[11]
    for kind, passing in (
        ("rare", np.arange(7, 3_000, 600)),
        ("common", np.delete(np.arange(3_000), np.arange(7, 3_000, 600))),
    ):
        best = passing[np.argsort(-(vectors[passing] @ query))][:k].tolist()
        for call in (
            f"search_vector_where(vector = {{v:Array(Float32)}}, dataset = '', attribute = 'kind', value = '{kind}', k = {k})",
            f"search_id_where(image_id = 11, dataset = 'numbered', attribute = 'kind', value = '{kind}', k = {k})",
            "search_filtered(vector = {v:Array(Float32)}, datasets = [], any_of = map('kind', ['"
            + kind
            + "']), none_of = map(),"
            f" at_least = map(), at_most = map(), caption = '', exclude = [], k = {k})",
        ):
            found = [row[0] for row in fresh_tables.query(f"SELECT id FROM {call}", {"v": query.tolist()}).result_rows]
            if kind == "rare":
                assert found == best
            else:  # through the index
                assert len(set(found) & set(best)) >= 0.8 * len(best)


def test_the_filtered_searches_are_one_text(layout):
    """Each is written out, since a view within a view is analysed twice as often: 10 ms. They differ in their target alone."""
    parts = set()
    for file, names in (
        ("03_search", ("search_vector_where", "search_text_where", "search_id_where")),
        ("08_scores", ("best_scores",)),
    ):
        text = (layout.sql / f"{file}.sql").read_text()
        for name in names:
            body = text[text.index(f"CREATE OR REPLACE VIEW {name} AS") :].partition(";")[0]
            body = re.sub(
                r"cosineDistance\(vector, (target|current\.1|\{vector:Array\(Float32\)\})\)",
                "cosineDistance(vector, target)",
                body,
            )
            parts.add(
                (
                    body[body.index("    -- By one id") : body.index(") AS near")],
                    body[body.index("FROM\n(\n    SELECT hit.1") :],
                )
            )
    assert len(parts) == 1


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "at_most"),
    [
        ("2024-05-02 10:00:00", "2024-05-02T09:00:00", 1, 0),
        ("2024-05-02T08:00:00", "2024-05-02 09:00:00", 0, 1),
        ("2024-05-02T10:00", "2024-05-02T10:00", 1, 1),
        ("2024-05-02T10:00:30", "2024-05-02 10:00", 1, 1),
        ("2024-05-02", "2024", 1, 1),
        ("2024-05-02", "2023", 1, 0),
        ("2024-05-02", "400", 0, 0),
        ("2024-05-02", "12.5", 0, 0),
        ("2024", "2024", 1, 1),
        ("Tom", "Tim", 1, 0),
        ("", "2024-05", 0, 0),
    ],
)
def test_dates_are_compared_in_the_order_of_time(client, value, bound, at_least, at_most):
    parameters = {"value": value, "bound": bound}
    statement = (
        "SELECT toUInt8(vdx_at_least({value:String}, {bound:String})), toUInt8(vdx_at_most({value:String}, {bound:String}))"
    )
    assert client.query(statement, parameters).result_rows == [(at_least, at_most)]
