"""Two shards against one server: the same statements over the same pictures must answer the same."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import vdx
from tests.server.conftest import SYNCHRONOUS, rows_of, single_database
from tests.sql.conftest import states_its_purpose
from vdx_udf.commands.doctor import examine
from vdx_udf.commands.reference import sql_objects
from vdx_udf.installer import cluster as cluster_schema
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.installer.cluster import ON_CLUSTER
from vdx_udf.statements import split_statements
from vdx_udf.tiny.pictures import draw, pair, sample_picture

pytestmark = pytest.mark.long

PICTURES = 600
PROMPT = "a red circle and a blue square"
PAIRS = ((("red", "circle"), ("blue", "square")), (("blue", "circle"), ("red", "square")))  # the wanted and the swapped
QUERIES = {  # statement: how far numbers may differ
    "SELECT count(), uniqExact(id), groupUniqArray(model) FROM images": 0,
    "SELECT dataset, source, error FROM rejects": 0,
    "SELECT id, source, distance FROM search_text(query = 'a red circle', k = 20)": 1e-6,
    "SELECT id, distance FROM search_id(image_id = {id:UInt64}, k = 9)": 1e-6,
    "SELECT id, distance FROM search_vector(vector = encode_text('a blue star'), k = 9)": 1e-6,
    "SELECT id FROM search_text_excluding(query = 'a red circle', exclude = [{id:UInt64}], k = 9)": 0,
    "SELECT id FROM search_text_where(query = 'a red circle', dataset = 'drawn', attribute = 'parity', value = '1', k = 9)": 0,
    "SELECT source FROM images ORDER BY cosineDistance(vector, encode_text('two hearts')) LIMIT 9": 0,
    "SELECT label, count(), sum(probability) FROM zero_shot(labels = ['circle', 'star'], template_set = 'default') GROUP BY label ORDER BY label": 1e-3,
    "SELECT dataset, images FROM index_status": 0,
    "SELECT count() FROM superseded": 0,
    "SELECT source, error FROM current_rejects ORDER BY source": 0,
    "SELECT hidden FROM hidden_rows": 0,
    "SELECT * FROM load_report(dataset = 'drawn')": 0,
    "SELECT side, count(), uniqExact(content_hash) FROM thumbnails GROUP BY side": 0,
    "SELECT id, bytes FROM kept_thumbnails(ids = [{id:UInt64}, 1], side = 64)": 0,
    "SELECT id, bytes, error FROM image_thumbnails(ids = [{id:UInt64}], side = 32)": 0,
    "SELECT count() FROM missing_thumbnails(ids = [{id:UInt64}], side = 32)": 0,
    "SELECT count() FROM unused_thumbnails": 0,
    "SELECT source, width, height, format, sharpness, entropy FROM image_facts(dataset = 'drawn') ORDER BY source": 1e-6,
    "SELECT count() FROM missing_picture_facts(dataset = 'drawn')": 0,
    "SELECT issue, images, looked_at FROM health(dataset = 'drawn') ORDER BY issue": 0,
    "SELECT id, why FROM health_images(dataset = 'drawn', issue = 'near duplicate', k = 50)": 0,
    "SELECT id FROM random_images(seed = 'x', n = 7)": 0,
    "SELECT round, method, weight, logit_scale, bias, freedom, average_precision FROM classifiers ORDER BY round": 1e-5,
    "SELECT weight, logit_scale, bias FROM fit(concept = 'pairs', steps = 5, learning_rate = 0.1)": 1e-5,
    "SELECT id, reason, probability FROM next_to_label(concept = 'pairs', k = 20)": 1e-5,
    "SELECT id, distance FROM search_concept(concept = 'pairs', k = 9)": 1e-5,
    "SELECT id, probability FROM scores(concept = 'pairs') ORDER BY probability DESC, id LIMIT 50": 1e-5,
    "SELECT id, probability FROM best_scores(concept = 'pairs', dataset = '', attribute = '', value = '', k = 9)": 1e-5,
    "SELECT threshold, images, expected_right FROM threshold(concept = 'pairs', precision = 0.5)": 1e-4,
    "SELECT moved, id, probability_after FROM compare_rounds(concept = 'pairs', before = 0, after = 2, k = 20)": 1e-5,
    "SELECT image_id, positive FROM labels_at(concept = 'pairs', round = 1) ORDER BY image_id": 0,
    "SELECT round, before, labels, average_precision_low, moved_in, moved_out, why, next_step FROM round_changes(concept = 'pairs', k = 20)": 1e-5,
    "SELECT dataset, images, rejects, examples FROM dataset_cards(n = 3)": 0,
    "SELECT count(), uniqExact(id) FROM newest_images(dataset = 'drawn', attribute = 'parity', value = '1', k = 50)": 0,
    "SELECT attribute, value, images FROM attribute_counts(dataset = 'drawn')": 0,
    "SELECT id, best FROM best_concepts(k = 2) ORDER BY id LIMIT 50": 1e-5,
    "SELECT concept, length(rounds), length(judgements) FROM portable_concepts": 0,
    "SELECT image_id, round, probability FROM kept_scores FINAL ORDER BY image_id": 1e-5,
    "SELECT count() FROM stale_scores": 0,
    "SELECT first_id, second_id, cosine FROM near_duplicates(dataset = 'drawn', least = 0.98) ORDER BY ALL": 1e-5,
    "SELECT group_id, id, keep FROM near_duplicate_groups(dataset = 'drawn', least = 0.97)": 0,
    "SELECT id, uniqueness, representativeness FROM uniqueness(dataset = 'drawn') ORDER BY id": 2e-2,
    "SELECT test_id, train_id, cosine FROM leaks(attribute = 'parity', train = '0', test = '1', least = 0.98) ORDER BY ALL": 1e-5,
    "SELECT place, id FROM diverse_subset(dataset = 'drawn', n = 5)": 0,
    "SELECT label, images, unsure FROM label_coverage(labels = ['circle', 'star'], template_set = 'default') ORDER BY label": 0,
    "SELECT recall FROM search_quality": 0,
    "SELECT id, distance, box FROM search_text_regions(query = 'a red circle', k = 9)": 1e-5,
    "SELECT id, distance FROM search_vector_regions_where(vector = encode_text('a red circle'), dataset = 'drawn', attribute = 'parity', value = '1', k = 9)": 1e-5,
    # By two smaller indexes or a larger one: of parts that are about as near, another may be found.
    "SELECT id, distance FROM search_concept_regions(concept = 'pairs', k = 9)": 1e-3,
    "SELECT id, probability, box FROM scores_regions(concept = 'pairs') ORDER BY probability DESC, id LIMIT 50": 1e-5,
    "SELECT id, reason, probability FROM next_to_label_regions(concept = 'pairs', k = 10)": 1e-5,
    "SELECT id, positive, box FROM labelled_regions(concept = 'pairs') ORDER BY id": 0,
    "SELECT weight, logit_scale, bias FROM refine_regions(concept = 'pairs')": 1e-4,
    "SELECT place, distance FROM region_scores(vector = encode_text('a red circle'), image_id = {id:UInt64})": 1e-5,
    "SELECT count(), uniqExact(image_id) FROM current_regions": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def both(cluster):
    """Clients of a single server's database and of the cluster's, after the same work in both."""
    one, two = single_database(cluster.first, "one_node"), cluster.first.client("vdx", **SYNCHRONOUS)
    rng, rows = np.random.default_rng(7), []
    for number in range(PICTURES):
        file = io.BytesIO()
        shown = pair(rng, *(PAIRS[number % 2])) if number % 5 == 0 else sample_picture(rng)
        draw(shown).save(file, "png")
        wanted = number % 10 == 0
        rows.append((f"{number}.png", "drawn", file.getvalue(), {"parity": str(number % 3 % 2), "wanted": str(wanted)}))
    rows.append(("broken.png", "drawn", b"no picture", {}))
    for client in (one, two):
        client.insert("inbox", rows, ["source", "dataset", "bytes", "attributes"])
        client.command(
            "INSERT INTO inputs (dataset, source) SELECT dataset, source FROM images UNION ALL SELECT dataset, source FROM rejects"
        )
        client.command(f"INSERT INTO classifiers SELECT * FROM start_concept(concept = 'pairs', prompt = '{PROMPT}')")
    for _ in range(2):
        judged = one.query(
            "SELECT id, attributes['wanted'] FROM next_to_label(concept = 'pairs', k = 20) INNER JOIN images USING (id)"
        ).result_rows
        values = ", ".join(f"('pairs', {id}, {wanted})" for id, wanted in judged)
        for client in (one, two):
            client.command(f"INSERT INTO labels (concept, image_id, positive) VALUES {values}")
            client.command("INSERT INTO classifiers SELECT * FROM refine(concept = 'pairs')")
    for client in (one, two):
        client.command("INSERT INTO thumbnails SELECT vdx_picture_key(source, content_hash), 64, source FROM images")
        client.command(
            "INSERT INTO picture_facts SELECT vdx_picture_key(source, content_hash), 64, 48 + id % 9, 'PNG', 1, 0.5, 0.1, 0.9, 10, 5, 20"
            " FROM images"
        )
        client.command(
            "INSERT INTO regions SELECT id, loaded_at, dataset, model, weights_hash, number, 1, vdx_box(number / 4, 0, 0.5, 0.5),"
            " vdx_region_vector(vector, vdx_normalize(arrayMap((x, place) -> x * (1 + 0.2 * ((place + number) % 3)), vector,"
            " arrayEnumerate(vector)))) FROM images ARRAY JOIN [0, 1, 2] AS number"
        )
        client.command("INSERT INTO kept_concepts VALUES ('pairs')")
        client.command("INSERT INTO kept_scores SELECT * FROM stale_scores")
        client.command("INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = 'drawn', least = 0.97)")
        client.command("INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'drawn', k = 5)")
        client.command("INSERT INTO search_trials SELECT * FROM search_trial(seed = '1', share = 1, k = 10)")
    return one, two


@pytest.mark.parametrize("query", QUERIES)
def test_two_shards_answer_as_one_server(both, query):
    """Labels and classifiers are on the asked node alone where Keeper is missing: no answer may rest on the other's copy."""
    parameters = {"id": both[0].query("SELECT min(id) FROM images").result_rows[0][0]}
    expected, found = (rows_of(client.query(query, parameters)) for client in both)
    assert expected or "superseded" in query
    assert len(found) == len(expected)
    for wanted, row in zip(expected, found, strict=True):
        assert len(row) == len(wanted)
        for a, b in zip(wanted, row, strict=True):
            assert a == b or (isinstance(a, float) and abs(a - b) <= QUERIES[query]), (wanted, row)


