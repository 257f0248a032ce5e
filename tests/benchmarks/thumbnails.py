"""`make bench-thumbnails`: thumbnails a second beside a plain loop over Pillow, their memory, and the explorer's first screen.

thumbnail() reads and answers whole queries over paths, vdx-tiny's service; the loop is Image.open, Image.thumbnail and
Image.save on one thread of a process of its own, over the same files, alternating. The screen is 100 JPEGs of 12 megapixels in
headless Chromium on the same machine, from the Enter key until all are seen: as originals (which the large view still
fetches), on first sight (made and kept), and kept. Writes results/thumbnails.json and thumbnails.md; QUICK=1: fewer pictures.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.comparisons import QUICK, REPEATS, RESULTS, Comparisons, Side, less, line, machine
from tests.benchmarks.works import photos
from tests.browser import opened, started, until
from tests.conftest import ask, served
from vdx_udf.commands import target
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout
from vdx_udf.settings import THUMBNAIL_SIDE

SIZES = {(640, 480): less(500), (4000, 3000): less(100)}
SCREEN = less(100)
LOOP = """
import io, sys
from pathlib import Path
from PIL import Image
side = int(sys.argv[1])
for folder in map(str.strip, sys.stdin):
    for path in sorted(Path(folder).iterdir()):
        image = Image.open(path)
        image.thumbnail((side, side))
        image.save(io.BytesIO(), "JPEG", quality=80)
    print(flush=True)
"""
ALL_SEEN = """count => {
  const shown = [...document.querySelectorAll('#grid img')].filter((img) => img.complete && img.naturalWidth);
  return shown.length >= count;
}"""
RECEIVED = """() => performance.getEntriesByType('resource')
  .reduce((sum, each) => sum + each.encodedBodySize * (each.initiatorType === 'fetch'), 0)"""
# What the grid did before there were thumbnails: every original, six at a time, decoded for the screen.
ORIGINALS = """async (rows) => {
  const { load } = await import('/explorer/pictures.js');
  const began = performance.now();
  const next = async () => {
    for (let row = rows.pop(); row; row = rows.pop()) {
      const image = Object.assign(new Image(), { src: await load(row) });
      await image.decode();
    }
  };
  await Promise.all(Array.from({ length: 6 }, next));
  return performance.now() - began;
}"""


class Loop:
    """The plain loop's process."""

    def __init__(self):
        command = [sys.executable, "-c", LOOP, str(THUMBNAIL_SIDE)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, folder: Path) -> None:
        self._process.stdin.write(f"{folder}\n")
        assert self._process.stdout.readline()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.communicate()


def peak(pid: int) -> int:
    """Bytes of memory that the process held at most, since the last call."""
    status = Path(f"/proc/{pid}/status").read_text()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def processor_seconds(pid: int) -> float:
    """Of all threads of a process since it began."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def rates(folder: Path, found: Comparisons) -> dict[str, tuple[int, float]]:
    """Compares; returns the memory of both sides, bytes, and the processor time that a thumbnail takes them, seconds."""
    layout, costs = Layout.embedded(folder / "engine"), {}
    list(install(layout, "vdx-tiny"))
    client = target.connect_embedded(layout.state)
    try:
        client.query("SELECT encode_text('load the model')")
        pid = int((layout.run / "encoder.lock").read_text())
        for size, count in SIZES.items():
            place, loop = photos(folder / str(size[0]), count, size, 7), Loop()
            query = f"SELECT count() FROM (SELECT thumbnail(_path, {THUMBNAIL_SIDE}) AS t FROM file('{place}/*.jpg', One)) WHERE notEmpty(t)"

            def ours(repeat: int, query=query, count=count) -> None:
                assert client.query(query).result_rows == [(count,)]

            ours(0)
            loop.run(place)
            peak(pid)
            at_rest = int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) << 10
            began = processor_seconds(pid), processor_seconds(loop.pid)
            found.compare(
                f"{count} JPEGs {size[0]}x{size[1]} to {THUMBNAIL_SIDE}", "loop over Pillow",
                Side(count, ours), Side(count, lambda r, place=place, loop=loop: loop.run(place)), "thumbnails/s",
            )  # fmt: skip
            took = [(processor_seconds(p) - b) / REPEATS / count for p, b in zip((pid, loop.pid), began, strict=True)]
            costs[f"service, {size[0]}x{size[1]}: above its rest"] = max(0, peak(pid) - at_rest), took[0]
            costs[f"loop, {size[0]}x{size[1]}: all of it"] = peak(loop.pid), took[1]
            loop.close()
        return costs
    finally:
        client.close()
        stop_encoder(layout)


def screens(folder: Path) -> dict[str, dict]:
    """Seconds until a screen is seen and bytes that the page received for it."""
    layout = Layout.embedded(folder / "screen")
    list(install(layout, "vdx-tiny"))
    place, found = photos(folder / "screenful", SCREEN, (4000, 3000), 8), {}
    with served(layout.state) as address, started() as browser:
        ask(
            address,
            f"INSERT INTO inbox (source, dataset, bytes) SELECT _path, 'd', raw_blob FROM file('{place}/*.jpg', RawBLOB)",
        )
        rows = [{"id": str(id), "source": source} for id, source in ask(address, "SELECT toString(id), source FROM images")]
        for what in ("originals", "first sight", "kept"):
            times, sizes = [], []
            for _ in range(REPEATS):
                if what == "first sight":
                    ask(address, "TRUNCATE TABLE thumbnails")
                with opened(browser, address) as page:
                    page.set_viewport_size({"width": 1920, "height": 3000})
                    before = page.evaluate(RECEIVED)
                    if what == "originals":
                        times.append(page.evaluate(ORIGINALS, rows) / 1_000)
                    else:
                        page.fill("#query", "a star")
                        began = time.perf_counter()
                        page.press("#query", "Enter")
                        until(page, ALL_SEEN, SCREEN)
                        times.append(time.perf_counter() - began)
                    sizes.append(page.evaluate(RECEIVED) - before)
            found[what] = {
                "seconds": round(statistics.median(times), 2),
                "spread": [round(min(times), 2), round(max(times), 2)],
            }
            found[what]["bytes"] = int(statistics.median(sizes))
    found["files"] = {"bytes": sum(path.stat().st_size for path in place.iterdir())}
    return found


def main() -> None:
    found = Comparisons({})
    with tempfile.TemporaryDirectory() as scratch:
        costs = rates(Path(scratch), found)
        found.progress.close()
        seen = screens(Path(scratch))
    result = {"machine": machine(), "rates": found.rows, "costs": costs, "screen": seen}
    lines = [
        "| work | against | ours | peer | unit | ratio (least to most) | |", "|---|---|---|---|---|---|---|", *map(line, found.rows), "",
        "| memory | MB at most | ms of processor time a thumbnail |", "|---|---|---|",
        *(f"| {what} | {size / 1e6:.0f} | {1e3 * seconds:.1f} |" for what, (size, seconds) in costs.items()), "",
        f"| {SCREEN} JPEGs of 4000x3000 on one screen, {seen['files']['bytes'] / 1e6:.0f} MB of files | seconds (least to most) | MB received |",
        "|---|---|---|",
    ]  # fmt: skip
    for what in ("originals", "first sight", "kept"):
        each = seen[what]
        lines.append(f"| {what} | {each['seconds']} ({each['spread'][0]} to {each['spread'][1]}) | {each['bytes'] / 1e6:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if not QUICK:
        (RESULTS / "thumbnails.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "thumbnails.md").write_text(text)


if __name__ == "__main__":
    main()
