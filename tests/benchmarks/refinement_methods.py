"""The methods that the refinement benchmark compares. Each starts from a text vector and yields a weight after every round."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.refinement_user import LABELS_A_ROUND, ROUNDS, User
from vdx_udf.statements import split_statements


class Pool:
    """The rows that the user may be shown: in numpy, and in the table `images` of an engine."""

    def __init__(self, client: Any, vectors: np.ndarray, ids: list[int]):
        self.client, self.vectors, self.ids = client, vectors, ids
        self.row_of = {id: row for row, id in enumerate(ids)}

    def start(self, concept: str, text: np.ndarray) -> None:
        self.client.command(
            "INSERT INTO classifiers SELECT * FROM start_concept_from(concept = {c:String}, vector = {v:Array(Float32)})",
            parameters={"c": concept, "v": text.tolist()},
        )

    def label(self, concept: str, rows: list[int], judgements: list[bool]) -> None:
        values = ", ".join(f"({{c:String}}, {self.ids[row]}, {yes})" for row, yes in zip(rows, judgements, strict=True))
        self.client.command(f"INSERT INTO labels (concept, image_id, positive) VALUES {values}", parameters={"c": concept})

    def weight(self, concept: str) -> np.ndarray:
        statement = "SELECT weight FROM current_weight(concept = {c:String})"
        return np.array(self.client.query(statement, parameters={"c": concept}).result_rows[0][0], np.float32)

    def nearest(self, weight: np.ndarray, judged: list[int]) -> list[int]:
        """The rows nearest to the weight that were not judged yet, as a search that leaves those out shows them."""
        scores = self.vectors @ weight
        scores[judged] = -np.inf
        return np.argsort(-scores)[:LABELS_A_ROUND].tolist()


def text_only(pool: Pool, concept: str, text: np.ndarray, user: User) -> Iterator[np.ndarray]:
    """No feedback at all."""
    for _ in range(ROUNDS):
        yield text


def published(pool: Pool, concept: str, text: np.ndarray, user: User) -> Iterator[np.ndarray]:
    """The published recipe: judge the nearest, five gradient steps, as fit() does."""
    name, judged, weight = f"{concept}, published", [], text
    pool.start(name, text)
    for _ in range(ROUNDS):
        shown = pool.nearest(weight / np.linalg.norm(weight), judged)
        judged += shown
        pool.label(name, shown, user.judge(shown))
        pool.client.command(
            "INSERT INTO classifiers SELECT * FROM fit(concept = {c:String}, steps = 5, learning_rate = 0.1)",
            parameters={"c": name},
        )
        weight = pool.weight(name)
        yield weight


def logistic_regression(pool: Pool, concept: str, text: np.ndarray, user: User) -> Iterator[np.ndarray]:
    """scikit-learn's LogisticRegression with its defaults on the labels alone; the text until both kinds are there."""
    from sklearn.linear_model import LogisticRegression

    judged, labels, weight = [], [], text
    for _ in range(ROUNDS):
        shown = pool.nearest(weight, judged)
        judged += shown
        labels += user.judge(shown)
        if 0 < sum(labels) < len(labels):
            weight = LogisticRegression(max_iter=1_000).fit(pool.vectors[judged], labels).coef_[0].astype(np.float32)
        yield weight


def ours(pool: Pool, concept: str, text: np.ndarray, user: User, view: str = "refine") -> Iterator[np.ndarray]:
    """next_to_label() and refine()."""
    pool.start(concept, text)
    for _ in range(ROUNDS):
        shown = pool.client.query(
            f"SELECT id FROM next_to_label(concept = {{c:String}}, k = {LABELS_A_ROUND})", parameters={"c": concept}
        )
        rows = [pool.row_of[id] for (id,) in shown.result_rows]
        pool.label(concept, rows, user.judge(rows))
        pool.client.command(f"INSERT INTO classifiers SELECT * FROM {view}(concept = {{c:String}})", parameters={"c": concept})
        yield pool.weight(concept)


def before(pool: Pool, concept: str, text: np.ndarray, user: User) -> Iterator[np.ndarray]:
    """The same with refine() as it was until 0.1."""
    if not pool.client.query("SELECT 1 FROM system.tables WHERE name = 'refine_before'").result_rows:
        for statement in split_statements((Path(__file__).parent / "refine_before.sql").read_text()):
            pool.client.command(statement)
    return ours(pool, f"{concept}, before", text, user, "refine_before")


METHODS = {
    "text only": text_only, "published recipe": published, "logistic regression": logistic_regression, "refine 0.1": before,
    "refine": ours,
}  # fmt: skip