def test_pictures_are_embedded_on_the_shard_that_holds_them(both):
    _, two = both
    shares = two.query(
        "SELECT shardNum(), countIf(id % 2 + 1 = shardNum()), count() FROM cluster('{cluster}', vdx_shard, images) GROUP BY ALL ORDER BY ALL"
    )
    held = [rows for _, in_place, rows in shares.result_rows if in_place == rows]
    assert (len(held), sum(held)) == (2, PICTURES)
    counted = "view(SELECT rows FROM vdx.function_counters WHERE function = 'try_encode_image')"
    work = [
        rows
        for (rows,) in two.query(f"SELECT rows FROM clusterAllReplicas('{{cluster}}', {counted}) ORDER BY rows").result_rows
    ]
    # The broken picture too; and the first node's encoder also worked for the database that the cluster is compared with.
    assert sum(work) == 2 * (PICTURES + 1)
    assert sum(rows > PICTURES / 3 for rows in work) == 2


def test_what_is_there_is_not_embedded_again(both):
    _, two = both
    before = two.query("SELECT count() FROM images").result_rows
    two.command("INSERT INTO inbox (source, dataset, bytes) SELECT source, dataset, 'no picture' FROM rejects")
    assert two.query("SELECT count() FROM images").result_rows == before
    assert two.query("SELECT count() FROM rejects").result_rows == [(1,)]


