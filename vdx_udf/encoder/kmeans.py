"""K-means on the sphere: clusters of unit vectors by cosine, always the same for the same vectors in the same order."""

import numpy as np

TURNS = 50  # of moving the centres, at most; most runs stand still before
STARTS = 3  # the best of so many
# Where the number is to be found: fewer clusters tell a person little of a data set, more are no overview.
NUMBERS = (4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40)
LEAST = 5  # vectors a cluster, in the mean, where the number is to be found
CHOOSING = 2_000  # vectors that the number is found from


def kmeans(vectors: np.ndarray, number: int) -> np.ndarray:
    """Unit centres of `number` clusters, float32 (clusters, dimension), the largest cluster's first; fewer where the vectors
    have fewer different values. `vectors` is float32 (N, dimension) of unit length.

    Lloyd's algorithm with cosines (Dhillon, Modha: Concept decompositions, 2001), started by greedy k-means++ (Arthur,
    Vassilvitskii 2007). For 0 the number of NUMBERS with the greatest simplified silhouette (Hruschka et al. 2004): the mean of
    (b - a) / max(a, b), with a the cosine distance to the own centre and b to the next one's.
    """
    if not len(vectors):
        return vectors
    if number == 0:
        few = vectors[:CHOOSING]
        tried = [_best(few, each) for each in NUMBERS if each * LEAST <= len(few)]
        number = len(max(tried, key=lambda centres: _silhouette(few @ centres.T), default=few[:1]))
    centres = _best(vectors, min(number, len(vectors)))
    sizes = np.bincount((vectors @ centres.T).argmax(1), minlength=len(centres))
    return centres[np.argsort(-sizes, kind="stable")][: np.count_nonzero(sizes)]


def _best(vectors: np.ndarray, number: int) -> np.ndarray:
    runs = (_run(vectors, number, np.random.default_rng(start)) for start in range(STARTS))
    return max(runs, key=lambda centres: (vectors @ centres.T).max(1).sum())


def _run(vectors: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    centres = _start(vectors, number, rng)
    own = np.empty(0)
    for _ in range(TURNS):
        before, own = own, (vectors @ centres.T).argmax(1)
        if np.array_equal(before, own):
            break
        members = np.zeros((len(centres), len(vectors)), np.float32)
        members[own, np.arange(len(vectors))] = 1
        sums = members @ vectors
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centres)
    return centres


def _start(vectors: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Each centre the best of a few vectors drawn by their squared distance to those chosen before."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.maximum(0, 1 - vectors @ vectors[chosen[0]])
    for _ in range(number - 1):
        total = distances.sum(dtype=np.float64)
        shares = distances / total if total > 0 else None
        drawn = rng.choice(len(vectors), 2 + int(np.log(number)), p=shares)
        closer = np.minimum(distances[:, None], np.maximum(0, 1 - vectors @ vectors[drawn].T))
        best = int(closer.sum(0).argmin())
        chosen.append(int(drawn[best]))
        distances = closer[:, best]
    return vectors[chosen]


def _silhouette(cosines: np.ndarray) -> float:
    """Of float32 (N, clusters) cosines to the centres."""
    nearest = np.sort(1 - cosines, axis=1)[:, :2]
    return float(np.mean((nearest[:, 1] - nearest[:, 0]) / np.maximum(nearest[:, 1], 1e-6)))
