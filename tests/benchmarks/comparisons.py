"""Comparisons of two sides that alternate in one run: their rows, as a table and as bars. QUICK=1 measures less of each."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 2 if QUICK else 3
RESULTS = Path(__file__).parent / "results"


def less(count: int) -> int:
    """The count, a tenth of it where QUICK."""
    return max(1, count // 10) if QUICK else count


@dataclass
class Side:
    """One side of a comparison: `run(repeat)` does `count` rows."""

    count: int
    run: Callable[[int], None]

    def rate(self, repeat: int) -> float:
        began = time.perf_counter()
        self.run(repeat)
        return self.count / (time.perf_counter() - began)


class Comparisons:
    """Runs comparisons, prints each as it ends and keeps the rows."""

    def __init__(self, roof: dict[str, float]):
        self.roof = roof
        self.rows: list[dict] = []
        self.progress = tqdm(unit=" comparisons")

    def compare(
        self, work: str, against: str, ours: Side, peer: Side, unit: str = "rows/s", most: tuple[str, float] | None = None,
        cosines: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        """Alternates the two. `most`: a precision and the operations a row takes, for the roofline. `cosines`: the least of
        each side's vectors to open_clip's in float32."""
        pairs = [(ours.rate(repeat), peer.rate(repeat)) for repeat in range(REPEATS)]
        roof = self.roof[most[0]] / most[1] if most else None
        self.add(work, against, pairs, unit, [a / b for a, b in pairs], roof, cosines)

    def add(
        self, work, against, pairs: list[tuple[float, float]], unit: str, ratios: list[float], roof=None, cosines=None
    ) -> None:
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        row = {
            "work": work, "against": against, "ours": _short(mine), "peer": _short(theirs), "unit": unit,
            "ratio": _short(statistics.median(ratios)), "spread": [_short(min(ratios)), _short(max(ratios))],
            "roofline": roof and _short(roof),
        }  # fmt: skip
        if cosines:
            row["cosines"] = [round(cosine, 5) for cosine in cosines]
        self._keep(row)

    def not_run(self, against: str, why: str) -> None:
        """`why` in one line, for a cell of the table."""
        self._keep({"work": "all", "against": against, "fault": " ".join(why.replace("|", "/").split())})

    def _keep(self, row: dict) -> None:
        self.rows.append(row)
        self.progress.update()
        self.progress.write(line(row))


def _short(figure: float) -> float:
    """Three significant digits."""
    return float(f"{figure:.3g}")


def machine() -> str:
    return f"{os.cpu_count()} cores of {torch.cpu.get_capabilities().get('cpu_name', platform.machine())}, torch {torch.__version__}"


def line(row: dict) -> str:
    if "fault" in row:
        return f"| {row['work']} | {row['against']} | | | | not run: {row['fault']} | |"
    spread = "" if row["spread"][0] == row["spread"][1] else f" ({row['spread'][0]:g} to {row['spread'][1]:g})"
    roof = "" if row["roofline"] is None else f"{row['roofline']:g}"
    return f"| {row['work']} | {row['against']} | {row['ours']:g} | {row['peer']:g} | {row['unit']} | {row['ratio']:g}{spread} | {roof} |"


def plot(rows: list[dict], path: Path) -> None:
    """Rates as bars: ours, the peer's and the roofline, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if "fault" not in row and row["unit"] != "ms"][::-1]
    at = np.arange(len(rows))
    figure, axes = pyplot.subplots(figsize=(11, 0.55 * len(rows) + 1.2), layout="constrained")
    axes.barh(at + 0.2, [row["ours"] for row in rows], 0.4, label="vdx-udf", color="#2a6f97")
    axes.barh(at - 0.2, [row["peer"] for row in rows], 0.4, label="peer", color="#c9a227")
    roofs = [(y, row["roofline"]) for y, row in zip(at, rows, strict=True) if row["roofline"]]
    axes.scatter(
        [roof for _, roof in roofs], [y + 0.2 for y, _ in roofs], marker="|", s=160, color="black", label="roofline", zorder=3
    )
    axes.set_yticks(at, [f"{row['work']}\nagainst {row['against']}" for row in rows], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("rows or queries per second")
    for y, row in zip(at, rows, strict=True):
        inside = {
            "xytext": (-4, 0),
            "textcoords": "offset points",
            "va": "center",
            "ha": "right",
            "fontsize": 8,
            "color": "white",
        }
        axes.annotate(f"{row['ratio']:g}x", (row["ours"], y + 0.2), **inside)
    axes.margins(x=0.12, y=0.02)
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)
