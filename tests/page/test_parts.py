"""Searching, marking and refining by parts of pictures, on the explorer page."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.benchmarks.regions import Scene, drawn
from tests.browser import opened, until
from tests.conftest import ask, served
from tests.page.test_explorer import screenshot, search, shown, wait_for, wait_for_pictures
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout

SCENES = 24


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(5)
    return [drawn(rng, [1 / 20, *rng.uniform(1 / 80, 1 / 36, 5)], *((512, 384), (384, 512))[n % 2]) for n in range(SCENES)]


@pytest.fixture(scope="module")
def server(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("parts")
    layout = Layout.embedded(folder)
    list(install(layout, "vdx-tiny"))
    pictures = layout.user_files / "pictures"
    pictures.mkdir(parents=True)
    for number, scene in enumerate(scenes):
        (pictures / f"{number:02}.png").write_bytes(scene.content)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(photograph).save(pictures / f"{name}.jpg")
    with served(folder) as address:
        ask(address, f"INSERT INTO inbox (dataset, source) SELECT 'scenes', arrayJoin(vdx_files('{pictures}')).path")
        ask(address, "INSERT INTO regions SELECT * FROM missing_regions(dataset = '', levels = 2)")
        yield address


@pytest.fixture
def page(browser, server):
    with opened(browser, server) as page:
        page.check("#parts")
        wait_for(page, "newest first")
        yield page


def statements(page) -> str:
    return "\n".join(page.locator("#log-rows pre").all_text_contents())


def drag(page, box: tuple[float, float, float, float]) -> None:
    until(page, "document.querySelector('#details-picture').naturalWidth > 0")
    frame = page.locator("#details-parts").bounding_box()
    x, y, width, height = box
    at = [(frame["x"] + a * frame["width"], frame["y"] + b * frame["height"]) for a, b in ((x, y), (x + width, y + height))]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()


def test_hits_are_those_of_the_view_with_their_boxes(page, server):
    search(page, "a red circle")
    found = ask(
        server,
        "SELECT id, toJSONString([box.1, box.2, box.3, box.4]) FROM search_text_regions(query = 'a red circle', k = 100)",
    )
    assert shown(page) == [int(id) for id, _ in found][: len(shown(page))]
    wait_for_pictures(page, 12)
    drawn_boxes = page.locator("#grid li").evaluate_all(
        "all => Object.fromEntries(all.map(li => [li.dataset.id, li.querySelector('rect.part') && ['x', 'y', 'width', 'height'].map(side => Number(li.querySelector('rect.part').getAttribute(side)) / 100)]))"
    )
    looked_at = 0
    for id, box in found:
        expected = json.loads(box)
        if drawn_boxes.get(str(id)) and expected[2] < 1:
            assert np.allclose(drawn_boxes[str(id)], expected, atol=1e-6)
            looked_at += 1
    assert looked_at > 3
    screenshot(page, "parts")


def test_a_filter_and_without_parts(page, server):
    page.select_option("#dataset", "scenes")
    search(page, "a red circle")
    assert "FROM search_vector_regions_where(vector = encode_text('a red circle'), dataset = 'scenes'" in statements(page)
    page.uncheck("#parts")
    wait_for(page, "nearest to")
    assert "FROM search_vector_in(vector = encode_text('a red circle'), dataset = 'scenes'" in statements(page)
    assert not page.locator("#grid rect").count()


def test_a_dragged_box_is_searched_by(page, scenes, server):
    source = {int(id): path for id, path in ask(server, "SELECT id, source FROM images")}
    search(page, "a star")
    place, number = next((n, source[id][-6:]) for n, id in enumerate(shown(page)) if source[id].endswith(".png"))
    page.locator("#grid .thumb").nth(place).click()
    assert page.is_disabled("#details-part")
    drag(page, next(iter(scenes[int(number[:2])].objects.values())))
    assert page.locator("#details-parts rect.dragged").count() == 1
    page.click("#details-part")
    wait_for(page, f"nearest to a part of {number}")
    assert source[shown(page)[0]].endswith(number)  # the picture that it was cut from
    assert "FROM search_vector_regions(vector = encode_image(base64Decode(" in statements(page)


def test_the_box_moves_by_keys_and_goes(page):
    search(page, "a star")
    page.locator("#grid .thumb").first.click()
    until(page, "document.querySelector('#details-picture').naturalWidth > 0")
    page.focus("#details-parts")
    page.keyboard.press("ArrowRight")
    place = "['x', 'y', 'width', 'height'].map(side => Math.round(document.querySelector('rect.dragged').getAttribute(side)))"
    assert page.evaluate(place) == [25, 25, 50, 50]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    assert page.evaluate(place) == [35, 30, 40, 40]
    assert page.is_enabled("#details-part-yes")
    page.keyboard.press("Escape")
    assert page.locator("rect.dragged").count() == 0
    assert page.is_disabled("#details-part-yes")
    assert page.is_visible("#details-picture")


def test_why_this_one_shades_the_parts_by_their_scores(page, server):
    search(page, "a green star")
    page.locator("#grid .thumb").first.click()
    until(page, "document.querySelector('#details-picture').naturalWidth > 0")
    page.click("#details-why")
    until(page, "document.querySelectorAll('rect.heat').length > 20")
    darkest = page.locator("rect.heat").evaluate_all(
        "all => all.map(each => [Number(each.getAttribute('fill-opacity')), Number(each.getAttribute('x'))]).sort((a, b) => b[0] - a[0])[0]"
    )
    ((x,),) = ask(
        server,
        f"SELECT 100 * box.1 FROM region_scores(vector = encode_text('a green star'), image_id = {shown(page)[0]}) ORDER BY distance LIMIT 1",
    )
    assert darkest == [0.5, pytest.approx(float(x), abs=1e-3)]
    screenshot(page, "why")
    page.click("#details-why")
    until(page, "document.querySelectorAll('rect.heat').length === 0")


def test_a_marked_part_and_a_round_by_parts(page, scenes, server):
    search(page, "a blue square")
    page.locator("#grid .thumb").first.click()
    drag(page, (0.2, 0.3, 0.25, 0.4))
    page.click("#details-part-yes")
    until(page, "document.querySelector('#concept-state').textContent.includes('1 yes')")
    boxes = "SELECT box.1, box.2, box.3, box.4 FROM current_labels WHERE concept = 'a blue square'"
    (box,) = ask(server, boxes)
    assert np.allclose([float(v) for v in box], (0.2, 0.3, 0.25, 0.4), atol=0.02)
    page.click("#details button[type=submit]")
    page.locator("#grid .no").first.click()  # the same picture; undone, the part is marked again
    until(page, "document.querySelector('#concept-state').textContent.includes('0 yes, 1 no')")
    page.click("#undo")
    until(page, "document.querySelector('#concept-state').textContent.includes('1 yes, 0 no')")
    assert ask(server, boxes) == [box]
    page.locator("#grid .no").nth(3).click()
    until(page, "document.querySelector('#concept-state').textContent.includes('1 no')")
    page.click("#refine")
    wait_for(page, "best of")
    text = statements(page)
    assert "SELECT * FROM refine_regions(concept = 'a blue square')" in text
    assert "FROM scores_regions(concept = 'a blue square')" in text
    page.click("#next")
    wait_for(page, "to label next")
    assert "FROM next_to_label_regions(concept = 'a blue square'" in statements(page)


def test_without_regions_nothing_is_offered(browser, tmp_path, scenes):
    list(install(Layout.embedded(tmp_path), "vdx-tiny"))
    with served(tmp_path) as address:
        (tmp_path / "one.png").write_bytes(scenes[0].content)
        ask(address, f"INSERT INTO inbox (source, bytes) SELECT _path, raw_blob FROM file('{tmp_path}/one.png', RawBLOB)")
        with opened(browser, address) as page:
            assert page.is_hidden("#parts-wanted")
            search(page, "a circle")
            page.locator("#grid .thumb").first.click()
            until(page, "document.querySelector('#details-picture').naturalWidth > 0")
            assert page.is_hidden("#details-why")
            drag(page, (0.1, 0.1, 0.4, 0.4))  # a part is a picture to search by all the same
            page.click("#details-part")
            wait_for(page, "nearest to a part of one.png")


def test_accessibility(browser, server):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="the package axe-playwright-python is not installed"
    )
    with opened(browser, server, bypass_csp=True) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.check("#parts")
        search(page, "a star")
        wait_for_pictures(page, 2)
        page.locator("#grid .thumb").first.click()
        until(page, "document.querySelector('#details-picture').naturalWidth > 0")
        page.click("#details-why")
        until(page, "document.querySelectorAll('rect.heat').length > 20")
        found = axe.Axe().run(page).response["violations"]
        assert not [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
