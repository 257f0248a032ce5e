"""Parts of pictures: functions, table, searches and rounds, on drawn scenes whose content is known, beside open_clip and brute force."""

import base64
import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import vdx_udf.tiny
from tests.benchmarks.regions import SIDE, Scene, average_precision, drawn
from vdx_udf.encoder.regions import pyramid
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.settings import REGION_LEVELS

SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(77)
    sizes = [(SIDE, SIDE), (SIDE * 4 // 3, SIDE), (SIDE, SIDE * 3 // 2)]
    return [drawn(rng, [1 / 25, *rng.uniform(1 / 100, 1 / 36, 6)], *sizes[n % 3]) for n in range(SCENES)]


@pytest.fixture
def world(fresh_tables, scenes, layout):
    """The scenes as files that the encoder may read, loaded, with regions of two levels."""
    folder = layout.user_files / "scenes"
    folder.mkdir(exist_ok=True)
    for number, scene in enumerate(scenes):
        (folder / f"{number:03}.png").write_bytes(scene.content)
    fresh_tables.command(
        f"INSERT INTO inbox (dataset, source, attributes) SELECT if(number % 2, 'odd', 'even'), '{folder}/' || leftPad(toString(number), 3, '0')"
        f" || '.png', map('third', toString(number % 3)) FROM numbers({len(scenes)})"
    )
    fresh_tables.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 2)")
    return fresh_tables


def rows(client, statement: str, **parameters) -> list[tuple]:
    return client.query(statement, parameters).result_rows


def exact(client, vector: str, where: str = "true") -> dict[int, float]:
    """id to distance by the definition, from the vectors of the pictures and of their parts as encode_regions gives them."""
    statement = f"""SELECT id, 1 - 0.5 * dotProduct(vector, query) - 0.5 * arrayMax(r -> dotProduct(r.vector, query), encode_regions(source, 2))
        FROM (SELECT id, source, vector, {vector} AS query FROM current_images WHERE {where})"""
    return dict(rows(client, statement))


@pytest.mark.parametrize(
    ("size", "levels", "parts"), [((100, 100), 2, 21), ((96, 64), 1, 9), ((400, 300), 2, 31), ((300, 400), 3, 119)]
)
def test_squares_cover_the_picture_and_overlap_by_half(size, levels, parts):
    width, height = size
    found = pyramid(height, width, levels, 64)
    boxes = [box for level in found for box in level.boxes(64)]
    assert 1 + len(boxes) == parts
    assert max(box.x + box.width for box in boxes) == max(box.y + box.height for box in boxes) == 1
    for level in found:
        own = list(level.boxes(64))
        assert np.allclose([box.width * width / (box.height * height) for box in own], 1, rtol=0.01)
        side = own[0].width * width
        # A thing of half a square, anywhere, lies whole in a square.
        for x, y in np.random.default_rng(3).uniform(0, (width - side / 2, height - side / 2), (500, 2)):
            assert any(
                box.x * width <= x + 1 and box.y * height <= y + 1
                and x + side / 2 <= (box.x + box.width) * width + 1 and y + side / 2 <= (box.y + box.height) * height + 1
                for box in own
            )  # fmt: skip


def test_too_fine_and_too_many_squares_are_left_out():
    assert [len(level.corners) for level in pyramid(63, 63, 3, 64)] == [4]  # squares of 42 pixels; 25 would be fewer than 32
    assert pyramid(40, 40, 3, 64) == []
    assert sum(len(level.corners) for level in pyramid(400, 4_000, 3, 64)) == 254
    assert pyramid(400, 400_000, 3, 64) == []


def test_a_part_is_what_open_clip_makes_of_that_part(world, scenes, layout):
    """Resized as the whole and cut, by open_clip's own steps; the first is encode_image's."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{Path(vdx_udf.tiny.__file__).parent / 'vdx-tiny'}")
    model.eval()
    path = str(layout.user_files / "scenes" / "001.png")
    found = rows(world, "SELECT encode_regions({p:String}, 2), encode_image({p:String})", p=path)[0]
    regions, whole = [(np.array(list(part.values())[:4]), np.array(part["vector"])) for part in found[0]], np.array(found[1])
    assert np.allclose(regions[0][0], (0, 0, 1, 1))
    assert regions[0][1] @ whole > 0.99999
    image = Image.open(io.BytesIO(scenes[1].content))
    for box, vector in regions[1:]:
        area = [box[0] * image.width, box[1] * image.height, (box[0] + box[2]) * image.width, (box[1] + box[3]) * image.height]
        part = image.resize(
            (64, 64),
            Image.Resampling.BICUBIC,
            box=[min(max(v, 0), limit) for v, limit in zip(area, image.size * 2, strict=True)],
        )
        with torch.inference_mode():
            reference = model.encode_image(preprocess(part)[None], normalize=True)[0].numpy()
        assert reference @ vector > 0.98  # at its edges the resized whole saw the pixels beyond


def test_each_picture_is_answered_once_with_its_best_part(world):
    query = "encode_text('a red circle')"
    truth = exact(world, query)
    for view in (
        "search_text_regions(query = 'a red circle', k = 10)",
        f"search_vector_regions(vector = {query}, k = 10)",
        f"search_vector_regions_where(vector = {query}, dataset = '', attribute = '', value = '', k = 10)",
    ):
        found = rows(world, f"SELECT id, distance, box FROM {view}")
        assert len({id for id, *_ in found}) == 10
        assert np.allclose([distance for _, distance, _ in found], sorted(truth.values())[:10], atol=3e-3)
        assert all(abs(truth[id] - distance) < 3e-3 for id, distance, _ in found)
    id, _, box = found[0]
    ((best, nearest),) = rows(
        world, f"SELECT box, distance FROM region_scores(vector = {query}, image_id = {id}) ORDER BY distance LIMIT 1"
    )
    assert tuple(best.values()) == tuple(box.values() if isinstance(box, dict) else box)
    assert abs(nearest - truth[id]) < 1e-3


@pytest.mark.parametrize(
    ("dataset", "attribute", "value", "where"),
    [("odd", "", "", "dataset = 'odd'"), ("", "third", "1", "attributes['third'] = '1'"), ("even", "third", "0", "dataset = 'even' AND attributes['third'] = '0'"),
     ("none", "", "", "false"), ("", "third", "4", "false")],
)  # fmt: skip
@pytest.mark.parametrize("k", [3, 100])
def test_a_filter_never_loses_a_match(world, dataset, attribute, value, where, k):
    truth = exact(world, "encode_text('a blue heart')", where)
    found = rows(
        world,
        "SELECT id, distance FROM search_vector_regions_where(vector = encode_text('a blue heart'), dataset = {d:String},"
        f" attribute = {{a:String}}, value = {{v:String}}, k = {k})",
        d=dataset, a=attribute, v=value,
    )  # fmt: skip
    assert len(found) == min(k, len(truth))
    assert np.allclose([distance for _, distance in found], sorted(truth.values())[:k], atol=3e-3)


def test_pictures_without_regions_go_by_the_whole_and_hidden_ones_show_nowhere(world):
    search = "search_text_regions(query = 'a green star', k = 40)"
    everything = (
        "search_vector_regions_where(vector = encode_text('a green star'), dataset = '', attribute = '', value = '', k = 40)"
    )
    first, second, third = (id for (id,) in rows(world, f"SELECT id FROM {search} LIMIT 3"))
    world.command(f"DELETE FROM regions WHERE image_id = {first}")
    world.command(f"DELETE FROM images WHERE id = {second}")
    # Another picture under the third one's name: what was cut of the old one shows no more.
    world.command(
        "INSERT INTO images (source, dataset, model, weights_hash, vector) SELECT source, dataset, model, weights_hash, arrayMap(x -> -x, vector)"
        f" FROM images WHERE id = {third}"
    )
    ((whole,),) = rows(world, f"SELECT 1 - dotProduct(vector, encode_text('a green star')) FROM images WHERE id = {first}")
    for view in (search, everything):
        found = {id: (distance, box) for id, distance, box in rows(world, f"SELECT id, distance, box FROM {view}")}
        assert len(found) == SCENES - 1
        assert second not in found
        assert found[first][0] == pytest.approx(whole, abs=3e-3)
        assert found[third][0] > 1
    assert rows(world, "SELECT uniqExact(image_id) FROM unused_regions") == [(2,)]
    assert rows(world, "SELECT uniqExact(image_id) FROM current_regions") == [(SCENES - 3,)]
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 2)")
    # The third one's file is not what its vector is of.
    assert rows(world, "SELECT uniqExact(image_id) FROM current_regions") == [(SCENES - 2,)]


def test_regions_are_made_once_and_finer_ones_when_asked_for(world):
    count = "SELECT count(), uniqExact(image_id, place), max(levels) FROM regions FINAL"
    before = rows(world, count)
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 1)")
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 2)")
    assert rows(world, count) == before
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = 'odd', levels = 3)")
    assert rows(world, "SELECT dataset, max(levels) FROM regions GROUP BY dataset ORDER BY dataset") == [
        ("even", 2),
        ("odd", 3),
    ]
    assert rows(world, "SELECT count() - uniqExact(image_id, place) FROM current_regions") == [(0,)]
    ids = [id for (id,) in rows(world, "SELECT id FROM search_text_regions(query = 'a red circle', k = 40)")]
    assert len(ids) == len(set(ids)) == SCENES
    with pytest.raises(Exception, match=f"missing_regions: levels are 0 to {REGION_LEVELS}"):
        world.command(f"INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = {REGION_LEVELS + 1})")


def test_a_file_that_changed_is_cut_once_it_is_loaded_again(world, layout):
    path = layout.user_files / "scenes" / "005.png"
    Image.new("RGB", (SIDE, SIDE), "white").save(path)
    levels = (
        "SELECT max(levels) FROM current_regions WHERE image_id = (SELECT id FROM current_images WHERE source = {p:String})"
    )
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 3)")
    assert rows(world, levels, p=str(path)) == [(2,)]
    world.command(f"INSERT INTO inbox (dataset, source, bytes) SELECT 'odd', _path, raw_blob FROM file('{path}', RawBLOB)")
    assert rows(world, levels, p=str(path)) == [(0,)]
    world.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 1)")
    assert rows(world, levels, p=str(path)) == [(1,)]


def test_a_label_takes_boxes_within_the_picture(fresh_tables):
    insert = "INSERT INTO labels (concept, image_id, positive, box) SELECT 'c', 1, true, vdx_box({})"
    for box in (
        "2, 2, 0.5, 0.5",
        "-0.5, 0, 0.2, 0.2",
        "0, 0, inf, 1",
        "nan, 0, 0.5, 0.5",
        "0.1, 0.1, 0, 0.2",
        "0.5, 0.5, -0.1, 0.1",
    ):
        with pytest.raises(Exception, match="box_lies_in_the_picture"):
            fresh_tables.command(insert.format(box))
    for box in ("0, 0, 0, 0", "0, 0, 1, 1", "0.6, 0.7, 0.4, 0.3"):
        fresh_tables.command(insert.format(box))
        assert rows(fresh_tables, "SELECT box.1, box.2, box.3, box.4 FROM current_labels")[0] == pytest.approx(eval(box))


def test_the_overlap_of_boxes(fresh_tables):
    for boxes, share in (
        ("(0, 0, 1, 1), (2, 2, 1, 1)", 0),
        ("(0, 0, 2, 1), (1, 0, 1, 1)", 0.5),
        ("vdx_box(0, 0, 0.5, 1), (0.25, 0, 0.5, 1)", 1 / 3),
    ):
        assert rows(fresh_tables, f"SELECT vdx_overlap({boxes})") == [(pytest.approx(share),)]


def test_a_picture_is_found_by_a_part_of_it(world, scenes, layout):
    path = str(layout.user_files / "scenes" / "004.png")
    x, y, width, height = next(iter(scenes[4].objects.values()))
    found = rows(
        world,
        "SELECT source, box FROM search_image_regions(image = {p:String}, x = {x:Float64}, y = {y:Float64}, width = {w:Float64},"
        " height = {h:Float64}, k = 1)",
        p=path, x=x, y=y, w=width, h=height,
    )  # fmt: skip
    assert found[0][0] == path
    ((content,),) = rows(
        world, "SELECT base64Encode(vdx_cut({p:String}, {x:Float64}, {y:Float64}, {w:Float64}, {h:Float64}))",
        p=path, x=x, y=y, w=width, h=height,
    )  # fmt: skip
    part, whole = Image.open(io.BytesIO(base64.b64decode(content))), Image.open(path)
    left, top = int(x * whole.width + 1e-3), int(y * whole.height + 1e-3)
    assert np.array_equal(np.asarray(part), np.asarray(whole.crop((left, top, left + part.width, top + part.height))))
    assert abs(part.width - width * whole.width) < 2
    assert abs(part.height - height * whole.height) < 2


def test_bad_pictures_boxes_and_levels_cost_their_row(world, layout):
    good = str(layout.user_files / "scenes" / "000.png")
    tried = dict(
        rows(
            world,
            "SELECT source, try_encode_regions(source, 1).error FROM (SELECT arrayJoin([{p:String}, '/nowhere.png', 'x\\0']) AS source)",
            p=good,
        )
    )
    assert tried[good] == ""
    assert "No such file" in tried["/nowhere.png"]
    assert all(error for source, error in tried.items() if source != good)
    with pytest.raises(Exception, match="regions of 4 levels: at most 3 finer ones"):
        rows(world, "SELECT encode_regions({p:String}, 4)", p=good)
    for box in ("0.5, 0, 0.6, 1", "0, 0, 0, 1", "-0.1, 0, 0.5, 0.5", "nan, 0, 1, 1"):
        with pytest.raises(Exception, match="shares of width and height, all within 0 to 1"):
            rows(world, f"SELECT vdx_cut({{p:String}}, {box})", p=good)
    assert rows(world, "SELECT length(encode_regions({p:String}, 0))", p=good) == [(1,)]


def test_rounds_on_marked_boxes(world, scenes):
    """The box names the part, a no its best part, and two rounds find the objects."""
    number = {id: int(source[-7:-4]) for id, source in rows(world, "SELECT id, source FROM images")}
    pair = max(
        {pair for scene in scenes for pair in scene.objects}, key=lambda pair: sum(pair in scene.objects for scene in scenes)
    )
    relevant = {id for id, n in number.items() if pair in scenes[n].objects}
    world.command(f"INSERT INTO classifiers SELECT * FROM start_concept(concept = 'it''s', prompt = 'a {pair[0]} {pair[1]}')")
    for _ in range(2):
        shown = rows(world, "SELECT id, reason FROM next_to_label_regions(concept = 'it''s', k = 10)")
        assert len({id for id, _ in shown}) == 10
        assert {reason for _, reason in shown} == {"top", "uncertain", "random"}
        for id, _ in shown:
            box = scenes[number[id]].objects.get(pair, (0, 0, 0, 0))
            world.command(
                f"INSERT INTO labels (concept, image_id, positive, box) SELECT 'it''s', {id}, {id in relevant}, vdx_box({', '.join(map(str, box))})"
            )
        judged = rows(world, "SELECT id, positive, box FROM labelled_regions(concept = 'it''s')")
        assert {id for id, *_ in judged} >= {id for id, _ in shown}
        for id, positive, box in judged:
            assert positive == (id in relevant)
            if positive:
                best = rows(
                    world,
                    f"SELECT max(vdx_overlap(box, {scenes[number[id]].objects[pair]})) FROM regions WHERE image_id = {id}",
                )
                assert rows(world, f"SELECT vdx_overlap({tuple(box.values())}, {scenes[number[id]].objects[pair]})")[
                    0
                ] == pytest.approx(best[0], abs=1e-6)
        world.command("INSERT INTO classifiers SELECT * FROM refine_regions(concept = 'it''s')")
    assert rows(world, "SELECT max(round) FROM classifiers") == [(2,)]
    scored = rows(world, "SELECT id, probability, box FROM scores_regions(concept = 'it''s') ORDER BY probability DESC")
    assert len(scored) == SCENES
    assert all(0 <= probability <= 1 for _, probability, _ in scored)
    ranked = np.array([id in relevant for id, *_ in scored])
    by_text = rows(world, f"SELECT id FROM images ORDER BY cosineDistance(vector, encode_text('a {pair[0]} {pair[1]}')) + 0")
    assert average_precision(ranked) > average_precision(np.array([id in relevant for (id,) in by_text])) + 0.1
    id, probability, box = scored[0]
    parts = rows(
        world,
        f"SELECT box, probability FROM concept_region_scores(concept = 'it''s', image_id = {id}) ORDER BY probability DESC",
    )
    assert parts[0][1] == pytest.approx(probability, abs=1e-6)
    unjudged = rows(world, "SELECT id FROM search_concept_regions(concept = 'it''s', k = 40)")
    assert len(unjudged) == SCENES - 20


@pytest.mark.parametrize("images", [0, 1, 2])
def test_next_to_nothing(fresh_tables, layout, scenes, images):
    folder = layout.user_files / "few"
    folder.mkdir(exist_ok=True)
    for number in range(images):
        (folder / f"{number}.png").write_bytes(scenes[number].content)
        fresh_tables.command(f"INSERT INTO inbox (source) VALUES ('{folder}/{number}.png')")
    fresh_tables.command("INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 1)")
    fresh_tables.command("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'c', prompt = 'a circle')")
    for view in (
        "search_text_regions(query = 'x', k = 3)",
        "search_vector_regions_where(vector = encode_text('x'), dataset = '', attribute = '', value = '', k = 3)",
        "scores_regions(concept = 'c')", "next_to_label_regions(concept = 'c', k = 5)", "search_concept_regions(concept = 'c', k = 3)",
        "random_regions(concept = 'c', n = 5)",
    ):  # fmt: skip
        found = rows(fresh_tables, f"SELECT * FROM {view}")
        assert len(found) == images
        assert not any(isinstance(value, float) and np.isnan(value) for row in found for value in row)
    fresh_tables.command("INSERT INTO labels (concept, image_id, positive) SELECT 'c', id, true FROM images")
    if images:
        fresh_tables.command("INSERT INTO classifiers SELECT * FROM refine_regions(concept = 'c')")
        assert rows(fresh_tables, "SELECT countIf(isNaN(weight[1])) FROM classifiers") == [(0,)]
    else:
        with pytest.raises(Exception, match="this concept has no labels"):
            rows(fresh_tables, "SELECT * FROM refine_regions(concept = 'c')")


def test_refine_regions_is_refine_on_other_rows():
    text = (bundle_folder("sql") / "06_training.sql").read_text()
    whole, parts = (
        text.partition(f"CREATE OR REPLACE VIEW {name} AS\n")[2].partition(";\n")[0] for name in ("refine", "refine_regions")
    )
    for other, one in (
        ("labelled_regions(", "labelled_vectors("),
        (
            "FROM random_regions(concept = {concept:String}, n = 100)\n            WHERE id GLOBAL NOT IN",
            "FROM current_images\n            WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = 100))\n"
            "                AND id GLOBAL NOT IN",
        ),
    ):
        assert parts.count(other) == 1
        parts = parts.replace(other, one)
    assert parts == whole
