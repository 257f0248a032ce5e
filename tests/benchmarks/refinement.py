"""How much each round of labels is worth: average precision of refine() against text alone, the published recipe and logistic
regression, with a simulated user. `python -m tests.benchmarks.refinement [--data rows.parquet --texts texts.parquet]`.

Every method gets the same text vector, the same pool and the same number of labels, and chooses itself what to show.
Average precision is that of the held-out half, which no method ever shows. A concept is hard where text alone has less than 0.5.
What threshold() states after each round of refine() is compared with the held-out half too: calibration.json, .md and .png.
"""

import json
import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from tests.benchmarks import refinement_calibration, refinement_methods, refinement_sets
from tests.benchmarks.refinement_user import LABELS_A_ROUND, ROUNDS, User, halves
from tests.conftest import put
from vdx_udf import statements
from vdx_udf.commands import target
from vdx_udf.installer.bundle import bundle_folder, with_dimension
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

RESULTS = Path(__file__).parent / "results"
HARD = 0.5  # average precision of text alone below which a concept is hard
CONCEPTS_A_PROCESS = 6
METHODS = tuple(refinement_methods.METHODS)


def average_precision(relevant: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(relevant, scores))


def engine_with(pool: np.ndarray, folder: Path) -> refinement_methods.Pool:
    """An engine of its own whose `images` are the pool."""
    layout = Layout.embedded(folder / "prefix")
    list(install(layout, "vdx-tiny"))
    client = target.connect_embedded(layout.state)
    for path in statements.sql_files(bundle_folder("sql")):
        for statement in statements.split_statements(with_dimension(path.read_text(), pool.shape[1])):
            client.command(statement)
    return refinement_methods.Pool(client, pool, put(client, pool, model="benchmark"))


