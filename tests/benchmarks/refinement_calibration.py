"""Whether refine()'s probabilities and threshold()'s statements hold on held-out rows: part of the refinement benchmark."""

from pathlib import Path

import numpy as np

from tests.benchmarks.refinement_methods import Pool
from tests.benchmarks.refinement_user import LABELS_A_ROUND, ROUNDS

PRECISIONS = (0.8, 0.9)
BINS = np.linspace(0, 1, 11)  # of predicted probability


def statements(pool: Pool, concept: str, vectors: np.ndarray, relevant: np.ndarray) -> dict:
    """What threshold() states of a concept's current round and what is true of held-out rows: float32 (rows, dimension), bool (rows,)."""
    weight, scale, bias = pool.client.query(
        "SELECT weight, logit_scale, bias FROM current_weight(concept = {c:String})", parameters={"c": concept}
    ).result_rows[0]
    unit = np.array(weight) / np.linalg.norm(weight)
    probabilities = 1 / (1 + np.exp(-(scale * (vectors @ unit) + bias)))
    bins = np.digitize(probabilities, BINS[1:-1])
    cuts = []
    for precision in PRECISIONS:
        threshold, reached, expected, low = pool.client.query(
            f"SELECT threshold, reached, expected_precision, precision_low FROM threshold(concept = {{c:String}}, precision = {precision})",
            parameters={"c": concept},
        ).result_rows[0]
        above = probabilities >= threshold
        cuts.append(
            {
                "precision": precision, "reached": bool(reached), "expected": round(expected, 4), "low": None if low is None else round(low, 4),
                "held_out": int(above.sum()), "right": int(relevant[above].sum()), "relevant": int(relevant.sum()),
            }
        )  # fmt: skip
    counts = [
        np.bincount(bins, weights=each, minlength=len(BINS) - 1) for each in (np.ones(len(bins)), probabilities, relevant)
    ]
    return {"cuts": cuts, "bins": [[round(float(x), 3) for x in each] for each in counts]}


def cuts_of(rows: list[dict], precision: float, n: int) -> list[dict]:
    """What is stated of a precision after round n, of each concept."""
    return [cut for row in rows if row["round"] == n for cut in row["cuts"] if cut["precision"] == precision]


def summary(cuts: list[dict]) -> dict[str, float]:
    """How often a cut is reached, with rows beyond it that are held out, how often those are as precise, and their mean recall."""
    reached = [cut for cut in cuts if cut["reached"]]
    beyond = [cut for cut in reached if cut["held_out"]]
    met = [cut["right"] >= cut["precision"] * cut["held_out"] for cut in beyond]
    return {
        "reached": len(reached) / max(1, len(cuts)),
        "stated": len(beyond),
        "met": float(np.mean(met)) if met else float("nan"),
        "recall": float(np.mean([cut["right"] / cut["relevant"] for cut in reached])) if reached else float("nan"),
    }


def table(rows: list[dict]) -> str:
    lines = [
        "What `threshold` states after each round of `refine`, and what is true of the held-out rows beyond the cut. `reached`: the share of"
        " concepts of which it says so; `met`: the share of those whose held-out precision is at least the stated one; `recall`: theirs.\n",
        "| precision | | " + " | ".join(map(str, range(1, ROUNDS + 1))) + " | all |",
        "|---|---|" + "---|" * (ROUNDS + 1),
    ]
    for precision in PRECISIONS:
        parts = [summary(cuts_of(rows, precision, n)) for n in range(1, ROUNDS + 1)]
        parts.append(summary([cut for n in range(1, ROUNDS + 1) for cut in cuts_of(rows, precision, n)]))
        for name in ("reached", "met", "recall"):
            lines.append(
                f"| {precision} | {name} | "
                + " | ".join("–" if np.isnan(part[name]) else f"{part[name]:.2f}" for part in parts)
                + " |"
            )
    return "\n".join([*lines, ""])


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (kept, reliable) = pyplot.subplots(1, 2, figsize=(8.8, 3.8), layout="constrained")
    rounds = range(1, ROUNDS + 1)
    for precision, colour in zip(PRECISIONS, ("#2a6f97", "#a23b72"), strict=True):
        parts = [summary(cuts_of(rows, precision, n)) for n in rounds]
        for name, line in (("met", "-"), ("reached", ":")):
            kept.plot(
                rounds,
                [part[name] for part in parts],
                line,
                label=f"{precision} {name}",
                color=colour,
                marker="o",
                markersize=3,
            )
    kept.axhline(0.9, color="#777777", linewidth=0.8)
    kept.set_xlabel(f"rounds of {LABELS_A_ROUND} labels")
    kept.set_ylabel("share of concepts")
    kept.set_title("threshold: reached, and met where it is")
    for n, colour in zip((1, 3, ROUNDS), ("#8fb8d0", "#c9a227", "#2a6f97"), strict=True):
        counts, predicted, right = np.sum([row["bins"] for row in rows if row["round"] == n], axis=0)
        full = counts > 0
        reliable.plot(
            predicted[full] / counts[full],
            right[full] / counts[full],
            label=f"round {n}",
            color=colour,
            marker="o",
            markersize=3,
        )
    reliable.plot([0, 1], [0, 1], color="#777777", linewidth=0.8)
    reliable.set_xlabel("mean predicted probability")
    reliable.set_ylabel("share of positives, held out")
    reliable.set_title("refine: all held-out rows in ten bins")
    for axes in (kept, reliable):
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
