"""The explorer's table of what is odd about a data set, over photographs made odd on purpose."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from tests.browser import opened, until
from tests.conftest import ask, served
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout

ARTEFACTS = Path("test-artefacts")  # screenshots, to be looked at
DATASET = 'it\'s "odd"'
ODD = {
    "dark": 2,
    "blurred": 1,
    "grey": 1,
    "rejected": 1,
    "near duplicate": None,
    "outlier": None,
    "likely mistake: label": None,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("health")
    (folder / "pictures").mkdir()
    list(install(Layout.embedded(folder), "vdx-tiny"))
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    crops = [photo.crop((60 * n, 0, 60 * n + 340, 260 + n)) for photo in photographs for n in range(5)]
    made = {
        "dark": crops[2].point(lambda v: v * 0.2), "darker": crops[2].point(lambda v: v * 0.1),
        "blurred": crops[1].filter(ImageFilter.GaussianBlur(4)), "grey": crops[7].convert("L"),
    }  # fmt: skip
    for name, image in [*enumerate(crops), *made.items()]:
        image.save(folder / "pictures" / f"{name}.jpg", quality=90)
    (folder / "pictures" / "broken.jpg").write_bytes((folder / "pictures" / "dark.jpg").read_bytes()[:2000])
    with served(folder) as address:
        ask(
            address,
            "INSERT INTO inbox (dataset, source, bytes, attributes) SELECT 'it\\'s \"odd\"', _path, raw_blob, map('label', if(cityHash64(_path) % 2, 'a', 'b'))"
            f" FROM file('{folder}/pictures/*.jpg', RawBLOB)",
        )
        ask(
            address,
            f"INSERT INTO inbox (dataset, source, bytes) SELECT 'plain', _path, raw_blob FROM file('{folder}/pictures/0.jpg', RawBLOB)",
        )
        ask(address, "INSERT INTO picture_facts SELECT * FROM missing_picture_facts(dataset = '')")
        yield address


@contextmanager
def health_of(browser, server: str, dataset: str = DATASET, **options) -> Iterator:
    with opened(browser, server, **options) as page:
        page.get_by_role("button", name=f"Health of {dataset}", exact=True).click()
        wait_for_table(page)
        yield page


def wait_for_table(page) -> None:
    until(
        page, "document.querySelector('#health-rows tr') && !document.querySelector('#health-rows').hasAttribute('aria-busy')"
    )


def wait_for_grid(page, said: str) -> None:
    until(
        page,
        "said => document.querySelector('#said').textContent.includes(said) && / ms$/.test(document.querySelector('#said').textContent)",
        said,
    )


def table(page) -> dict[str, list[str]]:
    rows = page.locator("#health-rows tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return {issue: rest for issue, *rest in rows}


def test_counts_are_those_of_the_view_and_lead_to_the_pictures(browser, server):
    with health_of(browser, server) as page:
        found = table(page)
        for issue, images in ODD.items():
            assert found[issue][0] == ("not looked for Look" if images is None else str(images)), issue
        assert found["tiny"][:2] == ["0", ""]
        assert page.input_value("#dataset") == DATASET
        assert page.get_attribute("#tab-health", "aria-selected") == "true"
        page.get_by_role("button", name="2 pictures: dark").click()
        wait_for_grid(page, "2 pictures odd: dark")
        captions = page.locator("#grid .caption").all_inner_texts()
        assert [caption.partition(":")[0] for caption in captions] == ["99th percentile of its brightness"] * 2
        labels = page.locator("#grid .thumb").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
        assert [label.partition(",")[0] for label in labels] == ["darker.jpg", "dark.jpg"]  # the worst first
        until(page, "[...document.querySelectorAll('#grid img')].filter(img => img.naturalWidth).length === 2")
        statements = page.locator("#log-rows pre").all_text_contents()
        assert any("FROM health_images(dataset = 'it\\'s \"odd\"', issue = 'dark', k = 100)" in text for text in statements)


def test_what_cannot_be_read_is_listed_with_the_reason(browser, server):
    with health_of(browser, server) as page:
        page.get_by_role("button", name="1 picture: rejected", exact=True).click()
        wait_for_grid(page, "1 pictures odd: rejected")
        assert page.locator("#grid .caption").inner_text() == "a damaged picture: it ends early"
        page.locator("#grid .thumb").click()
        until(page, "document.querySelector('#details-facts').innerText.includes('it ends early')")


@pytest.mark.parametrize("issue", ["near duplicate", "outlier", "likely mistake: label"])
def test_what_was_not_looked_for_is_looked_for_by_a_key(browser, server, issue):
    with health_of(browser, server) as page:
        page.get_by_role("button", name=f"Look for: {issue}").focus()
        page.keyboard.press("Enter")
        until(page, "issue => [...document.querySelectorAll('#health-rows tr')].some(row => row.cells[0].innerText === issue && !/not looked/.test(row.cells[1].innerText))", issue)  # fmt: skip
        query = "SELECT images FROM health(dataset = 'it\\'s \"odd\"') WHERE issue = '{}'"
        assert table(page)[issue][0] == str(ask(server, query.format(issue))[0][0])


def test_another_data_set_has_its_own(browser, server):
    with health_of(browser, server, "plain") as page:
        assert table(page)["dark"][0] == "0"
        page.select_option("#dataset", DATASET)
        until(
            page,
            "[...document.querySelectorAll('#health-rows button')].some(each => each.getAttribute('aria-label') === '2 pictures: dark')",
        )


@pytest.mark.parametrize("device", ["desktop", pytest.param("phone", marks=pytest.mark.long)])
def test_accessibility(browser, server, device):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="the package axe-playwright-python is not installed"
    )
    with health_of(browser, server, bypass_csp=True) as page:
        if device == "phone":
            page.set_viewport_size({"width": 390, "height": 844})
        found = axe.Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, json.dumps([(v["id"], v["nodes"][0]["html"]) for v in serious])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"health-{device}.png")