def test_each_shard_searches_its_own_index(both):
    _, two = both
    plan = "\n".join(row[0] for row in two.query(
        "EXPLAIN indexes = 1, distributed = 1 SELECT id FROM images ORDER BY cosineDistance(vector, encode_text('a star')) LIMIT 9"
    ).result_rows)  # fmt: skip
    assert plan.count("vector_similarity") == 2, plan


def test_a_folder_is_loaded_onto_the_shards(both, cluster, tmp_path):
    """sql/cluster/folder.sql by vdx load; on processes without ON CLUSTER, so that the deletions and index builds are the asked node's."""
    if cluster.first.command_line:
        pytest.skip("the folder is not in the container: the statements run on server processes")
    where = "SELECT value FROM system.server_settings WHERE name = 'user_files_path'"
    folder = Path(cluster.first.client().query(where).result_rows[0][0]) / "pictures"  # what a server's paths may name
    folder.mkdir(parents=True)
    for number in range(20):
        draw(sample_picture(np.random.default_rng(500 + number))).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "empty.png").touch()
    file = tmp_path / "folder.sql"
    file.write_text((bundle_folder("sql") / "cluster" / "folder.sql").read_text().replace(ON_CLUSTER, ""))
    arguments = ("load", file, folder, "--param", "dataset=folder", "--url", f"{cluster.first.url}/vdx")
    report = [line.split("\t") for line in vdx(*arguments).stdout.splitlines()]
    assert report[1:4] == [["inputs", "22"], ["images", "20"], ["rejects", "2"]]
    report = [line.split("\t") for line in vdx(*arguments).stdout.splitlines()]  # again: nothing is new
    assert report[1:4] == [["inputs", "22"], ["images", "20"], ["rejects", "2"]]
    for number, name in enumerate(("bad.png", "0.png")):  # one mended, one changed
        draw(sample_picture(np.random.default_rng(600 + number))).save(folder / name)
    report = [line.split("\t") for line in vdx(*arguments).stdout.splitlines()]
    assert report[1:4] == [["inputs", "22"], ["images", "21"], ["rejects", "1"]]
    _, two = both
    found = two.query(
        "SELECT id FROM search_text_where(query = 'a star', dataset = 'folder', attribute = '', value = '', k = 50)"
    ).result_rows
    assert len(found) == len(set(found)) == 21
    assert two.query("SELECT count(), uniqExact(id) FROM current_images WHERE dataset = 'folder'").result_rows == [(21, 21)]
    held = two.query(
        "SELECT shardNum(), count() FROM cluster('{cluster}', vdx_shard, current_images) WHERE dataset = 'folder' GROUP BY ALL"
    ).result_rows
    assert sum(rows for _, rows in held) == 21
    assert len(held) == 2