def measure(part: refinement_sets.LabelledSet) -> tuple[list[dict], list[dict]]:
    """All methods and rounds for a few concepts of one set, in a process of its own; then what threshold() stated."""
    seen, held_out = halves(len(part.vectors))
    rows, stated = [], []
    with tempfile.TemporaryDirectory() as folder:
        pool = engine_with(part.vectors[seen], Path(folder))
        for concept in part.concepts:
            relevant = concept.relevant[held_out]
            start = average_precision(relevant, part.vectors[held_out] @ concept.text)
            for name, method in refinement_methods.METHODS.items():
                user = User(concept.relevant[seen])
                known = {"set": part.name, "concept": concept.name, "hard": start < HARD, "method": name}
                rows.append(known | {"round": 0, "average_precision": round(start, 5)})
                for n, weight in enumerate(method(pool, concept.name, concept.text, user), 1):
                    value = average_precision(relevant, part.vectors[held_out] @ weight)
                    rows.append(known | {"round": n, "average_precision": round(value, 5)})
                    if user.met:  # text alone shows nothing
                        rows[-1]["positives"] = user.met[-1]
                    if name == "refine":
                        held = refinement_calibration.statements(pool, concept.name, part.vectors[held_out], relevant)
                        stated.append({"set": part.name, "concept": concept.name, "round": n} | held)
        pool.client.close()
        stop_encoder(Layout.embedded(Path(folder) / "prefix"))
    return rows, stated


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean: bootstrap over concepts."""
    drawn = np.random.default_rng(0).choice(values, (2_000, len(values))).mean(axis=1)
    return tuple(np.quantile(drawn, (0.025, 0.975)))


def curves(rows: list[dict], hard: bool | None) -> dict[str, np.ndarray]:
    """Of each method float (concepts, rounds + 1); of the hard concepts, the easy ones or all."""
    found: dict[str, dict] = {method: {} for method in METHODS}
    for row in rows:
        if hard is None or row["hard"] == hard:
            values = found[row["method"]].setdefault((row["set"], row["concept"]), np.zeros(ROUNDS + 1))
            values[row["round"]] = row["average_precision"]
    return {method: np.array(list(values.values())) for method, values in found.items() if values}


GROUPS = {"all": None, "easy": False, "hard": True}


def table(rows: list[dict]) -> str:
    sets = {row["set"]: 0 for row in rows}
    for row in rows:
        sets[row["set"]] += row["round"] == 0 and row["method"] == METHODS[0]
    head = (
        f"Mean average precision on held-out rows after each round of {LABELS_A_ROUND} labels, with the 95 % interval of the mean"
        f" in the last round; {', '.join(f'{name} {count}' for name, count in sets.items())} concepts. `worst` is the"
        " lowest that a concept ever fell below text alone, `low` what the lowest 5 % of concepts and rounds fell to.\n"
    )
    lines = [
        "| concepts | method | text | " + " | ".join(map(str, range(1, ROUNDS + 1))) + " | 95 % | low | worst |",
        "|---|---|" + "---|" * (ROUNDS + 4),
    ]
    for group, hard in GROUPS.items():
        for method, values in curves(rows, hard).items():
            low, high = interval(values[:, -1])
            gains = values[:, 1:] - values[:, :1]
            worst, lowest = min(0.0, float(gains.min())), float(np.quantile(gains, 0.05))
            means = " | ".join(f"{mean:.3f}" for mean in values.mean(axis=0))
            lines.append(
                f"| {group} ({len(values)}) | {method} | {means} | {low:.3f} to {high:.3f} | {lowest:.3f} | {worst:.3f} |"
            )
    return "\n".join([head, *lines, ""])


def positives(rows: list[dict]) -> str:
    """How many of the images of each round show the concept, mean over concepts."""
    lines = [
        f"Positives that the user meets among the {LABELS_A_ROUND} images of a round, mean over all concepts:\n",
        "| method | " + " | ".join(map(str, range(1, ROUNDS + 1))) + " | mean |",
        "|---|" + "---|" * (ROUNDS + 1),
    ]
    for method in METHODS[1:]:
        met = [
            np.mean([row["positives"] for row in rows if row["method"] == method and row["round"] == n])
            for n in range(1, ROUNDS + 1)
        ]
        lines.append(f"| {method} | " + " | ".join(f"{mean:.1f}" for mean in (*met, np.mean(met))) + " |")
    return "\n".join([*lines, ""])


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = [(name, found) for name, hard in GROUPS.items() if (found := curves(rows, hard))]
    figure, panels = pyplot.subplots(1, len(groups), figsize=(4.4 * len(groups), 3.8), layout="constrained", squeeze=False)
    colours = dict(zip(METHODS, ("#777777", "#c9a227", "#a23b72", "#8fb8d0", "#2a6f97"), strict=True))
    for axes, (name, found) in zip(panels[0], groups, strict=True):
        for method, values in found.items():
            bounds = np.array([interval(column) for column in values.T])
            axes.plot(values.mean(axis=0), label=method, color=colours[method], marker="o", markersize=3)
            axes.fill_between(range(ROUNDS + 1), *bounds.T, color=colours[method], alpha=0.12)
        axes.set_title(f"{name}: {len(values)} concepts")
        axes.set_xlabel(f"rounds of {LABELS_A_ROUND} labels")
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean average precision, held out")
    panels[0][0].legend(loc="lower right")
    figure.savefig(path, dpi=110)


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Parquet with id, vector, label or labels: instead of the own sets.",
)
@click.option("--texts", type=click.Path(exists=True, path_type=Path), help="Parquet with label, vector: what stands for text.")
@click.option("--concepts", type=int, help="Only so many concepts of each set.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(data: Path | None, texts: Path | None, concepts: int | None, output: Path) -> None:
    if (data is None) != (texts is None):
        raise click.UsageError("--data and --texts belong together")
    sets = [refinement_sets.from_parquet(data, texts)] if data else [make() for make in refinement_sets.SETS.values()]
    parts = []
    for each in sets:
        wanted = each.concepts[:concepts]
        parts += [
            replace(each, concepts=wanted[at : at + CONCEPTS_A_PROCESS]) for at in range(0, len(wanted), CONCEPTS_A_PROCESS)
        ]
    rows: list[dict] = []
    stated: list[dict] = []
    with multiprocessing.get_context("spawn").Pool(maxtasksperchild=1) as processes:
        total = sum(len(part.concepts) for part in parts)
        with tqdm(total=total, desc="refine", unit=" concepts") as progress:
            for found, held in processes.imap(measure, parts):
                rows += found
                stated += held
                progress.update(len(found) // len(METHODS) // (ROUNDS + 1))
    output.mkdir(parents=True, exist_ok=True)
    (output / "refinement.json").write_text(json.dumps(rows, indent=0) + "\n")
    (output / "refinement.md").write_text(found := f"{table(rows)}\n{positives(rows)}")
    plot(rows, output / "refinement.png")
    (output / "calibration.json").write_text("[\n" + ",\n".join(map(json.dumps, stated)) + "\n]\n")
    (output / "calibration.md").write_text(held := refinement_calibration.table(stated))
    refinement_calibration.plot(stated, output / "calibration.png")
    print(found, held, sep="\n")


if __name__ == "__main__":
    main()
