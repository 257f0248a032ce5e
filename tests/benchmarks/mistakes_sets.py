"""Labelled vectors for the benchmark of likely_mistakes: each set gives float32 (rows, dimension) of unit length and int (rows,)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests.benchmarks import refinement_sets
from tests.benchmarks.refinement_sets import unit

Labelled = tuple[np.ndarray, np.ndarray]


def projected(make: Callable[[], refinement_sets.LabelledSet]) -> Labelled:
    """The classes of a set that the refinement benchmark projects."""
    found = make()
    return found.vectors, np.argmax([concept.relevant for concept in found.concepts if "clear" in concept.name], axis=0)


def mixture(classes: int, rows: int, apart: float, seed: int) -> Labelled:
    """Fine classes with the geometry of CLIP's pictures: one direction that all share, deviations whose variance falls with their
    place, classes that differ in the first 64 places, five related classes a group, classes of different spread, members that are sparse sums rather than normal."""
    rng = np.random.default_rng(seed)
    labels = np.arange(classes * rows) % classes
    axes = np.linalg.qr(rng.normal(size=(512, 512)))[0] / np.arange(1, 513)[:, None] ** 0.5

    def deviations(count: int, directions: int = 512) -> np.ndarray:
        return (rng.normal(size=(count, directions)) * rng.exponential(size=(count, directions))) @ axes[:directions] * 0.18

    groups = deviations(classes // 5 + 1, 64)[rng.integers(0, classes // 5 + 1, classes)]
    centres = 0.5 * groups + apart * deviations(classes, 64)
    spread = rng.uniform(0.6, 1.3, (classes, 1))[labels]
    shared = unit(rng.normal(size=512))
    return unit(shared + centres[labels] + spread * deviations(len(labels))), labels


def photographs(path: Path) -> Labelled:
    """A Parquet of id, vector, and label or labels: the rows with one label that at least four rows have."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(path).to_pydict()
    own = [labels if isinstance(labels, list) else [labels] for labels in rows.get("labels", rows.get("label"))]
    single = np.array([str(labels[0]) if len(labels) == 1 else "" for labels in own])
    _, codes, counts = np.unique(single, return_inverse=True, return_counts=True)
    kept = (single != "") & (counts[codes] >= 4)
    return unit(np.array(rows["vector"], np.float32)[kept]), np.unique(single[kept], return_inverse=True)[1]


SETS: dict[str, Callable[[], Labelled]] = {
    "two": partial(mixture, 2, 200, 0.4, 5),
    "few": partial(mixture, 100, 10, 0.7, 2),
    "digits": partial(projected, refinement_sets.digits),
    "coarse": partial(mixture, 20, 100, 0.4, 3),
    "segments": partial(projected, refinement_sets.segments),
    "fine": partial(mixture, 100, 33, 0.4, 1),
    "many": partial(mixture, 200, 20, 0.45, 4),
}
