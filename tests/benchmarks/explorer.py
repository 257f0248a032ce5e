"""`make bench-explorer`: how long the explorer page takes, measured in a browser, over the demo's pictures.

From the page's address to the first picture of the start page; from the key press to the first pictures on the screen, for texts that
were never asked before; and the time between frames while 10,000 pictures scroll past. Writes results/explorer.json, explorer.md and two
screenshots; QUICK=1: 2,000 pictures only.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.run import QUICK, RESULTS, machine
from tests.browser import opened, started, until
from tests.conftest import served
from vdx_udf.commands.demo import CONCEPT

PICTURES = 2_000 if QUICK else 25_000
QUERIES = 40
STARTS = 10
# From the navigation on, looks in every frame whether a picture of the start page is there, and whether all in sight are.
START = """requestAnimationFrame(function look() {
  const cells = [...document.querySelectorAll('#grid li')].filter((li) => li.getBoundingClientRect().top < innerHeight);
  const shown = cells.filter((li) => { const img = li.querySelector('img'); return img?.complete && img.naturalWidth; });
  if (shown.length) window.vdxFirst ??= performance.now();
  if (shown.length && shown.length === cells.length) window.vdxAll = performance.now();
  else requestAnimationFrame(look);
});"""
# From the key on, looks in every frame whether the answer to what was typed is there, and which of its pictures.
WATCH = """() => {
  const look = () => {
    const said = document.querySelector('#said').textContent;
    const cells = [...document.querySelectorAll('#grid li')].filter((li) => li.getBoundingClientRect().top < innerHeight);
    const shown = cells.filter((li) => { const img = li.querySelector('img'); return img?.complete && img.naturalWidth; });
    if (said.includes(vdx.text) && said.endsWith(' ms') && shown.length) {
      vdx.first ??= performance.now();
      if (shown.length === cells.length) { vdx.all = performance.now(); return; }
    }
    requestAnimationFrame(look);
  };
  document.querySelector('#query').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    window.vdx = { began: event.timeStamp, text: event.target.value };
    requestAnimationFrame(look);
  });
}"""
SCROLL = """() => new Promise((resolve) => {
  const frames = []; let last = performance.now(); const began = last;
  const step = (now) => {
    frames.push(now - last); last = now;
    scrollBy(0, 60);
    if (now - began < 6000) requestAnimationFrame(step); else resolve(frames.slice(1));
  };
  requestAnimationFrame(step);
})"""


def texts(rng: np.random.Generator, turn: int) -> list[str]:
    colours, shapes = ["red", "green", "blue", "yellow"], ["circle", "star", "heart", "square"]
    return [f"picture {turn}.{n}: a {rng.choice(colours)} {rng.choice(shapes)}" for n in range(QUERIES)]


def measure_start(page) -> dict[str, list[float]]:
    """Milliseconds from the page's address to the first picture of the start page and to all in sight."""
    page.add_init_script(START)
    found = {"start page, first picture": [], "start page, all in sight": []}
    for _ in range(STARTS):
        page.reload()
        while not page.evaluate("window.vdxAll"):
            page.wait_for_timeout(50)
        for times, name in zip(found.values(), ("vdxFirst", "vdxAll"), strict=True):
            times.append(page.evaluate(name))
        page.wait_for_timeout(500)
    return found


def measure(page, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each query from the key to the statement's answer, to the first picture and to all in sight."""
    found = {"answer": [], "first picture": [], "all pictures in sight": []}
    for text in texts(np.random.default_rng(seed), seed):
        page.fill("#query", text)
        page.press("#query", "Enter")
        while not page.evaluate("vdx.all"):
            page.wait_for_timeout(50)
        times = page.evaluate("[vdx.began, vdx.first, vdx.all]")
        found["answer"].append(float(page.inner_text("#said").split()[-2]))
        found["first picture"].append(times[1] - times[0])
        found["all pictures in sight"].append(times[2] - times[0])
        page.wait_for_timeout(200)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "demo"
        command = [sys.executable, "-m", "vdx_udf", "demo", "--output", output, "--pictures", PICTURES]
        subprocess.run(list(map(str, command)), check=True)
        with served(output / "engine") as address, started() as browser, opened(browser, address) as page:
            found = measure_start(page)
            page.wait_for_timeout(2_000)
            start = page.screenshot()
            page.evaluate(WATCH)
            found |= measure(page, 1)
            page.select_option("#dataset", "demo")
            page.wait_for_timeout(3_000)  # the search that this asks for has been answered
            found |= {f"{what}, a data set chosen": times for what, times in measure(page, 2).items()}
            page.select_option("#dataset", "")
            page.select_option("#count", "10000")
            page.wait_for_timeout(3_000)
            found["frame while scrolling"] = page.evaluate(SCROLL)
            page.select_option("#count", "100")
            page.select_option("#concept", CONCEPT)
            until(page, f"document.querySelector('#said').textContent.includes('best of “{CONCEPT}”')")
            until(page, "document.querySelectorAll('#moved img').length >= 2")
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(2_000)
            picture = page.screenshot()
    result = {
        "machine": machine(),
        "pictures": PICTURES,
        "milliseconds": {
            what: {f"p{q}": round(float(np.quantile(times, q / 100)), 1) for q in (50, 95)} | {"most": round(max(times), 1)}
            for what, times in found.items()
        },
    }
    lines = ["| milliseconds | median | 95 % | most |", "|---|---|---|---|"]
    lines += [f"| {what} | {t['p50']} | {t['p95']} | {t['most']} |" for what, t in result["milliseconds"].items()]
    text = "\n".join(lines) + "\n"
    print(text)
    if not QUICK:
        (RESULTS / "explorer.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "explorer.md").write_text(text)
        (RESULTS / "explorer.png").write_bytes(picture)
        (RESULTS / "explorer-start.png").write_bytes(start)


if __name__ == "__main__":
    main()
