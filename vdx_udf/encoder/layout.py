"""A map of vectors: two coordinates each that keep neighbours together, always the same for the same vectors in the same order.

UMAP (McInnes, Healy, Melville 2018) with exact neighbours, and Adam (Kingma, Ba 2015) over all edges at once in place of one
after another: products of arrays, where the package umap-learn needs a compiler. docs/map.md has both side by side.
"""

import numpy as np

from vdx_udf.encoder.near import near

NEIGHBOURS = 15
A, B = 1.577, 0.895  # of the closeness 1 / (1 + A distance^(2 B)) on the map: umap-learn's for a least distance of 0.1
TURNS, RATE = 300, 0.3  # of moving all points; how far at first, sinking to 0
APART = 15  # random others that push a point away, a turn; together as strong as the REPULSION of an edge
REPULSION = 5
PULL = 4  # most that one of them pushes
WIDTH = 10  # of the start, the principal components, from its middle
EQUAL = 1e-5  # numbers that differ by less


def layout(vectors: np.ndarray) -> np.ndarray:
    """float32 (N, 2), finite, their mean 0; of fewer than 4 vectors or equal ones the principal components.

    `vectors` is float32 (N, dimension) of unit length.
    """
    start = principal(vectors)
    count, width = len(start), np.abs(start).max(initial=0)
    if count < 4 or width < EQUAL:
        return start
    rng = np.random.default_rng(0)
    one, other, weights = _edges(vectors, min(NEIGHBOURS, count - 1))
    pushed = ((np.bincount(one, weights, count) + np.bincount(other, weights, count)) * REPULSION / APART).astype(np.float32)
    points = start * (WIDTH / width) + rng.normal(scale=1e-4, size=start.shape).astype(np.float32)
    mean, square = np.zeros_like(points), np.zeros_like(points)
    for turn in range(TURNS):
        step = points[one] - points[other]
        squares = np.maximum(np.einsum("ij,ij->i", step, step), 1e-12)
        step *= (weights * (2 * A * B) * squares ** (B - 1) / (1 + A * squares**B))[:, None]
        away = points[:, None] - points[rng.integers(count, size=(count, APART))]
        squares = np.einsum("ijk,ijk->ij", away, away)
        away *= (2 * B / ((0.001 + squares) * (1 + A * squares**B)))[:, :, None]
        gradient = -pushed[:, None] * np.clip(away, -PULL, PULL).sum(axis=1)
        for axis in range(2):
            gradient[:, axis] += np.bincount(one, step[:, axis], count) - np.bincount(other, step[:, axis], count)
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (gradient**2 - square)
        rate = RATE * (1 - turn / TURNS) * np.sqrt(1 - 0.99 ** (turn + 1)) / (1 - 0.9 ** (turn + 1))
        points -= np.float32(rate) * mean / (np.sqrt(square) + 1e-7)
    return points - points.mean(axis=0)


def principal(vectors: np.ndarray) -> np.ndarray:
    """float32 (N, 2): the first two principal components, each with the sign that makes its largest weight positive."""
    if not len(vectors):
        return np.empty((0, 2), np.float32)
    centred = vectors - vectors.mean(axis=0)
    weights = np.linalg.eigh((centred.T @ centred).astype(np.float64))[1][:, :-3:-1]
    weights = weights * np.sign(weights[np.abs(weights).argmax(axis=0), np.arange(weights.shape[1])])
    found = centred @ weights.astype(np.float32)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def _edges(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UMAP's graph: both ends, int64 (edges,) each, every pair once, and its weight, float32 (edges,)."""
    count = len(vectors)
    _, found, cosines = near(vectors, vectors, k + 1, -2)
    found = found.reshape(count, k + 1).astype(np.int64) - 1
    own = found == np.arange(count)[:, None]
    own[:, -1] |= ~own.any(axis=1)  # of more equal vectors than k the vector itself may not be found
    found, cosines = found[~own].reshape(count, k), cosines.reshape(count, k + 1)[~own].reshape(count, k)
    ends = np.sort(np.stack([np.repeat(np.arange(count), k), found.ravel()]), axis=0)
    keys, place = np.unique(ends[0] * count + ends[1], return_inverse=True)
    weights = _memberships(np.maximum(0, 1 - cosines.astype(np.float64))).ravel()
    sums = np.bincount(place, weights)
    both = (sums**2 - np.bincount(place, weights**2)) / 2  # the product, where each is the other's neighbour
    return keys // count, keys % count, (sums - both).astype(np.float32)


def _memberships(distances: np.ndarray) -> np.ndarray:
    """(N, k): how much each neighbour counts, 1 for the nearest; a row adds up to the logarithm of k to base 2 where it can."""
    beyond = distances - distances[:, :1]
    low, high, scale = np.zeros(len(distances)), np.full(len(distances), np.inf), np.ones(len(distances))
    wanted = np.log2(distances.shape[1])
    for _ in range(64):
        above = np.exp(-beyond / scale[:, None]).sum(axis=1) > wanted
        low, high = np.where(above, low, scale), np.where(above, scale, high)
        scale = np.where(np.isinf(high), 2 * scale, (low + high) / 2)
        scale = np.maximum(scale, 1e-3 * distances.mean() + 1e-12)
    return np.exp(-beyond / scale[:, None])