def test_the_doctor_looks_at_all_nodes(both, cluster):
    checks = {check.what: check for check in examine(both[1])}
    assert checks["encoders of all nodes"].good
    assert checks["encoders of all nodes"].found == f"{4 if cluster.first.command_line else 2} of vdx-tiny"
    assert [check.found for check in checks.values() if not check.good and check.what != "vector index"] == []


def test_every_statement_of_the_schema_is_understood(both):
    """ON CLUSTER and replication need Keeper; that ClickHouse parses and formats the statements as meant does not."""
    _, two = both
    text = cluster_schema.schema(bundle_folder("sql"))
    for statement in split_statements(text):
        code = re.sub(r"^--.*\n", "", statement, flags=re.MULTILINE)
        if code.startswith("USE"):
            continue
        formatted = two.query("SELECT formatQuery({q:String})", {"q": code}).result_rows[0][0]
        assert ("ON CLUSTER `{cluster}`" in formatted) == (not code.startswith("INSERT")), code
        if "MergeTree" in code:
            assert re.search(
                r"ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/vdx(_shard/\{shard\})?/(\w+)', '", formatted
            ), code
    assert "currentDatabase()" not in text


def test_every_object_of_a_cluster_states_its_purpose_and_its_example_runs(both):
    _, two = both
    found = list(sql_objects(bundle_folder("sql") / "cluster" / "schema.sql"))
    assert len(found) == 13
    for each in found:
        assert states_its_purpose(each.name, each.purpose), each
        (two.command if each.example.startswith("INSERT") else two.query)(each.example)
    two.command("DELETE FROM vdx_shard.rejects WHERE dataset = 'holiday'")


def test_every_object_of_a_single_server_is_on_a_cluster(both):
    one, two = both
    objects = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name NOT LIKE '.inner%'"
    single, whole = ({name for (name,) in client.query(objects).result_rows} for client in (one, two))
    shard = {name for (name,) in two.query("SELECT name FROM system.tables WHERE database = 'vdx_shard'").result_rows}
    assert single == whole | shard


def test_new_pictures_are_scored_on_their_shard(both, cluster):
    _, two = both
    for table in ("classifiers", "kept_concepts"):
        cluster.replicate(table)
    file = io.BytesIO()
    draw(sample_picture(np.random.default_rng(70))).save(file, "png")
    names = [f"later {number}.png" for number in range(8)]
    two.insert("inbox", [(name, "later", file.getvalue()) for name in names], ["source", "dataset", "bytes"])
    scored = "SELECT count() FROM kept_scores WHERE image_id GLOBAL IN (SELECT id FROM images WHERE dataset = 'later')"
    assert two.query(scored).result_rows == [(8,)]
