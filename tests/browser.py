"""A real browser on the explorer page, for its tests and its benchmark."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class NoBrowser(Exception):
    """No browser is installed."""


@contextmanager
def started(*arguments: str) -> Iterator[Any]:
    """Chromium without a window: the system's or the one that `playwright install chromium` fetches. Raises NoBrowser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        program = next(filter(None, map(shutil.which, PROGRAMS)), own if own.is_file() else None)
        if program is None:
            raise NoBrowser(f"no browser: neither {', '.join(PROGRAMS)} nor Playwright's own is installed")
        # No sandbox: Chromium refuses to run as root with one, and it shows nothing but our own page.
        # WebGL by the CPU.
        options = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", *arguments]
        browser = driver.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@contextmanager
def or_skipped(*arguments: str) -> Iterator[Any]:
    """The same for tests: without a browser they are skipped, and say why."""
    import pytest

    pytest.importorskip("playwright", reason="the package playwright is not installed")
    try:
        with started(*arguments) as browser:
            yield browser
    except NoBrowser as error:
        pytest.skip(str(error))


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The page, ready. Fails for an error in a script or a request to any other place."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(0)  # as long as it takes
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: r.url.startswith((address, "blob:", "data:")) or problems.append(f"asks {r.url}"))
    page.goto(f"{address}/explorer/")
    until(page, "/data sets?(, \\d+ ms)?$/.test(document.querySelector('#said').textContent)")
    until(page, "[...document.querySelectorAll('.card')].length === document.querySelector('#dataset').options.length - 1")
    yield page
    context.close()
    assert not problems


def until(page: Any, script: str, argument: Any = None) -> None:
    """Until the script is true. Playwright's own waiting evaluates strings in the page, which its policy forbids.

    What the page says meanwhile is printed whenever it changes, for whoever finds a test that waited in vain.
    """
    said = None
    while not page.evaluate(script, argument):
        if said != (said := (page.inner_text("#said"), page.inner_text("#message"))):
            print(script, *said)
        page.wait_for_timeout(30)
