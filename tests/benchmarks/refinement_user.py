"""The simulated user: looks at the images that a method shows and says which of them show the concept."""

from dataclasses import dataclass, field

import numpy as np

ROUNDS = 6
LABELS_A_ROUND = 10


@dataclass(frozen=True)
class User:
    """Judges rows of the pool by the truth. `relevant` bool (pool rows,); `met`, of each round the positives it showed."""

    relevant: np.ndarray
    met: list[int] = field(default_factory=list)

    def judge(self, rows: list[int]) -> list[bool]:
        judged = [bool(self.relevant[row]) for row in rows]
        self.met.append(sum(judged))
        return judged


def halves(rows: int, seed: int = 40_420) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of a set: the pool that the user sees, and the held-out rows that score the classifiers."""
    order = np.random.default_rng(seed).permutation(rows)
    return order[: rows // 2], order[rows // 2 :]
